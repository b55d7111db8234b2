"""How far the participants are apart, tap by tap: measured once, read by the verdicts, the search and the report.

Imports no framework: it reads what :mod:`..participants.dump` left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..participants.dumps import Distance, Dump, as_rows, channel_scale, distance, farthest, pairs
from ..questions.cases import Case

DTYPES = ("float64", "float32")
#: float64: the difference over the scale. Rounding leaves 1e-15 to 1e-14 and a slip of the mathematics, such as an
#: epsilon or a constant kept in float32, leaves 1e-9 and more (the peers' is 5e-9 and 3e-8).
BOUND = 1e-11
Pair = tuple[str, str]
Array = NDArray[Any]


@dataclass(frozen=True)
class Measured:
    """Every distance that is asked for later.

    Attributes:
        scales: Tap → what each of its channels (C,) is held against (:func:`..participants.dumps.channel_scale`), from
        float64
            numbers of all cases; the middle participant's (:func:`middle_of`), so that none widens its own bound.
        magnitudes: Tap → the largest magnitude of each of its channels (C,), of the same kind.
        taps: Type → pair of labels → tap → (case, distance), the farthest of all cases; in the taps' order.
        rounding: Label → tap → (case, distance): how far float32 is from float64.
        not_finite: Label → where its first value is that is not a number or infinite.
        again: Label → (tap, distance) of a second run from the first: the first tap that differs by more than the
            bound, or the farthest one.
    """

    scales: Mapping[str, Array]
    magnitudes: Mapping[str, Array]
    taps: Mapping[str, Mapping[Pair, Mapping[str, tuple[str, Distance]]]]
    rounding: Mapping[str, Mapping[str, tuple[str, Distance]]]
    not_finite: Mapping[str, str]
    again: Mapping[str, tuple[str, Distance]]


def measure(dumps: Sequence[Dump], cases: Sequence[Case], order: Sequence[str]) -> Measured:
    """Measure everything.

    Args:
        dumps: The participants.
        cases: What they ran.
        order: Names of the taps, as they are computed.
    """
    scales, magnitudes = channels(dumps, cases)
    taps: dict[str, dict[Pair, dict[str, tuple[str, Distance]]]] = {}
    not_finite: dict[str, str] = {}
    for dtype in DTYPES:
        found: dict[Pair, dict[str, list[tuple[str, Distance]]]] = {
            (one.label, other.label): {} for one, other in pairs(dumps)
        }
        for case in cases:
            with ExitStack() as stack:
                opened = {dump.label: stack.enter_context(dump.opened(f"{dtype}.{case.name}")) for dump in dumps}
                for name in order:
                    arrays = {label: taps[name] for label, taps in opened.items() if name in taps}
                    for label, array in arrays.items():
                        if label not in not_finite and not np.isfinite(array).all():
                            index = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
                            not_finite[label] = f"{name}{index} is {array[tuple(index)]} ({dtype}, {case.name})"
                    for pair, by_tap in found.items():
                        if pair[0] in arrays and pair[1] in arrays:
                            apart = distance(arrays[pair[0]], arrays[pair[1]], scales[name])
                            by_tap.setdefault(name, []).append((case.name, apart))
        taps[dtype] = {
            pair: {name: _farthest(by_tap[name]) for name in order if name in by_tap} for pair, by_tap in found.items()
        }
    rounding = {dump.label: _rounding(dump, cases, scales) for dump in dumps}
    again = {dump.label: _again(dump, cases[0], order, scales) for dump in dumps}
    return Measured(scales, magnitudes, taps, rounding, not_finite, again)


def middle_of(count: int) -> int:
    """Return the place of the middle one of participants in the order of their sizes; of two middle ones the lesser.

    Of three, neither one that is broken nor one that is exact by chance decides; of two, the lesser does.
    """
    return (count - 1) // 2


def channels(dumps: Sequence[Dump], cases: Sequence[Case]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Derive each tap's scales and magnitudes from every participant's float64 numbers in all cases.

    A case alone may have one row, whose numbers do not say how large the numbers are that were added up.
    """
    found: dict[str, list[Array]] = {}  # (2, C) of each participant
    for dump in dumps:
        ends: dict[str, tuple[Array, Array]] = {}
        for case in cases:
            with dump.opened(f"float64.{case.name}") as arrays:
                for name in arrays:
                    rows = as_rows(arrays[name])
                    good = np.isfinite(rows)
                    low, high = rows.min(0, where=good, initial=np.inf), rows.max(0, where=good, initial=-np.inf)
                    if name in ends and ends[name][0].shape == low.shape:
                        low, high = np.minimum(low, ends[name][0]), np.maximum(high, ends[name][1])
                    ends[name] = low, high
        for name, (low, high) in ends.items():
            if name not in found or found[name][0].shape[1:] == low.shape:  # another shape is infinitely far anyway
                magnitude = np.where(high >= low, np.maximum(-low, high), 0.0)
                found.setdefault(name, []).append(np.stack([channel_scale(low, high), magnitude]))
    middle = {name: np.sort(np.stack(listed), axis=0)[middle_of(len(listed))] for name, listed in found.items()}
    return {name: both[0] for name, both in middle.items()}, {name: both[1] for name, both in middle.items()}


def _farthest(found: Iterable[tuple[str, Distance]]) -> tuple[str, Distance]:
    return farthest(found, lambda one: one.relative)


def _rounding(dump: Dump, cases: Sequence[Case], scales: Mapping[str, Array]) -> dict[str, tuple[str, Distance]]:
    found: dict[str, list[tuple[str, Distance]]] = {}
    for case in cases:
        with dump.opened(f"float64.{case.name}") as exact, dump.opened(f"float32.{case.name}") as single:
            for name in exact:
                found.setdefault(name, []).append((case.name, distance(exact[name], single[name], scales[name])))
    return {name: _farthest(listed) for name, listed in found.items()}


def _again(dump: Dump, case: Case, order: Sequence[str], scales: Mapping[str, Array]) -> tuple[str, Distance]:
    with dump.opened(f"float64.{case.name}") as first, dump.opened("float64.again") as again:
        found = [(name, distance(first[name], again[name], scales[name])) for name in order if name in again]
    return next((one for one in found if not one[1].relative <= BOUND), _farthest(found))
