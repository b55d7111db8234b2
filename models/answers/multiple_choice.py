"""What multiple choice does: each option of a question is scored beside it, and the best is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...converters.errors import quoted
from ..text.text_windows import Item
from ..text.tokenizer import Encoding
from .ranking import softmax
from .task import Prediction, Task, said


@dataclass(frozen=True)
class Option:
    """An option of a question: as it was given, its score, and the softmax over the question's options."""

    option: str
    logit: float
    probability: float


@dataclass(frozen=True)
class Chosen(Prediction):
    """A question with the option that is chosen.

    Attributes:
        question: As it was given.
        options: In the order in which they were given.
        best: Index of the one that is chosen, of equals the first.
    """

    question: str
    options: tuple[Option, ...]
    best: int

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "framework": self.framework,
            "class": "multiple-choice",
            "text": self.text,
            "question": self.question,
            "options": [option.__dict__ for option in self.options],
            "chosen": self.best,
        }


class MultipleChoice(Task[Chosen]):
    """Choose among the options of a question: the question, a tab, the options with tabs between them."""

    request = "choices"
    form = "Write on one line the question, a tab, and two options or more with tabs between them."
    together = True

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn a question into one pair of question and option for each of its options."""
        question, *options = text.split("\t")
        if len(options) < 2:
            return [], [f"{len(options)} option{'s' * (len(options) != 1)} in {quoted(text, 40)}; wanted 2 or more"]
        return [self.tokenizer.encode(question, option) for option in options], []

    def result(self, framework: str, item: Item, answers: list[Any]) -> Chosen:
        """Compare what the options got."""
        question, *texts = item.text.split("\t")
        scores = np.asarray(answers, np.float64)
        options = tuple(map(Option, texts, answers, softmax(scores).tolist()))
        best = int(scores.argmax())
        line = said(framework, f"{options[best].option} {options[best].probability:.4f}")
        return Chosen(framework, item.number, item.text, line, question, options, best)
