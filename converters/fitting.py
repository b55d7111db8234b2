"""Hold indexed tensors against the table and the configuration: either everything fits, or every problem is reported.

Of payloads only ties and rotary tables are read, for the sake of comparing them (:mod:`.payloads`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import config_fields, weight_files
from .checkpoint import Checkpoint, Held, model_class
from .companions import vocabulary_problem
from .config import RoFormerConfig
from .config_fields import SourceConfig
from .containers.stored import FLOATS, OpenFiles, StoredTensor
from .errors import MisfitError, Problem
from .mapping import (
    DERIVED,
    GROUPS,
    IGNORED,
    MLM,
    POOLER,
    PROJECT,
    SYMBOLS,
    TIED,
    Dialect,
    Duplicate,
    Table,
    Tensor,
    count_layers,
    looks_like,
)
from .payloads import first_difference, rotary_distance

#: Half a unit in the last place of 1.0; the table is held in float32 even beside float64 weights.
_ROUNDING = {"float64": 2.0**-24, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def resolve(
    path: Path,
    weights: weight_files.WeightSet,
    stored: list[StoredTensor],
    dialect: Dialect,
    config: Path | SourceConfig | None,
    vocabulary: tuple[Path, ...] = (),
    *,
    given: Mapping[str, Any] | None = None,
    excused: Collection[str] = (),
) -> Checkpoint:
    """Hold indexed tensors against the table and the configuration.

    Args:
        path: What was opened, for messages.
        weights: Its files.
        stored: Their tensors.
        dialect: The spelling they use.
        config: The configuration's file, None to work it out, or one that is known already (what was just written).
        vocabulary: Companions whose vocab.txt is told among the problems, where there are others.
        given: Field name → value that holds whatever the configuration says.
        excused: What the configuration may say of another function, as for :func:`.config_fields.examine`.

    Raises:
        MisfitError: Something does not fit; every problem is listed.
        ConvertError: A field that is given is none, or has a value that cannot be.
    """
    where = weights.files[0] if weights.shard_index is None else weights.shard_index
    files = OpenFiles()
    try:
        return _Resolver(path, where, weights, stored, dialect, files, given or {}, excused).resolve(config, vocabulary)
    except BaseException:
        files.__exit__(None, None, None)
        raise


@dataclass
class _Resolver:
    path: Path
    where: Path
    weights: weight_files.WeightSet
    stored: list[StoredTensor]
    dialect: Dialect
    files: OpenFiles
    given: Mapping[str, Any]
    excused: Collection[str]
    problems: list[Problem] = field(default_factory=list)
    #: Fields whose value in the configuration is wrong and that the tensors do not show either.
    unsure: set[str] = field(default_factory=set)

    def resolve(self, config: Path | SourceConfig | None, vocabulary: tuple[Path, ...]) -> Checkpoint:
        copies: dict[str, list[StoredTensor]] = {}
        for tensor in self.stored:
            copies.setdefault(tensor.name, []).append(tensor)
        by_name = {name: same[0] for name, same in copies.items()}
        word = Table(0).by_canonical["embeddings.word.weight"]
        base = (
            word.name(self.dialect, base=True) in by_name
            and word.name(self.dialect) not in by_name
            and word.name(self.dialect) != word.name(self.dialect, base=True)
        )
        measured = self._measure(by_name, base)
        if "vocab_size" not in measured:
            self._require_unwrapped()
        misread: MisfitError | None = None
        if isinstance(config, SourceConfig):
            source, config_path = config, None
        else:
            reading = config_fields.examine(
                config, self.dialect, measured, where=self.path, given=self.given, excused=self.excused
            )
            misread, config_path = reading.error, config
            if reading.source is None:
                raise misread or MisfitError(self.where, "RoFormer's configuration", reading.problems)
            source = reading.source
            self.unsure = {problem.name for problem in reading.problems} - set(measured)
        source = self._count_layers(source, by_name, measured["num_hidden_layers"], base, config_path)
        held = self._fit(by_name, base, source.config, config_path)
        pooler = any(item.tensor.group is POOLER for item in held.values())
        assumed = config_fields.assumptions(source, self.dialect, pooler=pooler)
        source = replace(source, notes=(*source.notes, *assumed))
        rest = [name for name in by_name if name not in {item.stored.name for item in held.values()}]
        tied, derived, ignored = self._explain(rest, by_name, held, source.config, base)
        again = [(tensor, same) for same in copies.values() for tensor in same[:1] if len(same) > 1]
        for tensor, same in again:
            for other in same[1:]:
                self._require_equal(tensor, other, f"{tensor.name} (stored twice)")
        wrong = {problem.name for problem in self.problems}
        checkpoint = Checkpoint(
            path=self.path,
            dialect=self.dialect,
            container=self.weights.container,
            weights=self.weights,
            base=base or (self.dialect in ("tf", "tf1") and not any(h.tensor.group is MLM for h in held.values())),
            source_config=source,
            config_path=config_path,
            held=held,
            duplicates=tuple(name for name in (*tied, *(tensor.name for tensor, _ in again)) if name not in wrong),
            derived=tuple(name for name in derived if name not in wrong),
            ignored=tuple(ignored),
            files=self.files,
        )
        if self.problems or misread is not None:
            error = self._misfit(held, source.config, misread, vocabulary)
            error.checkpoint, error.unsure = checkpoint, frozenset(self.unsure)
            raise error
        return checkpoint

    def _misfit(
        self,
        held: dict[str, Held],
        config: RoFormerConfig,
        misread: MisfitError | None,
        vocabulary: tuple[Path, ...],
    ) -> MisfitError:
        """One error for the configuration, the tensors and the vocabulary."""
        unread = () if misread is None else misread.problems
        rows = None if "vocab_size" in self.unsure else vocabulary_problem(vocabulary, config.vocab_size)
        if misread is not None and not self.problems and rows is None:
            return misread
        problems = [*unread, *self.problems, *([] if rows is None else [rows])]
        hint = _hint(problems, self.dialect)
        if misread is not None and any(problem.kind == "configuration" for problem in unread):
            hint = misread.next_step or hint
        return MisfitError(self.where, f"{self._against(held)} in {self.dialect}'s spelling", problems, hint)

    def _require_unwrapped(self) -> None:
        """Refuse a state dict with something around it in one line, instead of each tensor missing and unknown.

        Raises:
            MisfitError: No name is known, and without what all those of one part begin with most of them are.
        """
        if any(weight_files.spelled(dialect, self.stored) for dialect in self.weights.dialects):
            return
        parts: dict[str, list[StoredTensor]] = {}
        for tensor in self.stored:
            parts.setdefault(tensor.name.partition(".")[0], []).append(tensor)
        wrapped = [(prefix, len(part)) for part in parts.values() if (prefix := self._wrapper(part)) is not None]
        if not wrapped:
            return
        problems = []
        for prefix, count in wrapped:
            many = "every name begins" if count == len(self.stored) else f"{count} of {len(self.stored)} names begin"
            detail = f"{many} with {prefix}, which the table does not know"
            problems.append(Problem("wrapped", f"{prefix}*", detail))
        which = "the inner state dict" if len(wrapped) == 1 else "one of the inner state dicts"
        step = f"Save {which} alone, with names that do not begin with {wrapped[0][0]}, and convert that."
        raise MisfitError(self.where, "RoFormer's names", problems, step)

    def _wrapper(self, part: list[StoredTensor]) -> str | None:
        """Find what all these names begin with and most are known without."""
        first = min(tensor.name for tensor in part)
        for end in (place + 1 for place, letter in enumerate(first) if letter == "."):
            if not all(tensor.name.startswith(first[:end]) for tensor in part):
                return None
            inner = [replace(tensor, name=tensor.name[end:]) for tensor in part]
            known = max(weight_files.spelled(dialect, inner) for dialect in self.weights.dialects)
            if known * 2 > len(part):
                return first[:end]
        return None

    def _count_layers(
        self, source: SourceConfig, by_name: dict[str, StoredTensor], shown: int, base: bool, config_path: Path | None
    ) -> SourceConfig:
        """Say once that the tensors have another number of layers than the configuration, and go on with theirs.

        Only where every layer that is shown is mostly there: a hole, or a stray tensor, is not another number.
        """
        said = source.config.num_hidden_layers
        if said == shown or not 0 < shown <= len(by_name):
            return source
        there = dict.fromkeys(range(shown), 0)
        rows = [tensor for tensor in Table(shown).tensors if tensor.canonical.startswith("layers.")]
        for tensor in rows:
            there[int(tensor.canonical.split(".")[1])] += tensor.name(self.dialect, base=base) in by_name
        if min(there.values()) * shown * 2 < len(rows):
            return source
        origin = "the configuration" if config_path is None else config_path.name
        layers = f"{shown} layer{'s' * (shown != 1)}"
        detail = f"{said} in {origin}, the tensors show {layers}"
        self.problems.append(Problem("configuration", "num_hidden_layers", detail))
        return replace(source, config=replace(source.config, num_hidden_layers=shown))

    def _against(self, held: dict[str, Held]) -> str:
        present = {item.tensor.group.name for item in held.values()}
        return model_class(tuple(group for group in GROUPS if group.name in present))

    def _measure(self, by_name: dict[str, StoredTensor], base: bool) -> dict[str, int]:
        """Configuration field → size that the tensors show."""
        layers = count_layers(self.dialect, list(by_name))
        measured = {"num_hidden_layers": layers}
        for tensor in Table(min(layers, 1)).tensors:
            found = by_name.get(tensor.name(self.dialect, base=base))
            if found is None or len(found.shape) != len(tensor.axes):
                continue
            shape = found.shape[::-1] if tensor.turned(self.dialect) else found.shape
            for axis, size in zip(tensor.axes, shape, strict=True):
                if axis in SYMBOLS:
                    measured.setdefault(SYMBOLS[axis], size)
        table = by_name.get(self._derived_name(base) or "")
        if table is not None and len(table.shape) == 2 and measured.get("hidden_size"):
            positions, head_size = table.shape
            measured["max_position_embeddings"] = positions
            if head_size and measured["hidden_size"] % head_size == 0:
                measured["num_attention_heads"] = measured["hidden_size"] // head_size
        return measured

    def _derived_name(self, base: bool) -> str | None:
        name = DERIVED.in_(self.dialect)
        return name.removeprefix("roformer.") if name is not None and base else name

    def _fit(
        self, by_name: dict[str, StoredTensor], base: bool, config: RoFormerConfig, config_path: Path | None
    ) -> dict[str, Held]:
        """Find every tensor that the table and the configuration ask for, and check its shape and type."""
        table = Table(config.num_hidden_layers)
        present = {t.group.name for t in table.tensors if t.name(self.dialect, base=base) in by_name}
        needs_project = config.embedding_size != config.hidden_size
        origin = config_path.name if config_path is not None else "the tensors' shapes"
        # a vector that a writer repeats may be in a file under its second name alone: the value is the same one
        seconds = {
            each.of: by_name.get(each.spelled.in_(self.dialect) or "") for each in TIED if each.written == "copy"
        }
        held: dict[str, Held] = {}
        for tensor in table.tensors:
            name = tensor.name(self.dialect, base=base)
            found = by_name.get(name) or seconds.get(tensor.canonical)
            if tensor.group is PROJECT and not needs_project:
                if found is not None:
                    detail = f"embedding_size equals hidden_size = {config.hidden_size} in {origin}: no projection"
                    self.problems.append(Problem("unwanted", name, detail))
                    held[tensor.canonical] = Held(tensor, found, False)
                continue
            wanted = tensor.group.optional is None or tensor.group is PROJECT or tensor.group.name in present
            if found is None:
                if wanted:
                    self.problems.append(Problem("missing", name))
                continue
            turned = tensor.turned(self.dialect)
            shape = tensor.shape(config.sizes)
            want = shape[::-1] if turned else shape
            held[tensor.canonical] = Held(tensor, found, turned != (found.order == "F"))
            if found.shape != want:
                self.problems.append(Problem("shape", name, _shape_detail(tensor, found.shape, want, turned, origin)))
            if found.dtype not in FLOATS:
                self.problems.append(Problem("dtype", name, f"got {found.dtype}, want {' or '.join(FLOATS)}"))
        return held

    def _explain(
        self,
        rest: list[str],
        by_name: dict[str, StoredTensor],
        held: dict[str, Held],
        config: RoFormerConfig,
        base: bool,
    ) -> tuple[list[str], list[str], list[str]]:
        """Account for the names that are no row: tied, derived, ignored; anything else is a problem."""
        ties = {duplicate.spelled.in_(self.dialect): duplicate for duplicate in TIED}
        tied: list[str] = []
        derived: list[str] = []
        ignored: list[str] = []
        for name in rest:
            if name in ties:
                tied.append(name)
                self._check_tie(ties[name], by_name[name], held)
            elif name == self._derived_name(base):
                derived.append(name)
                self._check_derived(by_name[name], config)
            elif any(pattern.fullmatch(name) for pattern in IGNORED[self.dialect]):
                ignored.append(name)
            else:
                likeness = looks_like(name)
                if not likeness and count_layers(self.dialect, [name]) > config.num_hidden_layers:
                    likeness = f"a layer beyond num_hidden_layers = {config.num_hidden_layers}"
                detail = f"shape {by_name[name].shape}" + (f": looks like {likeness}" if likeness else "")
                self.problems.append(Problem("unknown", name, detail))
        return tied, derived, ignored

    def _check_tie(self, duplicate: Duplicate, copy: StoredTensor, held: dict[str, Held]) -> None:
        original = held.get(duplicate.of)
        if original is None:
            self.problems.append(Problem("tied", copy.name, f"is there and {duplicate.of} is not"))
        else:
            self._require_equal(original.stored, copy, f"{copy.name} (tied to {original.stored.name})")

    def _require_equal(self, one: StoredTensor, other: StoredTensor, name: str) -> None:
        """Check that two copies hold equal bits."""
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            detail = f"got {other.dtype} {other.shape} beside {one.dtype} {one.shape}"
            self.problems.append(Problem("tied", name, detail))
        elif not (one.data == other.data and one.order == other.order):
            if one.order != other.order or one.nbytes != other.nbytes:
                self.problems.append(Problem("tied", name, "the two copies lie in different memory orders"))
                return
            byte = first_difference(self.files, one, other)
            if byte is not None:
                element = byte // (one.nbytes // one.size)
                index = _unravel(element, one.shape)
                self.problems.append(Problem("tied", name, f"the two differ, first at element {index}"))

    def _check_derived(self, table: StoredTensor, config: RoFormerConfig) -> None:
        """Recompute the rotary table and compare; the stored one may have been rounded to its type."""
        if self.unsure & {"hidden_size", "num_attention_heads", "max_position_embeddings"}:
            return  # what it should be is not known
        want = (config.max_position_embeddings, config.head_size)
        if table.shape != want:
            detail = f"got {table.shape}, want (max_position_embeddings, head size) = {want}"
            self.problems.append(Problem("shape", table.name, detail))
        elif table.dtype not in FLOATS:
            self.problems.append(Problem("dtype", table.name, f"got {table.dtype}, want {' or '.join(FLOATS)}"))
        elif table.order == "F":
            self.problems.append(Problem("derived", table.name, "stored column by column, which no software does"))
        else:
            # rounding to the stored type, and as much again for a sine computed by another library
            bound = 2.0 * _ROUNDING[table.dtype]
            worst = rotary_distance(self.files, table)
            if not worst <= bound:
                detail = f"differs from the rotary table of this configuration by {worst:.2g} (bound {bound:.2g})"
                self.problems.append(Problem("derived", table.name, detail))


def _shape_detail(tensor: Tensor, got: tuple[int, ...], want: tuple[int, ...], turned: bool, origin: str) -> str:
    axes = tensor.axes[::-1] if turned else tensor.axes
    detail = f"got {got}, want ({', '.join(axes)}{',' * (len(axes) == 1)}) = {want}"
    wrong = [
        f"{axis} is {SYMBOLS[axis]} in {origin}"
        for position, axis in enumerate(axes)
        if axis in SYMBOLS and (len(got) != len(want) or got[position] != want[position])
    ]
    return "; ".join([detail, *dict.fromkeys(wrong)])


def _unravel(element: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index: list[int] = []
    for size in reversed(shape):
        element, remainder = divmod(element, size)
        index.append(remainder)
    return tuple(reversed(index))


def _hint(problems: list[Problem], dialect: Dialect) -> str:
    """The next step that fits the problems: the first of them that tells most."""
    kinds = {problem.kind for problem in problems}
    missing = [problem.name for problem in problems if problem.kind == "missing"]
    unknown = [problem for problem in problems if problem.kind == "unknown"]
    ends = ("bias", "beta", "gamma", "norm1.weight", "norm2.weight", "LayerNorm.weight", "layer_norm.weight")
    if len(missing) > 8 and all(name.endswith(ends) for name in missing):
        return (
            "This looks like RoFormerV2 (no biases, norms without parameters), which is not converted yet; "
            "nothing can be made up for the missing tensors."
        )
    if any("wrapper" in problem.detail for problem in unknown):
        return "Save the model's own state_dict(), without what was wrapped around it, and convert that."
    if any("BERT's learned positions" in problem.detail for problem in unknown):
        return "This looks like BERT, which learns its positions: not a RoFormer, and its weights cannot be one's."
    if "function" in kinds:
        return config_fields.ANOTHERS
    if kinds == {"shape"} and all("(max_position_embeddings, head size)" in problem.detail for problem in problems):
        return "The table is computed from the configuration: correct max_position_embeddings or the number of heads."
    if kinds == {"unknown"} and all("optimizer state" in problem.detail for problem in problems):
        return "This looks like optimizer state beside the weights: save the model's state_dict() alone."
    if "configuration" in kinds or any("a layer beyond" in problem.detail for problem in unknown) or "shape" in kinds:
        return "The configuration and the weights are of two models, or the file is damaged: fetch both again."
    if len(missing) > 8 and len(unknown) > 8:
        return f"Few of the names are {dialect}'s RoFormer. If the files speak another dialect, say which with --from."
    if unknown and all("looks like" in problem.detail for problem in unknown):
        return (
            "Convert the pretrained model, or remove these tensors first: heads that were fine-tuned have no row yet."
        )
    if "tied" in kinds:
        return "These two are one tensor to the model's software, which would use either: save the model again."
    if "dtype" in kinds:
        return "Save the weights in one of these types first; integers are no weights."
    if "derived" in kinds:
        return "The table is computed from the configuration: correct max_position_embeddings or the number of heads."
    return "Nothing is guessed: the table in converters/mapping.py must account for every tensor."
