"""What is left of a number in another type, by numpy and by its bits: nothing of the converter's.

IEEE 754's rounding to the nearest, ties to even; what is too large becomes infinite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Half of the spacing of numbers at 1: the largest relative error of a rounding.
UNIT: Mapping[str, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
#: Of float64's 52 bits of significand bfloat16 keeps 7.
_BELOW, _HALF = np.uint64(45), np.uint64((1 << 44) - 1)
_HOLDS: Mapping[str, frozenset[str]] = {
    "float64": frozenset({"float64", "float32", "float16", "bfloat16"}),
    "float32": frozenset({"float32", "float16", "bfloat16"}),
    "float16": frozenset({"float16"}),
    "bfloat16": frozenset({"bfloat16"}),
}


def holds(wide: str, narrow: str) -> bool:
    """Say whether one type has every number of another."""
    return narrow in _HOLDS[wide]


def round_to(x: Array, dtype: str) -> Array:
    """Round float64 numbers to those that a type has; they stay float64."""
    if dtype == "float64":
        return x
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return x.astype(dtype).astype(np.float64)
    # on the bits: half of the last digit that is kept is added, but for one unit where that digit is even, and what
    # lies below it is cut off
    bits = np.ascontiguousarray(x, np.float64).view(np.uint64)
    even = (bits >> _BELOW) & np.uint64(1)
    rounded: Array = ((bits + _HALF + even) >> _BELOW << _BELOW).view(np.float64).reshape(x.shape)
    small = np.abs(x) < 2.0**-126
    if small.any():  # subnormal numbers are multiples of one spacing
        rounded = np.where(small, np.rint(x * 2.0**133) * 2.0**-133, rounded)
    rounded = np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, x), rounded)
    return np.where(np.isfinite(x), rounded, x)
