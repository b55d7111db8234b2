"""What a command is doing, in one line at the bottom of a terminal; nothing where stderr is not one."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType


class StatusLine:
    """A context manager; the line is gone when it ends, and from :meth:`clear` on until something is shown again.

    Args:
        shown: Whether a terminal shows it.
    """

    def __init__(self, *, shown: bool) -> None:
        # stderr is None where the caller closed it
        self._shown = shown and sys.stderr is not None and sys.stderr.isatty()
        self._there = False
        self._began = time.monotonic()

    def __enter__(self) -> StatusLine:
        return self

    def show(self, text: str) -> None:
        """Say what begins now, after how many seconds."""
        if self._shown:
            line = f"{time.monotonic() - self._began:4.0f} s  {text}"
            self._print(line[: shutil.get_terminal_size().columns - 1])
            self._there = True

    def clear(self) -> None:
        """Take the line away, for others to print."""
        if self._there:
            self._print("")
            self._there = False

    def _print(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.clear()
