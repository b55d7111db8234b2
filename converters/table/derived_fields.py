"""Fields of the configuration that no single key holds: derived from others, from the class, or from the software.

Each has a reader, which says what a dialect's own software computes from the file (:data:`DERIVATIONS`), and
:func:`write_derived` writes the keys with which the target's software computes the same, where it can.

Sources: ``modeling_roformer.py`` of transformers 5.23 (``create_causal_mask if config.is_decoder``,
``RoFormerSequenceSummary``, ``RoFormerClassificationHead``), of JunnYu's roformer 0.4.3
(``get_extended_attention_mask``) and of PaddleNLP 2.8.1; ``TFSequenceSummary`` of transformers 4.57.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import quoted
from ..json_input import Json
from .activations import spell_activation
from .config import RoFormerConfig
from .mapping import CAUSAL_LM, CLASSES, Dialect, ModelClass, Traits

SEQUENCE, CHOICE = CLASSES["sequence-classification"], CLASSES["multiple-choice"]
ANSWERS = CLASSES["question-answering"]


@dataclass(frozen=True)
class Asked:
    """What a field is derived from.

    Attributes:
        settings: The configuration's keys.
        named: Its file's name, for messages.
        dialect: Whose software wrote it.
        kind: The class of the model.
        measured: What the tensors show: field → value.
        pooler: Whether they have a pooler.
        place: The checkpoint's path.
    """

    settings: Json
    named: str
    dialect: Dialect
    kind: ModelClass
    measured: Mapping[str, Any]
    pooler: bool
    place: Path

    def get(self, *keys: str) -> Any:
        """Return the value of the first of the keys that is there and not null."""
        return next((self.settings[key] for key in keys if self.settings.get(key) is not None), None)


@dataclass(frozen=True)
class Derived:
    """A field's value.

    Attributes:
        value: In canonical terms, but for an activation, which is spelled as the dialect does.
        note: What the reader of the report should know, or an empty string.
        problem: What contradicts it, or an empty string.
        assumed: Whether no file says it.
    """

    value: Any
    note: str = ""
    problem: str = ""
    assumed: bool = False


def _norm_type(asked: Asked) -> Derived:
    said = asked.get("norm_type")
    if said is None and asked.get("model_type") == "roformerv2":
        said = "rms_norm"
    shown = asked.measured.get("norm_type")
    if said is None:
        told = "norm_type = rms_norm (RoFormerV2), from the tensors: no norm has a weight"
        return Derived(shown or "layer_norm", note=told if shown == "rms_norm" else "")
    if shown is not None and said in ("layer_norm", "rms_norm") and said != shown:
        have = "have weights and biases" if shown == "layer_norm" else "have none"
        return Derived(shown, problem=f"got {quoted(said)} in {asked.named}, and the norms of the tensors {have}")
    return Derived(said)


def _use_bias(asked: Asked) -> Derived:
    said, shown = asked.get("use_bias"), asked.measured.get("use_bias")
    if said is None:
        value = asked.get("model_type") != "roformerv2" if shown is None else shown
        return Derived(value)
    if shown is not None and said in (True, False) and said != shown:
        there = "has biases" if shown else "has none"
        return Derived(shown, problem=f"got {str(said).lower()} in {asked.named}, and the encoder {there}")
    return Derived(said)


def is_junnyus(settings: Json) -> bool:
    """Say whether JunnYu's package wrote a configuration: transformers has none of these keys."""
    return any(key in settings for key in ("norm_type", "use_bias", "pooler_activation"))


#: How Zhuiyi's archives are called, and what was trained in each: the code says it, and no file inside.
_PUBLISHED = (
    (re.compile(r"chinese_roformer-gpt-"), {"attention": "causal"}),
    (re.compile(r"chinese_roformer-sim-"), {"attention": "unilm", "pooler_activation": "linear"}),
    (re.compile(r"chinese_roformer(-char|-v2-char)?_L-"), {"attention": "bidirectional"}),
)


