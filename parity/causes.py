"""What most likely causes a difference, found by substitution.

Two places are looked at. Parameters that one participant holds otherwise than the rest are compared with the right ones
transposed, shifted and exchanged. And every step of a participant is recomputed by :mod:`.reference` from that
participant's own activations: where the two differ, each switch is tried in turn, and the one whose result is the
participant's is the cause. A step is judged by its own inputs, so what follows from a fault is not taken for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.errors import Problem, fold_layers
from ..converters.table.config import RoFormerConfig
from .cases import Case
from .dumps import Dump, distance
from .reference import ACTIVATIONS, Reference, Switches

Array = NDArray[Any]

#: A step that is farther than this from its own recomputation is wrong; rounding leaves 2e-15.
STEP_BOUND = 1e-11
#: A substitution that brings a wrong step as near as this explains it.
_EXPLAINED = 1e-10

_EPSILONS = (1e-12, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 0.0)
_MASKED = (-1.0, -5.0, -10.0, -20.0, 1.0)
_SHIFTS = tuple(shift for size in range(1, 9) for shift in (size, -size))
_MOST_TRIED = 3  # cases that an explanation is tried on: those that are farthest off


@dataclass(frozen=True)
class Cause:
    """One mistake in one place.

    Attributes:
        label: The participant.
        kind: ``epsilon``, ``activation``, ``rotation``, ``bias``, ``untied``, ``transposed``, ``dropout``, ``token 0``,
            ``mask``, ``token types``, ``vocabulary``, ``scale``, ``corrupted`` or ``unknown``.
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


def explain_parameters(label: str, wrong: Mapping[str, Array], right: Mapping[str, Array]) -> list[Cause]:
    """Explain parameters that a participant holds otherwise.

    Args:
        label: The participant.
        wrong: Canonical name → its values, where they differ.
        right: Canonical name → the right values, of all that may be meant.
    """
    return [_explain_parameter(label, name, array, right) for name, array in wrong.items()]


def _explain_parameter(label: str, name: str, wrong: Array, right: Mapping[str, Array]) -> Cause:
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
    shift = _row_shift(wrong, good)
    if shift:
        return Cause(label, "vocabulary", f"the rows are shifted by {shift}", name, True)
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


# Steps ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A mistake that a step may have."""

    kind: str
    what: str
    switches: Switches


@dataclass(frozen=True)
class Steps:
    """How far each step of a participant is from its own recomputation.

    Attributes:
        worst: The largest difference of all steps, over the largest magnitude of the step.
        at: The tap of it.
        wrong: Taps that are farther than the bound → how far in which cases, farthest first; in their order.
    """

    worst: float
    at: str
    wrong: Mapping[str, list[tuple[float, Case]]]


def check_steps(reference: Reference, dump: Dump, cases: Sequence[Case], order: Sequence[str]) -> Steps:
    """Recompute every step from its own inputs."""
    found: dict[str, list[tuple[float, Case]]] = {}
    worst, at = 0.0, ""
    for case in cases:
        if not case.taps:
            continue
        taps = _taps(dump, case)
        for name in order:
            if name in taps:
                off = distance(reference.predict(name, taps, case), taps[name]).relative
                if not off <= worst:
                    worst, at = off, f"{case.name}: {name}"
                if not off <= STEP_BOUND:
                    found.setdefault(name, []).append((off, case))
    wrong = {name: sorted(found[name], key=lambda one: one[0], reverse=True) for name in order if name in found}
    return Steps(worst, at, wrong)


def explain_steps(reference: Reference, dump: Dump, cases: Sequence[Case], steps: Steps) -> list[Cause]:
    """Explain every step that does not follow from its own inputs."""
    unsteady = bool(steps.wrong) and _differs_again(dump, cases[0])
    causes = []
    for name, off in steps.wrong.items():
        what = explain_step(reference, dump, name, [case for _, case in off[:_MOST_TRIED]])
        if what is None and name == "logits":
            what = _untied(reference, dump, cases)
        if what is None and unsteady:
            what = Candidate("dropout", "dropout is left on: two runs of one batch differ", Switches())
        if what is None:
            unknown = f"no known mistake explains it (off by {off[0][0]:.2g})"
            causes.append(Cause(dump.label, "unknown", unknown, name, False))
        else:
            causes.append(Cause(dump.label, what.kind, what.what, name, True))
    return causes


