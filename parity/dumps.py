"""What one framework's process left: its taps, gradients and parameters, read one array at a time.

Written by :mod:`.dump`, compared by :mod:`.verdicts`. Files of our own, in a directory of our own.
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


@dataclass(frozen=True)
class Distance:
    """How far apart two arrays are, by their farthest elements.

    Attributes:
        largest: Largest absolute difference; infinite where one is NaN or the shapes differ.
        scale: Largest magnitude of the first, or of the second where that is 0.
        index: Where the largest difference is.
        values: The two there.
    """

    largest: float
    scale: float
    index: tuple[int, ...] = ()
    values: tuple[float, float] = (0.0, 0.0)

    @property
    def relative(self) -> float:
        """The largest difference over the scale."""
        if self.largest == 0.0:
            return 0.0
        return self.largest / self.scale if self.scale > 0.0 else float("inf")


def distance(one: Array, other: Array) -> Distance:
    """Measure how far two arrays are apart, element by element; a NaN on either side is infinitely far."""
    if one.shape != other.shape:
        return Distance(float("inf"), 1.0, (), (float(one.size), float(other.size)))
    if not one.size:
        return Distance(0.0, 0.0)
    a, b = one.astype(np.float64, copy=False), other.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(a - b)
    apart = np.where(np.isnan(apart) | ~np.isfinite(a) | ~np.isfinite(b), np.inf, apart)
    at = int(apart.argmax())
    index = tuple(int(i) for i in np.unravel_index(at, one.shape))
    largest = float(apart.flat[at])
    with np.errstate(invalid="ignore"):
        scale = max(float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0)), 0.0)
        if scale == 0.0:
            scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    return Distance(largest, scale, index, (float(a.flat[at]), float(b.flat[at])))


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
