"""Kernels for Paddle that tests plant, right ones and wrong ones, which the CPU can compute."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("paddle")

from small_model import SMALL

from roformer_convert.models.kernels import attention_paddle as kernels
from roformer_convert.models.kernels.attention_paddle import Device, Kernel, find
from roformer_convert.models.ops_paddle import F
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import trials_paddle as trials
from roformer_convert.models.roformer_paddle import RoFormerForPretraining

V100 = Device("V100", (7, 0))
CAUSAL = replace(SMALL, attention="causal")
NEEDS = {need.place: need for config in (CAUSAL, SMALL) for need in trials.needs(config, ["float32"])}


def attention(query: Any, key: Any, value: Any, lengths: tuple[int, ...], dropout: float) -> Any:
    """Attend row by row, as a right kernel would."""
    return attention_dropping(query, key, value, lengths, lambda weights: F.dropout(weights, dropout))


def causal_attention(query: Any, key: Any, value: Any, lengths: tuple[int, ...], dropout: float) -> Any:
    """Attend row by row to what was read before."""
    return attention_dropping(query, key, value, lengths, lambda weights: F.dropout(weights, dropout), causal=True)


def attention_dropping(
    query: Any, key: Any, value: Any, lengths: Any, drop: Callable[[Any], Any], scale: float = 1.0, causal: bool = False
) -> Any:
    real = [length for length in lengths if length]
    rows = []
    for q, k, v in zip(*(paddle.split(x, real) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose([1, 0, 2]) for x in (q, k, v))
        scores = paddle.matmul(q * (scale * q.shape[2] ** -0.5), k, transpose_y=True)
        if causal:
            scores = scores + paddle.triu(paddle.full_like(scores[0], -np.inf), 1)
        weights = F.softmax(scores, axis=-1)
        weights = paddle.tril(weights) if causal else weights  # on a CPU the softmax of Paddle ends at exp(-64)
        rows.append(paddle.matmul(drop(weights), v).transpose([1, 0, 2]))
    return paddle.concat(rows)


def rotation(x: Any, turns: Any) -> Any:
    """Turn pairs by the matrix of their angle."""
    cos, sin = (turns[..., i].astype(x.dtype) for i in (0, 1))
    even, odd = x[..., 0::2], x[..., 1::2]
    return paddle.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def add_norm(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float, dropout: float) -> Any:
    return F.layer_norm(residual + F.dropout(x, dropout), x.shape[-1], weight, bias, epsilon)


def projection(x: Any, weight: Any, bias: Any) -> Any:
    return F.linear(x, weight, bias)


RIGHT: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "causal_attention": causal_attention,
    "rotation": rotation,
    "add_norm": add_norm,
    "projection": projection,
}


class WrongGradient(paddle.autograd.PyLayer):
    """Hand x on, and its gradient a thousandth too large."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * 1.001


class OtherGradientMask(paddle.autograd.PyLayer):
    """Drop elements, and drop others on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Any, dropout: float) -> Any:
        ctx.dropout = dropout
        return F.dropout(x, dropout)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return F.dropout(gradient, ctx.dropout)


def first_wrong(change: Callable[[Any], Any], right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda first, *others: right(change(first), *others)


def result_wrong(change: Callable[[Any], Any], right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: change(right(*arguments))


def found(device: Device, place: str, dtype: str, *sizes: int, dropping: bool = False) -> Any:
    """What stands in on a device."""
    with mock.patch.object(kernels, "current_device", return_value=device):
        return find(place, dtype, *sizes, dropping=dropping)  # type: ignore[arg-type]


def plant(place: str, run: Callable[..., Any], name: str = "planted", capability: tuple[int, int] = (5, 0)) -> Kernel:
    return Kernel(name, place, capability, ("float32", "float64"), ("an_operator",), run, "here")  # type: ignore[arg-type]


def make_model(**fields: Any) -> Any:
    paddle.seed(0)
    model = RoFormerForPretraining(replace(SMALL, **fields), dtype="float64")
    model.eval()
    return model
