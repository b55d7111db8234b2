"""Models in processes of their own, one a framework, that answer for batches of rows.

Rows are sorted by length and sent in batches that bound the memory; what each process does with them is
:mod:`.worker`'s. Nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..processes.devices import ENVIRONMENT
from ..processes.frameworks import FRAMEWORKS
from ..processes.process import Process

_BATCH_TOKENS = 8192  # tokens of a batch, which bound its memory


@dataclass(frozen=True)
class Row:
    """A sequence for the model.

    Attributes:
        ids: T token ids.
        types: T token types.
        columns: Where in it words are ranked, for a request that ranks words.
    """

    ids: list[int]
    types: list[int]
    columns: Sequence[int] = ()


#: The rows of each text.
Groups = Sequence[Sequence[Row]]


@contextmanager
def loaded(
    frameworks: Sequence[str], load: Mapping[str, Any], report: Callable[[str], None]
) -> Iterator[list[Process]]:
    """Start a process for each framework, side by side, and have each load its model.

    Args:
        frameworks: Names from :data:`~..processes.frameworks.FRAMEWORKS`.
        load: What :meth:`~.worker.Worker.load` takes.
        report: Called with a line on what happens; with what they printed, at the end.

    Raises:
        ConvertError: A process died, or could not load.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Process(name, f"{__package__}.worker", [name], ENVIRONMENT)) for name in frameworks
        ]
        for process in processes:
            process.ask({"load": load})
        for process in processes:
            found = process.answer()
            report(
                f"{process.name}: {FRAMEWORKS[process.name].package} {found['version']}, imported in "
                f"{found['import_seconds']} s, loaded in {found['load_seconds']} s"
            )
            for note in found["notes"]:
                report(f"{process.name}: {note}")
        yield processes
        for process in processes:
            for line in process.words().splitlines():
                report(f"{process.name}: {line}")


def ask(
    processes: Sequence[Process],
    request: str,
    work: Sequence[Groups],
    options: Mapping[str, Any],
    *,
    together: bool,
    note: Callable[[str], None],
) -> list[list[list[Any]]]:
    """Have every process answer for its rows: process → text → row → answer.

    Args:
        processes: Those that loaded.
        request: What :class:`~.worker.Worker` is asked for.
        work: For each process, the rows of each text.
        options: The rest of the request.
        together: Whether the rows of a text make a batch of their own; otherwise batches hold rows of about one length.
        note: Called with a line on a batch that did not fit.
    """
    flat = [[row for group in groups for row in group] for groups in work]
    plans = [
        _by_text(groups) if together else _by_length([len(row.ids) for row in rows])
        for groups, rows in zip(work, flat, strict=True)
    ]
    answers: list[list[Any]] = [[None] * len(rows) for rows in flat]
    for number in range(max(map(len, plans), default=0)):
        busy = [i for i, plan in enumerate(plans) if number < len(plan)]
        for i in busy:
            processes[i].ask({request: {"rows": [flat[i][row].__dict__ for row in plans[i][number]], **options}})
        for i in busy:
            found = processes[i].answer()
            for line in found["notes"]:
                note(f"{processes[i].name}: {line}")
            for row, answer in zip(plans[i][number], found["rows"], strict=True):
                answers[i][row] = answer
    return [_regrouped(groups, each) for groups, each in zip(work, answers, strict=True)]


def _by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Cut rows, the longest first, into batches of about :data:`_BATCH_TOKENS` with their padding."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    batches = []
    while order:
        count = max(1, _BATCH_TOKENS // lengths[order[0]])
        batches.append(order[:count])
        order = order[count:]
    return batches


def _by_text(groups: Groups) -> list[list[int]]:
    """Make a batch of the rows of each text."""
    batches, first = [], 0
    for group in groups:
        batches.append(list(range(first, first + len(group))))
        first += len(group)
    return batches


def _regrouped(groups: Groups, answers: list[Any]) -> list[list[Any]]:
    """Lay the answers of rows as the rows lie in their texts."""
    return [[answers[row] for row in batch] for batch in _by_text(groups)]
