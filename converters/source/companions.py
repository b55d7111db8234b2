"""The files that travel beside the weights: tokenizer files and licences, found, held against the model, copied."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConvertError, Problem, reading
from ..table.dialects import COMPANIONS
from .weight_files import require_file

#: A tokenizer.json of 250,000 entries has 20 MB; more than this is not a tokenizer.
_LARGEST = 256 << 20
_CHUNK = 1 << 20


def find_companions(directory: Path) -> tuple[Path, ...]:
    """Find the companions in a directory, under their names.

    Raises:
        ConvertError: One is a broken link, not a regular file, or absurdly large.
    """
    found = [require_file(directory / name) for name in COMPANIONS if os.path.lexists(directory / name)]
    for path in found:
        if path.stat().st_size > _LARGEST:
            raise ConvertError(f"{path}: {path.stat().st_size:,} bytes; a tokenizer file has at most {_LARGEST:,}")
    return tuple(found)


def vocabulary_problem(companions: tuple[Path, ...], vocab_size: int) -> Problem | None:
    """Say that vocab.txt has another number of rows than the model; None where it fits or there is none.

    Raises:
        ConvertError: It cannot be read.
    """
    for path in companions:
        if path.name == "vocab.txt":
            rows = _count_rows(path)
            if rows != vocab_size:
                return Problem("vocabulary", path.name, f"got {rows:,} rows, want vocab_size = {vocab_size:,}")
    return None


def _count_rows(path: Path) -> int:
    """Count the lines of a file, the last one with or without its newline."""
    rows, last = 0, b"\n"
    with reading(path), open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            rows += piece.count(b"\n")
            last = piece[-1:]
    return rows + (last != b"\n")


def copy_companion(source: Path, target: Path, *, fsync: bool) -> None:
    """Copy one file, no more of it than it had when it was found, whatever happens to it meanwhile.

    Raises:
        ConvertError: It cannot be read.
        OSError: The copy cannot be written.
    """
    with reading(source):
        file = open(source, "rb")  # noqa: SIM115  # closed below; opening and writing fail differently
    with file, open(target, "xb") as out:
        left = _LARGEST
        while left and (piece := file.read(min(_CHUNK, left))):
            out.write(piece)
            left -= len(piece)
        if fsync:
            out.flush()
            os.fsync(out.fileno())
