"""Honest implementations beside PyTorch's: the same mathematics with its sums in another order.

Planted like the faults of :mod:`parity_faults`, but nothing about them is wrong: what they differ by is rounding, and
the gate's bounds must let that pass.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from parity_faults import Plant
from test_parity_faults import within


def _planted(project: Callable[..., Any], normalize: Callable[..., Any], attend: Callable[..., Any]) -> Plant:
    """Give a model its own matrix product, layer norm and attention."""

    def plant(module: ModuleType, model: Any) -> None:
        def score_words(hidden: Any, word: Any, bias: Any, layout: Any) -> Any:
            scores = project(hidden, word, bias)
            return scores if layout is None else module.spread(scores, layout)

        def linear(x: Any, weight: Any, bias: Any, activation: str | None = None) -> Any:
            return module.activate(project(x, weight, bias), activation)

        def add_norm(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float, *_: Any) -> Any:
            return normalize(x + residual, weight, bias, epsilon)

        for name, function in {
            "project": linear,
            "score_words": score_words,
            "normalize": normalize,
            "add_norm": add_norm,
            "attend": lambda query, key, value, layout, dropout: attend(query, key, value, layout),
        }.items():
            within(module, name, function, model)

    return plant


def shuffled(seed: int) -> Plant:
    """Add up every sum in an order drawn at random."""
    import torch

    def order(width: int) -> Any:
        return torch.randperm(width, generator=torch.Generator().manual_seed(seed))

    def project(x: Any, weight: Any, bias: Any) -> Any:
        at = order(x.shape[-1])
        out = x[:, at] @ weight[:, at].T
        return out if bias is None else out + bias

    def normalize(x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        at = order(x.shape[-1])
        centred = x - x[:, at].mean(-1, keepdim=True)
        variance = (centred[:, at] ** 2).mean(-1, keepdim=True)
        return centred / (variance + epsilon).sqrt() * weight + bias

    def attend(query: Any, key: Any, value: Any, layout: Any) -> Any:
        at = order(layout.columns)
        return _attend(query, key, value, layout, lambda weights, v: weights[..., at] @ v[:, :, at])

    return _planted(project, normalize, attend)


def one_by_one(block: int) -> Plant:
    """Add up every sum a few terms at a time, beginning with the bias: the order that rounds most."""

    def add_up(terms: Any) -> Any:  # along the last axis
        total = terms[..., :block].sum(-1)
        for start in range(block, terms.shape[-1], block):
            total = total + terms[..., start : start + block].sum(-1)
        return total

    def project(x: Any, weight: Any, bias: Any) -> Any:
        out = 0.0 if bias is None else bias
        for start in range(0, x.shape[-1], block):
            out = out + x[:, start : start + block] @ weight[:, start : start + block].T
        return out

    def normalize(x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        centred = x - add_up(x)[..., None] / x.shape[-1]
        variance = add_up(centred**2)[..., None] / x.shape[-1]
        return centred * (variance + epsilon).rsqrt() * weight + bias

    def mix(weights: Any, value: Any) -> Any:
        out = weights[..., :block] @ value[:, :, :block]
        for start in range(block, value.shape[2], block):
            out = out + weights[..., start : start + block] @ value[:, :, start : start + block]
        return out

    return _planted(project, normalize, lambda query, key, value, layout: _attend(query, key, value, layout, mix))


def _attend(query: Any, key: Any, value: Any, layout: Any, mix: Callable[[Any, Any], Any]) -> Any:
    """Attend as the paper writes it; ``mix`` multiplies weights (B, N, T, T) by values (B, N, T, D)."""
    import torch

    batch = (layout.rows, layout.columns, *query.shape[1:])
    q, k, v = (x.reshape(batch).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if layout.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    if layout.mask is not None:
        scores = scores + layout.mask
    return mix(scores.softmax(-1), v).transpose(1, 2).reshape(len(query), -1)
