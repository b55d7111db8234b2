"""What most likely causes a difference, found by substitution.

Two places are looked at. Parameters that one participant holds otherwise than the rest are compared with the right ones
transposed, shifted and exchanged. And every step of a participant is recomputed by :mod:`.reference` from that
participant's own activations: where the two differ, each of its :mod:`.mistakes` is made in turn, and the one whose
result is the participant's is the cause. A step is judged by its own inputs, so what follows from a fault is not taken
for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import Problem, fold_layers
from ..judging.bounds import STEADY, step_bound
from ..judging.verdicts import Verdict, judge_distance, worst_of
from ..participants.dumps import Dump, distance
from ..questions.cases import Case
from ..questions.tasks import Task
from .mistakes import Candidate, candidates, exchanged
from .reference import Reference, Switches
from .sampling import Sample

Array = NDArray[Any]

#: A substitution that brings a wrong step as near as this explains it.
_EXPLAINED = 1e-10
_MOST_TRIED = 3  # samples that an explanation is tried on: those that are farthest off


@dataclass(frozen=True)
class Cause:
    """One mistake in one place.

    Attributes:
        label: The participant.
        kind: ``norm``, ``epsilon``, ``activation``, ``position``, ``rotation``, ``bias``, ``untied``, ``transposed``,
            ``exchanged``, ``sign``, ``dropout``, ``token 0``, ``mask``, ``token types``, ``vocabulary``, ``scale``,
            ``batch``, ``corrupted`` or ``unknown``; of an official participant also ``load``, ``load report``,
            ``files``, ``configuration``, ``rotary table``, ``ids``, ``padding`` or ``half type``; of a
            golden ``configuration`` or ``weights``.
        what: The mistake in words.
        where: The tap or parameter, layer included.
        explains: Whether the substitution reproduces what the participant computed.
    """

    label: str
    kind: str
    what: str
    where: str
    explains: bool

    def as_dict(self) -> dict[str, Any]:
        """Render as data."""
        return dict(self.__dict__)


def fold(causes: Sequence[Cause]) -> list[str]:
    """Say causes in lines, layers folded."""
    lines = []
    for label in dict.fromkeys(cause.label for cause in causes):
        mine = [cause for cause in causes if cause.label == label]
        problems = [Problem(cause.what, cause.where, "" if cause.explains else "likely") for cause in mine]
        for problem, times in fold_layers(problems):
            many = f" ({times} places)" if times > 1 else ""
            lines.append(f"{label}: {problem.kind}, in {problem.name}{many}")
    return lines


# Parameters ----------------------------------------------------------------------------------------------------------


def explain_parameters(label: str, wrong: Mapping[str, Array], right: Mapping[str, Array], task: Task) -> list[Cause]:
    """Explain parameters that a participant holds otherwise.

    Args:
        label: The participant.
        wrong: Canonical name → its values, where they differ.
        right: Canonical name → the right values, of all that may be meant.
        task: What the model's class computes.
    """
    return [_explain_parameter(label, name, array, right, task) for name, array in wrong.items()]


def _explain_parameter(label: str, name: str, wrong: Array, right: Mapping[str, Array], task: Task) -> Cause:
    good = right.get(name)
    if good is None:
        return Cause(label, "corrupted", "a parameter that the others do not have", name, True)
    if wrong.shape != good.shape:
        return Cause(label, "corrupted", f"its shape is {wrong.shape}, not {good.shape}", name, True)
    if good.ndim == 2 and good.shape[0] == good.shape[1] and np.array_equal(wrong, good.T):
        return Cause(label, "transposed", "the kernel is not transposed", name, True)
    if not wrong.any() and good.any():
        what = "the decoder bias is missing (all 0)" if name == "mlm.bias" else "all values are 0"
        return Cause(label, "bias" if name.endswith("bias") else "corrupted", what, name, True)
    if wrong.any() and np.array_equal(wrong, -good):
        return Cause(label, "sign", "every value has the other sign", name, True)
    shift = _row_shift(wrong, good)
    if shift:
        return Cause(label, "vocabulary", f"the rows are shifted by {shift}", name, True)
    order = _row_order(wrong, good)
    if order:
        return Cause(label, *exchanged(order, name, task), name, True)
    for other, array in right.items():
        if other != name and array.shape == wrong.shape and np.array_equal(wrong, array):
            return Cause(label, "corrupted", f"it holds {other}", name, True)
    apart = distance(good, wrong)
    count = int((~((wrong == good) | (np.isnan(wrong) & np.isnan(good)))).sum())
    at = list(apart.index)
    got = f"{apart.values[1]:.9g} instead of {apart.values[0]:.9g}"
    what = f"{count:,} of {wrong.size:,} values differ, most at {at}: {got}"
    return Cause(label, "corrupted", what, name, True)


def _row_shift(wrong: Array, good: Array) -> int:
    """By how many rows a table is shifted, its ends aside; 0 for not at all."""
    if good.ndim == 0 or len(good) < 4:
        return 0
    middle = len(good) // 2
    found = np.flatnonzero((wrong == good[middle]).reshape(len(good), -1).all(axis=1))
    for place in found:
        shift = int(place) - middle
        if (
            shift
            and abs(shift) < middle
            and np.array_equal(
                wrong[max(shift, 0) : len(good) + min(shift, 0)], good[max(-shift, 0) : len(good) - max(shift, 0)]
            )
        ):
            return shift
    return 0


def _row_order(wrong: Array, good: Array) -> tuple[int, ...]:
    """Say which row of ``good`` stands in each row of ``wrong``; empty where those are not the same rows."""
    if good.ndim == 0:
        return ()
    places = {hash(row.tobytes()): place for place, row in enumerate(good)}  # their bytes would be all of them again
    order = tuple(places.get(hash(row.tobytes()), -1) for row in wrong.astype(good.dtype, copy=False))
    same_rows = sorted(order) == list(range(len(good))) and np.array_equal(wrong, good[list(order)])
    return order if same_rows else ()


# Steps ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """How far each step of a participant is from its own recomputation.

    Attributes:
        verdict: That of the step that is farthest past its bound.
        wrong: Taps that differ → how far in which rows, farthest first; in their order.
    """

    verdict: Verdict
    wrong: Mapping[str, list[tuple[float, Sample]]]


def check_steps(
    reference: Reference,
    dump: Dump,
    samples: Sequence[Sample],
    order: Sequence[str],
    scales: Mapping[str, Array],
    note: str = "",
) -> Steps:
    """Recompute every step from its own inputs.

    Args:
        reference: With the participant's own parameters.
        dump: The participant.
        samples: What is recomputed.
        order: Names of the taps, as they are computed.
        scales: What each tap's channels are held against.
        note: How much of the run that is.
    """
    found: dict[str, list[tuple[float, Sample]]] = {}
    verdicts = []
    read = [(sample, sample.taps(dump)) for sample in samples]
    for name in order:  # a step's parameters are read once for all rows
        for sample, taps in read:
            if name in taps:
                right = reference.predict(name, taps, sample.case)
                off = distance(right, taps[name], scales[name])
                bound = STEADY
                if not off.relative <= bound.value:
                    moved = reference.predict(name, _rounded(taps), sample.case)
                    bound = step_bound(distance(right, moved, scales[name]))
                verdict = judge_distance(_CHECK, (dump.label,), f"{sample.case.name}: {name}", off, bound)
                verdicts.append(verdict)
                if verdict.status == "differs":
                    found.setdefault(name, []).append((off.relative, sample))
    wrong = {name: sorted(found[name], key=lambda one: one[0], reverse=True) for name in order if name in found}
    worst = worst_of(verdicts)
    told = "; ".join(text for text in (worst.note, note) if text)
    return Steps(replace(worst, note=told), wrong)


_CHECK = "every step recomputed in numpy"


def _rounded(taps: Mapping[str, Array]) -> dict[str, Array]:
    """Round what a step is computed from to float32, to see what it makes of that."""
    return {name: array.astype(np.float32).astype(np.float64) for name, array in taps.items()}


def explain_steps(
    reference: Reference,
    dump: Dump,
    first: Case,
    samples: Sequence[Sample],
    steps: Steps,
    scales: Mapping[str, Array],
) -> list[Cause]:
    """Explain every step that does not follow from its own inputs; ``first`` is the case that was run twice."""
    unsteady = bool(steps.wrong) and _differs_again(dump, first, scales)
    causes = []
    for name, off in steps.wrong.items():
        what = explain_step(reference, dump, name, [sample for _, sample in off[:_MOST_TRIED]], scales[name])
        if what is None and name == "logits":
            what = _untied(reference, dump, samples, scales[name])
        if what is None and unsteady:
            what = Candidate("dropout", "dropout is left on: two runs of one batch differ", Switches())
        if what is None:
            unknown = f"no known mistake explains it (off by {off[0][0]:.2g})"
            causes.append(Cause(dump.label, "unknown", unknown, name, False))
        else:
            causes.append(Cause(dump.label, what.kind, what.what, name, True))
    return causes


def explain_step(
    reference: Reference, dump: Dump, name: str, samples: Sequence[Sample], scale: Array
) -> Candidate | None:
    """Find the mistake whose substitution gives what the participant computed in every sample."""
    taps = [(sample.taps(dump), sample.case) for sample in samples]
    for candidate in candidates(reference, name, *taps[0]):
        if all(
            distance(reference.predict(name, found, case, candidate.switches), found[name], scale).relative
            <= _EXPLAINED
            for found, case in taps
        ):
            return candidate
    return None


def _untied(reference: Reference, dump: Dump, samples: Sequence[Sample], scale: Array) -> Candidate | None:
    """Try another decoder than the word embedding: solve for the matrix that gives the participant's logits."""
    inputs, apart = [], []
    for sample in samples:
        taps = sample.taps(dump)
        if "logits" in taps:
            off = taps["logits"] - reference.predict("logits", taps, sample.case)
            scored = reference.scored(taps, sample.case)
            inputs.append(scored.reshape(-1, scored.shape[-1]))
            apart.append(off.reshape(-1, off.shape[-1]))
    x, y = np.concatenate(inputs), np.concatenate(apart)
    if not np.isfinite(y).all():
        return None
    # that another matrix stands there means that the difference is linear in the input
    if not (np.abs(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) <= _EXPLAINED * scale).all():
        return None
    if len(x) <= x.shape[1] + 8:  # so few tokens that any difference is
        return Candidate("untied", "the decoder is likely not the word embedding (untied)", Switches())
    other = int((np.abs(y) > STEADY.value * scale).any(0).sum())
    what = f"the decoder is not the word embedding (untied: {other:,} of {y.shape[1]:,} rows differ)"
    return Candidate("untied", what, Switches())


def _differs_again(dump: Dump, case: Case, scales: Mapping[str, Array]) -> bool:
    """Say whether the second run of the first case differed from the first."""
    with dump.opened(f"float64.{case.name}") as first, dump.opened("float64.again") as again:
        return any(not distance(first[name], again[name], scales[name]).relative <= STEADY.value for name in again)
