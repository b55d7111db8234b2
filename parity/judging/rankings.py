"""What a model would answer, best first: words at masks or next ones, labels, the ends of an answer, options.

Ranked from float32 scores in every participant and held against the first one's float64 scores. Two answers whose
scores are nearer than float32's bound lets the two move may change places: that is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...converters.table.config import RoFormerConfig
from ...models.text.tokenizer import Tokenizer
from ..participants.dumps import Dump, digits_of, last_digits
from ..questions.cases import Case
from ..questions.tasks import Task

Array = NDArray[Any]

_MOST_TOKENS = 64  # of a case whose labels are ranked, evenly spread


@dataclass(frozen=True)
class Ranking:
    """The best answers to one question.

    Attributes:
        case: Name of the case.
        row: Its row, of those that ``Case.texts`` has.
        place: What is asked there, e.g. ``token 5`` or ``start``.
        answers: Label of a participant → ids of its best answers, best first, from its float32 scores.
        gaps: Between each of the best answers and the next, in the first participant's float64 scores.
        ties: What each gap must be larger than; one that is not is a tie.
        agree: Whether all name the same, in order, but for ties.
    """

    case: str
    row: int
    place: str
    answers: dict[str, tuple[int, ...]]
    gaps: tuple[float, ...]
    ties: tuple[float, ...]
    agree: bool


class _Question(NamedTuple):
    row: int
    place: str


def asked(task: Task) -> str:
    """Say what is ranked, in the plural."""
    if task.next_word:
        return "next words"
    return {"labels": "labels", "token labels": "token labels", "spans": "starts and ends", "options": "options"}.get(
        task.head or "", "words"
    )


def answer_name(number: int, task: Task, config: RoFormerConfig, tokenizer: Tokenizer | None) -> str:
    """Name an answer for a person."""
    if task.mlm:
        word = None if tokenizer is None else tokenizer.token(number)
        return str(number) if word is None else word
    if task.head in ("labels", "token labels"):
        return config.labels[number] if number < len(config.labels) else str(number)
    return f"token {number}" if task.head == "spans" else f"option {number}"


def rank(
    dumps: Sequence[Dump],
    cases: Sequence[Case],
    task: Task,
    bound: float,
    scale: Array | None,
    k: int,
    dtype: str = "float32",
    digits: float = digits_of(np.float32),
) -> list[Ranking]:
    """Rank the answers to every question of every case.

    Args:
        dumps: The participants.
        cases: What they ran.
        task: What the model's class computes.
        bound: How far scores of that type may differ, over their scale.
        scale: That of each word, label, end or option (C,); None for a class that scores nothing.
        k: Answers a question.
        dtype: The type whose scores are ranked.
        digits: What share of a score that is far from zero its last digits are in that type.
    """
    if scale is None:
        return []
    found = []
    name = "logits" if task.mlm else "classifier"
    for case in cases:
        if any(name not in dump.names(f"{dtype}.{case.name}") for dump in dumps):
            continue
        exact = dumps[0].read(f"float64.{case.name}", name)
        questions, scores = questions_of(exact, case, task)
        if not questions or scores.shape[1] < 2:
            continue
        single = {d.label: questions_of(d.read(f"{dtype}.{case.name}", name), case, task)[1] for d in dumps}
        moved = bound * scale + last_digits(exact, scale, digits)  # what one score may move by
        moves = questions_of(moved, case, task)[1]
        for place, question in enumerate(questions):
            ranked = {label: _ranked(rows[place].astype(np.float64), k) for label, rows in single.items()}
            order = _ranked(scores[place], scores.shape[1])
            gaps = -np.diff(scores[place][list(order)])
            either = moves[place][list(order)]
            ties = either[:-1] + either[1:]
            agree = all(_same_order(answers, order, gaps, ties) for answers in ranked.values())
            shown, needed = tuple(map(float, gaps[:k])), tuple(map(float, ties[:k]))
            found.append(Ranking(case.name, *question, ranked, shown, needed, agree))
    return found


def questions_of(scores: Array, case: Case, task: Task) -> tuple[list[_Question], Array]:
    """Say what is asked in a case, and lay out its scores as a row each."""
    width = case.input_ids.shape[-1]
    if task.mlm:
        rows = np.searchsorted(case.scored, np.array(case.ranked, np.int64))
        tokens = [_Question(token // width, f"token {token % width}") for token in case.ranked]
        return tokens, scores.reshape(-1, scores.shape[-1])[rows]
    if task.head == "token labels":
        real = np.arange(case.input_ids.size) if case.attention_mask is None else np.flatnonzero(case.attention_mask)
        chosen = np.unique(real[np.linspace(0, len(real) - 1, min(_MOST_TOKENS, len(real))).astype(np.int64)])
        tokens = [_Question(int(token) // width, f"token {token % width}") for token in chosen]
        return tokens, scores.reshape(-1, scores.shape[-1])[chosen]
    if task.head == "spans":
        ends = [_Question(row, end) for row in range(len(scores)) for end in ("start", "end")]
        return ends, np.moveaxis(scores, -1, 1).reshape(-1, width)
    if task.head == "options":
        return [_Question(row * scores.shape[1], "option") for row in range(len(scores))], scores
    return [_Question(row, "label") for row in range(len(scores))], scores


def _ranked(scores: Array, k: int) -> tuple[int, ...]:
    order = np.lexsort((np.arange(len(scores)), -scores))  # NaN sorts last, and is a failure of its own
    return tuple(int(answer) for answer in order[:k])


def _same_order(answers: Sequence[int], order: Sequence[int], gaps: Array, ties: Array) -> bool:
    """Say whether ``answers`` are the head of ``order`` but for some whose neighbours' gaps are ties."""
    start = 0
    while start < len(answers):
        end = start + 1
        while end < len(order) and not gaps[end - 1] > ties[end - 1]:
            end += 1
        group = set(order[start:end])
        if not set(answers[start : min(end, len(answers))]) <= group:
            return False
        start = end
    return True
