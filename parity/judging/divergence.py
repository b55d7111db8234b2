"""Where a difference starts: the first tap that diverges, in which participant, and its largest element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..participants.dumps import Distance
from .measure import Measured, Pair


@dataclass(frozen=True)
class Divergence:
    """The first tap that differs by more than its bound.

    Attributes:
        dtype: The type in which it was seen.
        tap: Its name.
        odd: The participant that all others disagree with while they agree among themselves; None where there are
            two, or no majority.
        between: The pair of the largest difference.
        case: The case of it.
        distance: The largest element of it.
    """

    dtype: str
    tap: str
    odd: str | None
    between: Pair
    case: str
    distance: Distance

    def as_dict(self) -> dict[str, Any]:
        """Render as data."""
        return {
            "dtype": self.dtype,
            "tap": self.tap,
            "odd_one_out": self.odd,
            "between": list(self.between),
            "case": self.case,
            "index": list(self.distance.index),
            "values": [str(value) for value in self.distance.values],
            "difference": str(self.distance.largest),
        }

    def __str__(self) -> str:
        who = f"in {self.odd}" if self.odd else f"between {' and '.join(self.between)}"
        values = f"{self.distance.values[0]:.9g} and {self.distance.values[1]:.9g}"
        return (
            f"{self.tap} ({self.dtype}), {who}: largest difference {self.distance.largest:.3g} at "
            f"{list(self.distance.index)} of {self.case} ({values}, {self.between[0]} and {self.between[1]})"
        )


def first_divergence(
    measured: Measured, order: Sequence[str], bounds: Mapping[str, Callable[[str], float]]
) -> Divergence | None:
    """Find the first tap, in the order of computation, where any pair is farther apart than its bound.

    Args:
        measured: The distances.
        order: The taps, as they are computed.
        bounds: Type → the bound at a tap; the types in the order in which they are searched.
    """
    for dtype, bound_at in bounds.items():
        by_pair = measured.taps[dtype]
        for tap in order:
            bound = bound_at(tap)
            here = {pair: taps[tap] for pair, taps in by_pair.items() if tap in taps}
            apart = {pair: found for pair, found in here.items() if not found[1].relative <= bound}
            if apart:
                pair, (case, distance) = max(apart.items(), key=lambda item: item[1][1].relative)
                return Divergence(dtype, tap, odd_one_out(here, apart), pair, case, distance)
    return None


def odd_one_out(pairs: Mapping[Pair, Any], apart: Mapping[Pair, Any]) -> str | None:
    """Name the one that is in every pair that differs, where all of its pairs do and there is another pair."""
    labels = {label for pair in pairs for label in pair}
    if len(labels) < 3:
        return None
    for label in sorted(labels):
        if set(apart) == {pair for pair in pairs if label in pair}:
            return label
    return None
