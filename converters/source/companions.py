"""The files that travel beside the weights: tokenizer files and licences, found and copied."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConvertError, reading
from ..table.dialects import COMPANIONS
from .location import root_of
from .weight_set import require_file

#: A tokenizer.json of 250,000 entries has 20 MB; more than this is not a tokenizer.
_LARGEST = 256 << 20
_CHUNK = 1 << 20


def find_companions(directory: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Find the companions in a directory, under their names, and those that are links to somewhere else.

    A link may lead to any file that the person can read, and a copy of it would go wherever the result goes.

    Raises:
        ConvertError: One is a broken link, not a regular file, or absurdly large.
    """
    found = [require_file(directory / name) for name in COMPANIONS if os.path.lexists(directory / name)]
    for path in found:
        if path.stat().st_size > _LARGEST:
            raise ConvertError(f"{path}: {path.stat().st_size:,} bytes; a tokenizer file has at most {_LARGEST:,}")
    root = root_of(directory)
    inside = [path for path in found if path.resolve().is_relative_to(root)]
    return tuple(inside), tuple(path for path in found if path not in inside)


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
