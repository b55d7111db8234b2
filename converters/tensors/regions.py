"""Regions of a file that may not share a byte: what a file says of itself is believed only where this holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

What = TypeVar("What")


@dataclass(frozen=True)
class Overlap(Generic[What]):
    """Two regions that share a byte.

    Attributes:
        offset: Where the later one begins, in bytes from the file's begin.
        later: What lies there.
        earlier: What reaches over it.
    """

    offset: int
    later: What
    earlier: What


def first_overlap(regions: Iterable[tuple[int, int, What]]) -> Overlap[What] | None:
    """Find the first two of the regions (begin, end, what lies there) that share a byte; an empty one shares none.

    Of two that begin at one place, the earlier is the one that was given first.
    """
    before: tuple[int, What] | None = None
    for begin, end, what in sorted(regions, key=lambda region: region[0]):
        if begin == end:
            continue
        if before is not None and begin < before[0]:
            return Overlap(begin, what, before[1])
        before = end, what
    return None
