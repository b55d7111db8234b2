"""Which words score highest: the one ranking for every framework, in numpy, with ties broken by id."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelError


def best(logits: NDArray[Any], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rank logits (K, V): ids, logits and probabilities (K, k), the highest first, of equals the lower id.

    A framework's own top-k breaks ties as its kernel happens to.

    Raises:
        ModelError: A logit is NaN or infinite, or there are fewer than ``k`` words.
    """
    rows, words = logits.shape
    if k > words:
        raise ModelError(f"the {k:,} best of {words:,} words are asked for; wanted at most vocab_size")
    scores = logits.astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        row, word = np.argwhere(~finite)[0]
        raise ModelError(
            f"the logit of word {word} at mask {row} is {scores[row, word]}",
            "The weights hold NaN, infinity or huge values.",
        )
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances = weights / weights.sum(axis=1, keepdims=True)
    ids = np.empty((rows, k), np.int64)
    for row, row_scores in enumerate(scores):
        least = np.partition(row_scores, words - k)[words - k]
        candidates = np.flatnonzero(row_scores >= least)  # more than k where the last place is shared
        order = np.lexsort((candidates, -row_scores[candidates]))
        ids[row] = candidates[order[:k]]
    return ids, np.take_along_axis(scores, ids, 1), np.take_along_axis(chances, ids, 1)
