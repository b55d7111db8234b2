"""What each class of model computes beyond its hidden states, as the gate asks for it: results, ranking and loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...converters.table.config import RoFormerConfig

#: What a classifier scores: labels of a row, labels of a token, where an answer starts and ends, options of a question.
Head = Literal["labels", "token labels", "spans", "options"]

#: Taps that are a model's results. Without one of the first two, the last hidden states stand for them.
RESULTS = ("logits", "classifier", "pooler", "sop")


@dataclass(frozen=True)
class Task:
    """One class's.

    Attributes:
        mlm: Whether words are scored.
        sop: Whether the order of sentences is scored.
        head: What its classifier scores; None without one.
        next_word: Whether the words scored at a token are those for the next place.
    """

    mlm: bool = False
    sop: bool = False
    head: Head | None = None
    next_word: bool = False

    @property
    def heads(self) -> tuple[str, ...]:
        """The weights whose products are the scores that a loss is taken of."""
        of_words = ("embeddings.word.weight",) if self.mlm else ()
        of_order = ("sop.weight",) if self.sop else ()
        return (*of_words, *of_order, *(("classifier.weight",) if self.head else ()))

    @property
    def uses_pooler(self) -> bool:
        """Whether the class's own results come through the pooler, where there is one."""
        return self.sop or self.head in ("labels", "options")


TASKS: Mapping[str, Task] = {
    "RoFormerModel": Task(),
    "RoFormerForMaskedLM": Task(mlm=True),
    "RoFormerForPretraining": Task(mlm=True, sop=True),
    "RoFormerForCausalLM": Task(mlm=True, next_word=True),
    "RoFormerForSequenceClassification": Task(head="labels"),
    "RoFormerForTokenClassification": Task(head="token labels"),
    "RoFormerForQuestionAnswering": Task(head="spans"),
    "RoFormerForMultipleChoice": Task(head="options"),
}


def results(names: Iterable[str]) -> list[str]:
    """Of the taps that a model has, those that are its results: the heads', or the last hidden states without one."""
    listed = list(names)
    found = [name for name in RESULTS if name in listed]
    if not {"logits", "classifier"} & set(found):
        hidden = [name for name in listed if name.endswith("feed_forward_norm") or name == "embeddings"]
        found = [*hidden[-1:], *found]
    return found


#: The fields that say which member of the family a model is.
_TRAITS = ("norm_type", "use_bias", "attention", "pooler_activation", "summary_type")


def traits(config: RoFormerConfig, class_name: str) -> dict[str, Any]:
    """Return what sets a model apart from others of its class, by the configuration's fields."""
    found = {name: getattr(config, name) for name in _TRAITS}
    if TASKS[class_name].head != "options":
        del found["summary_type"]
    return found


def described(config: RoFormerConfig, class_name: str) -> str:
    """Name a model's class and in what it differs from the RoFormer of the paper."""
    said = [f"{name} {value}" for name, value in traits(config, class_name).items() if value != _USUAL.get(name)]
    return f"{class_name} ({', '.join(said)})" if said else class_name


_USUAL = {"norm_type": "layer_norm", "use_bias": True, "attention": "bidirectional", "pooler_activation": "tanh"}
