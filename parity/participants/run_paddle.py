"""What the gate asks of Paddle: one of three modules with the same functions (see :mod:`.run`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.ops_paddle import DIALECT, as_numpy, dtype_name, inference, to_tensor
from ...models.processes.start_paddle import paddle
from ...models.proving.choice_paddle import prove
from .run import parameters
from .step import BETAS, DECAY, EPSILON, RATE

__all__ = [
    "DIALECT",
    "as_numpy",
    "at_rest",
    "binary_cross_entropy",
    "columns",
    "cross_entropy",
    "differentiate",
    "mean",
    "rows",
    "to_tensor",
]

Array = NDArray[Any]


def at_rest(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which a model computes results alone; its fast kernels are tried before."""
    prove(model.config, (dtype_name(model.embeddings.word.weight),), training=False)
    return inference()


def differentiate(model: Any, take_loss: Callable[[], Any]) -> Iterator[tuple[str, float | Array, Array | None]]:
    """Yield the loss once, then each parameter's gradient and its values after one AdamW step.

    The step is taken a parameter at a time, each with an optimizer of its own, so that moments never add up.
    """
    loss = take_loss()
    loss.backward()
    yield "", float(loss), None
    for name, value in parameters(model).items():
        gradient = np.zeros(tuple(value.shape)) if value.grad is None else as_numpy(value.grad)
        paddle.optimizer.AdamW(
            RATE, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, parameters=[value], weight_decay=DECAY
        ).step()
        value.clear_gradient(set_to_zero=False)
        yield name, gradient, as_numpy(value)


def cross_entropy(scores: Any, right: NDArray[np.int64]) -> Any:
    """Compare scores (K, C) with the right classes (K,)."""
    return paddle.nn.functional.cross_entropy(scores, to_tensor(right))


def binary_cross_entropy(scores: Any, right: NDArray[np.float64]) -> Any:
    """Compare scores with 0 and 1, each by itself."""
    return paddle.nn.functional.binary_cross_entropy_with_logits(scores, to_tensor(right))


def mean(x: Any) -> Any:
    """Average every number of x."""
    return x.mean()


def rows(x: Any, places: NDArray[np.int64]) -> Any:
    """Choose K vectors of x (B, T, H), read row by row: (K, H)."""
    return x.flatten(0, 1)[to_tensor(places)]


def columns(x: Any) -> Any:
    """Lay out x (B, T, 2) as its columns: (B * 2, T)."""
    return x.transpose([0, 2, 1]).flatten(0, 1)
