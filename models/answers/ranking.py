"""Scores to probabilities and ranks: the one rule for every framework; of equals the lower number wins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelError

Float64 = NDArray[np.float64]


def finite(numbers: NDArray[Any], what: str, *axes: str) -> Float64:
    """Return a model's numbers in float64.

    Args:
        numbers: Of any shape.
        what: What one of them is called.
        axes: What an index along each axis is called.

    Raises:
        ModelError: One is NaN or infinite.
    """
    found = numbers.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, wrong[0], strict=True))
        raise ModelError(
            f"{what} at {where} is {found[tuple(wrong[0])]}", "The weights hold NaN, infinity or huge values."
        )
    return found


def softmax(scores: Float64) -> Float64:
    """Turn scores into probabilities along the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: Float64 = weights / weights.sum(axis=-1, keepdims=True)
    return found


def ranked(scores: Float64, k: int) -> NDArray[np.int64]:
    """Return the numbers of the ``k`` highest scores of a row, or of all where there are fewer, the highest first.

    A framework's own top-k breaks ties as its kernel happens to.
    """
    k = min(k, len(scores))
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= least)  # more than k where the last place is shared
    order = np.lexsort((candidates, -scores[candidates]))
    found: NDArray[np.int64] = candidates[order[:k]]
    return found


def best(logits: NDArray[Any], k: int) -> tuple[NDArray[np.int64], Float64, Float64]:
    """Rank words by logits (K, V): ids, logits and probabilities (K, k), the highest first, of equals the lower id.

    Raises:
        ModelError: A logit is NaN or infinite, or there are fewer than ``k`` words.
    """
    words = logits.shape[1]
    if k > words:
        raise ModelError(f"the {k:,} best of {words:,} words are asked for; wanted at most vocab_size")
    scores = finite(logits, "the logit", "place", "word")
    ids = np.array([ranked(row, k) for row in scores], np.int64).reshape(-1, k)
    return ids, np.take_along_axis(scores, ids, 1), np.take_along_axis(softmax(scores), ids, 1)


def best_there(logits: Any, k: int, ops: Any) -> tuple[NDArray[np.int64], Float64, Float64]:
    """Rank words as :func:`best` does where the logits are: few of a GPU's many numbers come to the host.

    Args:
        logits: (K, V), a framework's tensor.
        k: How many words are wanted.
        ops: The framework's operations.

    Raises:
        ModelError: A logit is NaN or infinite, or there are fewer than ``k`` words.
    """
    places, words = logits.shape
    if places and k <= words:
        # one more than is wanted, for a last place that is shared goes to the lower id of all that share it
        ids, scores, total = (ops.as_numpy(each) for each in ops.highest(logits, min(k + 1, words)))
        if np.isfinite(total).all() and not (scores[:, k - 1 : k] == scores[:, k:]).any():
            order = np.lexsort((ids, -scores))[:, :k]
            ids, scores = (np.take_along_axis(each, order, 1) for each in (ids, scores))
            return ids.astype(np.int64), scores, np.exp(scores - scores[:, :1]) / total[:, None]
    return best(ops.as_numpy(logits), k)
