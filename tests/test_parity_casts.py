"""A conversion that cast is judged at what its cast explains, and at nothing more."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import MODELS
from parity_faults import Bench
from random_checkpoints import CONFIG, SHAPES, random_tensors, save

from roformer_convert.converters import ConvertOptions, convert, open_checkpoint, save_checkpoint
from roformer_convert.parity.conditions.casts import find_cast
from roformer_convert.parity.gate import run
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.report import render
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import screen

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def source(folder: Path, dtype: str = "float32") -> Path:
    tensors = random_tensors(*SHAPES["everything"])
    save(folder / "plain", "torch", tensors, CONFIG)
    if dtype == "float64":
        wide = {name: array * (1.0 + np.float64(2.0**-30)) for name, array in tensors.items()}
        save_checkpoint(folder / dtype, wide, CONFIG, dialect="torch")
        return folder / dtype
    if dtype == "float32":
        return folder / "plain"
    convert(folder / "plain", folder / dtype, to="torch", options=ConvertOptions(dtype=dtype))
    return folder / dtype


def values(directory: Path) -> dict[str, Any]:
    with open_checkpoint(directory) as checkpoint:
        return {name: checkpoint.read(name, "float64") for name in checkpoint}


def test_nothing_was_cast_where_the_types_are_the_same_or_there_are_not_two(tmp_path: Path) -> None:
    plain = source(tmp_path)
    convert(plain, tmp_path / "paddle", to="paddle", options=ConvertOptions())
    assert find_cast([plain, tmp_path / "paddle"], [plain, tmp_path / "paddle"], tmp_path) is None
    assert find_cast([plain], [plain], tmp_path) is None
    assert find_cast([plain] * 3, [plain] * 3, tmp_path) is None


@pytest.mark.parametrize(
    ("first", "second", "to"),
    [
        ("float32", "float16", "paddle"),
        ("float32", "float16", "tf"),
        ("float32", "bfloat16", "tf1"),
        ("float32", "bfloat16", "paddle"),
        ("float64", "float32", "tf"),
        ("float64", "float16", "torch"),
        ("float16", "bfloat16", "torch"),
        ("bfloat16", "float16", "torch"),
    ],
)
def test_a_rounded_source_equals_what_the_converter_wrote(tmp_path: Path, first: str, second: str, to: Any) -> None:
    start = source(tmp_path, first)
    out = tmp_path / "out"
    convert(start, out, to=to, options=ConvertOptions(dtype=second))
    cast = find_cast([start, out], [start, out], tmp_path)
    assert cast is not None
    assert cast.types == f"{first} to {second}"
    assert cast.rounded is not None
    want, got, before = values(cast.rounded), values(out), values(start)
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[name], got[name]) for name in want)
    if first != "bfloat16":  # its numbers have fewer digits, and none of these is too small
        assert any(not np.array_equal(before[name], got[name]) for name in want)


@pytest.mark.parametrize("name", ["choices, mean, activation", "labels V2", "causal LM, UniLM"])
def test_every_class_is_rounded(tmp_path: Path, name: str) -> None:
    MODELS[name].write(tmp_path / "plain")
    options = ConvertOptions(dtype="bfloat16", allow_different=True)
    convert(tmp_path / "plain", tmp_path / "half", to="torch", options=options)
    both = [tmp_path / "plain", tmp_path / "half"]
    cast = find_cast(both, both, tmp_path)
    assert cast is not None
    assert cast.rounded is not None
    with open_checkpoint(cast.rounded) as copy, open_checkpoint(both[0]) as plain:
        assert (copy.config, copy.model_class) == (plain.config, plain.model_class)
        assert copy.dtypes() == plain.dtypes()
    want, got = values(cast.rounded), values(both[1])
    assert all(np.array_equal(want[name], got[name]) for name in want)


def test_each_tensor_is_rounded_to_its_own_type(tmp_path: Path) -> None:
    plain = source(tmp_path)
    tensors = random_tensors(*SHAPES["everything"])
    half = {name: array if "norm" in name else array.astype(np.float16) for name, array in tensors.items()}
    save_checkpoint(tmp_path / "mixed", half, CONFIG, dialect="torch")
    cast = find_cast([plain, tmp_path / "mixed"], [plain, tmp_path / "mixed"], tmp_path)
    assert cast is not None
    assert cast.rounded is not None
    want = values(cast.rounded)
    for name, array in tensors.items():
        assert np.array_equal(want[name], half[name].astype(np.float64)), name
        assert np.array_equal(want[name], array.astype(np.float64)) == ("norm" in name), name


def test_a_wider_type_is_not_rounded_away(tmp_path: Path) -> None:
    half = source(tmp_path, "float16")
    convert(half, tmp_path / "wide", to="torch", options=ConvertOptions(dtype="float32"))
    cast = find_cast([half, tmp_path / "wide"], [half, tmp_path / "wide"], tmp_path)
    assert cast is not None
    assert cast.rounded is None
    assert "every value must be equal" in str(cast)


# The gate ------------------------------------------------------------------------------------------------------------


def gate(first: Path, second: Path) -> Result:
    with run([first, second], GateOptions(frameworks=["torch"], gradients=False)) as result:
        return result


def truncated(folder: Path, tensors: Mapping[str, Any]) -> Path:
    """Write a cast to bfloat16 that cuts bits off, as a careless one does."""
    cut = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in tensors.items()}
    kinds = dict.fromkeys(cut, "bfloat16")
    save_checkpoint(folder / "cut", cut, CONFIG, dialect="torch", dtypes=kinds)
    return folder / "cut"


@needs_torch
def test_a_cast_passes_and_the_gate_says_that_it_was_one(tmp_path: Path) -> None:
    plain = source(tmp_path)
    convert(plain, tmp_path / "half", to="torch", options=ConvertOptions(dtype="float16"))
    result = gate(plain, tmp_path / "half")
    assert result.passed, screen(result)
    assert not result.causes
    said = screen(result)
    assert "half is " in said
    assert "cast from float32 to float16: compared with the source's values, rounded so" in said
    assert "the cast moves logits by up to " in said
    assert "the cast moves logits by up to " in render(result)
    assert any("cast from float32 to float16" in note for note in result.as_dict()["notes"])
    ranked = sum(len(case.ranked) for case in result.cases)
    assert f"the cast changes the best of the words at 0 of {ranked} places" in said
    # against the source as it is: computed here from both, by a model that the gate did not load
    moved = _moved(plain, tmp_path / "half")
    line = next(line for line in said.splitlines() if "the cast moves logits" in line)
    assert float(line.split("up to ")[1].split()[0]) == pytest.approx(moved, rel=0.1)


def _moved(first: Path, second: Path) -> float:
    bench = Bench(first.parent / "bench")
    before, after = bench.dump(None, first), bench.dump(None, second)
    files = [f"float64.{case.name}" for case in bench.cases]
    one, other = (
        np.concatenate([dump.read(file, "logits").reshape(-1, bench.config.vocab_size) for file in files])
        for dump in (before, after)
    )
    spread = np.ptp(one, axis=0)
    return float((np.abs(one - other) / np.maximum(spread, np.median(spread))).max())


@needs_torch
def test_a_cast_that_cuts_bits_off_is_found(tmp_path: Path) -> None:
    result = gate(source(tmp_path), truncated(tmp_path, random_tensors(*SHAPES["everything"])))
    assert result.exit_status == 1
    assert "parameters as loaded" in {one.check for one in result.verdicts if not one.passed}
    assert {cause.kind for cause in result.causes} == {"corrupted"}


@needs_torch
def test_a_wider_copy_with_other_bits_is_found(tmp_path: Path) -> None:
    half = source(tmp_path, "float16")
    assert gate(half, tmp_path / "plain").exit_status == 1  # what it was cast from, named last


@needs_torch
def test_answers_that_a_cast_changes_are_counted(tmp_path: Path) -> None:
    tensors = random_tensors(*SHAPES["everything"])
    # two words that are alike but for what bfloat16 does not have, far ahead of all others
    words = tensors["embeddings.word.weight"]
    words[9] = words[8]
    tensors["mlm.bias"][8:10] = 64.0, 64.0625
    save(tmp_path / "near", "torch", tensors, CONFIG)
    convert(tmp_path / "near", tmp_path / "half", to="torch", options=ConvertOptions(dtype="bfloat16"))
    notes = gate(tmp_path / "near", tmp_path / "half").as_dict()["notes"]
    (told,) = [note for note in notes if "the cast changes the best" in note]
    changed, places = (int(word) for word in told.split() if word.isdigit())
    assert changed == places > 10, told