def explain_step(reference: Reference, dump: Dump, name: str, cases: Sequence[Case]) -> Candidate | None:
    """Find the mistake whose substitution gives what the participant computed in every case."""
    taps = [(_taps(dump, case), case) for case in cases]
    for candidate in candidates(reference, name, *taps[0]):
        if all(
            distance(reference.predict(name, found, case, candidate.switches), found[name]).relative <= _EXPLAINED
            for found, case in taps
        ):
            return candidate
    return None


def candidates(reference: Reference, name: str, taps: Mapping[str, Array], case: Case) -> Iterator[Candidate]:
    """Name the mistakes that a step may have, those that people make first."""
    config = reference.config
    module = name.rpartition(".")[2]
    if name == "embeddings" or "norm" in module:
        estimate = _epsilon(reference, name, taps)
        for epsilon in (*_EPSILONS, *estimate):
            what = f"epsilon {epsilon:.3g} instead of {config.layer_norm_eps:.3g} in the norm"
            yield Candidate("epsilon", what, Switches(epsilon=epsilon))
    if module in ("query", "key", "value"):
        if module == "value":
            what = "values are rotated" if not config.rotary_value else "values are not rotated"
            yield Candidate("rotation", what, Switches(rotary_value=not config.rotary_value))
        if module != "value" or config.rotary_value:
            half = "half-split rotation (i with i + D/2) instead of adjacent pairs"
            yield Candidate("rotation", half, Switches(rotation="half"))
            yield Candidate("rotation", "no rotation", Switches(rotation="none"))
            yield Candidate("rotation", "rotation the other way", Switches(rotation="backwards"))
    if module in ("feed_forward", "transform"):
        for activation in ACTIVATIONS:
            if activation != config.hidden_act:
                what = f"{_activation_name(activation)} instead of {_activation_name(config.hidden_act)}"
                yield Candidate("activation", what, Switches(activation=activation))
    if name == "pooler":
        for activation in ACTIVATIONS:
            if activation != config.pooler_activation:
                what = f"{activation} instead of {config.pooler_activation}"
                yield Candidate("activation", what, Switches(pooler_activation=activation))
    if module == "out":
        yield Candidate("mask", "the attention mask is ignored", Switches(mask="ignored"))
        yield Candidate("token 0", "token 0 is masked though nobody asked for it", Switches(mask="pad"))
        yield Candidate("mask", "the attention mask is inverted", Switches(mask="inverted"))
        for masked in (*_MASKED, *_mask_constant(reference, name, taps, case)):
            what = f"{masked:.4g} is added to masked scores, which does not hide them"
            yield Candidate("mask", what, Switches(masked=masked))
        yield Candidate("scale", "scores are not divided by the root of the head size", Switches(scaled=False))
    if name == "embeddings":
        yield Candidate("token types", "token types are ignored (type 0 throughout)", Switches(types="ignored"))
        yield Candidate("token types", "no token type is added", Switches(types="absent"))
    if name in ("embeddings", "logits"):
        for shift in _SHIFTS:
            yield Candidate("vocabulary", f"the vocabulary's rows are shifted by {shift}", Switches(word_shift=shift))
    if name == "logits":
        yield Candidate("bias", "the decoder bias is missing", Switches(no_bias=frozenset({"mlm.bias"})))
    for parameter in _linear_of(name, reference):
        weight = reference.parameters[f"{parameter}.weight"]
        if weight.shape[0] == weight.shape[1]:
            what = f"the kernel {parameter}.weight is used without being transposed"
            yield Candidate("transposed", what, Switches(transposed=frozenset({f"{parameter}.weight"})))
        yield Candidate(
            "bias", f"the bias {parameter}.bias is missing", Switches(no_bias=frozenset({f"{parameter}.bias"}))
        )


def _linear_of(name: str, reference: Reference) -> list[str]:
    """Return the linear modules inside a step."""
    if name == "embeddings":
        return ["embeddings.project"] if "embeddings.project.weight" in reference.parameters else []
    if name.endswith("feed_forward"):
        return [f"{name}.up", f"{name}.down"]
    return [name] if f"{name}.weight" in reference.parameters and "norm" not in name else []


