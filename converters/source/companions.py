"""The files that travel beside the weights: tokenizer files and licences, found and copied."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConvertError, FormatError, reading
from ..json_input import read_json
from ..table.dialects import COMPANIONS
from .location import root_of
from .weight_set import require_file

#: A tokenizer.json of 250,000 entries has 20 MB; more than this is not a tokenizer.
_LARGEST = 256 << 20
_CHUNK = 1 << 20
#: Defaults of generate(): software that cannot read them goes on without.
_DISPENSABLE = "generation_config.json"


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


def without_broken(companions: Iterable[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Leave out settings that cannot be read and that no software needs; return the others, and what to say.

    They are not copied unread: code and places of the source that they name do not travel.

    Source: transformers 5, generation/utils.py, adjust_generation_fn, which goes on with the model's configuration
    where GenerationConfig.from_pretrained raises OSError, as it does of what is not JSON.
    """
    kept, notes = [], []
    for path in companions:
        try:
            if path.name == _DISPENSABLE:
                read_json(path)
            kept.append(path)
        except FormatError as error:
            notes.append(f"{path.name} is left out: {error.problem}")
    return tuple(kept), tuple(notes)


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
