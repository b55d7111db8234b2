"""Identify a checkpoint: which files, which tensors, whose names, which configuration, what lies beside. One value out.

Nothing is judged here: :mod:`.fitting` holds what was found against the table. ``open_checkpoint``, ``inspect``,
``convert``'s second look at what it wrote and the tests all come in this way.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import FormatError, OtherDialectError, Problem, printable
from ..json_input import encoding_of
from ..table import config_reading
from ..table.config_reading import Reading
from ..table.dialects import DIALECT_FILES
from ..table.mapping import (
    BASE,
    CAUSAL_LM,
    CLASSES,
    DIALECTS,
    MASKED_LM,
    POSITIONS,
    SYMBOLS,
    Dialect,
    ModelClass,
    Table,
    Traits,
)
from ..table.recognition import (
    IGNORED,
    Choice,
    another_dialects,
    choose_class,
    count_known_names,
    count_layers,
    detect_dialect,
    encoder_names,
    has_head,
    is_inside_encoder,
    measure_traits,
    stated_class,
)
from ..tensors.stored import Index, StoredTensor
from . import weight_files, weight_set
from .bert_start import OF_A_BERT
from .companions import find_companions, without_broken
from .location import is_hub_name, locate
from .renaming import ALL, Asked, Parts, Renamed, in_words, rename
from .same_model import Side, first_difference
from .weight_set import WeightSet


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
        notes: What was seen through or respelled on the way to these names, a sentence each.
        left_out: Names of the files whose tensors are not taken.
        problems: Why nothing decides which tensors of the files are meant.
        next_step: What to do about these problems.
        strays: Companions that are links out of the directory: they travel only where a person says so.
    """

    path: Path
    weights: WeightSet | None
    index: Index
    dialect: Dialect
    config_file: Path | None
    config: Reading
    choice: Choice
    companions: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    next_step: str | None = None
    strays: tuple[Path, ...] = ()

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

    def with_links_followed(self) -> Found:
        """Return the same with the companions that are links out of the directory among the others."""
        return replace(self, companions=(*self.companions, *self.strays), strays=())

    def without(self, prefix: str) -> Found:
        """Return the same where what lies under a name in the file is not left out, for it is read otherwise."""
        left = tuple(name for name in self.left_out if not name.startswith(f"{prefix}."))
        kept = {name: text for name, text in self.index.metadata.items() if not name.startswith(f"{prefix}.")}
        return replace(self, left_out=left, index=replace(self.index, metadata=kept))

    @property
    def stray_notes(self) -> tuple[str, ...]:
        """What is to be known of the companions that do not travel."""
        return tuple(
            f"{path.name} is a link out of the directory, to {printable(str(path.resolve()))}: not copied; "
            "--follow-links copies it"
            for path in self.strays
        )

    @property
    def kind(self) -> ModelClass:
        """The model's class."""
        return self.choice.kind


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
    parts: Parts = ALL,
) -> Found:
    """Find a checkpoint's files, index them, detect the dialect and read the configuration.

    Args:
        path: A checkpoint directory, one weight file, a shard index, a TF checkpoint's prefix, a folder of a hub's
            cache, or ``hub:owner/name[@revision]``.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of :class:`~..table.config.RoFormerConfig` → value, whatever the configuration says of it.
        model_class: Name of the class (:data:`~..table.mapping.CLASSES`), where no file says it.
        parts: Which of the files' tensors are meant.

    Raises:
        FormatError: A file is broken or hostile.
        MisfitError: Several models in one directory, or shards that do not fit together.
        ConvertError: Nothing there, tensors that plainly have another dialect's names, a field that cannot be set, or
            a part that is not there.
    """
    named, path = path, locate(path)
    weights = weight_files.find(path, dialect)
    index = weight_set.index(weights)
    kind = None if model_class is None else CLASSES[model_class]
    renamed = rename(index, Asked(weights.entry, weights.container.names, parts, index.nested, kind))
    renamed = replace(renamed, notes=(*weights.notes, *renamed.notes))
    if dialect is not None:
        _require_dialect(weights.entry, dialect, [tensor.name for tensor in renamed.tensors])
    found = _recognise(
        path,
        weights,
        index,
        renamed,
        dialect,
        None if config is None else Path(config),
        given=set,
        named=model_class,
        parts=parts,
    )
    if weights.others:
        found = replace(found, notes=(*found.notes, _require_one_model(found, parts, kind)))
    return replace(found, notes=(f"{named} is revision {path.name}", *found.notes)) if is_hub_name(named) else found


def _require_one_model(found: Found, parts: Parts, kind: ModelClass | None) -> str:
    """Hold the other weight files of a directory against the one that is taken; return a sentence about them.

    Raises:
        MisfitError: One has other tensors, or cannot be read.
    """
    weights = found.weights
    assert weights is not None, "what was identified lies in files"
    mine = Side(found.entry, found.dialect, found.shape.base, found.index.tensors)
    layers = found.shape.sizes["num_hidden_layers"]
    for other in weight_files.others_of(weights):
        try:
            index = weight_set.index(other)
        except FormatError as error:
            raise weight_files.not_one(weights, other.entry, error.problem) from None
        meant = replace(parts, drop=())
        renamed = rename(index, Asked(other.entry, other.container.names, meant, index.nested, kind))
        names = [tensor.name for tensor in renamed.tensors]
        dialect = detect_dialect(other.dialects, names)
        if parts.encoder_only:
            renamed = _encoder_of(dialect, renamed)
        theirs = Side(other.entry, dialect, _is_base(dialect, names), renamed.tensors)
        deepest = max(layers, min(count_layers(dialect, names), len(names)))
        said = first_difference(
            mine, theirs, found.kind, found.shape.traits, deepest, whole=not (parts.drop or parts.encoder_only)
        )
        if said is not None:
            raise weight_files.not_one(weights, other.entry, said)
    same = in_words([path.name for path in weights.others])
    return f"{mine.entry.name} is read; {same} beside it {'hold' if len(weights.others) > 1 else 'holds'} the same bits"


