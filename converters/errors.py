"""The one error base: what, where, got, wanted, next step.

Everything a user's input can get wrong is raised as a :class:`ConvertError`; the command prints it to stderr and exits
with status 2. A traceback from any other exception is a bug of ours. An error carries data and renders itself, so that
the library's callers can read the fields and the command and ``--json`` say the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

#: Directories that this program made → the one of a person's that each stands for.
_STANDINS: dict[str, str] = {}


def stand_for(made: Path, directory: Path) -> None:
    """Let errors from now on name a person's directory where they would name one that stands for it."""
    _STANDINS[printable(str(made))] = printable(str(directory))


def _as_called(what: str) -> str:
    for made, directory in _STANDINS.items():
        what = what.replace(made, directory)
    return what


class ConvertError(Exception):
    """Base of every error that a user's input can cause; ``str()`` is the message to show."""

    exit_status = 2

    def __init__(self, what: str, next_step: str | None = None) -> None:
        self.what = _as_called(what)
        super().__init__(self.what)
        self.next_step = next_step

    def __str__(self) -> str:
        return self.what if self.next_step is None else f"{self.what}\n  {self.next_step}"


class FormatError(ConvertError):
    """A file is not what its format says: truncated, inconsistent, hostile, or a flavour that is not supported.

    Args:
        path: The file.
        what: What is wrong, in the format's own terms, with what was got and what was wanted.
        offset: Byte offset in the file where the trouble was seen.
        next_step: What the person can do about it.
    """

    def __init__(self, path: Path | str, what: str, *, offset: int | None = None, next_step: str | None = None) -> None:
        where = printable(str(path)) if offset is None else f"{printable(str(path))} at byte {offset:,}"
        super().__init__(f"{where}: {what}", next_step)
        self.path = Path(path)
        self.problem = what
        self.offset = offset


@contextmanager
def reading(path: Path | str, next_step: str | None = None) -> Iterator[None]:
    """Make an ``OSError`` inside the error that says which file cannot be read.

    Raises:
        FormatError: It cannot.
    """
    try:
        yield
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}", next_step=next_step) from None


#: The next step for a file that lacks its end.
FETCH_AGAIN = "Fetch it again: a download or a copy of it was cut short."
#: The next step for a pipe or a device in a file's place.
PUT_FILE_ITSELF = "Put the file itself there: a pipe can be read only once, from its beginning to its end."


@dataclass(frozen=True)
class Problem:
    """One line of a :class:`MisfitError`: a word for its kind, a tensor's, field's or file's name, and got and want."""

    kind: str
    name: str
    detail: str = ""


class MisfitError(ConvertError):
    """Tensors, configuration and table do not fit together; every problem found is listed, layers folded.

    Args:
        where: File or directory.
        against: What it should have fitted (a model class, a dialect).
        problems: All of them; never empty.
        next_step: What to do about them.
    """

    def __init__(
        self, where: Path | str, against: str, problems: Iterable[Problem], next_step: str | None = None
    ) -> None:
        self.where = str(where)
        self.against = against
        self.problems = tuple(problems)
        super().__init__(self._render(), next_step)

    def say_nothing_written(self) -> None:
        """Say so where something was to be written."""
        self.what = _as_called(self._render(", nothing written"))

    def _render(self, outcome: str = "") -> str:
        folded = fold_layers(self.problems)
        count = len(self.problems)
        problems = f"{count} problem{'s' * (count != 1)}"
        lines = [f"{printable(self.where)} does not fit {self.against} ({problems}{outcome})"]
        kind_width = max(len(problem.kind) for problem, _ in folded)
        name_width = min(72, max(len(shown(problem.name)) for problem, _ in folded))
        for problem, times in folded[:MOST_LINES]:
            many = f"{times} tensors" if times > 1 else ""
            detail = "   ".join(part for part in (many, shown(problem.detail, 1000)) if part)
            lines.append(f"  {problem.kind:<{kind_width}}  {shown(problem.name):<{name_width}}   {detail}".rstrip())
        if len(folded) > MOST_LINES:
            lines.append(f"  … and {len(folded) - MOST_LINES:,} more lines")
        return "\n".join(lines)


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Have a misfit say that nothing is written: for what would have written something."""
    try:
        yield
    except MisfitError as error:
        error.say_nothing_written()
        raise


class OtherDialectError(ConvertError):
    """What was said to be of one dialect plainly is of another."""


class InexpressibleError(ConvertError):
    """What the source computes cannot be said to the target's software."""


#: A file may hold any number of unknown tensors; a screen does not.
MOST_LINES = 100


def printable(text: str) -> str:
    """Escape what could drive a terminal or forge a line: names in a message come out of strangers' files."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def printable_lines(text: str) -> str:
    """Do as :func:`printable` with each line of a text: with file names that an operating system lets through."""
    return "\n".join(map(printable, text.split("\n")))


def shown(text: str, limit: int = 200) -> str:
    """Return a stranger's name as a message may hold it: printable, and of a longer one its beginning and its end."""
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[-limit // 4 :]} ({len(text):,} characters)"
    return printable(text)


def quoted(value: object, limit: int = 80) -> str:
    """Quote what a stranger's file says, for a message: on one line, without control characters, and not endless.

    Args:
        value: A name or another value; bytes are shown as text where they are UTF-8.
        limit: Letters of a text, or of another value's representation, that are shown.
    """
    if isinstance(value, bytes):
        value = value[: limit + 1].decode(errors="backslashreplace")
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else f"{value[:limit]!r}…"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


#: More digits than any model has layers are part of a stranger's name, and Python refuses to read thousands of them.
_LAYER = re.compile(r"(layers?[._]+)([0-9]{1,6})(?=[./_]|$)")


def fold_key(name: str) -> str:
    """Return a name without its layer number: equal for names that fold into one."""
    match = _LAYER.search(name)
    return name if match is None else f"{name[: match.end(1)]}\0{name[match.end() :]}"


def fold_names(keyed: Sequence[tuple[Hashable, str]]) -> list[tuple[str, list[int]]]:
    """Fold names with equal keys that differ only in their layer number, ``layers.{0...11}.norm2.bias``.

    Returns each name, folded or as it is, and the places in ``keyed`` that it stands for, in the order of the first.
    """
    folds: dict[tuple[Hashable, str, int], list[int]] = {}
    numbers: list[int] = []
    for place, (key, name) in enumerate(keyed):
        match, template = _LAYER.search(name), fold_key(name)
        numbers.append(-1 if match is None else int(match.group(2)))
        folds.setdefault((key, template, place if match is None else -1), []).append(place)
    folded = []
    for (_, template, _), places in folds.items():
        layers = "{" + _ranges(sorted({numbers[place] for place in places})) + "}"
        folded.append((template.replace("\0", layers) if len(places) > 1 else keyed[places[0]][1], places))
    return folded


def fold_layers(problems: Iterable[Problem]) -> list[tuple[Problem, int]]:
    """Fold problems that differ only in their layer number into one: ``layers.{0...11}.norm2.bias``, and how many."""
    problems = list(problems)
    folded = fold_names([((problem.kind, problem.detail), problem.name) for problem in problems])
    return [(replace(problems[places[0]], name=name), len(places)) for name, places in folded]


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` → ``0...2,5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}...{run[-1]}" for run in runs)
