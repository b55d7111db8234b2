"""Texts as a model takes them: read a window at a time, as tokens, and all that is wrong with them said at once.

What a text must hold depends on the task (:mod:`..answers.task`), which turns each into its encodings here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...converters.errors import ConvertError
from ..config import RoFormerConfig
from .tokenizer import Encoding, half_pair

_WINDOW = 64  # texts that are read before the first is answered
_MOST_CHARACTERS = 1 << 20
_SHOWN_PROBLEMS = 20

#: A text to its encodings and to what is wrong with it.
Read = Callable[[str], tuple[list[Encoding], list[str]]]


@dataclass(frozen=True)
class Item:
    """A text on its way through a model.

    Attributes:
        number: Number of the text, from 1.
        text: The text as it was given.
        encodings: What of it the model sees: one sequence, or several for a task that compares them.
    """

    number: int
    text: str
    encodings: tuple[Encoding, ...]


class TextsError(ConvertError):
    """Texts that cannot be used.

    Args:
        problems: Number of a text, from 1, and what is wrong with it.
        next_step: What the person can do about it.
    """

    def __init__(self, problems: Sequence[tuple[int, str]], next_step: str) -> None:
        shown = [f"  text {number}: {problem}" for number, problem in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            shown.append(f"  and {len(problems) - _SHOWN_PROBLEMS} more")
        count = "a text" if len(problems) == 1 else f"{len(problems)} texts"
        super().__init__("\n".join([f"{count} cannot be used", *shown]), next_step)
        self.problems = tuple(problems)


def read_window(numbered: Iterator[tuple[int, str]], read: Read, limits: RoFormerConfig, form: str) -> list[Item]:
    """Turn the next texts into tokens, and report all that is wrong with them at once; nothing where there are none.

    Args:
        numbered: Texts with their numbers, from 1.
        read: Turns a text into tokens.
        limits: The configuration, whose longest sequence and vocabulary no text may pass.
        form: How a text is to be written, for a person whose text is not.

    Raises:
        TextsError: Some cannot be used.
    """
    window: list[Item] = []
    problems: list[tuple[int, str]] = []
    longest = 0
    for number, text in itertools.islice(numbered, _WINDOW):
        if len(text) > _MOST_CHARACTERS:
            problems.append((number, f"{len(text):,} characters; wanted at most {_MOST_CHARACTERS:,}"))
            continue
        wrong = half_pair(text)
        if wrong:
            problems.append((number, wrong))
            continue
        encodings, found = read(text)
        problems.extend((number, problem) for problem in found)
        length = max((len(one.ids) for one in encodings), default=0)
        if length > limits.max_position_embeddings:
            longest = max(longest, length)
            limit = f"the limit is {limits.max_position_embeddings:,} (max_position_embeddings)"
            problems.append((number, f"{length:,} tokens; {limit}"))
        highest = max((max(one.ids) for one in encodings), default=0)
        if highest >= limits.vocab_size:
            rows = f"the embedding's {limits.vocab_size:,} rows (vocab_size)"
            problems.append((number, f"the token {highest} is past {rows}"))
        window.append(Item(number, text, tuple(encodings)))
    if problems:
        raise TextsError(
            problems, f"Shorten the text, or raise the limit: --max-length {longest}." if longest else form
        )
    return window