def _published(asked: Asked, name: str) -> Derived | None:
    """Look a field up by the name under which the authors published a TF1 checkpoint."""
    if asked.dialect != "tf1":
        return None
    for folder in (asked.place.name, asked.place.absolute().parent.name):
        for pattern, values in _PUBLISHED:
            if pattern.match(folder) and name in values:
                note = f"{name} = {values[name]}, as {folder} was trained by its authors (the name tells; no file does)"
                return Derived(values[name], note=note)
    return None


def _attention(asked: Asked) -> Derived:
    decoder = asked.get("is_decoder")
    if decoder is not None and type(decoder) is not bool:  # to transformers anything that is not empty is true
        said = f"got is_decoder = {quoted(decoder)} in {asked.named}, want true or false"
        return Derived("bidirectional", problem=said)
    if asked.dialect == "torch" and decoder is True:
        if not is_junnyus(asked.settings) and not (asked.pooler and asked.kind.scores_words):
            return Derived("causal")
        return Derived(
            "bidirectional",
            note="is_decoder = true means a prefix that sees itself both ways in JunnYu's package, which wrote this "
            "file; if transformers trained it, --set attention=causal",
        )
    if asked.dialect == "tf1":
        found = _published(asked, "attention")
        if found is not None:
            return found
        if not asked.kind.scores_words:
            return Derived("bidirectional")
        return Derived(
            "bidirectional",
            assumed=True,
            note="attention in both directions is assumed: no file of a TF1 checkpoint says its mask. What was trained "
            'with application="lm" (roformer-gpt): --set attention=causal; with "unilm" (roformer-sim): '
            "--set attention=unilm",
        )
    if decoder is True:
        software = {"paddle": "PaddleNLP", "tf": "transformers' TF classes"}[asked.dialect]
        note = f"is_decoder = true masks nothing in {software}: attention is bidirectional"
        return Derived("bidirectional", note=note)
    return Derived("bidirectional")


def _pooler_activation(asked: Asked) -> Derived | None:
    own = asked.get("pool_act", "pooler_activation")
    if asked.kind is SEQUENCE and asked.dialect in ("torch", "tf"):
        return Derived(asked.get("hidden_act") or "gelu")  # the head computes with the encoder's
    if asked.kind is CHOICE and asked.dialect in ("torch", "tf"):
        return Derived(asked.get("summary_activation") or "linear")
    if own is not None:
        return Derived(own)
    if asked.kind is CHOICE and not asked.pooler:
        return Derived("linear")  # PaddleNLP's RoFormerV2 scores the hidden state as it is
    found = _published(asked, "pooler_activation")
    if found is not None or not asked.pooler:
        return found
    whose = {
        "tf1": "bert4keras computes it unless its code says otherwise",
        "paddle": "PaddleNLP's default",
        "torch": "transformers' default",
        "tf": "transformers' default",
    }[asked.dialect]
    return Derived(
        "tanh",
        assumed=True,
        note=f"pooler_activation = tanh is assumed: no file says it ({whose}); roformer-sim's pooler is linear: "
        "--set pooler_activation=linear",
    )


def _summary_type(asked: Asked) -> Derived:
    if asked.kind is not CHOICE or asked.dialect not in ("torch", "tf"):
        return Derived("first")
    # TF looks at summary_type only beside summary_use_proj
    said = asked.get("summary_type") if asked.dialect == "torch" or "summary_use_proj" in asked.settings else None
    value, projects = "last" if said in (None, "cls_index") else said, asked.get("summary_use_proj")
    if projects is not None and bool(projects) != asked.pooler:
        there = "hold a projection" if asked.pooler else "hold none"
        said = f"got summary_use_proj = {quoted(projects)} in {asked.named}, and the tensors {there}"
        return Derived(value, problem=said)
    return Derived(value)


def _num_labels(asked: Asked) -> Derived:
    if asked.kind is ANSWERS:
        return Derived(2)  # a start and an end, whatever the file says: every software sets it so
    names, shown = asked.get("id2label"), asked.measured.get("num_labels")
    keys = ("num_labels", "num_classes") if asked.dialect == "paddle" else ("num_labels",)
    said = len(names) if isinstance(names, dict) and names else asked.get(*keys)
    if said is None:
        return Derived(2 if shown is None else shown)
    return Derived(said)


