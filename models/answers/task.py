"""A task: what a class of model does with a text. It sends the model rows of tokens, and makes answers of the numbers.

:func:`run` takes texts through a task with the models of several frameworks. The tasks are :mod:`.fill_mask` and those
that :mod:`.predict` knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from ..config import RoFormerConfig
from ..processes.frameworks import FRAMEWORKS
from ..text.text_windows import Item, read_window
from ..text.tokenizer import Encoding, Tokenizer
from .framework_processes import Groups, Row, ask, loaded


@dataclass(frozen=True)
class Prediction(ABC):
    """What one framework makes of one text.

    Attributes:
        framework: ``paddle``, ``torch`` or ``tf``.
        number: Of the text, from 1.
        text: As it was given.
        line: The answer as a person reads it, the framework's name before it.
    """

    framework: str
    number: int
    text: str
    line: str

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""


def said(framework: str, words: str) -> str:
    """Put a framework's name before its answer, as the model card does: ``pytorch: 今天``."""
    return f"{FRAMEWORKS[framework].label}: {words}"


Result = TypeVar("Result", bound=Prediction)
#: For each framework the rows of each text → for each framework, text and row what the model answers.
Ask = Callable[[Sequence[Groups]], list[list[list[Any]]]]


class Task(ABC, Generic[Result]):
    """What a class of model does with a text.

    Attributes:
        request: What :class:`~.worker.Worker` is asked for.
        form: How a text is to be written.
        together: Whether a text's rows must be computed in one batch.
        tokenizer: The checkpoint's.
    """

    request: str
    form: str
    together = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def options(self) -> dict[str, Any]:
        """The rest of the request."""
        return {"pad_id": self.tokenizer.pad_id}

    @abstractmethod
    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn a text into tokens, and say what is wrong with it."""

    def row(self, encoding: Encoding) -> Row:
        """What the model is given of one encoding."""
        return Row(encoding.ids, encoding.token_type_ids)

    @abstractmethod
    def result(self, framework: str, item: Item, answers: list[Any]) -> Result:
        """Make a result of what the model answered for each row of a text."""

    def results(self, frameworks: Sequence[str], items: Sequence[Item], ask: Ask) -> Iterator[Result]:
        """Have texts answered: for each, in order, one result a framework."""
        groups = [[self.row(encoding) for encoding in item.encodings] for item in items]
        answers = ask([groups] * len(frameworks))
        for item, each in zip(items, zip(*answers, strict=True), strict=True):
            for framework, answer in zip(frameworks, each, strict=True):
                yield self.result(framework, item, answer)


def run(
    task: Task[Result],
    texts: Iterable[str],
    frameworks: Sequence[str],
    load: Mapping[str, Any],
    limits: RoFormerConfig,
    report: Callable[[str], None],
    note: Callable[[str], None],
) -> Iterator[Result]:
    """Take texts through a task: for each text, in order, one result a framework.

    Texts are taken 64 at a time, so that memory does not grow with their number.

    Args:
        task: What is done with them.
        texts: The texts.
        frameworks: Names from :data:`~..processes.frameworks.FRAMEWORKS`; each runs in a process of its own, side by
        side.
        load: What :meth:`~.worker.Worker.load` takes.
        limits: The configuration, whose longest sequence and vocabulary no text may pass.
        report: Called with a line on what happens, for ``--verbose``.
        note: Called with a line on a batch that did not fit in memory.

    Raises:
        ConvertError: A text cannot be used, or a framework's process failed.
    """
    numbered = enumerate(texts, 1)
    window = read_window(numbered, task.read, limits, task.form)  # before any process: a mistake here costs no wait
    if not window:
        return
    with loaded(frameworks, load, report) as processes:
        asked = partial(ask, processes, task.request, options=task.options, together=task.together, note=note)
        while window:
            yield from task.results(frameworks, window, asked)
            window = read_window(numbered, task.read, limits, task.form)
