"""Whole conversions on fully random checkpoints: every ordered pair of dialects, bit for bit, there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_names import spelled
from random_checkpoints import (
    CONFIG,
    CONTAINERS,
    DIRECTIONS,
    UNPROJECTED,
    file_bytes,
    random_array,
    random_tensors,
    read_all,
    same_bits,
    save,
    write_random,
)
from safetensors import safe_open

from roformer_convert.converters import ConvertError, ConvertOptions, convert, save_checkpoint
from roformer_convert.converters.source.identification import identify
from roformer_convert.converters.table.mapping import DIALECTS, MLM, Dialect
from roformer_convert.converters.tensors.stored import OpenFiles

PAIRS = pytest.mark.parametrize(("source", "target"), DIRECTIONS, ids=[f"{a}2{b}" for a, b in DIRECTIONS])


def there_and_back(tmp_path: Path, source: Dialect, target: Dialect, *, shape: str, **options: Any) -> None:
    """Convert a random checkpoint and convert the result back: all bits in between, all bytes of all files at last."""
    tensors = write_random(tmp_path / "ckpt", source, shape, any_bits=True, **options)
    before = file_bytes(tmp_path / "ckpt")
    report = convert(tmp_path / "ckpt", tmp_path / "there", to=target)
    assert report.verified
    assert same_bits(read_all(tmp_path / "there"), tensors) == []
    back = {name: value for name, value in options.items() if name in ("container", "max_shard_size")}
    convert(tmp_path / "there", tmp_path / "back", to=source, options=ConvertOptions(positions=False, **back))
    assert file_bytes(tmp_path / "back", but="conversion.json") == before
    assert file_bytes(tmp_path / "ckpt") == before


@PAIRS
@pytest.mark.parametrize("shape", ["everything", "no-projection", "masked-lm", "no-pooler", "base", "base-pooler"])
def test_round_trip_is_bit_exact(tmp_path: Path, source: Dialect, target: Dialect, shape: str) -> None:
    there_and_back(tmp_path, source, target, shape=shape)


@pytest.mark.parametrize("shape", ["masked-lm-pooler", "base-sop"])
@pytest.mark.parametrize(("source", "target"), [("paddle", "torch"), ("torch", "tf"), ("tf", "tf1"), ("tf1", "paddle")])
def test_round_trip_of_rarer_parts_is_bit_exact(tmp_path: Path, source: Dialect, target: Dialect, shape: str) -> None:
    there_and_back(tmp_path, source, target, shape=shape)


@pytest.mark.parametrize(
    ("source", "target", "dtype"),
    [
        *((source, target, "float16") for source, target in DIRECTIONS),
        # HDF5 has none: test_bfloat16_in_h5_is_an_error_that_names_dtype
        *((source, target, "bfloat16") for source, target in DIRECTIONS if "tf" not in (source, target)),
        *((source, target, "float64") for source, target in DIRECTIONS if source == "torch"),
    ],
)
def test_round_trip_keeps_every_type(tmp_path: Path, source: Dialect, target: Dialect, dtype: str) -> None:
    there_and_back(tmp_path, source, target, shape="everything", dtype=dtype)


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize(("source", "container"), CONTAINERS)
def test_round_trip_of_a_sharded_source_is_bit_exact(
    tmp_path: Path, source: Dialect, container: str, target: Dialect
) -> None:
    there_and_back(tmp_path, source, target, shape="everything", max_shard_size=4000, container=container)


@pytest.mark.parametrize("shape", ["everything", "base-pooler"])
@pytest.mark.parametrize(("dialect", "container"), CONTAINERS)
@pytest.mark.parametrize("limit", [1, 2000, 6000, 10**9])
def test_shards_hold_the_model_and_stay_within_their_limit(
    tmp_path: Path, dialect: Dialect, container: str, limit: int, shape: str
) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1", shape, any_bits=True)
    report = convert(
        tmp_path / "ckpt",
        tmp_path / "out",
        to=dialect,
        options=ConvertOptions(container=container, max_shard_size=limit),
    )
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
        convert(tmp_path / "ckpt", to=target, options=ConvertOptions(max_shard_size="1GB"))
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize("to", CONTAINERS)
@pytest.mark.parametrize("of", CONTAINERS)
def test_every_container_becomes_every_other(tmp_path: Path, of: tuple[Any, str], to: tuple[Any, str]) -> None:
    tensors = write_random(tmp_path / "ckpt", of[0], container=of[1], any_bits=True, dtype="float16")
    convert(tmp_path / "ckpt", tmp_path / "out", to=to[0], options=ConvertOptions(container=to[1]))
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    name = {"pdparams": "model_state.pdparams", "bin": "pytorch_model.bin", "safetensors": "model.safetensors"}[to[1]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name, "config.json", "conversion.json"}


@pytest.mark.parametrize(
    ("target", "container"), [("torch", "pdparams"), ("paddle", "bin"), ("tf", "safetensors"), ("tf1", "h5")]
)
def test_a_container_its_software_cannot_read_is_refused(tmp_path: Path, target: Dialect, container: str) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    with pytest.raises(ConvertError, match=f"{container} files are not read by .*; wanted"):
        convert(tmp_path / "ckpt", to=target, options=ConvertOptions(container=container))


@pytest.mark.parametrize("shape", ["everything", "base-pooler"])
@pytest.mark.parametrize(
    ("dialect", "container"), [*CONTAINERS, ("tf", "h5"), ("tf1", "ckpt")], ids=lambda value: str(value)
)
def test_the_result_is_spelled_and_transposed_as_written_by_hand(
    tmp_path: Path, dialect: Dialect, container: str, shape: str
) -> None:
    """The files' own names and bytes, against names that were not computed from the table."""
    tensors = write_random(tmp_path / "ckpt", "paddle" if dialect != "paddle" else "torch", shape, any_bits=True)
    options = ConvertOptions(container=container, positions=False)
    convert(tmp_path / "ckpt", tmp_path / "out", to=dialect, options=options)
    base = shape.startswith("base")
    # safetensors stores no payload twice: there only what PaddleNLP imports under no other name is copied
    want = spelled(tensors, dialect, base=base, ties=container in ("pdparams", "bin"))
    if (dialect, container) == ("torch", "safetensors") and not base:
        want["cls.predictions.decoder.bias"] = tensors["mlm.bias"]
    found = {}
    with OpenFiles() as files:
        for stored in identify(tmp_path / "out").index.tensors:
            array = np.empty(stored.size, stored.dtype)
            stored.data.read_into(files, 0, array.view(np.uint8).data)
            found[stored.name] = array.reshape(stored.shape)
    assert same_bits(found, want) == []


