"""Where the real tokens of a padded batch lie, worked out once on the host for all three models.

A padded batch (B, T) computes every linear layer on B * T tokens. Packed, the P real ones stand in one run, row after
row, each with the column it came from (its rotary position); only attention needs to know where a row begins. Tokens
may be masked anywhere, not only at the end of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelError

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """How the P real tokens of a (B, T) batch lie.

    Attributes:
        lengths: Real tokens of each row, 0 allowed; their sum is P.
        tokens: (P,) index of each in the batch read row by row.
        columns: (P,) column of each.
        slots: (B * T,) place of each of the batch's tokens in the run; P where it is masked.
    """

    lengths: tuple[int, ...]
    tokens: Int64
    columns: Int64
    slots: Int64


def pack(attention_mask: NDArray[Any]) -> Packing:
    """Find the real tokens of ``attention_mask`` (B, T), 0 or false where masked."""
    real = np.asarray(attention_mask) != 0
    tokens = np.flatnonzero(real)
    slots = np.full(real.size, tokens.size, dtype=np.int64)
    slots[tokens] = np.arange(tokens.size)
    return Packing(
        lengths=tuple(real.sum(axis=1).tolist()),
        tokens=tokens.astype(np.int64),
        columns=(tokens % max(1, real.shape[1])).astype(np.int64),
        slots=slots,
    )


def require_inside(positions: NDArray[Any], tokens: int) -> NDArray[Any]:
    """Check chosen ``positions`` of a padded batch of so many tokens and return them flat (K,).

    Frameworks differ in what they make of others: a negative one counts from the end, is an error, or gives zeros.

    Raises:
        ModelError: One of them is outside the batch.
    """
    positions = np.asarray(positions).reshape(-1)
    outside = (positions < 0) | (positions >= tokens)
    if outside.any():
        raise ModelError(f"positions holds {positions[outside][0]}; the batch has {tokens} tokens, counted from 0")
    return positions


def packed_positions(slots: NDArray[Any], positions: NDArray[Any], tokens: int) -> Int64:
    """Find chosen ``positions`` (K,) of the padded batch in the packed run of ``tokens``.

    Raises:
        ModelError: One of them is masked, or outside the batch.
    """
    positions = require_inside(positions, slots.size)
    found: Int64 = slots[positions]
    if (found >= tokens).any():
        raise ModelError(
            f"positions holds {positions[found >= tokens][0]}, which attention_mask masks: a packed batch computes "
            "nothing there",
            "Choose real tokens, or leave packed off.",
        )
    return found
