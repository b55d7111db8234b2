"""The cases and the training batch as a file, for the frameworks' processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case
from .targets import Training

_TARGETS = ("words", "order", "weights", "labels", "places")


def write_cases(path: Path, cases: Sequence[Case], training: Training | None) -> list[dict[str, Any]]:
    """Write the arrays; return what such a file cannot hold, as JSON."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, case in enumerate(cases):
        arrays |= {f"{number}.{name}": array for name, array in case.arrays().items()}
    if training is not None:
        arrays |= {f"training.{name}": array for name, array in training.case.arrays().items()}
        arrays |= {name: getattr(training, name) for name in _TARGETS} | {"loss": np.array(training.loss)}
    np.savez(path, allow_pickle=False, **arrays)
    return [{"name": case.name, "taps": case.taps, "packed": case.packed} for case in cases]


def read_cases(path: Path, listed: Sequence[Mapping[str, Any]]) -> tuple[list[Case], Training | None]:
    """Read what :func:`write_cases` wrote."""
    with np.load(path) as arrays:

        def case(prefix: str, name: str, taps: bool, packed: bool = False) -> Case:
            found = {
                key: arrays[f"{prefix}.{key}"]
                for key in ("input_ids", "token_type_ids", "attention_mask", "positions")
                if f"{prefix}.{key}" in arrays
            }
            return Case(name, **found, taps=taps, packed=packed)

        cases = [case(str(number), **one) for number, one in enumerate(listed)]
        if "loss" not in arrays:
            return cases, None
        targets = {name: arrays[name] for name in _TARGETS}
        return cases, Training(case("training", "pretraining", False), **targets, loss=str(arrays["loss"]))  # type: ignore[arg-type]
