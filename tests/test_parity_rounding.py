"""Rounding to a type gives the nearest number that the type has, and the even one of two."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roformer_convert.parity.participants.rounding import UNIT, holds, round_to

_BITS = np.arange(1 << 16, dtype=np.uint32)
#: Every finite number of a half type, in order, with its bits.
NUMBERS: dict[str, tuple[Any, Any]] = {}
_PATTERNS: dict[str, Any] = {
    "float16": _BITS.astype(np.uint16).view(np.float16),
    "bfloat16": (_BITS << 16).view(np.float32),
}
for _name, _pattern in _PATTERNS.items():
    with np.errstate(invalid="ignore"):
        _all = _pattern.astype(np.float64)
    _kept = np.isfinite(_all) & ~((_all == 0) & np.signbit(_all))
    _order = np.argsort(_all[_kept])
    NUMBERS[_name] = (_all[_kept][_order], _BITS[_kept][_order])


def nearest(x: float, dtype: str) -> float:
    numbers, bits = NUMBERS[dtype]
    place = int(np.searchsorted(numbers, x))
    near = [i for i in (place - 1, place) if 0 <= i < len(numbers)]
    return float(numbers[min(near, key=lambda i: (abs(Fraction(float(numbers[i])) - Fraction(x)), bits[i] % 2))])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(x=st.one_of(st.floats(-6e4, 6e4), st.floats(-1e-4, 1e-4), st.floats(-1e-38, 1e-38)))
def test_it_is_the_nearest(dtype: str, x: float) -> None:
    assert float(round_to(np.array([x]), dtype)[0]) == nearest(x, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_of_a_type_stays_and_halfway_goes_to_the_even_one(dtype: str) -> None:
    numbers, bits = NUMBERS[dtype]
    assert np.array_equal(round_to(numbers, dtype), numbers)
    between = (numbers[1:] + numbers[:-1]) / 2  # exact in float64
    even = np.where(bits[1:] % 2 == 0, numbers[1:], numbers[:-1])
    assert np.array_equal(round_to(between, dtype), even)


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 65504.0), ("bfloat16", 3.3895313892515355e38)])
def test_what_is_too_large_becomes_infinite_and_no_number_stays_none(dtype: str, largest: float) -> None:
    assert round_to(np.array([largest, -largest * 1.01, np.inf]), dtype).tolist() == [largest, -np.inf, np.inf]
    assert np.isnan(round_to(np.array([np.nan]), dtype)).all()


@pytest.mark.parametrize("dtype", [*UNIT])
def test_the_unit_is_the_largest_relative_error(dtype: str) -> None:
    halfway, more = 1.0 + UNIT[dtype], 1.0 + UNIT[dtype] * (1.0 + 2.0**-20)
    if dtype != "float64":
        assert round_to(np.array([halfway, more]), dtype).tolist() == [1.0, 1.0 + 2 * UNIT[dtype]]
    assert holds(dtype, dtype)


def test_no_half_type_holds_the_other() -> None:
    assert not holds("float16", "bfloat16")
    assert not holds("bfloat16", "float16")
    assert holds("float32", "bfloat16")
    assert not holds("float16", "float32")
