"""What question answering does: the spans of a context that answer a question.

The softmaxes of start and end run over the context and [CLS], which stands for "no answer"; the probability of a span
is that of its start times that of its end.

Source: ``QuestionAnsweringPipeline`` of transformers 4.57 (``select_starts_ends`` and ``decode_spans``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...converters.errors import quoted
from ..text.text_windows import Item
from ..text.tokenizer import Encoding, Tokenizer
from .ranking import ranked, softmax
from .task import Prediction, Task, said


@dataclass(frozen=True)
class Answer:
    """A span of the context: its text, where it is there in characters, and how probable it is."""

    answer: str
    start: int
    end: int
    probability: float


@dataclass(frozen=True)
class Answered(Prediction):
    """A question with its answers in a context.

    Attributes:
        question: As it was given.
        context: As it was given.
        answers: The best spans, the best first.
        no_answer: The probability that the context holds none.
    """

    question: str
    context: str
    answers: tuple[Answer, ...]
    no_answer: float

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "framework": self.framework,
            "class": "question-answering",
            "text": self.text,
            "question": self.question,
            "context": self.context,
            "answers": [answer.__dict__ for answer in self.answers],
            "no_answer": self.no_answer,
        }


class QuestionAnswering(Task[Answered]):
    """Find the answer to a question in a context: the question, a tab, the context.

    Args:
        tokenizer: The checkpoint's.
        top_k: Answers that are shown.
        longest: Most tokens of an answer.
    """

    request = "scores"
    form = "Write on one line the question, a tab, and the context that holds its answer."

    def __init__(self, tokenizer: Tokenizer, top_k: int, longest: int) -> None:
        super().__init__(tokenizer)
        self.top_k, self.longest = top_k, longest

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn question and context into one pair."""
        fields = text.split("\t")
        if len(fields) != 2:
            tabs = len(fields) - 1
            return [], [f"{tabs} tab{'s' * (tabs != 1)} in {quoted(text, 40)}; wanted 1"]
        encoding = self.tokenizer.encode(*fields)
        return [encoding], [] if _context(encoding) else [f"no token in the context {quoted(fields[1], 40)}"]

    def result(self, framework: str, item: Item, answers: list[Any]) -> Answered:
        """Find the best spans of what the model gave for start and end."""
        (encoding,), (scores,) = item.encodings, answers
        question, context = item.text.split("\t")
        spans, no_answer = best_spans(scores, _context(encoding), self.longest, self.top_k)
        found = []
        for first, last, probability in spans:
            start, end = encoding.offsets[first][0], encoding.offsets[last][1]
            found.append(Answer(context[start:end], start, end, probability))
        line = said(framework, f"{found[0].answer} {found[0].probability:.4f}")
        return Answered(framework, item.number, item.text, line, question, context, tuple(found), no_answer)


def _context(encoding: Encoding) -> range:
    """Columns of the second text's tokens: [CLS] question [SEP] context [SEP]."""
    return range(encoding.token_type_ids.index(1), len(encoding.ids) - 1)


def best_spans(
    scores: Sequence[Sequence[float]], inside: range, longest: int, k: int
) -> tuple[list[tuple[int, int, float]], float]:
    """Rank the spans that start no later than they end, within the context.

    Args:
        scores: (T, 2): of each token as start and as end.
        inside: Columns of the context.
        longest: Most tokens of a span.
        k: Spans wanted; fewer come back where there are fewer.

    Returns:
        First column, last column and probability of each, the most probable first, of equals the one that starts
        first and then the shorter; and the probability of no answer, which is [CLS] as start and as end.
    """
    allowed = np.array([0, *inside])
    start, end = softmax(np.asarray(scores, np.float64)[allowed].T)
    width, most = len(inside), min(longest, len(inside))
    chances = np.full((width, most), -1.0)
    for more in range(most):  # a span of more + 1 tokens
        chances[: width - more, more] = start[1 : 1 + width - more] * end[1 + more :]
    flat = chances.ravel()
    real = int((flat >= 0).sum())
    spans = [(inside[at // most], inside[at // most + at % most], float(flat[at])) for at in ranked(flat, min(k, real))]
    return spans, float(start[0] * end[0])
