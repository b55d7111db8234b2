"""Run a model in PyTorch for the gate: one of three modules with the same functions (see :mod:`.dump`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from ..models.ops_torch import DIALECT, as_numpy, inference, to_tensor
from .cases import Case, Training
from .step import BETAS, DECAY, EPSILON, RATE

__all__ = ["DIALECT", "as_numpy", "differentiate", "parameters", "run"]

Array = NDArray[Any]


def run(model: Any, case: Case, *, taps: bool) -> dict[str, Array]:
    """Run one case; return every tap, or the taps that are results."""
    recorded: dict[str, Any] = {}
    with inference():
        model(**{name: to_tensor(array) for name, array in case.arrays().items()}, taps=recorded)
        _pool(model, recorded)
    return {name: as_numpy(value) for name, value in recorded.items()}


def parameters(model: Any) -> dict[str, Any]:
    """Name every parameter."""
    return dict(model.named_parameters())


def differentiate(model: Any, training: Training) -> Iterator[tuple[str, float | Array, Array | None]]:
    """Yield the pretraining loss once, then each parameter's gradient and its values after one AdamW step.

    The step is taken a parameter at a time, each with an optimizer of its own, so that moments never add up.
    """
    loss = _loss(model, training)
    loss.backward()
    yield "", float(loss.detach()), None
    for name, value in parameters(model).items():
        gradient = np.zeros(tuple(value.shape)) if value.grad is None else as_numpy(value.grad).copy()
        torch.optim.AdamW([value], lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY).step()
        value.grad = None
        yield name, gradient, as_numpy(value)


def _pool(model: Any, recorded: dict[str, Any]) -> None:
    # RoFormerForMaskedLM keeps a pooler and does not compute it
    if model.pooler is not None and "pooler" not in recorded:
        last = len(model.layers) - 1
        model.pool(recorded[f"layers.{last}.feed_forward_norm"] if last >= 0 else recorded["embeddings"], recorded)


def _loss(model: Any, training: Training) -> Any:
    recorded: dict[str, Any] = {}
    model(**{name: to_tensor(array) for name, array in training.case.arrays().items()}, taps=recorded)
    _pool(model, recorded)
    if "logits" in recorded:
        loss = F.cross_entropy(recorded["logits"], to_tensor(training.words))
    else:
        hidden = recorded[f"layers.{len(model.layers) - 1}.feed_forward_norm"].flatten(0, 1)
        chosen = hidden[to_tensor(training.case.scored)]
        loss = (chosen * to_tensor(training.weights)).mean()
    if "sop" in recorded:
        loss = loss + F.cross_entropy(recorded["sop"], to_tensor(training.order))
    elif "pooler" in recorded:
        loss = loss + (recorded["pooler"] ** 2).mean()
    return loss
