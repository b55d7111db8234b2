"""Source index + table → a plan: every target tensor, its source, whether it is transposed, its file and its bytes.

Nothing is written here, and a dry run is this plan printed. :mod:`.engine` runs any plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..containers.container import Container, NewFile
from ..containers.registry import containers_of
from ..errors import ConvertError, InexpressibleError
from ..source.checkpoint import Binding, Checkpoint
from ..source.renaming import in_words
from ..table import config_writing
from ..table.config_fields import SourceConfig
from ..table.dialects import DIALECT_FILES, software_of
from ..table.differences import Difference, advice, differences
from ..table.mapping import BASE, POOLER, POSITIONS, Dialect, Group, ModelClass, unread
from ..tensors.stored import FLOATS, FileLayout, NewTensor
from .positions import MOST_POSITIONS, computed_positions
from .tokenizer_settings import settings_for


@dataclass(frozen=True)
class Step:
    """One target tensor.

    Attributes:
        new: The tensor as the target file will hold it.
        binding: Where its bytes come from: a file, or for the rotary table its computation.
        transpose: Whether the matrix is transposed on the way.
    """

    new: NewTensor
    binding: Binding
    transpose: bool

    @property
    def casts(self) -> bool:
        return self.new.dtype != self.binding.stored.dtype

    @property
    def computed(self) -> bool:
        """Whether it is no tensor of the source but follows from the configuration."""
        return self.binding.tensor is POSITIONS


@dataclass(frozen=True)
class FilePlan:
    """One weight file of the target: its name (a TF checkpoint's prefix) and its tensors in order."""

    filename: str
    steps: tuple[Step, ...]

    @property
    def stored(self) -> Iterator[Step]:
        """Steps whose bytes are written; the rest are second names of those."""
        return (step for step in self.steps if step.new.alias_of is None)

    @property
    def nbytes(self) -> int:
        return sum(step.new.nbytes for step in self.stored)


@dataclass(frozen=True)
class SideFile:
    """A file that goes beside the weights: an optimiser's state.

    Attributes:
        filename: Its name.
        steps: Its tensors.
        layout: Where their bytes go in it.
        summary: What it is and where from, in a line.
        notes: What its reader should know.
    """

    filename: str
    steps: tuple[Step, ...]
    layout: FileLayout
    summary: str
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of payload to write."""
        return sum(step.new.nbytes for step in self.steps)


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    Attributes:
        target: The dialect to write.
        container: Its format.
        base: Whether a bare base model is written.
        files: Weight files.
        shard_index: Name of the JSON file that maps tensors to files, or None.
        config_name: Name of the configuration file.
        config: Its content.
        companions: Files that travel along, copied as they are unless they are written anew.
        settings: Files beside the weights that are written anew, name → text.
        notes: What the target's own software will not honour, what is kept unread, what was assumed.
        source_config: The configuration in canonical terms, for reading the result back.
        kind: The model's class.
        groups: The table's groups that are written.
        differences: What the target's software computes otherwise, and was allowed to.
        left_out: Names of the source's files whose tensors are not taken.
        beside: The optimiser's state, where it is converted too.
    """

    target: Dialect
    container: Container
    base: bool
    files: tuple[FilePlan, ...]
    shard_index: str | None
    config_name: str
    config: Mapping[str, Any]
    companions: tuple[Path, ...]
    settings: Mapping[str, str]
    notes: tuple[str, ...]
    source_config: SourceConfig
    kind: ModelClass
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...] = ()
    left_out: tuple[str, ...] = ()
    beside: SideFile | None = None

    @property
    def travelling(self) -> tuple[str, ...]:
        """Names of the files that lie beside the weights in the result."""
        return tuple(dict.fromkeys([*(path.name for path in self.companions), *self.settings]))

    @property
    def steps(self) -> Iterator[Step]:
        return (step for file in self.files for step in file.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights to write."""
        return sum(file.nbytes for file in self.files)

    @property
    def nbytes_in_all(self) -> int:
        """Bytes of payload to write, those beside the weights included."""
        return self.nbytes + (0 if self.beside is None else self.beside.nbytes)

    def lay_out(self, file: FilePlan) -> FileLayout:
        """Lay one weight file out in the target's container."""
        tensors = [step.new for step in file.steps]
        groups = {step.new.name: step.binding.tensor.group for step in file.steps}
        return self.container.lay_out(NewFile(file.filename, tensors, self.target, self.kind, groups))


def choose_container(target: Dialect, name: str | None) -> Container:
    """Return the container to write: the dialect's usual one, or the one asked for.

    Raises:
        ConvertError: The dialect's software does not read such a container.
    """
    offered = containers_of(target)
    found = offered[0] if name is None else next((each for each in offered if each.name == name), None)
    if found is None:
        names = " or ".join(each.name for each in offered)
        raise ConvertError(
            f"{name} files are not read by {DIALECT_FILES[target].software}; wanted {names}",
            f"Leave --container out to write {offered[0].name}.",
        )
    return found


def make_plan(
    source: Checkpoint,
    target: Dialect,
    *,
    container: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    allow_different: bool = False,
    positions: bool = True,
) -> Plan:
    """Plan the conversion of ``source``.

    Args:
        source: An open checkpoint.
        target: The dialect to write.
        container: The format; by default the dialect's usual one.
        dtype: Cast every tensor to this type; by default each keeps its own.
        max_shard_size: Split the weights into files of at most this many bytes of payload.
        allow_different: Plan it though the target's software would compute another function.
        positions: Write the rotary table where the target's software keeps it among the weights.

    Raises:
        InexpressibleError: The target's software would compute another function, or has no name for a tensor.
        ConvertError: The container cannot hold what is asked of it.
    """
    if dtype is not None and dtype not in FLOATS:
        raise ConvertError(f"dtype {dtype!r} is not known; wanted {' or '.join(FLOATS)}")
    chosen = choose_container(target, container)
    groups, kind = source.groups, source.kind
    base = kind is BASE
    _require_names(source, target)
    different = differences(source.source_config, target, kind, source.bindings)
    if different and not allow_different:
        raise _inexpressible(source, target, different)
    pooler = "pooler.weight" in source.bindings
    main_type = dtype or source.dtypes().most_common(1)[0][0]
    table, table_notes = _positions(source, target, chosen, dtype, positions)
    steps = [*_steps(source, target, chosen, dtype, base), *table]
    files = _shard(steps, chosen, max_shard_size, target)
    types = {step.new.dtype for step in steps}
    _require_dtypes(chosen, types, "--dtype asks for" if dtype is not None else "the source holds")
    config, config_notes = config_writing.write(source.source_config, target, kind=kind, dtype=main_type, pooler=pooler)
    config_notes += advice(source.config, target, kind, source.bindings)
    config_notes += [f"allowed to differ: {each}" for each in different]
    config_notes += [_remedy(software_of(target, source.config), each) for each in different if each.remedy]
    tensor_notes = _tensor_notes(source, target, chosen, groups, types, dtype)
    settings, settings_notes = settings_for(source, target)
    notes = [*table_notes, *settings_notes]
    return Plan(
        target=target,
        container=chosen,
        base=base,
        files=files,
        shard_index=chosen.shard_index if len(files) > 1 else None,
        config_name=DIALECT_FILES[target].configs[0],
        config=config,
        companions=source.companions,
        settings=settings,
        notes=(
            *source.found.notes,
            *source.found.stray_notes,
            *source.source_config.notes,
            *config_notes,
            *tensor_notes,
            *notes,
        ),
        source_config=source.source_config,
        kind=kind,
        groups=groups,
        differences=tuple(different),
        left_out=source.found.left_out,
    )


def _require_names(source: Checkpoint, target: Dialect) -> None:
    """Refuse what the target has no name for.

    Raises:
        InexpressibleError: There is such a tensor.
    """
    nameless = [name for name, binding in source.bindings.items() if binding.tensor.name(target) is None]
    if nameless:
        head = source.bindings[nameless[0]].tensor.group.name
        raise InexpressibleError(
            f"{source.path}: {DIALECT_FILES[target].software} builds no {head}, and {target} has no name for it: "
            f"{', '.join(nameless)}",
            "Convert it to another dialect, or its encoder alone with --encoder-only.",
        )


def _inexpressible(source: Checkpoint, target: Dialect, different: Sequence[Difference]) -> InexpressibleError:
    software = software_of(target, source.config)
    lines = [
        f"{source.path}: {software} would compute another function than the source says",
        *(f"  {d}" for d in different),
    ]
    remedies = [f" {_remedy(software, d)}." for d in different if d.remedy]
    return InexpressibleError(
        "\n".join(lines),
        "If the source is misread, --set FIELD=VALUE says what is right; --allow-different writes it all the same, for "
        "software that computes the source's function, and records that."
        + "".join(remedies if len(remedies) == len(different) else ()),
    )


def _remedy(software: str, different: Difference) -> str:
    """Say how a difference ends; a later ``save_pretrained`` would write what the line of code has changed."""
    return f"After from_pretrained, {different.remedy} makes {software} compute it too; do not save the model then"


def _require_dtypes(container: Container, dtypes: set[str], why: str) -> None:
    """Refuse types that the container has no word for.

    Raises:
        ConvertError: There is one.
    """
    lacking = sorted(dtypes.difference(container.dtypes))
    if lacking:
        exact = "float32" in container.dtypes and "float64" not in lacking
        step = "Use --dtype float32, which is exact." if exact else f"Use --dtype {container.dtypes[0]}, which rounds."
        raise ConvertError(f"{container.title} has no {' or '.join(lacking)}, which {why}", step)


def _steps(source: Checkpoint, target: Dialect, container: Container, dtype: str | None, base: bool) -> list[Step]:
    sizes = source.config.sizes
    steps: list[Step] = []
    for tensor in source.table.tensors:
        binding = source.bindings.get(tensor.canonical)
        if binding is None:
            continue
        transposed = tensor.transposed(target)
        shape = tensor.shape(sizes)
        name = tensor.name(target, base=base)
        assert name is not None, "what has no name was refused"
        new = NewTensor(name, dtype or binding.stored.dtype, shape[::-1] if transposed else shape)
        transpose = binding.transposed != transposed and len(shape) == 2
        steps.append(Step(new, binding, transpose))
        for duplicate in source.table.ties:
            second = duplicate.spelling.in_(target)
            if duplicate.of != tensor.canonical or second is None:
                continue
            if duplicate.written == "copy" or container.shares_storage:
                alias = new.name if container.shares_storage else None
                steps.append(Step(NewTensor(second, new.dtype, new.shape, alias), binding, transpose))
    return steps


def _positions(
    source: Checkpoint, target: Dialect, container: Container, dtype: str | None, wanted: bool
) -> tuple[list[Step], list[str]]:
    """Plan the rotary table where the target's software keeps it among the weights, or say why it is left out.

    It has the type that is asked for, or that of the source's own table: that is what was computed with, rounded or
    not. Software that stores none computes it in float32, whatever the weights' type.
    """
    name = POSITIONS.name(target, base=source.kind is BASE)
    if name is None:
        left_out = "embed_positions is left out: it is computed from the configuration"
        return [], [left_out] if source.derived else []
    software, length = software_of(target, source.config), source.config.max_position_embeddings
    if not wanted:
        return [], [f"embed_positions is left out; {software} computes it, and reports it as newly initialized"]
    if length > MOST_POSITIONS:
        why = f"max_position_embeddings is {length:,}, and it is written for {MOST_POSITIONS:,} at most"
        return [], [f"embed_positions is left out: {why}; {software} computes it, and reports it as newly initialized"]
    own = next((each.dtype for each in source.found.index.tensors if each.name in source.derived), "float32")
    kept = dtype or (own if own in container.dtypes else "float32")
    binding = computed_positions(source.config)
    return [Step(NewTensor(name, kept, binding.stored.shape), binding, transpose=False)], []


def _shard(
    steps: Sequence[Step], container: Container, max_shard_size: int | None, target: Dialect
) -> tuple[FilePlan, ...]:
    """Fill files in the table's order; a second name stays with the tensor it names."""
    if max_shard_size is None:
        return (FilePlan(container.single, tuple(steps)),)
    if container.shard is None:
        raise ConvertError(
            f"{container.single} is always one file: shards of it are not read by {DIALECT_FILES[target].software}",
            "Leave --max-shard-size out.",
        )
    shards: list[list[Step]] = [[]]
    room = max_shard_size
    for step in steps:
        size = 0 if step.new.alias_of is not None else step.new.nbytes
        if size > max(room, 0) and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1].append(step)
        room -= size
    if len(shards) == 1:
        return (FilePlan(container.single, tuple(steps)),)
    return tuple(
        FilePlan(container.shard.format(number=number, total=len(shards)), tuple(shard))
        for number, shard in enumerate(shards, 1)
    )


