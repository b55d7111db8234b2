"""What an export takes and gives, by the class of its model: names and axes of inputs and outputs.

Read by :mod:`.exporting`, which writes it into the manifest, and by the modules that make an export in each framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...converters.table.mapping import BASE, CLASSES, MASKED_LM, PRETRAINING, ModelClass
from ..config import RoFormerConfig

#: What an export's inputs are called, in their order: int64.
INPUTS = ("input_ids", "token_type_ids", "attention_mask")

_SEQUENCE, _CHOICE, _ANSWERS = (
    CLASSES[name] for name in ("sequence-classification", "multiple-choice", "question-answering")
)


def served(kind: ModelClass) -> ModelClass:
    """Return the class that a checkpoint's class is exported as: what pretraining leaves behind serves for words."""
    return MASKED_LM if kind is PRETRAINING else kind


def pools(kind: ModelClass) -> bool:
    """Say whether an output of a class is made of the pooler."""
    return kind in (BASE, _SEQUENCE, _CHOICE)


def input_axes(kind: ModelClass) -> tuple[str, ...]:
    """Name the axes of every input."""
    return ("batch", "choices", "length") if kind is _CHOICE else ("batch", "length")


def outputs(kind: ModelClass, config: RoFormerConfig, *, pooler: bool) -> Mapping[str, tuple[str | int, ...]]:
    """Return the outputs in their order: name → axes, float32."""
    if kind is BASE:
        hidden: dict[str, tuple[str | int, ...]] = {"hidden": ("batch", "length", config.hidden_size)}
        return hidden | ({"pooled": ("batch", config.hidden_size)} if pooler else {})
    if kind.scores_words:
        return {"logits": ("batch", "length", config.vocab_size)}
    if kind is _CHOICE:
        return {"logits": ("batch", "choices")}
    if kind is _SEQUENCE:
        return {"logits": ("batch", config.num_labels)}
    return {"logits": ("batch", "length", len(labels(kind, config)))}


def labels(kind: ModelClass, config: RoFormerConfig) -> tuple[str, ...]:
    """Name what the last axis of a classifier's logits stands for; nothing of another class."""
    if kind is _ANSWERS:
        return ("start", "end")
    if not kind.stated or kind is _CHOICE:
        return ()
    return config.labels or tuple(f"LABEL_{number}" for number in range(config.num_labels))


def results(value: Any) -> tuple[Any, ...]:
    """Take what a model returns apart; a pooler that it lacks gives no result."""
    return tuple(one for one in (value if isinstance(value, tuple) else (value,)) if one is not None)
