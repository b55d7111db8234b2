"""States of AdamW that real software wrote, and what is in their files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from next_steps import STATES
from numpy.typing import NDArray

from roformer_convert.converters import ConvertOptions, convert
from roformer_convert.converters.report import ConversionReport

PADDLE, PADDLE_V2, TORCH = (STATES / name for name in ("pdnlp-MaskedLM", "pdnlp-MaskedLM_v2", "hf-MaskedLM"))


def convert_state(source: Path, made: Path, to: Any, **options: Any) -> ConversionReport:
    return convert(source, made, to=to, options=ConvertOptions(with_optimizer=True, **options))


def unpickled(path: Path) -> dict[str, Any]:
    """Read a file of paddle.save, of which we know who wrote it."""
    with open(path, "rb") as file:
        state: dict[str, Any] = pickle.load(file)
    state.pop("StructuredToParameterName@@", None)
    return state


def loaded(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def arrays(state: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of an ``optimizer.pt``."""
    return {f"{i}.{key}": array.numpy() for i, kept in state["state"].items() for key, array in kept.items()}


def require_same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert array.tobytes() == other[name].tobytes(), name


def unpickled_table(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        table: dict[str, str] = pickle.load(file)["StructuredToParameterName@@"]
    return table
