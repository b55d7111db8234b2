"""A bar in bytes on stderr; silent where nobody would see it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import click

#: Text is read at some megabytes a second, weights are moved at a gigabyte: what takes long enough for a bar.
TEXT_BYTES, WEIGHT_BYTES = 4 << 20, 64 << 20


class ByteBar:
    """A context manager whose :meth:`start` and :meth:`advance` are what the package's readers call.

    Args:
        label: Stands before the bar.
        quiet: Show none.
        least: Work of fewer bytes is over before a bar could be read, and shows none.
    """

    def __init__(self, label: str, quiet: bool, least: int) -> None:
        self._label = label
        self._quiet = quiet
        self._least = least
        self._stack = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> ByteBar:
        return self

    def start(self, nbytes: int) -> None:
        """Show the bar, which is full after ``nbytes``."""
        # stderr is None where the caller closed it
        if self._quiet or nbytes < self._least or sys.stderr is None or not sys.stderr.isatty():
            return
        bar = click.progressbar(length=nbytes, label=self._label, file=sys.stderr, show_pos=False)
        self._bar = self._stack.enter_context(bar)

    def advance(self, nbytes: int) -> None:
        """Move the bar on."""
        if self._bar is not None and nbytes:
            self._bar.update(nbytes)

    def close(self) -> None:
        """Leave the terminal to others."""
        self._stack.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
