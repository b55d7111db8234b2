"""Whole conversions on fully random checkpoints: every ordered pair of dialects, bit for bit, there and back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from golden_names import GOLDEN_TIES, stored_in
from random_checkpoints import (
    CONFIG,
    DIRECTIONS,
    SHAPES,
    UNPROJECTED,
    file_bytes,
    random_array,
    random_tensors,
    read_all,
    same_bits,
    save,
    write_random,
)

import roformer_convert
from roformer_convert.converters import ConvertError, MisfitError, convert, open_checkpoint, save_checkpoint, weight_files
from roformer_convert.converters.containers.stored import OpenFiles
from roformer_convert.converters.mapping import DIALECTS, MLM, Dialect

#: What holds a dialect's weights: (dialect, container).
CONTAINERS = (("paddle", "pdparams"), ("paddle", "safetensors"), ("torch", "safetensors"), ("torch", "bin"))
PAIRS = pytest.mark.parametrize(("source", "target"), DIRECTIONS, ids=[f"{a}2{b}" for a, b in DIRECTIONS])


def there_and_back(tmp_path: Path, source: Dialect, target: Dialect, *, shape: str, **options: Any) -> None:
    """Convert a random checkpoint and convert the result back: all bits in between, all bytes of all files at last."""
    tensors = write_random(tmp_path / "ckpt", source, shape, any_bits=True, **options)
    before = file_bytes(tmp_path / "ckpt")
    report = convert(tmp_path / "ckpt", tmp_path / "there", to=target)
    assert report.verified
    assert same_bits(read_all(tmp_path / "there"), tensors) == []
    back = {name: value for name, value in options.items() if name in ("container", "max_shard_size")}
    convert(tmp_path / "there", tmp_path / "back", to=source, **back)
    assert same_bits(read_all(tmp_path / "back"), tensors) == []
    assert file_bytes(tmp_path / "back") == before
    assert file_bytes(tmp_path / "ckpt") == before


@PAIRS
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_is_bit_exact(tmp_path: Path, source: Dialect, target: Dialect, shape: str) -> None:
    there_and_back(tmp_path, source, target, shape=shape)


@PAIRS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_round_trip_keeps_every_type(tmp_path: Path, source: Dialect, target: Dialect, dtype: str) -> None:
    if dtype == "bfloat16" and "tf" in (source, target):
        pytest.skip("HDF5 has no bfloat16: test_bfloat16_in_h5_is_an_error_that_names_dtype")
    there_and_back(tmp_path, source, target, shape="everything", dtype=dtype)


@PAIRS
@pytest.mark.parametrize("container", ["usual", "other"])
def test_round_trip_of_a_sharded_source_is_bit_exact(
    tmp_path: Path, source: Dialect, target: Dialect, container: str
) -> None:
    if source not in ("paddle", "torch"):
        pytest.skip(f"{source} has no shards")
    options = {"container": {"paddle": "safetensors", "torch": "bin"}[source]} if container == "other" else {}
    there_and_back(tmp_path, source, target, shape="everything", max_shard_size=4000, **options)


@pytest.mark.parametrize("shape", ["everything", "base-pooler"])
@pytest.mark.parametrize(("dialect", "container"), CONTAINERS)
@pytest.mark.parametrize("limit", [1, 2000, 6000, 10**9])
def test_shards_hold_the_model_and_stay_within_their_limit(
    tmp_path: Path, dialect: Dialect, container: str, limit: int, shape: str
) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1", shape, any_bits=True)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to=dialect, container=container, max_shard_size=limit)
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    index = list((tmp_path / "out").glob("*.index.json"))
    if limit == 10**9:
        assert index == []
        return
    assert len(index) == 1
    listed = json.loads(index[0].read_text())
    files = set(listed["weight_map"].values())
    assert files == {file.filename for file in report.plan.files}
    assert files <= {path.name for path in (tmp_path / "out").iterdir()}
    assert listed["metadata"]["total_size"] == sum(file.nbytes for file in report.plan.files) == report.plan.nbytes
    for file in report.plan.files:
        stored = [step for step in file.steps if step.new.alias_of is None]
        assert file.nbytes <= limit or len(stored) == 1
        for step in file.steps:
            assert step.new.alias_of is None or step.new.alias_of in {one.new.name for one in stored}


@pytest.mark.parametrize("target", ["tf", "tf1"])
def test_sharding_what_has_no_shards_is_refused(tmp_path: Path, target: Dialect) -> None:
    write_random(tmp_path / "ckpt", "torch")
    with pytest.raises(ConvertError, match="always one file"):
        convert(tmp_path / "ckpt", to=target, max_shard_size="1GB")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize("to", CONTAINERS)
@pytest.mark.parametrize("of", CONTAINERS)
def test_every_container_becomes_every_other(tmp_path: Path, of: tuple[Any, str], to: tuple[Any, str]) -> None:
    tensors = write_random(tmp_path / "ckpt", of[0], container=of[1], any_bits=True, dtype="float16")
    convert(tmp_path / "ckpt", tmp_path / "out", to=to[0], container=to[1])
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    name = {"pdparams": "model_state.pdparams", "bin": "pytorch_model.bin", "safetensors": "model.safetensors"}[to[1]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name, "config.json"}


@pytest.mark.parametrize(
    ("target", "container"), [("torch", "pdparams"), ("paddle", "bin"), ("tf", "safetensors"), ("tf1", "h5")]
)
def test_a_container_its_software_cannot_read_is_refused(tmp_path: Path, target: Dialect, container: str) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    with pytest.raises(ConvertError, match=f"does not read {container} files; wanted"):
        convert(tmp_path / "ckpt", to=target, container=container)


@pytest.mark.parametrize("shape", ["everything", "base-pooler"])
@pytest.mark.parametrize(
    ("dialect", "container"), [*CONTAINERS, ("tf", "h5"), ("tf1", "ckpt")], ids=lambda value: str(value)
)
def test_the_result_is_spelled_and_turned_as_written_by_hand(
    tmp_path: Path, dialect: Dialect, container: str, shape: str
) -> None:
    """The files' own names and bytes, against names that were not computed from the table."""
    tensors = write_random(tmp_path / "ckpt", "paddle" if dialect != "paddle" else "torch", shape, any_bits=True)
    convert(tmp_path / "ckpt", tmp_path / "out", to=dialect, container=container)
    base = shape.startswith("base")
    want = {}
    for canonical, array in tensors.items():
        name, turned = stored_in(canonical, dialect, base=base)
        want[name] = numpy.ascontiguousarray(array.T) if turned else array
    for of, name in GOLDEN_TIES[dialect] if not base else ():
        # safetensors stores no payload twice: only what PaddleNLP imports under no other name is copied
        if container in ("pdparams", "bin") or name == "cls.predictions.decoder.bias":
            want[name] = want[stored_in(of, dialect).name]
    found = {}
    with OpenFiles() as files:
        for stored in weight_files.index(weight_files.find(tmp_path / "out", None)):
            array = numpy.empty(stored.size, stored.dtype)
            stored.data.read_into(files, 0, array.view(numpy.uint8).data)
            found[stored.name] = array.reshape(stored.shape)
    assert same_bits(found, want) == []


