"""The corpus cut into pieces of work, each of which becomes one shard, before any of it is read.

The cut depends on the inputs and the shard size alone, never on the number of processes. Large plain files are cut at
document boundaries into byte ranges, small files are put together, and a compressed file, which can only be read from
its beginning, is never cut.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...converters.errors import FormatError, reading
from ..text.files import LONGEST_LINE, TextFormat, is_compressed

#: Bytes of text (of the file, where it is compressed) that one shard is made of, about.
SHARD_BYTES = 64 << 20

_END_BYTES = 1 << 16


@dataclass(frozen=True)
class Input:
    """One file of the corpus.

    Attributes:
        name: Its path as it was given, and as resuming looks for it again.
        nbytes: Its size in bytes.
        ends: SHA-256 of its first and last 64 KiB.
    """

    name: str
    nbytes: int
    ends: str


@dataclass(frozen=True)
class Piece:
    """A part of one file, from ``start`` up to ``stop``; documents lie wholly in it."""

    input: int
    start: int
    stop: int


def describe(path: Path) -> Input:
    """Take down what tells a file from another.

    Raises:
        FormatError: It cannot be read.
    """
    with reading(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(file.read(_END_BYTES))
        file.seek(max(0, size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return Input(str(path), size, digest.hexdigest())


def plan_units(inputs: Sequence[Input], text_format: TextFormat, shard_bytes: int) -> list[tuple[Piece, ...]]:
    """Cut the inputs, in their order, into the pieces of each shard.

    Raises:
        FormatError: A line too long to find its end, or an input that cannot be read.
    """
    units: list[tuple[Piece, ...]] = []
    pending: list[Piece] = []
    size = 0
    for number, item in enumerate(inputs):
        for start, stop in _ranges(item, text_format, shard_bytes):
            if pending and size + stop - start > shard_bytes:
                units.append(tuple(pending))
                pending, size = [], 0
            pending.append(Piece(number, start, stop))
            size += stop - start
    if pending:
        units.append(tuple(pending))
    return units


def as_json(units: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
    """Write units as plain lists."""
    return [[list(asdict(piece).values()) for piece in unit] for unit in units]


def from_json(value: Any) -> list[tuple[Piece, ...]]:
    """Read what :func:`as_json` wrote; a TypeError or ValueError where it did not."""
    return [tuple(Piece(*map(int, piece)) for piece in unit) for unit in value]


def _ranges(item: Input, text_format: TextFormat, shard_bytes: int) -> list[tuple[int, int]]:
    path = Path(item.name)
    if not item.nbytes:
        return []
    if is_compressed(path) or item.nbytes <= shard_bytes + shard_bytes // 2:
        return [(0, item.nbytes)]
    cuts = [0]
    with reading(path), open(path, "rb") as file:
        while item.nbytes - cuts[-1] > shard_bytes + shard_bytes // 2:
            cut = _next_boundary(file, path, cuts[-1] + shard_bytes, text_format.is_json_lines(path))
            if cut >= item.nbytes:
                break
            cuts.append(cut)
    return list(zip(cuts, [*cuts[1:], item.nbytes], strict=True))


def _next_boundary(file: Any, path: Path, start: int, is_json_lines: bool) -> int:
    """Find the first byte after ``start`` where a document begins.

    A text of one document longer than :data:`~..text.files.LONGEST_LINE` bytes is cut at a line's end: corpora exist
    that have no blank line at all.
    """
    file.seek(start)
    read = 0
    first_line = 0
    at_line_start = False  # ``start`` is somewhere inside of a line, or may be
    while read < LONGEST_LINE:
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return start + read
        read += len(line)
        if not line.endswith(b"\n"):
            break
        first_line = first_line or read
        if is_json_lines or (at_line_start and not line.strip()):
            return start + read
        at_line_start = True
    if not first_line:
        raise FormatError(
            path,
            f"no line ends within {LONGEST_LINE:,} bytes",
            offset=start,
            next_step="Break it into lines; a blank line ends a document.",
        )
    return start + first_line
