"""Casts between float types: every pattern of the narrow ones, ties, overflow and NaN, against torch and ml_dtypes."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.tensors.dtypes import cast, numpy_dtype
from roformer_convert.converters.tensors.stored import FLOATS

Array = NDArray[Any]

ml_dtypes = pytest.importorskip("ml_dtypes")

# Ours must not warn (diff would print it). The references' own casts do, of signalling NaNs.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

EVERY = np.arange(1 << 16, dtype=np.uint16)
#: Largest finite value of each type, as an exact fraction.
LARGEST = {
    "float16": Fraction(65504),
    "bfloat16": Fraction((1 << 8) - 1) * Fraction(2) ** 120,
    "float32": Fraction((1 << 24) - 1) * Fraction(2) ** 104,
}


def finite_float32(count: int, seed: int, limit: float) -> Array:
    """Random bit patterns of float32, all exponents, kept below ``limit``."""
    bits = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)
    values = bits.view(np.float32)
    kept: Array = values[np.isfinite(values) & (np.abs(values) < limit)]
    return kept


def ties(exponent: int) -> Array:
    """Float32 values just on, just below and just above the middle of two neighbours, when ``exponent`` bits go."""
    middles = np.arange(1 << 12, dtype=np.uint32) << (exponent + 1) | np.uint32(1 << exponent)
    bits = (middles[:, None] + np.array([0, 1, 0xFFFFFFFF], np.uint32)).reshape(-1) | np.uint32(0x3F000000)
    values: Array = bits.view(np.float32)
    return values


def astype(values: Array, target: Any) -> Array:
    """Cast as the reference does, without its warnings."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cast_by_them: Array = values.astype(target)
    return cast_by_them


def same(one: Array, other: Array) -> bool:
    """Equal bits, and NaN wherever the other is NaN."""
    if one.dtype == np.uint16:
        one, other = one.view(ml_dtypes.bfloat16), other.view(ml_dtypes.bfloat16)
    nans = np.isnan(astype(one, np.float64)), np.isnan(astype(other, np.float64))
    bits = f"u{one.itemsize}"
    return bool(np.array_equal(*nans)) and bool(np.array_equal(one.view(bits)[~nans[0]], other.view(bits)[~nans[0]]))


@pytest.mark.parametrize("target", ["float32", "float64"])
def test_every_bfloat16_widens_exactly(target: str) -> None:
    want = astype(EVERY.view(ml_dtypes.bfloat16), target)
    assert same(cast(EVERY, "bfloat16", target, name="x"), want)


@pytest.mark.parametrize("target", ["float32", "float64"])
def test_every_float16_widens_exactly(target: str) -> None:
    values = EVERY.view(np.float16)
    assert same(cast(values, "float16", target, name="x"), astype(values, target))


def test_every_float16_becomes_bfloat16_as_ml_dtypes_and_torch_have_it() -> None:
    torch = pytest.importorskip("torch")
    values = EVERY.view(np.float16)
    ours = cast(values, "float16", "bfloat16", name="x")
    assert same(ours, astype(values, ml_dtypes.bfloat16).view(np.uint16))
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert same(ours, theirs)


def test_every_bfloat16_in_range_becomes_float16_as_torch_has_it() -> None:
    torch = pytest.importorskip("torch")
    wide = EVERY.view(ml_dtypes.bfloat16).astype(np.float32)
    bits = EVERY[~(np.isfinite(wide) & (np.abs(wide) >= 65520))]
    ours = cast(bits, "bfloat16", "float16", name="x")
    theirs = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).to(torch.float16).numpy()
    assert same(ours, theirs)


@pytest.mark.parametrize(("target", "lost"), [("bfloat16", 15), ("float16", 12)])
def test_float32_rounds_to_nearest_even_as_torch_and_ml_dtypes_do(target: str, lost: int) -> None:
    torch = pytest.importorskip("torch")
    limit = {"bfloat16": 3.38e38, "float16": 65519.0}[target]
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 6e-8, 65503.0], np.float32)
    values = np.concatenate([finite_float32(200_000, 5, limit), ties(lost), -ties(lost), special])
    ours = cast(values, "float32", target, name="x")
    type_ = ml_dtypes.bfloat16 if target == "bfloat16" else np.float16
    assert same(ours, astype(values, type_).view(ours.dtype))
    theirs = torch.from_numpy(values).to(getattr(torch, target)).view(torch.int16).numpy()
    assert same(ours, theirs.view(ours.dtype))