def test_mixed_types_are_kept_tensor_by_tensor(tmp_path: Path) -> None:
    tensors = random_tensors()
    for number, name in enumerate(tensors):
        tensors[name] = random_array(name, tensors[name].shape, dtype=("float32", "float16", "float64")[number % 3])
    save_checkpoint(tmp_path / "ckpt", tensors, CONFIG, dialect="paddle")
    for target in ("torch", "tf", "tf1"):
        report = convert(tmp_path / "ckpt", tmp_path / target, to=target)  # type: ignore[arg-type]
        assert same_bits(read_all(tmp_path / target), tensors) == []
        assert any("mixed types are kept" in note for note in report.notes)


def test_more_than_nine_layers_stand_in_their_places(tmp_path: Path) -> None:
    config = replace(UNPROJECTED, num_hidden_layers=12)
    tensors = random_tensors(config, (MLM,), any_bits=True)
    save(tmp_path / "torch", "torch", tensors, config)
    for one, other in (("torch", "paddle"), ("paddle", "tf"), ("tf", "tf1"), ("tf1", "torch2")):
        convert(tmp_path / one, tmp_path / other, to=other.removesuffix("2"))  # type: ignore[arg-type]
        assert same_bits(read_all(tmp_path / other), tensors) == []


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [dialect for dialect in DIALECTS if dialect != "tf"])
def test_bfloat16_in_h5_is_an_error_that_names_dtype(tmp_path: Path, source: Dialect) -> None:
    tensors = write_random(tmp_path / "ckpt", source, dtype="bfloat16")
    with pytest.raises(ConvertError, match=r"--dtype float32"):
        convert(tmp_path / "ckpt", to="tf")
    with pytest.raises(ConvertError, match=r"--dtype"):
        convert(tmp_path / "ckpt", to="tf", dtype="bfloat16")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    report = convert(tmp_path / "ckpt", to="tf", dtype="float32")
    wide = {name: (bits.astype(numpy.uint32) << 16).view(numpy.float32) for name, bits in tensors.items()}
    assert same_bits(read_all(tmp_path / "ckpt-tf"), wide) == []
    assert "cast to float32 from bfloat16" in report.notes


