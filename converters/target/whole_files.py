"""Files that appear whole or not at all: written under another name, locked meanwhile, renamed at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import ConvertError


def partial_path(path: Path) -> Path:
    """Name a file beside ``path`` that is written and then renamed to it."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")


def lock(file: IO[bytes]) -> bool:
    """Hold a lock on a file until it is closed, the process's death included; tell whether nobody else holds one."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove a file that is open
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return True
    return True


def remove_abandoned(directory: Path) -> None:
    """Remove what killed runs left behind; what a running one is writing stays."""
    for path in directory.glob(".*.part"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if lock(file):
                path.unlink()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write into that has its name when the block ends, and leaves nothing behind where that fails.

    Raises:
        OSError: It cannot be written.
    """
    partial = partial_path(path)
    try:
        with open(partial, "xb") as file:
            lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        ConvertError: It cannot be written.
    """
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ConvertError(
            f"{path}: cannot be written: {error.strerror or error}", "Name a file that can be written."
        ) from None
