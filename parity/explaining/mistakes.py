"""The mistakes that one step of a model may have, each as a switch of the numpy reference, the commonest first.

:mod:`.causes` tries them in turn on a step that does not follow from its own inputs. A number or an order that nobody
can list (an epsilon, a mask's constant, the order of a classifier's rows) is solved for here, from what the step gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..participants.dumps import distance
from ..questions.cases import Case
from ..questions.tasks import Task
from .reference import ACTIVATIONS, Reference, Switches

Array = NDArray[Any]

_EPSILONS = (1e-12, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 0.0)
_MASKED = (-1.0, -5.0, -10.0, -20.0, 1.0)
_FIRST = (1, -1, 2)
_SHIFTS = tuple(shift for size in range(1, 9) for shift in (size, -size))
_ATTENTION = {
    "bidirectional": "a mask in both directions",
    "causal": "a causal mask",
    "unilm": "a UniLM mask",
}
_POSITIONS = {
    "first": "the first position",
    "last": "the last position, padding included,",
    "last real": "the last real token",
    "mean": "the mean over all positions",
}


@dataclass(frozen=True)
class Candidate:
    """A mistake that a step may have: its kind and description as in :class:`~.causes.Cause`, and how it is made."""

    kind: str
    what: str
    switches: Switches


def candidates(reference: Reference, name: str, taps: Mapping[str, Array], case: Case) -> Iterator[Candidate]:
    """Name the mistakes that a step may have, those that people make first."""
    module = name.rpartition(".")[2]
    if name == "embeddings" or "norm" in module:
        yield from _of_a_norm(reference, name, taps)
    if module in ("query", "key", "value"):
        yield from _of_rotation(reference, module)
    if module in ("feed_forward", "transform"):
        yield from _of_the_activation(reference)
    if name == "pooler" or (name == "classifier" and "pooler" not in taps):
        yield from _of_pooling(reference, name)
    if module == "out":
        yield from _of_the_mask(reference, name, taps, case)
        yield Candidate("scale", "scores are not divided by the root of the head size", Switches(scaled=False))
    if name == "embeddings":
        yield Candidate("token types", "token types are ignored (type 0 throughout)", Switches(types="ignored"))
        yield Candidate("token types", "no token type is added", Switches(types="absent"))
    if name in ("embeddings", "logits"):
        for shift in _SHIFTS:
            yield Candidate("vocabulary", f"the vocabulary's rows are shifted by {shift}", Switches(word_shift=shift))
    if name == "logits" and "mlm.bias" in reference.parameters:
        yield Candidate("bias", "the decoder bias is missing", Switches(no_bias=frozenset({"mlm.bias"})))
    if name == "classifier":
        order = _row_order(np.moveaxis(taps[name], -1, 0), np.moveaxis(reference.predict(name, taps, case), -1, 0))
        if order:
            yield Candidate(*exchanged(order, name, reference.task), Switches(order=order))
    yield from _of_a_kernel(reference, name)


def _of_a_norm(reference: Reference, name: str, taps: Mapping[str, Array]) -> Iterator[Candidate]:
    config = reference.config
    if config.norm_type == "rms_norm":
        yield Candidate("norm", "the mean is subtracted in RoFormerV2's norm", Switches(centred=True))
    else:
        yield Candidate("norm", "the mean is not subtracted in the norm", Switches(centred=False))
    for epsilon in (*_EPSILONS, *_epsilon(reference, name, taps)):
        what = f"epsilon {epsilon:.3g} instead of {config.layer_norm_eps:.3g} in the norm"
        yield Candidate("epsilon", what, Switches(epsilon=epsilon))
    if name.startswith("layers."):
        yield Candidate("sign", "it is subtracted from the residual, not added", Switches(negated=frozenset({name})))
    bias = "embeddings.norm.bias" if name == "embeddings" else f"{name}.bias"
    if bias in reference.parameters:
        yield Candidate("bias", f"the bias {bias} is missing", Switches(no_bias=frozenset({bias})))


def _of_rotation(reference: Reference, module: str) -> Iterator[Candidate]:
    rotary_value = reference.config.rotary_value
    if module == "value":
        what = "values are not rotated" if rotary_value else "values are rotated"
        yield Candidate("rotation", what, Switches(rotary_value=not rotary_value))
    if module != "value" or rotary_value:
        half = "half-split rotation (i with i + D/2) instead of adjacent pairs"
        yield Candidate("rotation", half, Switches(rotation="half"))
        yield Candidate("rotation", "no rotation", Switches(rotation="none"))
        yield Candidate("rotation", "rotation the other way", Switches(rotation="backwards"))
        for first in _FIRST:
            yield Candidate("position", f"the first position is {first} instead of 0", Switches(first=first))


def _of_the_activation(reference: Reference) -> Iterator[Candidate]:
    right = reference.config.hidden_act
    for activation in ACTIVATIONS:
        if activation != right:
            what = f"{_activation_name(activation)} instead of {_activation_name(right)}"
            yield Candidate("activation", what, Switches(activation=activation))


def _activation_name(activation: str) -> str:
    return {"gelu": "gelu (erf)", "gelu_tanh": "gelu (tanh)"}.get(activation, activation)


def _of_pooling(reference: Reference, name: str) -> Iterator[Candidate]:
    """What may go wrong between the hidden states of a row and the one vector that stands for it."""
    config, options = reference.config, reference.task.head == "options"
    if not (options or name == "pooler" or reference.task.head == "labels"):
        return
    if name == "pooler" or options:
        right = config.pooler_activation
        for activation in (config.hidden_act, *ACTIVATIONS):
            if activation != right:
                whose = "the hidden activation " if activation == config.hidden_act else ""
                what = f"{whose}{_activation_name(activation)} instead of the pooler's {_activation_name(right)}"
                yield Candidate("activation", what, Switches(pooler_activation=activation))
    position = config.summary_type if options else "first"
    for other, said in _POSITIONS.items():
        if other != position:
            what = f"{said} instead of {_POSITIONS[position].rstrip(',')}"
            yield Candidate("position", what, Switches(position=other))


def _of_the_mask(reference: Reference, name: str, taps: Mapping[str, Array], case: Case) -> Iterator[Candidate]:
    right = reference.config.attention
    for attention, said in _ATTENTION.items():
        if attention == right:
            continue
        what = f"{said} instead of {_ATTENTION[right]}"
        if attention == "bidirectional":
            what = f"{_ATTENTION[right]} is forgotten: every key is seen"
        yield Candidate("mask", what, Switches(attention=attention))
    yield Candidate("mask", "the attention mask is ignored", Switches(mask="ignored"))
    if right != "bidirectional":
        what = f"the attention mask is ignored and {_ATTENTION[right]} forgotten"
        yield Candidate("mask", what, Switches(mask="ignored", attention="bidirectional"))
    yield Candidate("token 0", "token 0 is masked though nobody asked for it", Switches(mask="pad"))
    yield Candidate("mask", "the attention mask is inverted", Switches(mask="inverted"))
    for masked in (*_MASKED, *_mask_constant(reference, name, taps, case)):
        what = f"{masked:.4g} is added to masked scores, which does not hide them"
        yield Candidate("mask", what, Switches(masked=masked))


def _of_a_kernel(reference: Reference, name: str) -> Iterator[Candidate]:
    for linear in linear_of(name, reference):
        weight = reference.parameters[f"{linear}.weight"]
        if weight.shape[0] == weight.shape[1]:
            what = f"the kernel {linear}.weight is used without being transposed"
            yield Candidate("transposed", what, Switches(transposed=frozenset({f"{linear}.weight"})))
        what = f"the kernel {linear}.weight is used with the other sign"
        yield Candidate("sign", what, Switches(negated=frozenset({linear})))
        if f"{linear}.bias" in reference.parameters:
            what = f"the bias {linear}.bias is missing"
            yield Candidate("bias", what, Switches(no_bias=frozenset({f"{linear}.bias"})))


def linear_of(name: str, reference: Reference) -> list[str]:
    """Return the linear modules inside a step."""
    if name == "embeddings":
        return ["embeddings.project"] if "embeddings.project.weight" in reference.parameters else []
    if name.endswith("feed_forward"):
        return [f"{name}.up", f"{name}.down"]
    return [name] if f"{name}.weight" in reference.parameters and "norm" not in name else []


# Solved for ----------------------------------------------------------------------------------------------------------


def _epsilon(reference: Reference, name: str, taps: Mapping[str, Array]) -> tuple[float, ...]:
    """Solve for the epsilon that a norm used, from its input and output; empty where it cannot be told."""
    if name == "embeddings":
        return ()
    probe = Switches(epsilon=0.0)
    weight = reference.parameters.get(f"{name}.weight", np.float64(1.0))
    bias = reference.parameters.get(f"{name}.bias", np.float64(0.0))
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
    scale = (x**2).mean(-1) if reference.config.norm_type == "rms_norm" else x.var(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon = float(np.median(scale * (1.0 / ratio**2 - 1.0)))
    # a number that somebody wrote has few digits
    return (float(f"{epsilon:.2g}"), epsilon) if np.isfinite(epsilon) and epsilon > 0 else ()


def _mask_constant(reference: Reference, name: str, taps: Mapping[str, Array], case: Case) -> tuple[float, ...]:
    """Search for the constant that was added to masked scores, by halving; empty where none fits."""
    hidden = case.attention_mask is not None and not case.attention_mask.all()
    if not hidden and reference.config.attention == "bidirectional":
        return ()

    def off(masked: float) -> float:
        return distance(reference.predict(name, taps, case, Switches(masked=masked)), taps[name]).largest

    best = min(np.linspace(-40.0, 5.0, 46), key=off)
    width = 1.0
    while width > 1e-13:
        best = min((best - width, best, best + width), key=off)
        width /= 2.0
    return (float(f"{best:.4g}"), float(best))


def _row_order(wrong: Array, right: Array) -> tuple[int, ...]:
    """Say which row of ``right`` stands in each row of ``wrong``; empty where those are not the same rows.

    The nearest is taken, for computed rows are equal but for their rounding.
    """
    if wrong.shape != right.shape or not 2 <= len(right) <= _MOST_ROWS:
        return ()
    flat, good = wrong.reshape(len(wrong), -1), right.reshape(len(right), -1)
    with np.errstate(invalid="ignore"):
        order = tuple(int(np.abs(good - row).max(-1).argmin()) for row in flat)
    return order if sorted(order) == list(range(len(right))) != list(order) else ()


_MOST_ROWS = 4096


def exchanged(order: tuple[int, ...], parameter: str, task: Task) -> tuple[str, str]:
    """Return the kind and the words of rows that stand in another order."""
    moved = [place for place, row in enumerate(order) if place != row]
    kind, rows = "exchanged", "rows"
    if parameter.startswith("classifier"):
        if task.head == "spans":
            return kind, "start and end are exchanged"
        rows = "options" if task.head == "options" else "label rows"
    if len(moved) == 2:
        return kind, f"{rows} {moved[0]} and {moved[1]} are exchanged"
    shown = ", ".join(map(str, order[:8])) + (", …" if len(order) > 8 else "")
    return kind, f"{rows} stand in another order: {shown}"