@pytest.mark.parametrize(("source", "target"), [("paddle", "torch"), ("torch", "tf"), ("tf", "paddle"), ("tf1", "tf1")])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtype_casts_every_tensor(tmp_path: Path, source: Dialect, target: Dialect, dtype: str) -> None:
    tensors = write_random(tmp_path / "ckpt", source)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to=target, dtype=dtype)
    assert same_bits(read_all(tmp_path / "out"), {name: array.astype(dtype) for name, array in tensors.items()}) == []
    assert f"cast to {dtype} from float32" in report.notes
    config = json.loads((tmp_path / "out" / ("bert_config.json" if target == "tf1" else "config.json")).read_text())
    assert config.get("dtype") == (None if target == "tf1" else dtype)


def test_a_cast_that_overflows_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    tensors = random_tensors()
    tensors["layers.1.feed_forward.up.weight"][3, 5] = 70000.0
    save(tmp_path / "ckpt", "paddle", tensors, CONFIG)
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "ckpt", to="torch", dtype="float16")
    for words in ("roformer.encoder.layers.1.linear1.weight", "overflow float16", "70000", "bfloat16"):
        assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_a_dtype_that_is_none_is_refused(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    with pytest.raises(ConvertError, match="dtype 'int8' is not known"):
        convert(tmp_path / "ckpt", to="torch", dtype="int8")


# --- what is named as the source ------------------------------------------------------------------------------------


def without_config(directory: Path) -> Path:
    """Move the configuration away; return where it is."""
    (found,) = directory.glob("*config.json")
    return Path(shutil.move(found, directory.parent / "elsewhere.json"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_weight_file_with_its_configuration(tmp_path: Path, dialect: Dialect) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect)
    config = without_config(tmp_path / "ckpt")
    weights = next(path for path in (tmp_path / "ckpt").iterdir() if ".data-" not in path.name)
    target: Dialect = "torch" if dialect != "torch" else "paddle"
    report = convert(weights, to=target, config=config)
    # beside the file, by its name
    assert report.target == tmp_path / "ckpt" / f"{weights.name.split('.')[0]}-{target}"
    assert same_bits(read_all(report.target), tensors) == []
    with open_checkpoint(report.target) as opened:
        assert opened.config == CONFIG


@pytest.mark.parametrize(("dialect", "container"), [*CONTAINERS, ("tf", "h5")])
def test_a_weight_file_of_any_name_is_known_by_its_bytes(tmp_path: Path, dialect: Dialect, container: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, container=container)
    config = without_config(tmp_path / "ckpt")
    (weights,) = (tmp_path / "ckpt").iterdir()
    renamed = weights.rename(tmp_path / "epoch=3.ckpt")
    convert(renamed, tmp_path / "out", to="tf1", config=config)
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_a_tf1_prefix_and_its_index_name_one_checkpoint(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1")
    for name in ("bert_model.ckpt", "bert_model.ckpt.index"):
        convert(tmp_path / "ckpt" / name, tmp_path / f"{name}-out", to="torch")
        assert same_bits(read_all(tmp_path / f"{name}-out"), tensors) == []


def test_a_tf1_checkpoint_may_have_any_prefix(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1")
    for path in (tmp_path / "ckpt").glob("bert_model.ckpt.*"):
        path.rename(path.with_name(path.name.replace("bert_model.ckpt", "model.ckpt-1000")))
    convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(tmp_path / "ckpt-paddle"), tensors) == []


@pytest.mark.parametrize(("dialect", "container"), CONTAINERS)
def test_a_shard_index_names_its_checkpoint(tmp_path: Path, dialect: Dialect, container: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, container=container, max_shard_size=3000)
    (index,) = (tmp_path / "ckpt").glob("*.index.json")
    convert(index, tmp_path / "out", to="tf1")
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_the_dialect_of_safetensors_is_known_by_its_names(tmp_path: Path) -> None:
    for dialect in ("paddle", "torch"):
        for shape in ("everything", "base"):
            write_random(tmp_path / f"{dialect}-{shape}", dialect, shape, container="safetensors")  # type: ignore[arg-type]
            with open_checkpoint(tmp_path / f"{dialect}-{shape}") as opened:
                assert opened.dialect == dialect
                assert opened.base == (shape == "base")


def test_a_file_without_configuration_and_rotary_table_does_not_decide_the_heads(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    without_config(tmp_path / "ckpt")
    with pytest.raises(MisfitError, match="num_attention_heads") as caught:
        convert(tmp_path / "ckpt" / "model_state.pdparams", to="torch")
    assert "--config" in str(caught.value)
    assert {problem.name for problem in caught.value.problems} == {"num_attention_heads"}


@pytest.mark.parametrize("dialect", ["torch", "tf"])
@pytest.mark.parametrize("shape", ["everything", "base-pooler"])
def test_a_rotary_table_in_the_file_decides_heads_and_positions(tmp_path: Path, dialect: Dialect, shape: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, shape)
    add_rotary_table(tmp_path / "ckpt", dialect, base=shape.startswith("base"))
    without_config(tmp_path / "ckpt")
    report = convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(tmp_path / "ckpt-paddle"), tensors) == []
    with open_checkpoint(tmp_path / "ckpt-paddle") as opened:
        assert (opened.config.num_attention_heads, opened.config.max_position_embeddings) == (4, 47)
    notes = " ".join(report.notes)
    for said in ("num_attention_heads = 4, from the tensors' shapes", "hidden_size = 24", "embed_positions is left out"):
        assert said in notes


def rotary_table(positions: int = 47, width: int = 6) -> numpy.ndarray[Any, Any]:
    """Compute the table pair by pair, without the converters' own function."""
    rows = []
    for position in range(positions):
        angles = [position / 10000 ** (2 * pair / width) for pair in range(width // 2)]
        rows.append([*numpy.sin(angles), *numpy.cos(angles)])
    return numpy.array(rows)


def add_rotary_table(directory: Path, dialect: Dialect, *, base: bool, wrong: float = 0.0, dtype: str = "float32") -> None:
    """Put embed_positions into a torch or TF file, as transformers' own files have it."""
    table = rotary_table()
    table[20, 4] += wrong
    if dialect == "torch":
        from safetensors.numpy import load_file, save_file

        arrays = load_file(directory / "model.safetensors")
        arrays["encoder.embed_positions.weight" if base else "roformer.encoder.embed_positions.weight"] = table.astype(dtype)
        save_file(arrays, directory / "model.safetensors", {"format": "pt"})
        return
    import h5py

    with h5py.File(directory / "tf_model.h5", "r+") as file:
        group = file["roformer"]
        names = [name if isinstance(name, bytes) else name.encode() for name in group.attrs["weight_names"]]
        added = "tf_ro_former_for_masked_lm/roformer/encoder/embed_positions/embeddings:0"
        group.create_dataset(added, data=table.astype(dtype))
        del group.attrs["weight_names"]
        group.attrs["weight_names"] = numpy.array([*names, added.encode()])


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_rounded_rotary_table_is_accepted_and_not_copied(tmp_path: Path, dtype: str) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", dtype=dtype)
    add_rotary_table(tmp_path / "ckpt", "torch", base=False, dtype=dtype)
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch", container="bin")
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    with open_checkpoint(tmp_path / "ckpt") as before, open_checkpoint(tmp_path / "out") as after:
        assert before.derived == ("roformer.encoder.embed_positions.weight",)
        assert after.derived == ()


# --- what travels ---------------------------------------------------------------------------------------------------

VOCABULARY = "".join(f"字{number}\n" for number in range(CONFIG.vocab_size))
BESIDE = {
    "vocab.txt": VOCABULARY,
    "tokenizer_config.json": '{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}',
    "special_tokens_map.json": "{}\n",
    "added_tokens.json": "{}",
    "tokenizer.json": '{"version": "1.0"}\r\n',
    "generation_config.json": "{}",
    "LICENSE": "free",
}


@PAIRS
def test_tokenizer_files_travel_as_they_are(tmp_path: Path, source: Dialect, target: Dialect) -> None:
    write_random(tmp_path / "ckpt", source)
    for name, text in BESIDE.items():
        (tmp_path / "ckpt" / name).write_bytes(text.encode())
    report = convert(tmp_path / "ckpt", to=target)
    for name, text in BESIDE.items():
        assert (tmp_path / f"ckpt-{target}" / name).read_bytes() == text.encode()
    assert {path.name for path in report.plan.companions} == BESIDE.keys()
    assert report.left_behind == ()


def test_files_that_do_not_travel_are_reported(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", max_shard_size=3000)
    for name in ("README.md", "training_args.bin", ".gitattributes"):
        (tmp_path / "ckpt" / name).write_text("x")
    report = convert(tmp_path / "ckpt", to="paddle")
    assert report.left_behind == ("README.md", "training_args.bin")
    assert "not copied: README.md, training_args.bin" in report.notes


@pytest.mark.parametrize("rows", [CONFIG.vocab_size - 1, CONFIG.vocab_size + 1, 0])
def test_a_vocabulary_of_another_length_is_refused(tmp_path: Path, rows: int) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / "vocab.txt").write_text("字\n" * rows)
    with pytest.raises(MisfitError, match=rf"got {rows} rows, want vocab_size = 61"):
        convert(tmp_path / "ckpt", to="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    convert(tmp_path / "ckpt", to="torch", any_vocab=True)
    assert (tmp_path / "ckpt-torch" / "vocab.txt").read_text() == "字\n" * rows


def test_a_vocabulary_may_lack_its_last_line_break(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / "vocab.txt").write_text(VOCABULARY.rstrip("\n"))
    convert(tmp_path / "ckpt", to="torch")


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_front_door_converts(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle")
    roformer_convert.convert(tmp_path / "ckpt", to="torch")
    assert same_bits(read_all(tmp_path / "ckpt-torch"), tensors) == []


def test_the_report_says_what_was_done(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle")
    data = convert(tmp_path / "ckpt", to="torch").as_dict()
    json.dumps(data)
    assert data["source"] == {"path": str(tmp_path / "ckpt"), "dialect": "paddle", "container": "pdparams"}
    assert data["target"] == {
        "path": str(tmp_path / "ckpt-torch"),
        "dialect": "torch",
        "container": "safetensors",
        "files": ["model.safetensors"],
    }
    assert data["tensors"] == len(tensors)
    assert data["model_class"] == "RoFormerForPretraining"
    assert data["tied_in_source"] == ["cls.predictions.decoder_weight"]
    kernels = [name for name in tensors if name.endswith("weight") and "norm" not in name]
    kernels = [name for name in kernels if name not in ("embeddings.word.weight", "embeddings.segment.weight")]
    turned = {step["canonical"] for step in data["plan"] if step["turned"]}
    assert turned == set(kernels)
    assert data["turned"] == len(kernels)
    # cls.predictions.decoder.bias is written a second time for PaddleNLP's importer
    assert data["bytes"] == sum(array.nbytes for array in tensors.values()) + tensors["mlm.bias"].nbytes
    assert data["written"]
    assert data["verified"]
    assert data["cast"] == 0


def test_what_the_target_does_not_know_is_kept_and_reported(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    notes = convert(tmp_path / "ckpt", to="torch").notes
    assert sum("is kept under BERT's names" in note for note in notes) == 2
    assert not [note for note in convert(tmp_path / "ckpt-torch", to="tf1").notes if "under BERT's names" in note]
    write_random(tmp_path / "plain", "torch", "masked-lm")
    assert any("has a pooler" in note for note in convert(tmp_path / "plain", to="paddle").notes)


def test_a_dry_run_plans_everything_and_writes_nothing(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    before = file_bytes(tmp_path)
    planned = convert(tmp_path / "ckpt", to="torch", dry_run=True)
    assert file_bytes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    assert not planned.written
    assert not planned.verified
    done = convert(tmp_path / "ckpt", to="torch")
    assert planned.as_dict()["plan"] == done.as_dict()["plan"]


def test_verification_can_be_left_out_and_writes_the_same(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    for target in ("paddle", "torch", "tf"):
        one = convert(tmp_path / "ckpt", tmp_path / f"{target}1", to=target)  # type: ignore[arg-type]
        other = convert(tmp_path / "ckpt", tmp_path / f"{target}2", to=target, verify=False, fsync=True)  # type: ignore[arg-type]
        assert (one.verified, other.verified) == (True, False)
        assert file_bytes(tmp_path / f"{target}1") == file_bytes(tmp_path / f"{target}2")


def test_progress_tells_every_byte_once_written_and_once_compared(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    told: list[int] = []
    plans: list[Any] = []
    report = convert(tmp_path / "ckpt", to="torch", progress=told.append, started=plans.append)
    assert sum(told) == 2 * report.plan.nbytes
    assert plans == [report.plan]


def test_the_source_is_never_touched(tmp_path: Path) -> None:
    """A read-only source and links to it are fine, and no file of it changes, not even its times."""
    for dialect in DIALECTS:
        source = tmp_path / f"{dialect}-source"
        tensors = write_random(source, dialect)
        link = tmp_path / f"{dialect}-link"
        link.symlink_to(source, target_is_directory=True)
        for path in source.iterdir():
            path.chmod(0o444)
        source.chmod(0o555)
        before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in source.iterdir()}
        stamp = source.stat().st_mtime_ns
        target: Dialect = "torch" if dialect != "torch" else "tf"
        convert(link, to=target)
        assert same_bits(read_all(tmp_path / f"{dialect}-link-{target}"), tensors) == []
        assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in source.iterdir()} == before
        assert source.stat().st_mtime_ns == stamp
        source.chmod(0o755)


def test_a_directory_of_links_to_its_files_is_read(tmp_path: Path) -> None:
    """As the Hugging Face cache lays a snapshot out."""
    tensors = write_random(tmp_path / "blobs", "torch", max_shard_size=4000)
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(os.path.relpath(path, tmp_path / "snapshot"))
    convert(tmp_path / "snapshot", to="paddle")
    assert same_bits(read_all(tmp_path / "snapshot-paddle"), tensors) == []
    assert not any(path.is_symlink() for path in (tmp_path / "snapshot-paddle").iterdir())
