"""Work that is counted and not timed: the calls that code makes, Python's and C's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest


@contextmanager
def calls_below(most: int) -> Iterator[None]:
    """Fail at the call that is one too many, so that what would take minutes ends there."""
    made, before = 0, sys.getprofile()

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")
        if made > most:
            pytest.fail(f"more than {most:,} calls are made")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
