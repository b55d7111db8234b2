"""What the gate asks of TensorFlow: one of three modules with the same functions (see :mod:`.run`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ...models.ops_tf import DIALECT, as_numpy, inference, to_tensor
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
    """Return the context in which a model computes results alone."""
    return inference()


def differentiate(model: Any, take_loss: Callable[[], Any]) -> Iterator[tuple[str, float | Array, Array | None]]:
    """Yield the loss once, then each parameter's gradient and its values after one AdamW step.

    The step is taken a parameter at a time, each with an optimizer of its own, so that moments never add up.
    """
    named = parameters(model)
    with tf.GradientTape() as tape:
        loss = take_loss()
    found = tape.gradient(loss, named, unconnected_gradients="zero")
    yield "", float(loss), None
    # Keras adds epsilon before the bias correction (Kingma and Ba's "epsilon hat"), PyTorch and Paddle after it; for
    # the first step the one is sqrt(1 - beta2) times the other
    epsilon = EPSILON * math.sqrt(1.0 - BETAS[1])
    for name, value in named.items():
        # Keras' optimizer takes each row of tf.IndexedSlices once, and a token type occurs many times
        gradient = tf.convert_to_tensor(found.pop(name))
        tf.keras.optimizers.AdamW(
            RATE, beta_1=BETAS[0], beta_2=BETAS[1], epsilon=epsilon, weight_decay=DECAY
        ).apply_gradients([(gradient, value)])
        yield name, gradient.numpy(), as_numpy(value)


def cross_entropy(scores: Any, right: NDArray[np.int64]) -> Any:
    """Compare scores (K, C) with the right classes (K,)."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(right, scores))


def binary_cross_entropy(scores: Any, right: NDArray[np.float64]) -> Any:
    """Compare scores with 0 and 1, each by itself."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(to_tensor(right), scores))


def mean(x: Any) -> Any:
    """Average every number of x."""
    return tf.reduce_mean(x)


def rows(x: Any, places: NDArray[np.int64]) -> Any:
    """Choose K vectors of x (B, T, H), read row by row: (K, H)."""
    return tf.gather(tf.reshape(x, (-1, x.shape[-1])), places)


def columns(x: Any) -> Any:
    """Lay out x (B, T, 2) as its columns: (B * 2, T)."""
    return tf.reshape(tf.transpose(x, (0, 2, 1)), (-1, x.shape[1]))
