"""Make an output directory appear whole or not at all.

Everything is written into a temporary directory beside the target and renamed at the end; with ``force`` an existing
directory is exchanged for the new one in one step where the system can. A process that is killed leaves at most a
directory named ``.NAME.partial-…``, which the next run to the same target removes (a lock tells it from one in use).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .containers.registry import all_containers
from .dialects import COMPANIONS, DIALECT_FILES
from .errors import ConvertError

#: Lies in every directory that ``export`` makes, and lists its entries.
EXPORT_MANIFEST = "export.json"

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
    """Whether a conversion writes files of this name."""
    if name in COMPANIONS or any(name in configs for configs in _CONFIGS):
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

    Args:
        target: Where it shall appear.
        source: What is read: the target must not be it, lie inside it, or hold it.
        force: Replace what is there.
        replaces: What that may be.

    Raises:
        ConvertError: The target exists, cannot be written, or is not ours to replace.
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
        self.partial: Path | None = None
        self._lock: int | None = None
        check_target(self.target, source=source, files=files, force=force, replaces=replaces)

    def __enter__(self) -> OutputDirectory:
        _restore_set_aside(self.target)
        _remove_abandoned(self.target)
        try:
            self._make()
        except BaseException:  # a signal, at any moment of it: nobody else would remove what was made
            self.__exit__(None, None, None)
            raise
        return self

    def _make(self) -> None:
        """Make the directory to write into, and lock it."""
        while True:
            path = _beside(self.target, "partial")
            self.partial = path
            try:
                path.mkdir()
            except OSError as error:
                self.partial = None
                where = self.target.parent
                raise ConvertError(f"{where}: cannot make {path.name} here: {error.strerror}") from None
            self._lock = _lock_directory(path)
            if path.exists():
                return
            # another run took it for abandoned before the lock was held
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @property
    def path(self) -> Path:
        """Where to write until the commit."""
        assert self.partial is not None, "the directory is made on entering the context"
        return self.partial

    def commit(self, *, fsync: bool = False) -> None:
        """Give the directory its name.

        Args:
            fsync: Force the directory's entries to disk before and after.
        """
        if fsync:
            _fsync_directory(self.path)
        replaced: Path | None = None
        try:
            if self.target.exists():
                check_target(self.target, source=None, force=self.force, replaces=self.replaces)
                replaced = _replace(self.path, self.target)
            else:
                os.rename(self.path, self.target)
        except OSError as error:
            raise ConvertError(f"{self.target}: cannot be put in place: {error.strerror or error}") from None
        self.partial = None
        if fsync:
            _fsync_directory(self.target.parent)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.partial is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


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
        ConvertError: As the message says.
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
    parent = target.parent
    if not parent.is_dir():
        raise ConvertError(f"{parent}: no such directory", f"Make it first: mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConvertError(f"{parent}: no permission to write here", "Name another output with -o.")
    if not target.exists():
        return
    if not force:
        raise ConvertError(f"{target} already exists", "Name another output with -o, or replace it with --force.")
    foreign = replaces.foreign(target)
    if foreign:
        raise ConvertError(
            f"{target} is not replaced: {foreign}",
            f"--force replaces {replaces.noun} and nothing else. Remove it yourself, or name another with -o.",
        )


def check_room(target: Path, nbytes: int) -> None:
    """Refuse to start where the disk has not room for ``nbytes``.

    Raises:
        ConvertError: Too little room.
    """
    free = shutil.disk_usage(target.parent).free
    if nbytes > free:
        raise ConvertError(
            f"{target.parent}: the result needs {nbytes:,} bytes and the disk has {free:,} free",
            "Make room, or name another disk with -o.",
        )


def _lock_directory(path: Path) -> int | None:
    """Hold a lock on the directory itself, which ends with the process; None where the system has none."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a network file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _beside(target: Path, word: str) -> Path:
    """A name beside ``target`` for a directory that is not (or no longer) it."""
    return target.with_name(f".{_stem(target)}.{word}-{os.urandom(6).hex()}")


def _stem(target: Path) -> str:
    """The target's name, or what stands for a long one: a name has at most 255 bytes."""
    name = target.name
    return name if len(os.fsencode(name)) <= 200 else f"{zlib.crc32(os.fsencode(name)):08x}"


def _restore_set_aside(target: Path) -> None:
    """Undo a replacement that was killed between its two renames, or clear up after one killed later."""
    for path in target.parent.glob(f".{_escape(_stem(target))}.old-*"):
        with contextlib.suppress(OSError):
            if target.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rename(path, target)


def _remove_abandoned(target: Path) -> None:
    """Remove what killed runs to the same target left: directories whose lock nobody holds."""
    if sys.platform == "win32":
        return
    import fcntl

    for path in target.parent.glob(f".{_escape(_stem(target))}.partial-*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _replace(new: Path, target: Path) -> Path:
    """Put ``new`` where ``target`` is; return where the old one went."""
    if _exchange(new, target):
        return new
    # No exchange here: for an instant the old state is under this name alone, from where the next run brings it back.
    aside = _beside(target, "old")
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(aside, target)
        raise
    return aside


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
