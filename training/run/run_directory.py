"""The directory of a run: one process at a time writes it, and nothing of another run in it is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...converters.errors import ConvertError
from ...converters.target.whole_files import lock
from ..reporting.metrics import METRICS
from ..step.state import checkpoints, newest_whole

#: Held while a process trains there; empty. It stays, for a file that is removed can be locked by two.
LOCK = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make the run's directory and hold it for this process, whose death, however it comes, gives it back.

    Raises:
        ConvertError: Another process holds it, or it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / LOCK, "ab")  # noqa: SIM115  # closed below
    except OSError as error:
        raise ConvertError(f"{run}: cannot be written: {error.strerror or error}", "Name another --output.") from None
    with file:
        if not lock(file):
            raise ConvertError(
                f"{run}: another process is training there", "Wait until it has ended, or name another --output."
            )
        yield


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
