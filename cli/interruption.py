"""Ctrl-C while a command is still being imported: one line and status 130, as later. Itself it imports next to nothing.

``with Interruptible(): import …`` stands around what a command's own module needs.
"""

from __future__ import annotations

import os

#: What a shell reports for a command that SIGINT ended.
STATUS = 130


class Interruptible:
    """A block in which an interruption ends the process with one line and :data:`STATUS`."""

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Turn a KeyboardInterrupt into the exit."""
        if kind is KeyboardInterrupt:
            os.write(2, b"\nstopped; nothing was written\n")  # the terminal has shown ^C
            raise SystemExit(STATUS) from None
