"""The directory of a run: one process at a time writes it, and nothing of another run in it is overwritten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ...converters.errors import ConvertError
from ...converters.target.whole_files import lock, make_parents
from ..reporting.metrics import METRICS
from ..step.state import checkpoints, newest_whole

#: Held while a process trains there; empty. It stays where a run was, for a file that is removed can be locked by two.
LOCK = ".lock"


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make the run's directory and hold it for this process, whose death, however it comes, gives it back.

    A directory made here goes again where the run fails before anything of it is written.

    Raises:
        ConvertError: Another process holds it, or it cannot be made.
    """
    made = make_parents(run / LOCK)
    try:
        file = open(run / LOCK, "ab")  # noqa: SIM115  # closed below
    except OSError as error:
        raise ConvertError(f"{run}: cannot be written: {error.strerror or error}", "Name another --output.") from None
    with file:
        if not lock(file):
            raise ConvertError(
                f"{run}: another process is training there", "Wait until it has ended, or name another --output."
            )
        try:
            yield
        except BaseException:
            if made and os.listdir(run) == [LOCK]:
                (run / LOCK).unlink()
                for each in reversed(made):
                    with contextlib.suppress(OSError):  # somebody else has put something there
                        each.rmdir()
            raise


def claim(run: Path, *, resume: bool) -> tuple[int | None, list[tuple[str, str]]]:
    """Find the step to go on from, None where the run begins, and the newer checkpoints that are damaged, with why.

    Raises:
        ConvertError: There are records or checkpoints of another run and nobody said to resume, or no checkpoint of
            the run is whole.
    """
    if resume:
        return newest_whole(run)
    found = checkpoints(run)
    if found:
        raise ConvertError(
            f"{run} holds {found[-1][1].name} of another run", "Go on with --resume, or name another --output."
        )
    if _size(run / METRICS):
        raise ConvertError(
            f"{run} holds the {METRICS} of another run, which has no checkpoint",
            "Start over with --resume, which drops these records, or name another --output.",
        )
    return None, []


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
