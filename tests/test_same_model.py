"""Several weight files in one folder: compared through the table, one taken, and what differs is an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, Tensors, random_tensors, read_all, same_bits, save, write_random

from roformer_convert.converters import ConvertOptions, MisfitError, convert, open_checkpoint
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.source.renaming import Parts
from roformer_convert.converters.table.mapping import DIALECTS, Dialect

KINDS: dict[str, tuple[Dialect, str]] = {
    "model.safetensors": ("torch", "safetensors"),
    "pytorch_model.bin": ("torch", "bin"),
    "tf_model.h5": ("tf", "h5"),
    "model_state.pdparams": ("paddle", "pdparams"),
    "bert_model.ckpt.index": ("tf1", "ckpt"),
}


def add(folder: Path, name: str, *, scratch: Path, **options: object) -> Tensors:
    """Write a model under one more name into a folder."""
    dialect, container = KINDS[name]
    place = scratch / f"{name}-{len(list(scratch.iterdir()))}"
    made = write_random(place, dialect, container=container, **options)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    for path in place.iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return made


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.mark.parametrize("any_bits", [False, True])
def test_a_hubs_folder_of_three_formats_converts(tmp_path: Path, scratch: Path, any_bits: bool) -> None:
    names = ("tf_model.h5", "pytorch_model.bin", "model.safetensors")
    for name in names:
        tensors = add(tmp_path / "it", name, scratch=scratch, any_bits=any_bits)
    report = convert(tmp_path / "it", to="paddle")
    assert report.source_container == "safetensors"
    assert same_bits(read_all(report.target), tensors) == []
    said = "model.safetensors is read; pytorch_model.bin, tf_model.h5 beside it hold the same bits"
    assert said in report.notes
    found = inspect(tmp_path / "it")
    assert (found.dialect, found.container, list(found.files)) == ("torch", "safetensors", ["model.safetensors"])
    assert said in found.notes
    with open_checkpoint(tmp_path / "it") as checkpoint:
        assert checkpoint.dialect == "torch"


def test_steps_of_tf2s_object_checkpoints_are_compared(tmp_path: Path) -> None:
    """transformers' TF classes write names of their dialect, behind a prefix, into files that are mostly tf1's."""
    case = Path(__file__).parents[1] / "fixtures" / "cases" / "26-tf2-object-ckpt"
    (tmp_path / "it").mkdir()
    shutil.copy(case / "config.json", tmp_path / "it")
    for step in (1, 2):
        for path in case.glob("model.*"):
            shutil.copy(path, tmp_path / "it" / path.name.replace("model", f"ckpt-{step}"))
    report = convert(tmp_path / "it", to="torch")
    assert "ckpt-1.index is read; ckpt-2.index beside it holds the same bits" in report.notes


def test_files_of_every_dialect_are_one_model(tmp_path: Path, scratch: Path) -> None:
    for name in KINDS:
        add(tmp_path / "it", name, scratch=scratch)
    assert inspect(tmp_path / "it").container == "safetensors"
    for dialect in DIALECTS:
        assert inspect(tmp_path / "it", dialect=dialect).dialect == dialect


CHANGED = ("layers.1.attention.query.weight", "mlm.bias", "embeddings.word.weight", "layers.2.feed_forward.up.weight")


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("other", [name for name in KINDS if name != "model.safetensors"])
def test_one_value_that_differs_is_an_error_that_names_the_tensor(tmp_path: Path, other: str, name: str) -> None:
    folder = tmp_path / "it"
    write_random(folder, "torch")
    tensors = random_tensors()
    tensors[name] = tensors[name].copy()
    tensors[name].flat[-1] += 1
    dialect, container = KINDS[other]
    save(tmp_path / "changed", dialect, tensors, CONFIG, container=container)
    for path in (tmp_path / "changed").iterdir():
        if path.name != "config.json":
            shutil.copy(path, folder)
    place = tuple(size - 1 for size in tensors[name].shape)
    for call in (lambda: convert(folder, to="paddle"), lambda: inspect(folder), lambda: open_checkpoint(folder)):
        with pytest.raises(MisfitError) as caught:
            call()
        problems = {problem.name: problem.detail for problem in caught.value.problems}
        assert problems.keys() == {"model.safetensors", other}
        assert problems[other].endswith(f"of model.safetensors: first at element {place}")
        assert f"e.g. {folder / 'model.safetensors'}" in str(caught.value)
        if dialect != "torch":
            assert f"--from torch or {dialect}" in str(caught.value) or f"--from {dialect} or torch" in str(
                caught.value
            )
    assert not (tmp_path / "it-paddle").exists()
    assert inspect(folder / "model.safetensors").converts  # each way out


def test_shapes_types_and_missing_tensors_differ_too(tmp_path: Path, scratch: Path) -> None:
    for options, words in (
        ({"shape": "masked-lm"}, "roformer.pooler.dense.weight is in model.safetensors and not in pytorch_model.bin"),
        ({"shape": "no-projection"}, "shape (61, 24) instead of (61, 14)"),
        ({"dtype": "float16"}, "float16 instead of float32"),
    ):
        folder = tmp_path / f"it-{len(list(tmp_path.iterdir()))}"
        add(folder, "model.safetensors", scratch=scratch)
        add(folder, "pytorch_model.bin", scratch=scratch, **options)
        with pytest.raises(MisfitError) as caught:
            inspect(folder)
        assert words in str(caught.value)


def test_the_direction_takes_its_own_and_is_a_way_out(tmp_path: Path, scratch: Path) -> None:
    add(tmp_path / "it", "model.safetensors", scratch=scratch)
    add(tmp_path / "it", "tf_model.h5", scratch=scratch, seed=1)
    with pytest.raises(MisfitError, match="--from torch or tf"):
        convert(tmp_path / "it", to="paddle")
    report = convert(tmp_path / "it", to="paddle", options=ConvertOptions(dialect="tf"))
    assert (report.source_dialect, report.source_container) == ("tf", "h5")


def test_a_damaged_file_beside_a_whole_one_is_told_with_the_way_out(tmp_path: Path, scratch: Path) -> None:
    add(tmp_path / "it", "model.safetensors", scratch=scratch)
    add(tmp_path / "it", "pytorch_model.bin", scratch=scratch)
    whole = (tmp_path / "it" / "pytorch_model.bin").read_bytes()
    (tmp_path / "it" / "pytorch_model.bin").write_bytes(whole[:-100])
    with pytest.raises(MisfitError) as caught:
        convert(tmp_path / "it", to="paddle")
    assert [problem.name for problem in caught.value.problems] == ["model.safetensors", "pytorch_model.bin"]
    assert f"name the file itself, e.g. {tmp_path / 'it' / 'model.safetensors'}" in str(caught.value)


def test_a_part_that_is_asked_for_is_compared_alone(tmp_path: Path, scratch: Path) -> None:
    add(tmp_path / "it", "model.safetensors", scratch=scratch, shape="masked-lm")
    add(tmp_path / "it", "tf_model.h5", scratch=scratch, shape="base")
    with pytest.raises(MisfitError):
        convert(tmp_path / "it", to="paddle")
    options = ConvertOptions(parts=Parts(encoder_only=True))
    assert convert(tmp_path / "it", to="paddle", options=options).written
