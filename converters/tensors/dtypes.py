"""Element types: what numpy calls them, and exact casts between the floating ones.

numpy has no bfloat16: such tensors are held as uint16 bit patterns and say so beside them.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray

from ..errors import ConvertError

Array = NDArray[Any]


def numpy_dtype(dtype: str) -> Any:
    """Return the numpy type that holds ``dtype``'s bits, little-endian: uint16 for bfloat16."""
    return numpy.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


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
    with numpy.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is invalid to the processor
        out = _to_bfloat16(wide) if target == "bfloat16" else wide.astype(numpy_dtype(target))
        lost = numpy.isfinite(wide) & ~numpy.isfinite(_widen(out) if target == "bfloat16" else out)
    if lost.any():
        largest = wide[numpy.isfinite(wide)]
        worst = float(largest[numpy.abs(largest).argmax()])
        raise ConvertError(
            f"{name}: {int(lost.sum()):,} finite values overflow {target} (the largest is {worst:g})",
            "Choose a --dtype with a wider range: bfloat16 has float32's.",
        )
    return out


def _widen(bits: Array) -> Array:
    """bfloat16 bit patterns → float32, exactly."""
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def _to_bfloat16(values: Array) -> Array:
    """float16, float32 or float64 → bfloat16 bit patterns, to nearest even; a NaN stays one."""
    narrow = values.astype(numpy.float32)
    if values.dtype == numpy.float64:
        # Rounding twice errs where float32 lands on a tie: push it to the odd neighbour on the true value's side.
        narrow = _round_to_odd(values, narrow)
    bits = narrow.view(numpy.uint32)
    rounded = (bits + numpy.uint32(0x7FFF) + ((bits >> numpy.uint32(16)) & numpy.uint32(1))) >> numpy.uint32(16)
    quiet = (bits >> numpy.uint32(16)) | numpy.uint32(0x0040)
    return numpy.where(numpy.isnan(narrow), quiet, rounded).astype(numpy.uint16)


def _round_to_odd(values: Array, narrow: Array) -> Array:
    """float64 → float32 towards the neighbour with an odd last bit wherever the conversion was inexact."""
    exact = narrow.astype(numpy.float64)
    inexact = numpy.isfinite(values) & (exact != values)
    even = (narrow.view(numpy.uint32) & numpy.uint32(1)) == 0
    towards = numpy.where(values > exact, numpy.float32(numpy.inf), numpy.float32(-numpy.inf)).astype(numpy.float32)
    return numpy.where(inexact & even, numpy.nextafter(narrow, towards), narrow).astype(numpy.float32)
