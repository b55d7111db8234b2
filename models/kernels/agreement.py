"""Does a fast kernel compute what the plain operators do? Decided from numbers alone: nothing here imports a framework.

The same is computed three times: by the kernel, by plain operators in the same type, and by those in float64. The
second's distance to the third is what the type costs; the kernel may cost :data:`SHARE` times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What was computed, by name: a result, gradients.
Results = Mapping[str, NDArray[np.float64]]

#: How many times the plain operators' error a kernel's may be. Both round, each in another order: were their errors of
#: one distribution, the largest of thousands would differ by far less, and a kernel that computes something else is off
#: by hundreds of times as much.
SHARE = 4.0
#: The distance from 1 to the next number of a type.
EPSILONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


class DisagreesError(Exception):
    """A kernel computes something other than the plain operators."""


def require_agreement(exact: Results, plain: Results, fast: Results, dtype: str) -> float:
    """Hold what a kernel computed against plain operators; return its largest error in theirs.

    Args:
        exact: Of plain operators in float64.
        plain: Of plain operators in the type.
        fast: Of the kernel in the type.
        dtype: Name of the type.

    Raises:
        DisagreesError: One is off by more than :data:`SHARE` times the plain operators' error, or than so many
            roundings of the largest value, where those were lucky.
    """
    worst = 0.0
    for name, want in exact.items():
        got = fast[name]
        if got.shape != want.shape:
            raise DisagreesError(f"{name} has shape {got.shape}, want {want.shape}")
        unit = max(_largest(plain[name] - want), EPSILONS[dtype] * _largest(want))
        error = _largest(got - want)
        if not error <= SHARE * unit:  # nor is NaN
            raise DisagreesError(f"{name} is off by {error:.2g}; {SHARE * unit:.2g} is allowed")
        worst = max(worst, error / unit)
    return worst


def _largest(array: NDArray[Any]) -> float:
    return float(abs(array).max())
