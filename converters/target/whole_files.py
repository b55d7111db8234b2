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


def there_above(path: Path) -> Path:
    """Return the nearest directory above ``path`` that is there; a file, where something else has its name."""
    return next(parent for parent in Path(os.path.abspath(path)).parents if os.path.lexists(parent))


def make_parents(path: Path) -> list[Path]:
    """Make the directories above ``path`` that are missing, and return those made, the outermost first.

    Raises:
        ConvertError: One cannot be made.
    """
    made: list[Path] = []
    for parent in reversed(Path(os.path.abspath(path)).parents):
        try:
            os.mkdir(parent)
        except FileExistsError:
            continue
        except OSError as error:
            if parent.is_dir():  # "read-only" is said of those above a writable one, too
                continue
            for each in reversed(made):
                with contextlib.suppress(OSError):
                    each.rmdir()
            raise ConvertError(f"{parent}: cannot be made: {error.strerror or error}", "Name another output.") from None
        made.append(parent)
    return made


def require_writable(path: Path) -> None:
    """Try, before long work, that a file can be written; nothing is left of the trial.

    Raises:
        ConvertError: It cannot, and the message says why.
    """
    step = "Name a file that can be written."
    if path.is_dir():
        raise ConvertError(f"{path}: cannot be written: it is a directory", step)
    if _is_device(path):
        return
    above = there_above(path)
    try:
        trial = partial_path(above / path.name)
        with open(trial, "xb"):
            trial.unlink()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written: {above}: {error.strerror or error}", step) from None


def _is_device(path: Path) -> bool:
    """Say whether ``path`` is a terminal, a pipe or another thing that is written to and never replaced."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file())


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
    """Write a file that appears whole or not at all; directories above it that are missing are made.

    Raises:
        ConvertError: It cannot be written.
    """
    make_parents(path)
    try:
        with open(path, "wb") if _is_device(path) else whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ConvertError(
            f"{path}: cannot be written: {error.strerror or error}", "Name a file that can be written."
        ) from None
