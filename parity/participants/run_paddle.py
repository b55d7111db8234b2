"""What the gate asks of Paddle: one of three modules with the same functions (see :mod:`.run`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ...models import ops_paddle as operations
from ...models.processes.start_paddle import paddle
from ...models.proving.choice_paddle import prove
from .step import BETAS, DECAY, EPSILON, RATE


def at_rest(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which a model computes results alone; its fast kernels are tried before."""
    prove(model.config, (operations.dtype_name(model.embeddings.word.weight),), training=False)
    return operations.inference()


def backward(take_loss: Callable[[], Any], named: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Take a loss; return its number and the gradient of each parameter, None where there is none."""
    loss = take_loss()
    loss.backward()
    return float(loss), {name: value.grad for name, value in named.items()}


def step(value: Any, gradient: Any) -> None:
    """Take one AdamW step with a parameter alone."""
    paddle.optimizer.AdamW(
        RATE, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, parameters=[value], weight_decay=DECAY
    ).step()
    value.clear_gradient(set_to_zero=False)


def cross_entropy(scores: Any, right: Any) -> Any:
    """Compare scores (K, C) with the right classes (K,)."""
    return paddle.nn.functional.cross_entropy(scores, right)


def binary_cross_entropy(scores: Any, right: Any) -> Any:
    """Compare scores with 0 and 1, each by itself."""
    return paddle.nn.functional.binary_cross_entropy_with_logits(scores, right)


def mean(x: Any) -> Any:
    """Average every number of x."""
    return x.mean()


def rows(x: Any, places: Any) -> Any:
    """Choose K vectors of x (B, T, H), read row by row: (K, H)."""
    return x.flatten(0, 1)[places]


def columns(x: Any) -> Any:
    """Lay out x (B, T, 2) as its columns: (B * 2, T)."""
    return x.transpose([0, 2, 1]).flatten(0, 1)
