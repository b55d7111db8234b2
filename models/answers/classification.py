"""What classifiers do with a text: labels of the whole, or of each of its tokens.

Source of the scores: ``TextClassificationPipeline`` of transformers 5.23, but for one label without a ``problem_type``:
that model was trained to give a number, which the pipeline squeezes through a sigmoid and we leave as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import RoFormerConfig
from ..text.text_windows import Item
from ..text.tokenizer import Encoding, Tokenizer
from .ranking import Float64, ranked, softmax
from .task import Prediction, Task, said


@dataclass(frozen=True)
class Label:
    """A label and how well it fits; no probability where the model gives a number.

    Attributes:
        id: Row of the classifier.
        label: Its name in the configuration, or ``LABEL_i``.
        logit: What the classifier gives.
        probability: Softmax over all labels, or the label's own sigmoid where a text may have several.
    """

    id: int
    label: str
    logit: float
    probability: float | None

    @property
    def shown(self) -> str:
        """The label, and its probability or number."""
        return f"{self.label} {self.logit if self.probability is None else self.probability:.4f}"


class Labels:
    """The labels of a classifier, and what its scores mean.

    Args:
        config: Names them, and says by ``problem_type`` what the scores mean.
    """

    def __init__(self, config: RoFormerConfig) -> None:
        self.names = config.labels or tuple(f"LABEL_{i}" for i in range(config.num_labels))
        self.several = config.problem_type == "multi_label_classification"
        self.number = not self.several and (config.problem_type == "regression" or config.num_labels == 1)

    def all(self, logits: Sequence[float]) -> list[Label]:
        """Name the scores of one sequence, or of one token, in the classifier's order."""
        scores = np.asarray(logits, np.float64)
        chances = [None] * len(logits) if self.number else (sigmoid if self.several else softmax)(scores).tolist()
        return [
            Label(i, name, logit, chance)
            for i, (name, logit, chance) in enumerate(zip(self.names, logits, chances, strict=True))
        ]

    def best(self, logits: Sequence[float], k: int) -> tuple[Label, ...]:
        """The ``k`` best labels, the best first; numbers all and in the classifier's order."""
        every = self.all(logits)
        return tuple(every if self.number else [every[i] for i in ranked(np.asarray(logits, np.float64), k)])


def sigmoid(scores: Float64) -> Float64:
    """Turn each score into the probability of its label; exp of no large number is taken."""
    small = np.exp(-np.abs(scores))
    found: Float64 = np.where(scores >= 0, 1, small) / (1 + small)
    return found


@dataclass(frozen=True)
class ClassifiedSequence(Prediction):
    """A text, or a pair of texts, with its labels.

    Attributes:
        labels: The best labels, the best first.
    """

    labels: tuple[Label, ...]

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "framework": self.framework,
            "class": "sequence-classification",
            "text": self.text,
            "labels": [label.__dict__ for label in self.labels],
        }


class SequenceClassification(Task[ClassifiedSequence]):
    """Label a text, or a pair of texts with a tab between them.

    Args:
        tokenizer: The checkpoint's.
        config: The checkpoint's.
        top_k: Labels that are shown.
    """

    request = "scores"
    form = "Write one text a line, or a pair of texts with a tab between them."

    def __init__(self, tokenizer: Tokenizer, config: RoFormerConfig, top_k: int) -> None:
        super().__init__(tokenizer)
        self.labels, self.top_k = Labels(config), top_k

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn a text or a pair into tokens."""
        fields = text.split("\t")
        if len(fields) > 2:
            return [], [f"{len(fields)} texts with tabs between them; wanted one or two"]
        return [self.tokenizer.encode(*fields)], []

    def result(self, framework: str, item: Item, answers: list[Any]) -> ClassifiedSequence:
        """Name what the classifier gave."""
        labels = self.labels.best(answers[0], self.top_k)
        line = said(framework, ", ".join(label.shown for label in labels))
        return ClassifiedSequence(framework, item.number, item.text, line, labels)


@dataclass(frozen=True)
class LabelledToken:
    """A token, where it is in its text in characters, and its best label."""

    token: str
    start: int
    end: int
    label: Label

    def as_dict(self) -> dict[str, Any]:
        """The token as plain data."""
        return {"token": self.token, "start": self.start, "end": self.end, **self.label.__dict__}


@dataclass(frozen=True)
class LabelledTokens(Prediction):
    """A text with a label for each token.

    Attributes:
        tokens: Those of the text, without [CLS] and [SEP].
    """

    tokens: tuple[LabelledToken, ...]

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "framework": self.framework,
            "class": "token-classification",
            "text": self.text,
            "tokens": [token.as_dict() for token in self.tokens],
        }


class TokenClassification(Task[LabelledTokens]):
    """Label each token of a text.

    Args:
        tokenizer: The checkpoint's.
        config: The checkpoint's.
    """

    request = "scores"
    form = "Write one text a line."

    def __init__(self, tokenizer: Tokenizer, config: RoFormerConfig) -> None:
        super().__init__(tokenizer)
        self.labels = Labels(config)

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn a text into tokens."""
        encoding = self.tokenizer.encode(text)
        return [encoding], []

    def result(self, framework: str, item: Item, answers: list[Any]) -> LabelledTokens:
        """Put the best label beside each token, between [CLS] at the front and [SEP] at the end."""
        (encoding,), (scores,) = item.encodings, answers
        tokens = tuple(
            LabelledToken(token, start, end, max(self.labels.all(each), key=lambda label: label.logit))
            for token, (start, end), each in list(zip(encoding.tokens, encoding.offsets, scores, strict=True))[1:-1]
        )
        line = said(framework, " ".join(f"{item.text[one.start : one.end]}/{one.label.label}" for one in tokens))
        return LabelledTokens(framework, item.number, item.text, line, tokens)
