"""Run a model in TensorFlow for the gate: one of three modules with the same functions (see :mod:`.dump`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ..models.ops_tf import DIALECT, as_numpy, inference, to_tensor
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
    named = parameters(model)
    with tf.GradientTape() as tape:
        loss = _loss(model, training)
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
        loss = _cross_entropy(recorded["logits"], training.words)
    else:
        hidden = recorded[f"layers.{len(model.layers) - 1}.feed_forward_norm"]
        chosen = tf.gather(tf.reshape(hidden, (-1, hidden.shape[-1])), training.case.scored)
        loss = tf.reduce_mean(chosen * training.weights)
    if "sop" in recorded:
        loss = loss + _cross_entropy(recorded["sop"], training.order)
    elif "pooler" in recorded:
        loss = loss + tf.reduce_mean(recorded["pooler"] ** 2)
    return loss


def _cross_entropy(logits: Any, right: NDArray[np.int64]) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(right, logits))