def _labels(asked: Asked) -> Derived:
    names = asked.get("id2label")
    if names is None:
        return Derived(())
    if not isinstance(names, dict) or not all(isinstance(name, (str, int, float)) for name in names.values()):
        return Derived((), problem=f"got {quoted(names)} in {asked.named}, want a name for each number from 0")
    numbers = [str(number) for number in range(len(names))]
    if sorted(names) != sorted(numbers):
        told = (
            f"id2label = {quoted(names)} leaves numbers without a name: {len(names)} labels are written without names"
        )
        return Derived((), note=told)
    labels = tuple(str(names[number]) for number in numbers)
    if asked.kind is ANSWERS and len(labels) != 2:
        return Derived((), note=f"id2label of {len(labels)} names is left out: an answer has a start and an end")
    back = asked.get("label2id")
    if isinstance(back, dict) and back != {name: number for number, name in enumerate(labels)}:
        return Derived(labels, note=f"label2id in {asked.named} does not say what id2label does, which is kept")
    return Derived(() if labels == _default_labels(len(labels)) else labels)


def _default_labels(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{number}" for number in range(count))


def _classifier_dropout(asked: Asked) -> Derived | None:
    keys = ("classifier_dropout", "dropout") if asked.dialect == "paddle" else ("classifier_dropout",)
    said = asked.get(*keys)
    return None if said is None else Derived(said)


#: Field → how it is derived; None where nothing says it.
DERIVATIONS: Mapping[str, Callable[[Asked], Derived | None]] = {
    "norm_type": _norm_type,
    "use_bias": _use_bias,
    "attention": _attention,
    "pooler_activation": _pooler_activation,
    "summary_type": _summary_type,
    "num_labels": _num_labels,
    "labels": _labels,
    "classifier_dropout": _classifier_dropout,
}
#: Keys that are read here, in whichever dialect.
DERIVED_FROM = {
    *("is_decoder", "norm_type", "use_bias", "pool_act", "pooler_activation", "num_labels", "num_classes"),
    *("id2label", "label2id", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("classifier_dropout",),
}


def write_derived(
    config: RoFormerConfig, target: Dialect, kind: ModelClass, *, pooler: bool, pooler_spelled: str | None
) -> Json:
    """Return the keys with which ``target``'s software computes what the derived fields say.

    Args:
        config: In canonical terms.
        target: The dialect.
        kind: The class.
        pooler: Whether there is a pooler.
        pooler_spelled: ``pooler_activation`` in the target's spelling.
    """
    out: Json = {}
    v2 = not Traits.of(config).norms
    if target == "torch":
        out["is_decoder"] = config.attention == "causal"
    elif target == "tf" and kind is CAUSAL_LM:
        out["is_decoder"] = True  # which masks nothing there, and without which the class warns
    if v2 or not config.use_bias:
        out["norm_type"], out["use_bias"] = config.norm_type, config.use_bias
    by_class = target in ("torch", "tf") and kind in (SEQUENCE, CHOICE)
    if target == "paddle":
        out["pool_act"] = pooler_spelled
    elif not by_class and (pooler or config.pooler_activation != "tanh"):
        out["pooler_activation"] = pooler_spelled
    if kind is CHOICE and target in ("torch", "tf"):
        out["summary_type"] = config.summary_type
        out["summary_use_proj"] = pooler
        out["summary_activation"] = None if config.pooler_activation == "linear" else pooler_spelled
        out["summary_proj_to_labels"] = False
    if config.num_labels != 2 or config.labels:
        names = config.labels or _default_labels(config.num_labels)
        out["id2label"] = {str(number): name for number, name in enumerate(names)}
        out["label2id"] = {name: number for number, name in enumerate(names)}
    if config.classifier_dropout is not None:
        out["classifier_dropout"] = config.classifier_dropout
    return out


def spelled_pooler(config: RoFormerConfig, spelled: str | None, target: Dialect) -> str:
    """Name the pooler's activation in ``target``; under its own name where the target lacks it."""
    return spell_activation(config.pooler_activation, spelled, target, in_head=True) or config.pooler_activation
