"""Element types: what numpy calls them, and exact casts between the floating ones.

numpy has no bfloat16: such tensors are held as uint16 bit patterns and say so beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConvertError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def numpy_dtype(dtype: str) -> Any:
    """Return the numpy type that holds ``dtype``'s bits, little-endian: uint16 for bfloat16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


def cast(values: Array, source: str, target: str, *, name: str) -> Array:
    """Cast ``values`` to ``target``, rounding to nearest even.

    Args:
        values: Elements of type ``source``, in the array type that :func:`numpy_dtype` names for it.
        source: Their type.
        target: The wanted type.
        name: The tensor, for the message.

    Raises:
        ConvertError: A finite value becomes infinite in ``target``.
    """
    if source == target:
        return values
    wide = _widen(values) if source == "bfloat16" else values
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is invalid to the processor
        out = _to_bfloat16(wide) if target == "bfloat16" else wide.astype(numpy_dtype(target))
        lost = np.isfinite(wide) & ~np.isfinite(_widen(out) if target == "bfloat16" else out)
    if lost.any():
        largest = wide[np.isfinite(wide)]
        worst = float(largest[np.abs(largest).argmax()])
        raise ConvertError(
            f"{name}: {int(lost.sum()):,} finite values overflow {target} (the largest is {worst:g})",
            "Choose a --dtype with a wider range: bfloat16 has float32's.",
        )
    return out


def _widen(bits: Array) -> Array:
    """bfloat16 bit patterns → float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: Array) -> Array:
    """float16, float32 or float64 → bfloat16 bit patterns, to nearest even; a NaN stays one."""
    narrow = values.astype(np.float32)
    if values.dtype == np.float64:
        # Rounding twice errs where float32 lands on a tie: push it to the odd neighbour on the true value's side.
        narrow = _round_to_odd(values, narrow)
    bits = narrow.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x0040)
    return np.where(np.isnan(narrow), quiet, rounded).astype(np.uint16)


def _round_to_odd(values: Array, narrow: Array) -> Array:
    """float64 → float32 towards the neighbour with an odd last bit wherever the conversion was inexact."""
    exact = narrow.astype(np.float64)
    inexact = np.isfinite(values) & (exact != values)
    even = (narrow.view(np.uint32) & np.uint32(1)) == 0
    towards = np.where(values > exact, np.float32(np.inf), np.float32(-np.inf)).astype(np.float32)
    return np.where(inexact & even, np.nextafter(narrow, towards), narrow).astype(np.float32)
