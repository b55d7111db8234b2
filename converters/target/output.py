"""Make an output directory appear whole or not at all.

Everything is written into a working directory beside the target (:mod:`.working_directory`) and renamed at the end;
with ``force`` an existing directory is exchanged for the new one in one step where the system can. A process that is
killed leaves at most that working directory, which the next run to the same target removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..containers.registry import all_containers
from ..errors import ConvertError
from ..table.dialects import COMPANIONS, DIALECT_FILES, OPTIMIZER_FILES
from .whole_files import make_parents, there_above
from .working_directory import WorkingDirectory

#: Lies in every directory that ``export`` makes, and lists its entries.
EXPORT_MANIFEST = "export.json"
#: Lies in every directory that ``convert`` makes, and says how.
CONVERSION_RECORD = "conversion.json"

_CONFIGS = [files.configs for files in DIALECT_FILES.values()]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2


@dataclass(frozen=True)
class Replaceable:
    """What ``force`` may replace: nothing that this program would not have written.

    Attributes:
        noun: For messages.
        foreign: Says why a directory is not one, or nothing where it is.
    """

    noun: str
    foreign: Callable[[Path], str]


def _is_ours(name: str) -> bool:
    """Say whether a conversion writes files of this name."""
    if name in (*COMPANIONS, *OPTIMIZER_FILES, CONVERSION_RECORD) or any(name in configs for configs in _CONFIGS):
        return True
    return any(container.writes(name) for container in all_containers())


def _foreign_to_checkpoints(target: Path) -> str:
    """Say why ``target`` does not look like a checkpoint directory, or nothing where it does."""
    if not target.is_dir():
        return "it is a file"
    entries = list(os.scandir(target))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            return f"it holds a directory ({entry.name})"
        if not _is_ours(entry.name):
            return f"it holds {entry.name}, which no conversion writes"
    if entries and not any(entry.name in names for names in _CONFIGS for entry in entries):
        return "it holds no configuration of a checkpoint"
    return ""


CHECKPOINT = Replaceable("a checkpoint directory", _foreign_to_checkpoints)


class OutputDirectory:
    """A directory under construction; a context manager that removes it unless :meth:`commit` was called.

    An ``OSError`` inside it, such as that of a full disk, becomes a ``ConvertError`` that names the target: the working
    directory's name would mean nothing to a user.

    Args:
        target: Where it shall appear: missing directories above it are made, and an empty one of its name is taken.
        source: What is read: the target must not be it, lie inside it, or hold it.
        files: What else is read: the target must not hold it.
        force: Replace what is there.
        replaces: What that may be.

    Raises:
        ConvertError: The target exists, cannot be written, is not ours to replace, or another run is writing it.
    """

    def __init__(
        self,
        target: Path,
        *,
        source: Path | None = None,
        files: Sequence[Path] = (),
        force: bool = False,
        replaces: Replaceable = CHECKPOINT,
    ) -> None:
        self.target = Path(os.path.realpath(target))
        self.force = force
        self.replaces = replaces
        self._working = WorkingDirectory(self.target)
        self._made: list[Path] = []
        check_target(self.target, source=source, files=files, force=force, replaces=replaces)

    def __enter__(self) -> OutputDirectory:
        try:
            self._made = make_parents(self.target)
            self._working.take()
            # a run that had it until now may have made the target
            check_target(self.target, source=None, force=self.force, replaces=self.replaces)
        except BaseException:  # a signal, at any moment of it: nobody else would remove what was made
            self._leave()
            raise
        return self

    @property
    def path(self) -> Path:
        """Where to write until the commit."""
        return self._working.new

    def commit(self, *, fsync: bool = False) -> None:
        """Give the directory its name.

        Args:
            fsync: Force the directory's entries to disk before and after.

        Raises:
            ConvertError: Something that is not to be replaced has the name by now, or the system refuses.
        """
        if fsync:
            _fsync_directory(self.path)
        check_target(self.target, source=None, force=self.force, replaces=self.replaces)
        try:
            if self.target.exists() and not _is_empty(self.target):
                _replace(self.path, self.target, self._working.old)
            else:
                if sys.platform == "win32" and self.target.exists():  # elsewhere a name moves over an empty directory
                    os.rmdir(self.target)
                os.rename(self.path, self.target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # made in this very moment
                raise _already_there(self.target) from None
            raise ConvertError(
                f"{self.target}: cannot be put in place: {error.strerror or error}", "Name another output."
            ) from None
        if fsync:
            _fsync_directory(self.target.parent)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._leave()
        # a directory within this one has made its own error of it
        cause = error.__cause__ if isinstance(error, ConvertError) else error
        if isinstance(cause, OSError) and not isinstance(cause, BrokenPipeError):  # a pipe is not the disk
            raise self._not_written(cause) from cause

    def _leave(self) -> None:
        self._working.leave()
        for parent in reversed(self._made):  # one that holds something, such as the result, stays
            with contextlib.suppress(OSError):
                parent.rmdir()

    def _not_written(self, error: OSError) -> ConvertError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        step = "Make room, or name another disk with -o." if full else "Name another directory with -o."
        return ConvertError(f"{self.target}: cannot be written: {error.strerror or error}", step)


def check_target(
    target: Path,
    *,
    source: Path | None,
    files: Sequence[Path] = (),
    force: bool,
    replaces: Replaceable = CHECKPOINT,
) -> None:
    """Refuse a target that cannot or must not be written, before a byte moves.

    Args:
        target: The directory to make, resolved.
        source: The directory that is read.
        files: Each file that is read: links may lead from the source into the target.
        force: Whether an existing target may be replaced.
        replaces: What that may be.

    Raises:
        ConvertError: The output cannot be made or replaced, and the message says why.
    """
    if source is not None:
        read = Path(os.path.realpath(source))
        if target == read:
            raise ConvertError(f"{target}: the output is the source", "Name another output with -o.")
        if read in target.parents:
            raise ConvertError(f"{target}: the output lies inside the source {read}", "Name another output with -o.")
        if target in read.parents:
            raise ConvertError(f"{target}: the output holds the source {read}", "Name another output with -o.")
    for file in files:
        if target in Path(os.path.realpath(file)).parents:
            raise ConvertError(f"{target}: the output holds {file.name} of the source", "Name another output with -o.")
    parent = there_above(target)
    if not parent.is_dir():
        raise ConvertError(f"{parent}: it is a file, not a directory to write in", "Name another output with -o.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConvertError(f"{parent}: no permission to write here", "Name another output with -o.")
    if not target.exists() or _is_empty(target):
        return
    if not force:
        raise _already_there(target)
    try:
        foreign = replaces.foreign(target)
    except FileNotFoundError:  # gone since, or just being replaced
        return
    if foreign:
        raise ConvertError(
            f"{target} is not replaced: {foreign}",
            f"--force replaces {replaces.noun} and nothing else. Remove it yourself, or name another with -o.",
        )


def _is_empty(target: Path) -> bool:
    """Say whether ``target`` is a directory with nothing in it, as people make one for an output."""
    try:
        return target.is_dir() and not os.listdir(target)
    except OSError:
        return False


def _already_there(target: Path) -> ConvertError:
    return ConvertError(f"{target} already exists", "Name another output with -o, or replace it with --force.")


def check_room(target: Path, nbytes: int) -> None:
    """Refuse to start where the disk has not room for ``nbytes``.

    Raises:
        ConvertError: Too little room.
    """
    free = shutil.disk_usage(there_above(target)).free
    if nbytes > free:
        raise ConvertError(
            f"{target}: it needs {nbytes:,} bytes and the disk has {free:,} free",
            "Make room, or name another disk with -o.",
        )


def _replace(new: Path, target: Path, aside: Path) -> None:
    """Put ``new`` where ``target`` is; that goes where ``new`` was, or to ``aside``."""
    if _exchange(new, target):
        return
    # No exchange here: for an instant the old state is under this name alone, from where the next run brings it back.
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(aside, target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step (Linux, macOS); False where the system or the disk cannot."""
    import ctypes

    try:
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):  # Windows has no library of that name
        return False
    first, second = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        return bool(library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0)
    if hasattr(library, "renamex_np"):
        return bool(library.renamex_np(first, second, _RENAME_SWAP) == 0)
    return False


def _fsync_directory(path: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
