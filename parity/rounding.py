"""What is left of a number in another type, by numpy's casts and plain arithmetic: nothing of the converter's.

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
    # 8 bits of significand, down to the spacing of subnormal numbers; float64 scales by powers of 2 exactly
    exponent = np.frexp(x)[1] - 1
    spacing = np.ldexp(1.0, np.maximum(exponent, -126) - 7)
    with np.errstate(invalid="ignore"):
        rounded = np.where(np.isfinite(x), np.rint(x / spacing) * spacing, x)
    return np.where(np.isfinite(x) & (np.abs(rounded) >= 2.0**128), np.copysign(np.inf, x), rounded)
