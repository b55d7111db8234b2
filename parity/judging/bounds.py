"""How far apart results may be: a bound each, from what float32's rounding does to that result in the same run.

What two right implementations differ by is rounding, and how much a model makes of a rounding is its own: its
conditioning. It is measured, not assumed: float32's distance from float64 is the same amplification, of roundings that
are 2**29 times larger. A bound that follows it may grow until mistakes fit below it. From there on (:data:`LIMITS`)
keeping it proves nothing, and that is what the verdict says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..participants.dumps import DIGITS, Distance
from ..questions.tasks import results
from .measure import BOUND, Measured, middle_of

#: What a verdict says; ``inconclusive`` where its bound is so wide that keeping it proves nothing.
Status = Literal["good", "differs", "inconclusive"]

#: How many times the rounding that was measured another's may be: each of two is off, and how far the farthest element
#: is thrown differs from one order of sums to another. docs/ci-gate.md has the experiment.
ROUNDINGS = 8.0
#: float64's bound in float32's: 52 bits beside 23, and four times the room. It decides nothing until float32's rounding
#: is past 1.7e-4; below that the bound is 1e-11.
FINER = 4.0 * 2.0**-29
#: Widest bound that proves anything: below what planted mistakes leave. float32: TF32 or float16 in its place (3e-3),
#: a mask of another size (2e-3). float64: the least of all, a constant of gelu that is kept in float32 (4.5e-9).
LIMITS: Mapping[str, float] = {"float64": 2.0**-28, "float32": 2.0**-9}
#: Spacing of float32 at 1: below this a float32-to-float64 distance says nothing.
FLOAT32 = 2.0**-23
_FLOAT64 = 2.0**-52


@dataclass(frozen=True)
class Bound:
    """What one quantity may differ by.

    Attributes:
        derived: What rounding may leave.
        limit: What mistakes leave.
        note: Where ``derived`` comes from.
    """

    derived: float
    limit: float
    note: str = ""

    @property
    def told(self) -> str:
        """Say where it comes from, and that it is too wide where it is."""
        wide = f"rounding may leave {self.derived:.1e}, more than the {self.limit:.1e} that a mistake may leave: "
        return wide + self.note if self.derived > self.limit else self.note

    @property
    def value(self) -> float:
        """The largest difference that is good."""
        return min(self.derived, self.limit)

    def status_of(self, difference: float) -> Status:
        """Judge a difference; one that rounding or a mistake may have left proves nothing."""
        if difference <= self.value:
            return "good"
        return "inconclusive" if self.derived > self.limit and np.isfinite(difference) else "differs"


#: Two runs of one batch.
STEADY = Bound(BOUND, LIMITS["float64"])


@dataclass(frozen=True)
class Bounds:
    """The bounds of one run.

    Attributes:
        results: Type → result → its bound.
        gradients: That of every parameter's gradient, and of every parameter after a step.
        measured: What they are derived from.
    """

    results: Mapping[str, Mapping[str, Bound]]
    gradients: Bound
    measured: Measured

    def as_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Render as data: type → result → what it may differ by, what rounding may leave and where that comes from."""
        return {
            dtype: {
                name: {"value": one.value, "derived": one.derived, "from": one.note} for name, one in by_result.items()
            }
            for dtype, by_result in self.results.items()
        }

    def of(self, dtype: str, tap: str) -> Bound:
        """Return the bound of a result, or derive that of a tap on the way, from its own rounding alone."""
        return self.results[dtype].get(tap) or _bound(dtype, *_rounding(self.measured, [tap]))

    def at_tap(self, dtype: str, tap: str) -> float:
        """Return what rounding may leave at a tap."""
        return self.of(dtype, tap).derived


def derive(measured: Measured, order: Sequence[str]) -> Bounds:
    """Derive every bound.

    Args:
        measured: The distances.
        order: Names of the taps, as they are computed.
    """
    hidden = results([name for name in order if name.startswith("layers.") or name == "embeddings"])
    names = results([name for name in order if name in measured.scales])
    found = {
        dtype: {name: _bound(dtype, *_rounding(measured, [name, *hidden])) for name in names}
        for dtype in ("float64", "float32")
    }
    rounding, label = _rounding(measured, [*hidden, *names])
    return Bounds(found, _gradients(rounding, label, max(_offset(measured, name) for name in names)), measured)


def _rounding(measured: Measured, taps: Sequence[str]) -> tuple[float, str]:
    """Return float32's distance from float64, the farthest of some taps', of the middle participant, and its label.

    A result of a few numbers may be right to the last digit by chance: so what it is computed from is asked too.
    """
    found = sorted(
        (max(taken[tap][1].relative for tap in taps if tap in taken), label)
        for label, taken in measured.rounding.items()
        if any(tap in taken for tap in taps)
    )
    return found[middle_of(len(found))] if found else (float("inf"), "")


def _bound(dtype: str, rounding: float, label: str) -> Bound:
    said = f"float32's distance from float64 ({rounding:.1e}, {label})"
    if not np.isfinite(rounding):
        rounding, said = FLOAT32, "the spacing of float32"
    rounding = max(rounding, FLOAT32)
    single = ROUNDINGS * rounding
    if dtype == "float32":
        return Bound(single, LIMITS[dtype], f"{ROUNDINGS:.0f} × {said}")
    if FINER * single <= BOUND:
        return Bound(BOUND, LIMITS[dtype])
    return Bound(FINER * single, LIMITS[dtype], f"2**{np.log2(FINER * ROUNDINGS):.0f} × {said}")


def step_bound(moved: Distance) -> Bound:
    """Derive the bound of one step of a model from how far it moves where its inputs are rounded to float32.

    Nothing before it counts, for it is judged by its own inputs. Attention whose scores are in the thousands throws
    roundings as far as those are large.
    """
    return _bound("float64", moved.relative, "its inputs rounded")


def _offset(measured: Measured, name: str) -> float:
    """Return how many times its scale the channel of a result lies from zero that is nearest to it."""
    scale = measured.scales[name]
    beyond = np.maximum(measured.magnitudes[name] - scale, 0.0)
    return float(np.divide(beyond, scale, out=np.zeros_like(scale), where=scale > 0.0).min())


def _gradients(rounding: float, label: str, offset: float) -> Bound:
    """Derive the bound of gradients.

    A gradient is a product of the slopes of all layers, and the slopes move with the activations: what those lose to
    the conditioning, it loses once more. A softmax takes scores from one another, and leaves their last digits.
    """
    conditioning = max(rounding / FLOAT32, 1.0) if np.isfinite(rounding) else 1.0
    roundings = ROUNDINGS * conditioning**2 + DIGITS * offset
    if _FLOAT64 * roundings <= BOUND:
        return Bound(BOUND, LIMITS["float64"])
    said = f"float32's distance from float64 ({rounding:.1e}, {label}) as a share of its spacing"
    if DIGITS * offset > BOUND / _FLOAT64:
        said += f", and {DIGITS:.0f} × all scores' distance from zero ({offset:.1e} times their scale)"
    return Bound(_FLOAT64 * roundings, LIMITS["float64"], f"2**-52 × {ROUNDINGS:.0f} × the square of {said}")
