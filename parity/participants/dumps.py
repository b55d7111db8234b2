"""What one framework's process left: its taps, gradients and parameters, read one array at a time.

Written by :mod:`.dump`, compared by :mod:`..judging.verdicts`. Files of our own, in a directory of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Dump:
    """One participant's results.

    Attributes:
        label: What to call it: the framework, or framework and directory where several directories are compared.
        framework: ``paddle``, ``torch`` or ``tf``.
        checkpoint: The directory that was loaded.
        files: The directory that holds the results.
        facts: What the process said about itself (versions, seconds, memory, digests of its parameters).
    """

    label: str
    framework: str
    checkpoint: Path
    files: Path
    facts: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def opened(self, file: str) -> Iterator[Mapping[str, Array]]:
        """Open a file; its arrays are read as they are asked for. Empty where there is no such file."""
        path = self.files / f"{file}.npz"
        if not path.exists():
            yield {}
            return
        with np.load(path) as arrays:
            yield arrays

    def names(self, file: str) -> list[str]:
        """Name the arrays of a file; empty where there is no such file."""
        with self.opened(file) as arrays:
            return list(arrays)

    def read(self, file: str, name: str) -> Array:
        """Read one array of ``float64.<case>``, ``float32.<case>``, ``gradients``, ``updated``, ``parameters``."""
        with self.opened(file) as arrays:
            return arrays[name]

    @property
    def digests(self) -> Mapping[str, str]:
        """Canonical name → SHA-256 of the parameter as the model holds it, in float64 and (out, in)."""
        found: Mapping[str, str] = self.facts.get("digests", {})
        return found


def different_parameters(one: Dump, other: Dump) -> list[str]:
    """Name the parameters that two models hold with other values."""
    names = list(dict.fromkeys([*one.digests, *other.digests]))
    return [name for name in names if one.digests.get(name) != other.digests.get(name)]


#: Spacings of its type that a number far from zero may be off by. A sum that starts from its bias rounds at each of its
#: terms to the bias's last digit: 1,024 terms add up to 0.29 * 32 spacings on average, the farthest of a million to 46.
DIGITS = 64.0


@dataclass(frozen=True)
class Distance:
    """How far apart two arrays are, by their farthest elements.

    Attributes:
        largest: Absolute difference of the farthest elements; infinite where one is NaN or the shapes differ.
        scale: What it is held against.
        index: Where they are.
        values: The two there.
        digits: How much of the difference the last digits of the two explain.
    """

    largest: float
    scale: float
    index: tuple[int, ...] = ()
    values: tuple[float, float] = (0.0, 0.0)
    digits: float = 0.0

    @property
    def relative(self) -> float:
        """The difference past the numbers' own last digits, over the scale."""
        if self.largest <= self.digits:
            return 0.0
        return (self.largest - self.digits) / self.scale if self.scale > 0.0 else float("inf")


def as_rows(array: Array) -> Array:
    """Lay out a tap as rows and channels: tokens, or texts, by what is computed of each.

    A channel is a hidden unit, of all heads where there are heads, a word, a label, an end of an answer or an option.
    """
    return array.reshape(array.shape[0] * array.shape[1], -1) if array.ndim > 2 else array


def distance(one: Array, other: Array, scale: Array | None = None, digits: float = 0.0) -> Distance:
    """Measure how far two arrays are apart, element by element; a NaN on either side is infinitely far.

    Args:
        one: Taps, or anything else.
        other: Of the same shape.
        scale: What each channel of a tap is held against (:func:`channel_scale`); the difference is then that past
            the last digits of the coarser type. Without it, all are held against the largest magnitude of the first,
            or of the second where that is 0.
        digits: As :func:`last_digits` takes it, where one was computed in a type that is coarser than the arrays' own.
    """
    if one.shape != other.shape:
        return Distance(float("inf"), 1.0, (), (float(one.size), float(other.size)))
    if not one.size:
        return Distance(0.0, 0.0)
    a, b = one.astype(np.float64, copy=False), other.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        apart = np.abs(a - b)
        apart[~np.isfinite(apart)] = np.inf
        far = apart
        if scale is not None:
            digits = max(digits, digits_of(one.dtype), digits_of(other.dtype))
            far = (as_rows(apart) - last_digits(as_rows(a), scale, digits)) / scale
            undefined = np.isnan(far)  # no digits are left of what is infinite, and nothing of 0 over 0
            far[undefined] = as_rows(apart)[undefined]
    at = int(far.argmax())
    index = tuple(int(i) for i in np.unravel_index(at, one.shape))
    values = (float(a.flat[at]), float(b.flat[at]))
    largest = float(apart.flat[at])
    if scale is None:
        return Distance(largest, _largest(a) or _largest(b), index, values)
    held = scale[at % len(scale)]
    own = float(last_digits(np.array(values[0]), held, digits)) if np.isfinite(largest) else 0.0
    return Distance(largest, float(held), index, values, own)


def digits_of(dtype: Any) -> float:
    """Return what share of a number its last digits are, after a sum of many terms in a type."""
    return DIGITS * float(np.finfo(dtype).eps)


def last_digits(numbers: Array, scale: Array, share: float) -> Array:
    """Return how much of a difference the last digits of numbers explain that are farther from zero than their scale.

    Args:
        numbers: A tap's, (..., C).
        scale: What each of its channels is held against.
        share: How much of a number they are.
    """
    digits: Array = share * np.maximum(np.abs(numbers) - scale, 0.0)
    return digits


def _largest(array: Array) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def channel_scale(lowest: Array, highest: Array) -> Array:
    """Derive what each channel of a tap is held against: how far apart its numbers lie in all rows.

    That, and not their magnitude, is what a model says: a bias that all rows share says nothing, however large. Where a
    channel's numbers lie nearer together than the typical channel's (the median of those that vary), it is held against
    those: what saturates, or nearly cancels, rounds as the numbers do that it is made of.

    Args:
        lowest: The least finite number of each channel (C,); infinite where there is none.
        highest: The largest.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.where(highest >= lowest, highest - lowest, 0.0)
    varying = spread[spread > 0.0]
    scale: Array = np.maximum(spread, np.median(varying) if len(varying) else 0.0)
    return scale


def pairs(dumps: Iterable[Dump]) -> list[tuple[Dump, Dump]]:
    """Return every pair, in order."""
    listed = list(dumps)
    return [(one, other) for place, one in enumerate(listed) for other in listed[place + 1 :]]


def farthest(found: Iterable[tuple[str, Distance]], measure: Callable[[Distance], float]) -> tuple[str, Distance]:
    """Return the largest of named distances; the first of equals, and NaN counts as the largest."""
    best: tuple[str, Distance] | None = None
    for name, one in found:
        if best is None or not measure(one) <= measure(best[1]):
            best = (name, one)
    return best if best is not None else ("", Distance(0.0, 0.0))
