"""Random numbers that are a function of (seed, sample, purpose, counter): no state, no order of drawing, no generator.

Every choice of :mod:`.sampling`, :mod:`.masking` and :mod:`.examples` is drawn here, so that a sample has the same
contents whichever process makes it and whatever was made before it, and so that resuming needs nothing but a step. Only
wrapping uint64 arithmetic is used: numpy's own generators may change their streams between versions (NEP 19).

Source: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), whose n-th
output is a hash of ``key + n * GAMMA`` and can therefore be computed alone; constants from
https://prng.di.unimi.it/splitmix64.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Integers = NDArray[np.integer[Any]]

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _mix(values: UInt64) -> UInt64:
    """Hash each 64-bit number; `values` is overwritten."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(_FIRST)
    values ^= values >> np.uint64(27)
    values *= np.uint64(_SECOND)
    values ^= values >> np.uint64(31)
    return values


def derive(*numbers: int) -> int:
    """Hash whole numbers, such as (seed, purpose, epoch), into one 64-bit key; their order counts."""
    key = 0
    for number in numbers:
        key = (key + _GAMMA + (number & _MASK)) & _MASK
        key = ((key ^ (key >> 30)) * _FIRST) & _MASK
        key = ((key ^ (key >> 27)) * _SECOND) & _MASK
        key ^= key >> 31
    return key


def draw(keys: int | UInt64, counters: Integers) -> UInt64:
    """Give the 64 random bits number `counters` of the sequences `keys`.

    Args:
        keys: One key for all, or one for each counter, (n,).
        counters: (n,) from 0.
    """
    bits = counters.astype(np.uint64)
    bits += np.uint64(1)
    bits *= np.uint64(_GAMMA)
    bits += np.uint64(keys) if isinstance(keys, int) else keys
    return _mix(bits)


def uniform(bits: UInt64) -> NDArray[np.float64]:
    """Turn random bits into numbers in [0, 1), multiples of 2^-53."""
    numbers: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def below(bits: UInt64, bounds: int | Integers) -> NDArray[np.int64]:
    """Turn random bits into whole numbers from 0 to bound - 1; a bound is at most 2^32 and the bias bound / 2^32.

    Source: Lemire, "Fast random integer generation in an interval" (2019), without the rejection.
    """
    high: UInt64 = bits >> np.uint64(32)
    high *= np.uint64(bounds) if isinstance(bounds, int) else bounds.astype(np.uint64)
    numbers: NDArray[np.int64] = (high >> np.uint64(32)).astype(np.int64)
    return numbers


def permutation(key: int, count: int) -> NDArray[np.int64]:
    """Order the numbers 0 to count - 1 at random: (count,). Ten million take about a second and 240 MB."""
    return np.argsort(draw(key, np.arange(count, dtype=np.uint64)), kind="stable")
