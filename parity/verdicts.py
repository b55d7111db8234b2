"""Whether the participants agree: each verdict with its value, its bound, and where the bound comes from.

Imports no framework. A difference is the farthest element's, never a mean, and NaN is a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .dumps import Distance, Dump, distance, farthest, pairs
from .measure import BOUND, Measured
from .rankings import Ranking, asked
from .step import EPSILON, RATE
from .tasks import Task, results

Array = NDArray[Any]

#: float32: each of two implementations may be twice as far from float64 as the closest one is, on either side of it.
ROUNDINGS = 4.0
#: Of the largest gradient, the least scale that another is put on. Terms as large as it that cancel leave roundings
#: of 2**-52, of which the bound then lets 64 pass: the gradient of multiple choice's bias is nothing but such rounding.
CANCELLED = 64 * 2.0**-52 / BOUND
#: Spacing of float32 at 1: below this a float32-to-float64 distance says nothing.
FLOAT32 = 2.0**-23


#: What a verdict says; ``inconclusive`` where its bound is so wide that keeping it proves nothing.
Status = Literal["good", "differs", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """One line of the result.

    Attributes:
        check: E.g. ``float64 logits``.
        about: Who: a pair of labels, or one.
        value: What was measured.
        bound: What it may be at most; 0 where the value is a count.
        status: Whether it is, and whether that proves anything.
        where: Where the largest difference is.
        note: Where the bound comes from, or what else is to be said.
    """

    check: str
    about: tuple[str, ...]
    value: float
    bound: float
    status: Status
    where: str = ""
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is good; one that proves nothing is not."""
        return self.status == "good"

    @property
    def share(self) -> float:
        """The value over its bound, by which verdicts of one check are compared; a count is its own."""
        return self.value / self.bound if self.bound > 0.0 else self.value

    def as_dict(self) -> dict[str, Any]:
        """Render as data; what JSON cannot hold becomes text."""
        numbers = {"value": self.value, "bound": self.bound}
        told = {name: number if np.isfinite(number) else str(number) for name, number in numbers.items()}
        return {**self.__dict__, "about": list(self.about), **told, "passed": self.passed}


def status_of(good: bool) -> Status:
    """Say in a verdict's word whether what was compared is within its bound."""
    return "good" if good else "differs"


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Return what a line that folds verdicts of one check shows: the farthest past its bound, of the worst status."""
    order: tuple[Status, ...] = ("differs", "inconclusive", "good")
    worst = min((verdict.status for verdict in verdicts), key=order.index)
    return max((verdict for verdict in verdicts if verdict.status == worst), key=lambda verdict: verdict.share)


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """Return what a run of these verdicts exits with: 1 where one differs, else 3 where one proves nothing, else 0."""
    found = {verdict.status for verdict in verdicts}
    return 1 if "differs" in found else 3 if "inconclusive" in found else 0


def single_bound(measured: Measured) -> tuple[float, str]:
    """Derive the bound of float32 from the float32-to-float64 distance of the participant that rounds least.

    Taken from the closest, so that one whose float32 is broken does not widen its own bound.
    """
    closest, label = float("inf"), ""
    for name, found in measured.rounding.items():
        worst = max((found[result][1].relative for result in results(found)), default=float("inf"))
        if worst < closest:
            closest, label = worst, name
    if not np.isfinite(closest):
        return ROUNDINGS * FLOAT32, f"{ROUNDINGS:.0f} × the spacing of float32"
    closest = max(closest, FLOAT32)
    return ROUNDINGS * closest, f"{ROUNDINGS:.0f} × the smallest float32-to-float64 distance ({closest:.1e}, {label})"


def tap_bound(measured: Measured, tap: str) -> float:
    """Derive float32's bound at one tap, as :func:`single_bound` does for the results."""
    found = [taps[tap][1].relative for taps in measured.rounding.values() if tap in taps]
    return ROUNDINGS * max(min(found, default=FLOAT32), FLOAT32)


def judge(
    dumps: Sequence[Dump], measured: Measured, rankings: Sequence[Ranking], task: Task, top_k: int
) -> list[Verdict]:
    """Judge everything that was computed."""
    found = [*_finite(dumps, measured), *_same_parameters(dumps), *_steady(measured)]
    single, why = single_bound(measured)
    for dtype, bound, note in (("float64", BOUND, ""), ("float32", single, why)):
        for pair, taps in measured.taps[dtype].items():
            found += [_apart(f"{dtype} {_called(name)}", pair, *taps[name], bound, note) for name in results(taps)]
    for dump in dumps:
        rounding = {name: measured.rounding[dump.label][name] for name in results(measured.rounding[dump.label])}
        case, one = farthest(((f"{c}: {name}", one) for name, (c, one) in rounding.items()), lambda one: one.relative)
        found.append(_apart("float32 against its own float64", (dump.label,), case, one, single, why))
    found += _ranked(dumps, rankings, task, top_k)
    for file, check in (("gradients", "float64 gradients"), ("updated", "float64 after one AdamW step")):
        found += _by_parameter(dumps, file, check)
    return found


