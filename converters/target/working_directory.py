"""The directory beside a target in which one run at a time makes what shall get the target's name.

It is called ``.NAME.partial-roformer_convert``. Making it is atomic, so that of several runs to one target one has it
and the others report it. In it lies the file :data:`MADE_BY`, on which its run holds a lock that ends with the process:
what has this name and this file and is not locked was left by a killed run, and the next run puts it right. Nothing
else beside a target is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import zlib
from pathlib import Path

from ..errors import ConvertError

#: Lies in every working directory, as the proof that it is one.
MADE_BY = "made-by-roformer-convert"
_ANOTHER = "name another output with -o"


class WorkingDirectory:
    """A target's working directory.

    Attributes:
        path: The directory.
        new: What is being made; after a replacement in one step, what was replaced.
        old: What was replaced, where the system cannot replace in one step.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{_stem(target)}.partial-roformer_convert")
        self.new = self.path / "new"
        self.old = self.path / "old"
        self._lock: int | None = None

    def take(self) -> None:
        """Make the directory, with an empty one in it for what is new; call :meth:`leave` in any case.

        Raises:
            ConvertError: Another run has it, something else has its name, or it cannot be made.
        """
        try:
            while self._lock is None:
                try:
                    os.mkdir(self.path)
                except FileExistsError:
                    self._put_right_abandoned()
                else:
                    self._sign()
            os.mkdir(self.new)
        except OSError as error:
            raise ConvertError(
                f"{self.target}: cannot be made: {error.strerror or error}", "Name another output."
            ) from None

    def leave(self) -> None:
        """Remove the directory and what is in it, but for an old state that has lost its name: that gets it back."""
        with contextlib.suppress(OSError, ConvertError):
            if self._lock is None:  # stopped while it was made; perhaps it is another run's
                self._put_right_abandoned()
            else:
                self._put_right()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _sign(self) -> None:
        """Put the proof into a fresh directory and lock it; nothing where another run was at it in the same moment."""
        try:
            lock = os.open(self.path / MADE_BY, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except (FileNotFoundError, FileExistsError):  # removed as empty, and perhaps made again and signed
            return
        try:
            _locked(lock, wait=True)  # whoever holds it takes it for abandoned, and is about to remove it
            if self._is_mine(lock):
                self._lock = lock
        finally:
            if self._lock is None:
                os.close(lock)

    def _is_mine(self, lock: int) -> bool:
        """Say whether an open proof is still the one in the directory."""
        try:
            return os.path.samestat(os.fstat(lock), os.lstat(self.path / MADE_BY))
        except FileNotFoundError:
            return False

    def _put_right_abandoned(self) -> None:
        """Put right what a killed run left; nothing where it has gone meanwhile.

        Raises:
            ConvertError: It is in use, or may be, or it is not proven to be a working directory.
        """
        try:
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                raise self._in_the_way()
            lock = os.open(self.path / MADE_BY, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)  # killed before it was signed: an empty directory, or this fails
            self._require_signed()
            return
        except OSError:
            raise self._in_the_way() from None
        try:
            locked = _locked(lock, wait=False)
            if locked is None:
                raise ConvertError(
                    f"{self.path} exists, and nothing shows whether a run is still writing {self.target.name}",
                    f"If none is, remove that directory; otherwise wait, or {_ANOTHER}.",
                )
            if not locked:
                raise ConvertError(
                    f"{self.target}: another run is writing it; wait until it has finished, or {_ANOTHER}"
                )
            if self._is_mine(lock):
                self._put_right()
        finally:
            os.close(lock)

    def _require_signed(self) -> None:
        """Refuse a directory that has other contents than a proof; one that is empty or gone is being made or removed.

        Raises:
            ConvertError: It is not a working directory.
        """
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.path)
            if names and MADE_BY not in names:
                raise self._in_the_way()

    def _put_right(self) -> None:
        """Give an old state its name back where a replacement was not finished, and remove the rest; under the lock.

        Raises:
            ConvertError: Something else is in the directory, or something else has the old state's name.
            OSError: It cannot be removed.
        """
        if not {*os.listdir(self.path)} <= {MADE_BY, self.new.name, self.old.name}:
            raise self._in_the_way()
        if self.new.exists() and self.old.exists():
            if os.path.lexists(self.target):
                raise ConvertError(
                    f"a run that was to replace {self.old} was killed, and {self.target} exists again",
                    "Move one of the two away.",
                )
            os.rename(self.old, self.target)
        for inner in (self.new, self.old):
            if inner.exists():
                shutil.rmtree(inner)
        os.unlink(self.path / MADE_BY)  # the last: what is in the directory without it is nobody's to remove
        with contextlib.suppress(OSError):  # the next run may be as quick
            os.rmdir(self.path)

    def _in_the_way(self) -> ConvertError:
        return ConvertError(f"{self.path} is in the way: no run made it", f"Move it away, or {_ANOTHER}.")


def _stem(target: Path) -> str:
    """Return the target's name, or what stands for a long one: a name has at most 255 bytes."""
    name = target.name
    return name if len(os.fsencode(name)) <= 200 else f"{zlib.crc32(os.fsencode(name)):08x}"


def _locked(descriptor: int, *, wait: bool) -> bool | None:
    """Lock an open file until it is closed; False where another holds the lock, None where there are no locks here."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a network file system without them
        return None
    return True
