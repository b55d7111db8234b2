"""Whether the participants agree: each verdict with its value, its bound, and where the bound comes from.

Imports no framework. A difference is the farthest element's, never a mean, and NaN is a failure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..participants.dumps import Distance, Dump, different_parameters, distance, farthest, pairs
from ..participants.step import EPSILON, RATE
from ..questions.tasks import Task
from .bounds import STEADY, Bound, Bounds, Status
from .measure import BOUND, Measured
from .rankings import Ranking, asked

Array = NDArray[Any]

#: Of the largest terms, the least scale that a gradient is put on (:func:`least_scale`). Terms that cancel leave
#: roundings of 2**-52, of which the bound then lets 64 pass: multiple choice's bias has nothing else for a gradient.
CANCELLED = 64 * 2.0**-52 / BOUND


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


_OWN = "float32 against its own float64"


def judge(
    dumps: Sequence[Dump], measured: Measured, bounds: Bounds, rankings: Sequence[Ranking], task: Task, top_k: int
) -> list[Verdict]:
    """Judge everything that was computed."""
    found = [*_finite(dumps, measured), *_same_parameters(dumps), *_steady(measured)]
    for dtype, by_result in bounds.results.items():
        for pair, taps in measured.taps[dtype].items():
            found += [
                judge_distance(f"{dtype} {_called(name)}", pair, *taps[name], bound)
                for name, bound in by_result.items()
                if name in taps
            ]
    for dump in dumps:
        rounding = measured.rounding[dump.label]
        listed = [
            judge_distance(_OWN, (dump.label,), f"{rounding[name][0]}: {_called(name)}", rounding[name][1], bound)
            for name, bound in bounds.results["float32"].items()
            if name in rounding
        ]
        found += [worst_of(listed)] if listed else []
    check = f"top {top_k} in order" if task.mlm else f"{asked(task)} in order"
    found += judge_order(check, tuple(dump.label for dump in dumps), rankings)
    for file, check in (("gradients", "float64 gradients"), ("updated", "float64 after one AdamW step")):
        found += _by_parameter(dumps, file, check, bounds.gradients, task)
    return found


def _called(name: str) -> str:
    return "last hidden states" if name.endswith("feed_forward_norm") else name


def judge_distance(check: str, about: tuple[str, ...], case: str, one: Distance, bound: Bound) -> Verdict:
    """Judge one distance by its bound."""
    where = "" if one.largest == 0.0 else f"{case} {list(one.index)}: {one.values[0]:.9g} and {one.values[1]:.9g}"
    return Verdict(check, about, one.relative, bound.value, bound.status_of(one.relative), where, bound.told)


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
    return [
        judge_distance("the same twice", (label,), name, one, STEADY) for label, (name, one) in measured.again.items()
    ]


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


def _by_parameter(dumps: Sequence[Dump], file: str, check: str, bound: Bound, task: Task) -> list[Verdict]:
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
            least = least_scale(one, largest.values(), task)
            listed = (
                (
                    name,
                    _scale(
                        distance(first[name], second[name]), largest.get(name, 0.0), least, stepped=file == "updated"
                    ),
                )
                for name in names
                if name in others
            )
            name, apart = farthest(listed, lambda one: one.relative)
        verdict = judge_distance(check, (one.label, other.label), name, apart, bound)
        lacking = sorted(others ^ set(names))
        if lacking:
            verdict = Verdict(check, verdict.about, float("inf"), bound.value, "differs", f"only one has {lacking[0]}")
        found.append(verdict)
    return found


def least_scale(dump: Dump, largest: Iterable[float], task: Task) -> float:
    """Derive the least scale of a gradient, from the size of what gradients are summed of.

    That is the largest gradient, or what the loss sends back through the head's weights where that is more: in a model
    whose tokens are all alike that cancels in every gradient. A cross entropy of L sends back at least 1 - exp(-L).

    Args:
        dump: The participant.
        largest: The largest of each parameter's gradient.
        task: What the model's class computes.
    """
    with dump.opened("updated") as parameters:
        heads = [name for name in task.heads if name in parameters]
        weight = max((float(np.abs(parameters[name]).max(initial=0.0)) for name in heads), default=0.0)
    sent = -math.expm1(-abs(dump.facts.get("loss") or 0.0)) * weight
    return CANCELLED * max([sent, *largest])


def _scale(apart: Distance, gradient: float, least: float, *, stepped: bool) -> Distance:
    """Put a parameter's distance on its scale.

    A gradient's is its parameter's largest. Where that is next to nothing beside what it is summed of, it is what those
    terms cancel to, and all of it is rounding. After the step it is the parameter's largest, and what the step makes of
    the gradient's: it divides by the gradient's magnitude plus epsilon, and so multiplies a difference by up to
    rate / epsilon.
    """
    if stepped:
        return replace(apart, scale=apart.scale + RATE / EPSILON * max(gradient, least))
    return replace(apart, scale=max(apart.scale, least))


def judge_order(check: str, about: tuple[str, ...], listed: Sequence[Ranking]) -> list[Verdict]:
    """Judge the orders of answers: no verdict where nothing is ranked."""
    if not listed:
        return []
    wrong = [one for one in listed if not one.agree]
    clear = [gap for one in listed for gap, tie in zip(one.gaps, one.ties, strict=True) if gap > tie]
    gaps = sum(len(one.gaps) for one in listed)
    ties = gaps - len(clear)
    where = f"{wrong[0].case}, row {wrong[0].row}, {wrong[0].place}" if wrong else ""
    note = f"{len(listed)} places, {ties} of {gaps} gaps are ties"
    note += f", least of the others {min(clear):.2g}" if clear else ""
    status = status_of(not wrong)
    # where every gap is a tie the answers may stand in any order, and say nothing by the one that they stand in
    undecided = sum(all(gap <= tie for gap, tie in zip(one.gaps, one.ties, strict=True)) for one in listed)
    if not wrong and 2 * undecided > len(listed):
        status = "inconclusive"
    return [Verdict(check, about, float(len(wrong)), 0.0, status, where, note)]