def _recognise(
    path: Path,
    weights: WeightSet,
    index: Index,
    renamed: Renamed,
    dialect: Dialect | None,
    config: Path | None,
    *,
    given: Mapping[str, Any] | None,
    named: str | None,
    parts: Parts,
) -> Found:
    """Detect the dialect of tensors under their last names and read the configuration that belongs to it."""
    directory = weights.directory
    detected = dialect or detect_dialect(weights.dialects, [tensor.name for tensor in renamed.tensors])
    if parts.encoder_only:
        renamed = _encoder_of(detected, renamed)
    index = replace(index, tensors=renamed.tensors)
    config_file = _find_config(directory, (detected,)) if config is None else config
    if config_file is not None:
        weight_set.require_file(config_file)
    settings = config_reading.read_settings(config_file)
    if parts.bert:
        settings = {key: value for key, value in settings.items() if key not in OF_A_BERT}
    choice = _choose(detected, index.tensors, config_reading.stated_class(settings), named, parts)
    shape = measure(detected, index.tensors, choice.kind)
    measured = {
        **shape.sizes,
        "norm_type": "layer_norm" if shape.traits.norms else "rms_norm",
        "use_bias": shape.traits.biases,
    }
    reading = config_reading.examine(
        settings,
        config_file,
        detected,
        measured,
        where=path,
        kind=choice.kind,
        pooler=_has_pooler(detected, index.tensors, choice.kind, shape),
        given=given,
    )
    masked = reading.source is not None and reading.source.config.attention != "bidirectional"
    if choice.kind is MASKED_LM and not choice.settled and masked:
        choice = replace(choice, kind=CAUSAL_LM)  # the same tensors: the mask makes the class
    other = _find_config(directory, DIALECTS) if config_file is None else None
    if other is not None:
        # not read unasked: what lies beside weights under another dialect's name may be another model's
        reading = reading.with_remark(_say_unread(other, detected))
    notes = renamed.notes
    if config_file is not None and (decoded := encoding_of(config_file)).encoding != "UTF-8":
        said = f"{config_file.name} is read as {decoded.encoding}, which it looks like: it is not UTF-8{decoded.doubt}"
        notes = tuple(dict.fromkeys((*notes, said)))
    companions, strays = find_companions(directory)
    companions, unread = without_broken(companions)
    return Found(
        path,
        weights,
        index,
        detected,
        config_file,
        reading,
        choice,
        companions,
        (*notes, *unread),
        renamed.left_out,
        renamed.problems,
        renamed.next_step,
        strays,
    )


def _encoder_of(dialect: Dialect, renamed: Renamed) -> Renamed:
    """Leave out all but the encoder and its pooler.

    What no RoFormer has inside its encoder stays, and is unknown: without it the encoder computes something else.
    """
    names = [tensor.name for tensor in renamed.tensors]
    known = encoder_names(dialect, names)
    kept = [
        tensor
        for tensor in renamed.tensors
        if tensor.name in known
        or is_inside_encoder(dialect, tensor.name)
        or any(pattern.fullmatch(tensor.name) for pattern in IGNORED[dialect])
    ]
    there = {tensor.name for tensor in kept}
    left_out = tuple(dict.fromkeys(name for name in names if name not in there))
    return replace(renamed, tensors=tuple(kept), left_out=(*renamed.left_out, *left_out))


def _choose(
    dialect: Dialect, tensors: Iterable[StoredTensor], stated: object, named: str | None, parts: Parts
) -> Choice:
    """Choose the class of tensors, of which a person may have named a part: the configuration then is of the whole."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    base = _is_base(dialect, shapes)
    traits = measure_traits(dialect, shapes, base=base)
    whole = stated_class(stated)
    headless = whole is not None and whole.stated and not has_head(dialect, shapes, base=base)
    if named is None and parts and (parts.encoder_only or headless):
        note = f"the configuration names {stated}, and the tensors that were asked for are those of {BASE.class_name}"
        return Choice(BASE, settled=True, note="" if whole in (None, BASE) else note)
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
    step = f"if it is this model's, name it with --config {shlex.quote(str(path))}"
    return f"{path.name} was not read, for {dialect}'s is called {names}: {step}"


def _require_dialect(where: Path, dialect: Dialect, names: list[str]) -> None:
    """Refuse a dialect that was asked for when the tensors plainly have another's names: one line instead of a hundred.

    Raises:
        OtherDialectError: More than twice as many names are another dialect's.
    """
    best = another_dialects(dialect, names)
    if best is not None:
        own, others = count_known_names(dialect, names), count_known_names(best, names)
        raise OtherDialectError(
            f"{where}: the tensors have {best}'s names ({others} of {len(names)}), not {dialect}'s ({own})",
            "Without --from the dialect is detected: `roformer-convert convert SOURCE --to …`.",
        )


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
    table = by_name.get(POSITIONS.name(dialect, base=base) or "")
    if table is not None and len(table.shape) == 2 and sizes.get("hidden_size"):
        positions, head_size = table.shape
        sizes["max_position_embeddings"] = positions
        if head_size and sizes["hidden_size"] % head_size == 0:
            sizes["num_attention_heads"] = sizes["hidden_size"] // head_size
    return Shape(base, traits, sizes)