def _tensor_notes(
    source: Checkpoint,
    target: Dialect,
    container: Container,
    groups: tuple[Group, ...],
    types: set[str],
    dtype: str | None,
) -> list[str]:
    software = software_of(target, source.config)
    notes = []
    if unread_here := [
        f"the {each.name}" for each in groups if each in unread(target, source.kind, source.table.traits)
    ]:
        are, them = ("is", "it") if len(unread_here) == 1 else ("are", "them")
        what = f"{' and '.join(unread_here)} {are} written under BERT's names"
        notes.append(f"{what}; {software} does not read {them} and reports {them} as unexpected")
    pools = POOLER in source.table.groups and POOLER not in unread(target, source.kind, source.table.traits)
    if target == "paddle" and pools and POOLER not in groups:
        notes.append("PaddleNLP's model has a pooler and the source has none: its loader makes a random one")
    notes += container.notes(target, types)
    for second in source.table.ties:
        binding, name = source.bindings.get(second.of), second.spelling.in_(source.dialect)
        if binding is not None and binding.stored.name == name:
            notes.append(f"{name} is taken for {binding.tensor.name(source.dialect)}, which is not in the file")
    if source.found.left_out:
        notes.append(f"left out: {in_words(source.found.left_out)}")
    if source.ignored:
        notes.append(
            f"left out because they are not weights: {source.ignored[0]}"
            + (f" and {len(source.ignored) - 1} more" if source.ignored[1:] else "")
        )
    of_other_kinds = source.found.index.unread
    others = tuple(name for name in source.found.index.metadata if name not in of_other_kinds)
    if others:
        notes.append(f"left out because they are not tensors: {in_words(others)}")
    if of_other_kinds:
        notes.append(f"left out because they are of a kind that is not read: {in_words(sorted(of_other_kinds))}")
    kinds = source.dtypes()
    if dtype is not None and set(kinds) != {dtype}:
        notes.append(f"cast to {dtype} from {', '.join(sorted(kinds))}")
    elif len(kinds) > 1:
        notes.append("mixed types are kept: " + ", ".join(f"{count} × {kind}" for kind, count in kinds.items()))
    return notes
