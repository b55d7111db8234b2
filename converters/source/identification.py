"""Identify a checkpoint: which files, which tensors, whose names, which configuration, what lies beside. One value out.

Nothing is judged here: :mod:`.fitting` holds what was found against the table. ``open_checkpoint``, ``inspect``,
``convert``'s second look at what it wrote and the tests all come in this way.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..table import config_fields
from ..table.config_fields import Reading
from ..table.dialects import DIALECT_FILES
from ..table.mapping import DERIVED, DIALECTS, SYMBOLS, Dialect, Table, count_known_names, count_layers, detect_dialect
from ..tensors.stored import Index, StoredTensor
from . import weight_files
from .companions import find_companions
from .weight_files import WeightSet


@dataclass(frozen=True)
class Found:
    """A checkpoint as it lies there, whether or not its parts fit together.

    Attributes:
        path: What was named: a directory or a file.
        weights: The weight files, or None where the tensors are arrays in memory.
        index: The files' tensors, and as metadata their entries that are not tensors.
        dialect: Whose names the tensors have.
        config_file: The configuration's file, or None.
        config: What it says; without one, what the tensors' shapes say.
        companions: Tokenizer files and licences beside the weights.
    """

    path: Path
    weights: WeightSet | None
    index: Index
    dialect: Dialect
    config_file: Path | None
    config: Reading
    companions: tuple[Path, ...] = ()

    @property
    def entry(self) -> Path:
        """The file that a message about the tensors names."""
        return self.path if self.weights is None else self.weights.entry

    @property
    def directory(self) -> Path:
        """The directory in which the weights lie."""
        return self.path if self.weights is None else self.weights.directory

    @cached_property
    def shape(self) -> Shape:
        """The sizes that the tensors show."""
        return measure(self.dialect, self.index.tensors)

    def with_tensors(self, tensors: Iterable[StoredTensor], *, excused: Collection[str] = ()) -> Found:
        """Return the same files with other tensors, or other names for them: dialect and configuration are found anew.

        Args:
            tensors: All of them.
            excused: Keys of the configuration that may say anything of the function
            (:func:`..table.config_fields.examine`).
        """
        assert self.weights is not None, "tensors in memory have the names that they were given"
        index = replace(self.index, tensors=tuple(tensors))
        return _recognise(self.path, self.weights, index, excused=excused)


@dataclass(frozen=True)
class Shape:
    """What the tensors alone show of a model.

    Attributes:
        base: Whether it is a bare base model whose names lack the outer prefix, as torch and Paddle write it.
        sizes: Field of the configuration → size.
    """

    base: bool
    sizes: Mapping[str, int]


def identify(
    path: str | Path,
    *,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
) -> Found:
    """Find a checkpoint's files, index them, detect the dialect and read the configuration.

    Args:
        path: A checkpoint directory, one weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of :class:`~..table.config.RoFormerConfig` → value, whatever the configuration says of it.

    Raises:
        FormatError: A file is broken or hostile.
        MisfitError: Several models in one directory, or shards that do not fit together.
        ConvertError: Nothing there, tensors that plainly have another dialect's names, or a field that cannot be set.
    """
    weights = weight_files.find(Path(path), dialect)
    index = weight_files.index(weights)
    if dialect is not None:
        _require_dialect(weights.entry, dialect, [tensor.name for tensor in index.tensors])
    return _recognise(Path(path), weights, index, dialect, None if config is None else Path(config), given=set)


def _recognise(
    path: Path,
    weights: WeightSet,
    index: Index,
    dialect: Dialect | None = None,
    config: Path | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    excused: Collection[str] = (),
) -> Found:
    """Detect the dialect of indexed tensors and read the configuration that belongs to it."""
    directory = weights.directory
    detected = dialect or detect_dialect(weights.dialects, [tensor.name for tensor in index.tensors])
    config_file = _find_config(directory, (detected,)) if config is None else config
    if config_file is not None:
        weight_files.require_file(config_file)
    sizes = measure(detected, index.tensors).sizes
    reading = config_fields.examine(config_file, detected, sizes, where=path, given=given, excused=excused)
    other = _find_config(directory, DIALECTS) if config_file is None else None
    if other is not None:
        # not read unasked: what lies beside weights under another dialect's name may be another model's
        reading = reading.with_remark(_say_unread(other, detected))
    return Found(path, weights, index, detected, config_file, reading, find_companions(directory))


def _find_config(directory: Path, dialects: Iterable[Dialect]) -> Path | None:
    """Return the configuration file of a directory, under the first of the dialects' names that is there."""
    for dialect in dialects:
        for name in DIALECT_FILES[dialect].configs:
            if os.path.lexists(directory / name):  # a broken link is not an absent file
                return directory / name
    return None


def _say_unread(path: Path, dialect: Dialect) -> str:
    names = " or ".join(DIALECT_FILES[dialect].configs)
    step = f"if it is this model's, name it with --config {path}"
    return f"{path.name} was not read, for {dialect}'s is called {names}: {step}"


def _require_dialect(where: Path, dialect: Dialect, names: list[str]) -> None:
    """Refuse a dialect that was asked for when the tensors plainly have another's names: one line instead of a hundred.

    Raises:
        ConvertError: More than twice as many names are another dialect's.
    """
    counts = {other: count_known_names(other, names) for other in DIALECTS}
    best = max(counts, key=lambda other: counts[other])
    if counts[best] > 2 * counts[dialect]:
        raise ConvertError(
            f"{where}: the tensors have {best}'s names ({counts[best]} of {len(names)}), not {dialect}'s "
            f"({counts[dialect]})",
            "Without --from the dialect is detected: `roformer-convert convert SOURCE --to …`.",
        )


def derived_name(dialect: Dialect, *, base: bool) -> str | None:
    """Return the name of the rotary table in a dialect's files."""
    name = DERIVED.in_(dialect)
    return name.removeprefix("roformer.") if name is not None and base else name


def measure(dialect: Dialect, tensors: Iterable[StoredTensor]) -> Shape:
    """Measure a model by its tensors; a size that none of them shows is left out."""
    by_name = {tensor.name: tensor for tensor in reversed(list(tensors))}  # of two with one name, the first
    word = Table(0).by_canonical["embeddings.word.weight"]
    names = word.name(dialect, base=False), word.name(dialect, base=True)
    base = names[1] != names[0] and names[1] in by_name and names[0] not in by_name
    layers = count_layers(dialect, list(by_name))
    sizes = {"num_hidden_layers": layers}
    for tensor in Table(min(layers, 1)).tensors:
        found = by_name.get(tensor.name(dialect, base=base))
        if found is None or len(found.shape) != len(tensor.axes):
            continue
        shape = found.shape[::-1] if tensor.transposed(dialect) else found.shape
        for axis, size in zip(tensor.axes, shape, strict=True):
            if axis in SYMBOLS:
                sizes.setdefault(SYMBOLS[axis], size)
    table = by_name.get(derived_name(dialect, base=base) or "")
    if table is not None and len(table.shape) == 2 and sizes.get("hidden_size"):
        positions, head_size = table.shape
        sizes["max_position_embeddings"] = positions
        if head_size and sizes["hidden_size"] % head_size == 0:
            sizes["num_attention_heads"] = sizes["hidden_size"] // head_size
    return Shape(base, sizes)