@pytest.mark.parametrize(("dialect", "word"), [("torch", "pt"), ("paddle", "np")])
@pytest.mark.parametrize("limit", [None, 4000])
def test_safetensors_say_the_format_that_its_loader_wants(
    tmp_path: Path, dialect: Dialect, word: str, limit: int | None
) -> None:
    """transformers refuses a file without "pt", PaddleNLP 2.8.1 one without "np"."""
    write_random(tmp_path / "ckpt", "tf1")
    report = convert(
        tmp_path / "ckpt", to=dialect, options=ConvertOptions(container="safetensors", max_shard_size=limit)
    )
    paths = list(report.target.glob("*.safetensors"))
    assert len(paths) == len(report.plan.files)
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"format": word}


def test_mixed_types_are_kept_tensor_by_tensor(tmp_path: Path) -> None:
    tensors = random_tensors()
    for number, name in enumerate(tensors):
        tensors[name] = random_array(name, tensors[name].shape, dtype=("float32", "float16", "float64")[number % 3])
    save_checkpoint(tmp_path / "ckpt", tensors, CONFIG, dialect="paddle")
    targets: tuple[Dialect, ...] = ("torch", "tf", "tf1")
    for target in targets:
        report = convert(tmp_path / "ckpt", tmp_path / target, to=target)
        assert same_bits(read_all(tmp_path / target), tensors) == []
        assert any("mixed types are kept" in note for note in report.notes)


def test_more_than_nine_layers_stand_in_their_places(tmp_path: Path) -> None:
    config = replace(UNPROJECTED, num_hidden_layers=12)
    tensors = random_tensors(config, (MLM,), any_bits=True)
    save(tmp_path / "torch", "torch", tensors, config)
    for one, other in (("torch", "paddle"), ("paddle", "tf"), ("tf", "tf1"), ("tf1", "torch2")):
        convert(tmp_path / one, tmp_path / other, to=next(d for d in DIALECTS if d == other.removesuffix("2")))
        assert same_bits(read_all(tmp_path / other), tensors) == []


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [dialect for dialect in DIALECTS if dialect != "tf"])
def test_bfloat16_in_h5_is_an_error_that_names_dtype(tmp_path: Path, source: Dialect) -> None:
    tensors = write_random(tmp_path / "ckpt", source, dtype="bfloat16")
    with pytest.raises(ConvertError, match=r"--dtype float32"):
        convert(tmp_path / "ckpt", to="tf")
    with pytest.raises(ConvertError, match=r"--dtype"):
        convert(tmp_path / "ckpt", to="tf", options=ConvertOptions(dtype="bfloat16"))
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    report = convert(tmp_path / "ckpt", to="tf", options=ConvertOptions(dtype="float32"))
    wide = {name: (bits.astype(np.uint32) << 16).view(np.float32) for name, bits in tensors.items()}
    assert same_bits(read_all(tmp_path / "ckpt-tf"), wide) == []
    assert "cast to float32 from bfloat16" in report.notes


@pytest.mark.parametrize(("source", "target"), [("paddle", "torch"), ("torch", "tf"), ("tf", "paddle"), ("tf1", "tf1")])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtype_casts_every_tensor(tmp_path: Path, source: Dialect, target: Dialect, dtype: str) -> None:
    tensors = write_random(tmp_path / "ckpt", source)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to=target, options=ConvertOptions(dtype=dtype))
    assert same_bits(read_all(tmp_path / "out"), {name: array.astype(dtype) for name, array in tensors.items()}) == []
    assert f"cast to {dtype} from float32" in report.notes
    config = json.loads((tmp_path / "out" / ("bert_config.json" if target == "tf1" else "config.json")).read_text())
    # PaddleNLP would compute in a half type at once, for which a CPU has no kernels
    assert config.get("dtype") == (None if target in ("tf1", "paddle") else dtype)


def test_a_cast_that_overflows_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    tensors = random_tensors()
    tensors["layers.1.feed_forward.up.weight"][3, 5] = 70000.0
    save(tmp_path / "ckpt", "paddle", tensors, CONFIG)
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(dtype="float16"))
    for words in ("roformer.encoder.layers.1.linear1.weight", "overflow float16", "70000", "bfloat16"):
        assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_a_dtype_that_is_none_is_refused(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    with pytest.raises(ConvertError, match="dtype 'int8' is not known"):
        convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(dtype="int8"))
