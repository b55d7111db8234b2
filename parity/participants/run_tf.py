"""What the gate asks of TensorFlow: one of three modules with the same functions (see :mod:`.run`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from ...models import ops_tf as operations
from .step import BETAS, DECAY, EPSILON, RATE


def at_rest(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which a model computes results alone."""
    return operations.inference()


def backward(take_loss: Callable[[], Any], named: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Take a loss; return its number and the gradient of each parameter, None where there is none."""
    with tf.GradientTape() as tape:
        loss = take_loss()
    found = tape.gradient(loss, dict(named))
    # Keras' optimizer takes each row of tf.IndexedSlices once, and a token type occurs many times
    return float(loss), {name: None if one is None else tf.convert_to_tensor(one) for name, one in found.items()}


def step(value: Any, gradient: Any) -> None:
    """Take one AdamW step with a parameter alone."""
    # Keras adds epsilon before the bias correction (Kingma and Ba's "epsilon hat"), PyTorch and Paddle after it; for
    # the first step the one is sqrt(1 - beta2) times the other
    epsilon = EPSILON * math.sqrt(1.0 - BETAS[1])
    tf.keras.optimizers.AdamW(
        RATE, beta_1=BETAS[0], beta_2=BETAS[1], epsilon=epsilon, weight_decay=DECAY
    ).apply_gradients([(gradient, value)])


def cross_entropy(scores: Any, right: Any) -> Any:
    """Compare scores (K, C) with the right classes (K,)."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(right, scores))


def binary_cross_entropy(scores: Any, right: Any) -> Any:
    """Compare scores with 0 and 1, each by itself."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(right, scores))


def mean(x: Any) -> Any:
    """Average every number of x."""
    return tf.reduce_mean(x)


def rows(x: Any, places: Any) -> Any:
    """Choose K vectors of x (B, T, H), read row by row: (K, H)."""
    return tf.gather(tf.reshape(x, (-1, x.shape[-1])), places)


def columns(x: Any) -> Any:
    """Lay out x (B, T, 2) as its columns: (B * 2, T)."""
    return tf.reshape(tf.transpose(x, (0, 2, 1)), (-1, x.shape[1]))
