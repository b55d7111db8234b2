"""What the gate asks of PyTorch: one of three modules with the same functions (see :mod:`.run`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from ...models import ops_torch as operations
from .step import BETAS, DECAY, EPSILON, RATE


def at_rest(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which a model computes results alone."""
    return operations.inference()


def backward(take_loss: Callable[[], Any], named: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Take a loss; return its number and the gradient of each parameter, None where there is none."""
    loss = take_loss()
    loss.backward()
    return float(loss.detach()), {name: value.grad for name, value in named.items()}


def step(value: Any, gradient: Any) -> None:
    """Take one AdamW step with a parameter alone."""
    torch.optim.AdamW([value], lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY).step()
    value.grad = None


def cross_entropy(scores: Any, right: Any) -> Any:
    """Compare scores (K, C) with the right classes (K,)."""
    return F.cross_entropy(scores, right)


def binary_cross_entropy(scores: Any, right: Any) -> Any:
    """Compare scores with 0 and 1, each by itself."""
    return F.binary_cross_entropy_with_logits(scores, right)


def mean(x: Any) -> Any:
    """Average every number of x."""
    return x.mean()


def rows(x: Any, places: Any) -> Any:
    """Choose K vectors of x (B, T, H), read row by row: (K, H)."""
    return x.flatten(0, 1)[places]


def columns(x: Any) -> Any:
    """Lay out x (B, T, 2) as its columns: (B * 2, T)."""
    return x.transpose(1, 2).flatten(0, 1)
