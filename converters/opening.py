"""Open a checkpoint of any dialect: find its files, index them, tell the dialect, hold all against the table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import weight_files
from .checkpoint import Checkpoint
from .companions import find_companions
from .containers.stored import StoredTensor
from .dialects import DIALECT_FILES
from .errors import ConvertError, MisfitError
from .fitting import resolve
from .mapping import Dialect


def find_config(directory: Path, dialects: tuple[Dialect, ...]) -> Path | None:
    """The configuration file of a directory, under the first of the dialects' names that is there."""
    for dialect in dialects:
        for name in DIALECT_FILES[dialect].configs:
            if os.path.lexists(directory / name):  # a broken link is not an absent file
                return weight_files.require_file(directory / name)
    return None


def unread_config(directory: Path, dialect: Dialect) -> Path | None:
    """A configuration under another dialect's name, where there is none under the dialect's own.

    It is not read unasked: what lies beside weights under another's name may be another model's.
    """
    if find_config(directory, (dialect,)) is not None:
        return None
    names = (name for files in DIALECT_FILES.values() for name in files.configs)
    return next((directory / name for name in names if os.path.lexists(directory / name)), None)


def _say_unread(path: Path, dialect: Dialect) -> str:
    names = " or ".join(DIALECT_FILES[dialect].configs)
    step = f"if it is this model's, name it with --config {path}"
    return f"{path.name} was not read, for {dialect}'s is called {names}: {step}"


def open_checkpoint(
    path: str | Path,
    *,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
    any_vocab: bool = True,
    set: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Open a checkpoint of any dialect without reading payloads, except where two copies of a tensor must be compared.

    Args:
        path: A checkpoint directory, one weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of :class:`~.config.RoFormerConfig` → value, whatever the configuration says of it:
            ``{"pooler_activation": "linear"}``.
        any_vocab: False to be told of a vocab.txt of another model too, where something else does not fit.

    Raises:
        MisfitError: Tensors, table and configuration do not fit; every problem is listed.
        FormatError: A file is broken or hostile.
        ConvertError: Nothing there to open, or a field that cannot be set.
    """
    path = Path(path)
    weights = weight_files.find(path, dialect)
    found = weight_files.index_all(weights)
    stored = list(found.tensors)
    spoken = dialect or spoken_dialect(weights, stored)
    if dialect is not None:
        _require_spoken(weights.shard_index or weights.files[0], dialect, stored)
    directory = weights.files[0].parent
    config_path = None if config is None else weight_files.require_file(Path(config))
    if config_path is None:
        config_path = find_config(directory, (spoken,))
    unread = unread_config(directory, spoken) if config_path is None else None
    rows = directory / "vocab.txt"
    vocabulary = (rows,) if not any_vocab and rows.is_file() else ()
    try:
        checkpoint = resolve(path, weights, stored, spoken, config_path, vocabulary, given=set)
    except MisfitError as error:
        if unread is not None and any(problem.kind == "configuration" for problem in error.problems):
            error.next_step = _say_unread(unread, spoken)
        raise
    if unread is not None:
        source = checkpoint.source_config
        checkpoint.source_config = replace(source, notes=(*source.notes, _say_unread(unread, spoken)))
    return replace(checkpoint, companions=find_companions(directory), no_tensors=tuple(found.metadata))


def spoken_dialect(weights: weight_files.WeightSet, stored: list[StoredTensor]) -> Dialect:
    """The dialect whose spelling most tensors have; the container's own on a tie."""
    if len(weights.dialects) == 1:
        return weights.dialects[0]
    return max(weights.dialects, key=lambda dialect: weight_files.spelled(dialect, stored))


def _require_spoken(where: Path, dialect: Dialect, stored: list[StoredTensor]) -> None:
    """Refuse a dialect that was asked for when the tensors plainly speak another: one line instead of a hundred.

    Raises:
        ConvertError: More than twice as many names are another dialect's.
    """
    counts = {other: weight_files.spelled(other, stored) for other in DIALECT_FILES}
    best = max(counts, key=lambda other: counts[other])
    if counts[best] > 2 * counts[dialect]:
        raise ConvertError(
            f"{where}: the tensors have {best}'s names ({counts[best]} of {len(stored)}), not {dialect}'s "
            f"({counts[dialect]})",
            "Without --from the dialect is found out: `roformer-convert convert SOURCE --to …`.",
        )
