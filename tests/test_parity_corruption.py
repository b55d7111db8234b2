"""The corruption of any single tensor is found, located, and laid to the participant that has it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from parity_faults import Bench
from random_checkpoints import write_random

from roformer_convert.parity.explaining.causes import explain_parameters
from roformer_convert.parity.questions.tasks import TASKS

pytest.importorskip("torch")

MASKED_LM = TASKS["RoFormerForMaskedLM"]


def owner(parameter: str) -> set[str]:
    """The taps of which the first that a parameter can change is one."""
    if parameter.startswith("embeddings."):
        return {"embeddings"}
    if parameter == "mlm.bias":
        return {"logits"}
    module = parameter.rpartition(".")[0]
    return {module.removesuffix(".up").removesuffix(".down")}


def test_corruption_of_any_single_tensor_is_found_and_located(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert len(bench.tensors) == 63
    for number, (name, array) in enumerate(bench.tensors.items()):
        # a whole run takes most of a second: every row of the table in one of the layers, and below every tensor
        if name.startswith("layers.") and int(name.split(".")[1]) != number % 3:
            continue
        index = np.unravel_index((number * 7919) % array.size, array.shape)

        def plant(module: ModuleType, model: Any, name: str = name, index: Any = index) -> None:
            dict(model.named_parameters())[name].data[tuple(map(int, index))] += 0.0625

        result = bench.compare(plant, ("paddle", "torch", "tf")[number % 3])
        assert not result.passed, name
        assert [(cause.kind, cause.where) for cause in result.causes] == [("corrupted", name)]
        place = str([int(i) for i in index])
        assert f"1 of {array.size:,} values differ, most at {place}" in result.causes[0].what
        # a row of a table may belong to no token of the inputs: the logits score every word, and no result every type
        if name != "embeddings.word.weight":
            assert result.divergence is not None, name
            assert result.divergence.tap in owner(name), name
            assert result.divergence.odd == result.causes[0].label


def test_corruption_of_any_single_tensor_is_described(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    for number, (name, array) in enumerate(tensors.items()):
        wrong = array.astype(np.float64)
        index = np.unravel_index((number * 7919) % array.size, array.shape)
        wrong[index] -= 1e-7
        (cause,) = explain_parameters("torch", {name: wrong}, tensors, MASKED_LM)
        assert (cause.kind, cause.where, cause.label) == ("corrupted", name, "torch")
        assert f"1 of {array.size:,} values differ, most at {[int(i) for i in index]}" in cause.what


def test_exchanged_tensors_are_named() -> None:
    random = np.random.default_rng(0)
    right = {
        "layers.0.attention.query.weight": random.normal(size=(4, 4)),
        "layers.1.attention.query.weight": random.normal(size=(4, 4)),
    }
    wrong = {"layers.0.attention.query.weight": right["layers.1.attention.query.weight"]}
    (cause,) = explain_parameters("tf", wrong, right, MASKED_LM)
    assert cause.what == "it holds layers.1.attention.query.weight"


def test_shifted_rows_with_other_rows_at_the_ends_are_named() -> None:
    random = np.random.default_rng(0)
    good = random.normal(size=(30, 5))
    wrong = np.concatenate([random.normal(size=(3, 5)), good[:-3]])
    (cause,) = explain_parameters("tf", {"embeddings.word.weight": wrong}, {"embeddings.word.weight": good}, MASKED_LM)
    assert (cause.kind, cause.what) == ("vocabulary", "the rows are shifted by 3")
