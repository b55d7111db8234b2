"""Lines that the recording process writes between the lines of Paddle's own log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PREFIX = "@audit"
#: What follows belongs to a scenario, whose name follows the word.
SCENARIO = "scenario"
#: Python is about to call an operator: its name and where from.
CALL = "call"
#: A fast kernel would be called that no CPU has: an operator of it and its type.
STANDS_FOR = "stands-for"
#: Until the matching end kernels stand for those of a half type, which follows the word.
HALF = "half"
#: The operator within is halved because it is listed, so that Paddle has to say the same.
LISTED = "listed"
#: Until the matching end kernels are the recording's own.
ASIDE = "aside"
END = "end"


def mark(*words: str) -> None:
    """Write a line to where Paddle logs, unbuffered as it does."""
    os.write(2, (" ".join((PREFIX, *words)) + "\n").encode())


@contextmanager
def between(*words: str) -> Iterator[None]:
    """Put a mark before and its end after."""
    mark(*words)
    try:
        yield
    finally:
        mark(END)
