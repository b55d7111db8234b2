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
from ..table.mapping import BASE, CAUSAL_LM, DERIVED, DIALECTS, MASKED_LM, SYMBOLS, Dialect, ModelClass, Table, Traits
from ..table.recognition import Choice, choose_class, count_known_names, count_layers, detect_dialect, measure_traits
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
        choice: The class that the tensors are of, and how that was decided.
        companions: Tokenizer files and licences beside the weights.
    """

    path: Path
    weights: WeightSet | None
    index: Index
    dialect: Dialect
    config_file: Path | None
    config: Reading
    choice: Choice
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
        return measure(self.dialect, self.index.tensors, self.choice.kind)

    @property
    def kind(self) -> ModelClass:
        """The model's class."""
        return self.choice.kind

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
        traits: Which norms and biases the encoder has.
        sizes: Field of the configuration → size.
    """

    base: bool
    traits: Traits
    sizes: Mapping[str, int]


def identify(
    path: str | Path,
    *,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    model_class: str | None = None,
) -> Found:
    """Find a checkpoint's files, index them, detect the dialect and read the configuration.

    Args:
        path: A checkpoint directory, one weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of :class:`~..table.config.RoFormerConfig` → value, whatever the configuration says of it.
        model_class: Name of the class (:data:`~..table.mapping.CLASSES`), where no file says it.

    Raises:
        FormatError: A file is broken or hostile.
        MisfitError: Several models in one directory, or shards that do not fit together.
        ConvertError: Nothing there, tensors that plainly have another dialect's names, or a field that cannot be set.
    """
    weights = weight_files.find(Path(path), dialect)
    index = weight_files.index(weights)
    if dialect is not None:
        _require_dialect(weights.entry, dialect, [tensor.name for tensor in index.tensors])
    return _recognise(
        Path(path), weights, index, dialect, None if config is None else Path(config), given=set, named=model_class
    )


def _recognise(
    path: Path,
    weights: WeightSet,
    index: Index,
    dialect: Dialect | None = None,
    config: Path | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    named: str | None = None,
    excused: Collection[str] = (),
) -> Found:
    """Detect the dialect of indexed tensors and read the configuration that belongs to it."""
    directory = weights.directory
    detected = dialect or detect_dialect(weights.dialects, [tensor.name for tensor in index.tensors])
    config_file = _find_config(directory, (detected,)) if config is None else config
    if config_file is not None:
        weight_files.require_file(config_file)
    settings = config_fields.read_settings(config_file)
    choice = _choose(detected, index.tensors, config_fields.stated_class(settings), named)
    shape = measure(detected, index.tensors, choice.kind)
    measured = {
        **shape.sizes,
        "norm_type": "layer_norm" if shape.traits.norms else "rms_norm",
        "use_bias": shape.traits.biases,
    }
    reading = config_fields.examine(
        settings,
        config_file,
        detected,
        measured,
        where=path,
        kind=choice.kind,
        pooler=_has_pooler(detected, index.tensors, choice.kind, shape),
        given=given,
        excused=excused,
    )
    masked = reading.source is not None and reading.source.config.attention != "bidirectional"
    if choice.kind is MASKED_LM and not choice.settled and masked:
        choice = replace(choice, kind=CAUSAL_LM)  # the same tensors: the mask makes the class
    other = _find_config(directory, DIALECTS) if config_file is None else None
    if other is not None:
        # not read unasked: what lies beside weights under another dialect's name may be another model's
        reading = reading.with_remark(_say_unread(other, detected))
    return Found(path, weights, index, detected, config_file, reading, choice, find_companions(directory))


def _choose(dialect: Dialect, tensors: Iterable[StoredTensor], stated: object, named: str | None) -> Choice:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    base = _is_base(dialect, shapes)
    traits = measure_traits(dialect, shapes, base=base)
    return choose_class(dialect, shapes, traits, base=base, stated=stated, given=named)


def _has_pooler(dialect: Dialect, tensors: Iterable[StoredTensor], kind: ModelClass, shape: Shape) -> bool:
    pooler = Table(0, kind, shape.traits).by_canonical.get("pooler.weight")
    name = None if pooler is None else pooler.name(dialect, base=shape.base)
    return name is not None and any(tensor.name == name for tensor in tensors)


def _is_base(dialect: Dialect, names: Collection[str]) -> bool:
    """Say whether the names lack the outer prefix, as those of a bare base model do in torch and Paddle."""
    for traits in (Traits(), Traits(norms=False)):
        word = Table(0, BASE, traits).by_canonical["embeddings.word.weight"]
        whole, bare = word.name(dialect), word.name(dialect, base=True)
        if whole in names:
            return False
        if bare in names:
            return bare != whole
    return False


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


def measure(dialect: Dialect, tensors: Iterable[StoredTensor], kind: ModelClass = BASE) -> Shape:
    """Measure a model by its tensors; a size that none of them shows is left out."""
    by_name = {tensor.name: tensor for tensor in reversed(list(tensors))}  # of two with one name, the first
    base = _is_base(dialect, by_name)
    traits = measure_traits(dialect, by_name, base=base)
    layers = count_layers(dialect, by_name)
    sizes = {"num_hidden_layers": layers}
    for tensor in Table(min(layers, 1), kind, traits).tensors:
        found = by_name.get(tensor.name(dialect, base=base) or "")
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
    return Shape(base, traits, sizes)
