"""How far the participants are apart, tap by tap: measured once, read by the verdicts, the search and the report.

Imports no framework: it reads what :mod:`.dump` left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from .cases import Case
from .dumps import Distance, Dump, distance, farthest, pairs

DTYPES = ("float64", "float32")
#: float64: largest difference over largest magnitude. Rounding leaves 1e-15 to 1e-14 and a slip of the mathematics,
#: such as an epsilon or a constant kept in float32, leaves 1e-9 and more (the peers' is 5e-9 and 3e-8).
BOUND = 1e-11
Pair = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """Every distance that is asked for later.

    Attributes:
        taps: Type → pair of labels → tap → (case, distance), the farthest of all cases; in the taps' order.
        rounding: Label → tap → (case, distance): how far float32 is from float64.
        not_finite: Label → where its first value is that is not a number or infinite.
        again: Label → (tap, distance) of a second run from the first: the first tap that differs by more than the
            bound, or the farthest one.
    """

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
                            apart = distance(arrays[pair[0]], arrays[pair[1]])
                            by_tap.setdefault(name, []).append((case.name, apart))
        taps[dtype] = {
            pair: {name: _over_all_cases(by_tap[name]) for name in order if name in by_tap}
            for pair, by_tap in found.items()
        }
    rounding = {dump.label: _rounding(dump, cases) for dump in dumps}
    again = {dump.label: _again(dump, cases[0], order) for dump in dumps}
    return Measured(taps, rounding, not_finite, again)


def _farthest(found: Iterable[tuple[str, Distance]]) -> tuple[str, Distance]:
    return farthest(found, lambda one: one.relative)


def _over_all_cases(found: Sequence[tuple[str, Distance]]) -> tuple[str, Distance]:
    """Choose the farthest of a tap's cases, on the scale of them all.

    Rounding grows with the numbers that are added up. A case may have so few results (two, where one row's order is
    scored) that all happen to be next to zero, and none of them says how large those numbers are.
    """
    scale = max(one.scale for _, one in found)
    return _farthest((case, replace(one, scale=scale)) for case, one in found)


def _rounding(dump: Dump, cases: Sequence[Case]) -> dict[str, tuple[str, Distance]]:
    found: dict[str, list[tuple[str, Distance]]] = {}
    for case in cases:
        with dump.opened(f"float64.{case.name}") as exact, dump.opened(f"float32.{case.name}") as single:
            for name in exact:
                found.setdefault(name, []).append((case.name, distance(exact[name], single[name])))
    return {name: _over_all_cases(listed) for name, listed in found.items()}


def _again(dump: Dump, case: Case, order: Sequence[str]) -> tuple[str, Distance]:
    with dump.opened(f"float64.{case.name}") as first, dump.opened("float64.again") as again:
        found = [(name, distance(first[name], again[name])) for name in order if name in again]
    return next((one for one in found if not one[1].relative <= BOUND), _farthest(found))