def _called(name: str) -> str:
    return "last hidden states" if name.endswith("feed_forward_norm") else name


def _apart(check: str, about: tuple[str, ...], case: str, one: Distance, bound: float, note: str = "") -> Verdict:
    where = "" if one.largest == 0.0 else f"{case} {list(one.index)}: {one.values[0]:.9g} and {one.values[1]:.9g}"
    return Verdict(check, about, one.relative, bound, status_of(one.relative <= bound), where, note)


def _finite(dumps: Sequence[Dump], measured: Measured) -> list[Verdict]:
    return [
        Verdict(
            "every number finite",
            (dump.label,),
            float(dump.label in measured.not_finite),
            0.0,
            status_of(dump.label not in measured.not_finite),
            measured.not_finite.get(dump.label, ""),
        )
        for dump in dumps
    ]


def _steady(measured: Measured) -> list[Verdict]:
    return [_apart("the same twice", (label,), name, one, BOUND) for label, (name, one) in measured.again.items()]


def different_parameters(one: Dump, other: Dump) -> list[str]:
    """Name the parameters that two models hold with other values."""
    names = list(dict.fromkeys([*one.digests, *other.digests]))
    return [name for name in names if one.digests.get(name) != other.digests.get(name)]


def _same_parameters(dumps: Sequence[Dump]) -> list[Verdict]:
    found = []
    for one, other in pairs(dumps):
        wrong = different_parameters(one, other)
        where = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        found.append(
            Verdict(
                "parameters as loaded", (one.label, other.label), float(len(wrong)), 0.0, status_of(not wrong), where
            )
        )
    return found


def _by_parameter(dumps: Sequence[Dump], file: str, check: str) -> list[Verdict]:
    """Compare a quantity that every parameter has, each on a scale of its own (see :func:`_scale`)."""
    found = []
    for one, other in pairs(dumps):
        with (
            one.opened(file) as first,
            other.opened(file) as second,
            one.opened("gradients") as gradients,
        ):
            names, others = list(first), set(second)
            if not names and not others:
                continue
            largest = {name: float(np.abs(gradients[name]).max(initial=0.0)) for name in gradients}
            listed = (
                (name, _scale(distance(first[name], second[name]), largest, name, stepped=file == "updated"))
                for name in names
                if name in others
            )
            name, apart = farthest(listed, lambda one: one.relative)
        verdict = _apart(check, (one.label, other.label), name, apart, BOUND)
        lacking = sorted(others ^ set(names))
        if lacking:
            verdict = Verdict(check, verdict.about, float("inf"), BOUND, "differs", f"only one has {lacking[0]}")
        found.append(verdict)
    return found


def _scale(apart: Distance, gradients: Mapping[str, float], name: str, *, stepped: bool) -> Distance:
    """Put a parameter's distance on its scale.

    A gradient's is its parameter's largest. Where that is next to nothing beside the others', it is what their terms
    cancel to, and all of it is rounding (:data:`CANCELLED`). After the step it is the parameter's largest, and what the
    step makes of the gradient's: it divides by the gradient's magnitude plus epsilon, and so multiplies a difference by
    up to rate / epsilon.
    """
    own = gradients.get(name, 0.0)
    if stepped:
        return replace(apart, scale=apart.scale + RATE / EPSILON * own)
    return replace(apart, scale=max(apart.scale, CANCELLED * max(gradients.values(), default=0.0)))


def _ranked(dumps: Sequence[Dump], listed: Sequence[Ranking], task: Task, k: int) -> list[Verdict]:
    if not listed:
        return []
    wrong = [one for one in listed if not one.agree]
    ties = sum(gap <= one.bound for one in listed for gap in one.gaps)
    closest = min((gap for one in listed for gap in one.gaps if gap > one.bound), default=float("nan"))
    where = f"{wrong[0].case}, row {wrong[0].row}, {wrong[0].place}" if wrong else ""
    note = f"{len(listed)} places, least gap {closest:.2g}, {ties} tie{'s' * (ties != 1)}"
    about = tuple(dump.label for dump in dumps)
    check = f"top {k} in order" if task.mlm else f"{asked(task)} in order"
    return [Verdict(check, about, float(len(wrong)), 0.0, status_of(not wrong), where, note)]