def _activation_name(activation: str) -> str:
    return {"gelu": "gelu (erf)", "gelu_tanh": "gelu (tanh)"}.get(activation, activation)


def _epsilon(reference: Reference, name: str, taps: Mapping[str, Array]) -> tuple[float, ...]:
    """Solve for the epsilon that a norm used, from its input and output; empty where it cannot be told."""
    if name == "embeddings" or name == "embeddings.norm":
        return ()
    probe = Switches(epsilon=0.0)
    bias, weight = reference.parameters[f"{name}.bias"], reference.parameters[f"{name}.weight"]
    case = Case("", np.zeros((1, 1), np.int64))
    normal = (reference.predict(name, taps, case, probe) - bias) / weight
    got = (taps[name] - bias) / weight
    ratio = (got * normal).sum(-1) / (normal * normal).sum(-1)
    if name == "mlm.norm":
        x = taps["mlm.transform"]
    else:
        prefix, _, kind = name.rpartition(".")
        layer = int(prefix.partition(".")[2])
        if kind == "attention_norm":
            before = taps["embeddings" if layer == 0 else f"layers.{layer - 1}.feed_forward_norm"]
            x = before + taps[f"{prefix}.attention.out"]
        else:
            x = taps[f"{prefix}.attention_norm"] + taps[f"{prefix}.feed_forward"]
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon = float(np.median(x.var(-1) * (1.0 / ratio**2 - 1.0)))
    # a number that somebody wrote has few digits
    return (float(f"{epsilon:.2g}"), epsilon) if np.isfinite(epsilon) and epsilon > 0 else ()


def _mask_constant(reference: Reference, name: str, taps: Mapping[str, Array], case: Case) -> tuple[float, ...]:
    """Search for the constant that was added to masked scores, by halving; empty where none fits."""
    if case.attention_mask is None or case.attention_mask.all():
        return ()

    def off(masked: float) -> float:
        return distance(reference.predict(name, taps, case, Switches(masked=masked)), taps[name]).largest

    best = min(np.linspace(-40.0, 5.0, 46), key=off)
    width = 1.0
    while width > 1e-13:
        best = min((best - width, best, best + width), key=off)
        width /= 2.0
    return (float(f"{best:.4g}"), float(best))


def _untied(reference: Reference, dump: Dump, cases: Sequence[Case]) -> Candidate | None:
    """Try another decoder than the word embedding: solve for the matrix that gives the participant's logits."""
    inputs, apart, scale = [], [], 0.0
    for case in cases:
        if case.taps:
            taps = _taps(dump, case)
            if "logits" in taps:
                off = taps["logits"] - reference.predict("logits", taps, case)
                inputs.append(taps["mlm.norm"].reshape(-1, taps["mlm.norm"].shape[-1]))
                apart.append(off.reshape(-1, off.shape[-1]))
                scale = max(scale, float(np.abs(taps["logits"]).max()))
    x, y = np.concatenate(inputs), np.concatenate(apart)
    if not np.isfinite(y).all():
        return None
    # that another matrix stands there means that the difference is linear in the input
    if not np.abs(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).max() <= _EXPLAINED * scale:
        return None
    if len(x) <= x.shape[1] + 8:  # so few tokens that any difference is
        return Candidate("untied", "the decoder is likely not the word embedding (untied)", Switches())
    other = int((np.abs(y).max(0) > STEP_BOUND * scale).sum())
    what = f"the decoder is not the word embedding (untied: {other:,} of {y.shape[1]:,} rows differ)"
    return Candidate("untied", what, Switches())


def _differs_again(dump: Dump, case: Case) -> bool:
    """Say whether the second run of the first case differed from the first."""
    with dump.opened(f"float64.{case.name}") as first, dump.opened("float64.again") as again:
        return any(not distance(first[name], again[name]).relative <= STEP_BOUND for name in again)


def _taps(dump: Dump, case: Case) -> dict[str, Array]:
    with dump.opened(f"float64.{case.name}") as arrays:
        return dict(arrays)


def reference_for(config: RoFormerConfig, parameters: Mapping[str, Array]) -> Reference:
    """Make a reference from a checkpoint's tensors, or from a participant's own."""
    return Reference(config, {name: np.asarray(array, np.float64) for name, array in parameters.items()})