def nearest_bfloat16(value: float) -> int:
    """Round a finite double to bfloat16 bits by exact arithmetic, ties to the even neighbour."""
    exact = abs(Fraction(value))
    low = 0
    high = 0x7F7F
    while low < high:  # the largest bfloat16 that is not above the value
        middle = (low + high + 1) // 2
        if Fraction(float(np.uint16(middle).reshape(1).view(ml_dtypes.bfloat16)[0])) <= exact:
            low = middle
        else:
            high = middle - 1
    below = Fraction(float(np.uint16(low).reshape(1).view(ml_dtypes.bfloat16)[0]))
    above = Fraction(float(np.uint16(low + 1).reshape(1).view(ml_dtypes.bfloat16)[0]))
    up = exact - below > above - exact or (exact - below == above - exact and low % 2 == 1)
    return (low + up) | (0x8000 if np.signbit(value) else 0)


def test_float64_rounds_once_to_bfloat16() -> None:
    """Through float32 a value just above the middle would fall on it, and then to the even neighbour."""
    tie = 1.0 + 2.0**-8
    values = [tie, tie * (1 + 2.0**-40), tie * (1 - 2.0**-40), 1 + 3 * 2.0**-8, (1 + 3 * 2.0**-8) * (1 - 2.0**-40)]
    rng = np.random.default_rng(3)
    values += [float(v) for v in rng.normal(0, 1, 200) * 10.0 ** rng.integers(-39, 38, 200)]
    middles = 1 + (2 * rng.integers(0, 128, 200) + 1) * 2.0**-8
    values += [float(v) for v in middles * (1 + rng.integers(-1, 2, 200) * 2.0**-45)]
    array = np.array([*values, *(-value for value in values)])
    ours = cast(array, "float64", "bfloat16", name="x")
    assert ours.tolist() == [nearest_bfloat16(float(value)) for value in array]


@pytest.mark.parametrize("target", ["float32", "float16"])
def test_float64_narrows_as_numpy_does(target: str) -> None:
    rng = np.random.default_rng(8)
    values = rng.normal(0, 1, 50_000) * 10.0 ** rng.integers(-8 if target == "float16" else -44, 4, 50_000)
    assert same(cast(values, "float64", target, name="x"), astype(values, target))


@pytest.mark.parametrize(
    ("source", "target"),
    [(one, other) for one in ("float64", "float32") for other in ("float32", "float16", "bfloat16") if one != other],
)
def test_overflow_begins_where_rounding_would_pass_the_largest(source: str, target: str) -> None:
    largest = LARGEST[target]
    step = {"float16": Fraction(32), "bfloat16": Fraction(2) ** 120, "float32": Fraction(2) ** 104}[target]
    edge = largest + step / 2  # the middle to what would be the next one: rounds to even, which is infinity
    type_ = np.dtype(source).type
    inside = np.nextafter(type_(float(edge)), type_(0))
    assert np.isfinite(inside)
    for sign in (1, -1):
        kept = cast(np.array([sign * inside], source), source, target, name="x")
        with pytest.raises(ConvertError, match=rf"w: 1 finite values overflow {target}"):
            cast(np.array([0.5, sign * float(edge)], source), source, target, name="w")
        held = kept.view(ml_dtypes.bfloat16) if target == "bfloat16" else kept
        assert Fraction(float(held[0])) == sign * largest


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float32"])
def test_infinity_and_nan_are_no_overflow(target: str) -> None:
    values = np.array([np.inf, -np.inf, np.nan, -np.nan], np.float64)
    out = cast(values, "float64", target, name="x")
    wide = (out.view(ml_dtypes.bfloat16) if target == "bfloat16" else out).astype(np.float64)
    assert wide[0] == np.inf
    assert wide[1] == -np.inf
    assert np.isnan(wide[2:]).all()


def test_a_nan_whose_payload_is_in_the_lost_bits_stays_a_nan() -> None:
    values = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFF8000], np.uint32).view(np.float32)
    out = cast(values, "float32", "bfloat16", name="x")
    assert np.isnan(out.view(ml_dtypes.bfloat16).astype(np.float32)).all()
    assert (out >> 15).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_same_type_keeps_every_bit(dtype: str) -> None:
    bits = np.random.default_rng(1).integers(0, 256, 8000, dtype=np.uint8)
    values = bits.view(numpy_dtype(dtype))
    assert cast(values, dtype, dtype, name="x").tobytes() == bits.tobytes()
