"""Hold indexed tensors against the table and the configuration: either everything fits, or every problem is reported.

Of payloads only ties and rotary tables are read, for the sake of comparing them (:mod:`.payloads`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..errors import MisfitError, Problem
from ..table.config import RoFormerConfig
from ..table.config_fields import SourceConfig
from ..table.config_reading import CONFIGURATION
from ..table.mapping import POSITIONS, PROJECT, SYMBOLS, Dialect, Duplicate, ModelClass, Table, Tensor, Traits
from ..table.recognition import IGNORED, another_dialects, count_layers, known_names, looks_like
from ..table.strangers import altered, whose
from ..tensors.stored import FLOATS, OpenFiles, StoredTensor
from .checkpoint import Binding, Checkpoint
from .identification import Found
from .other_sizes import agreed_widths
from .payloads import first_difference, rotary_distance
from .problems import EMPTY, FROM_SET, LEARNED, UNBIASED, next_step, of_one_kind, without_the_joined
from .resized import advise
from .vocabulary import misfit as vocabulary_misfit

#: Half a unit in the last place of 1.0; the table is held in float32 even beside float64 weights.
_ROUNDING = {"float64": 2.0**-24, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Fit:
    """What became of holding a checkpoint against the table: a checkpoint to read from, all problems, or both.

    Attributes:
        checkpoint: The tensors under canonical names as far as they are known; None where no configuration is.
        problems: Everything that does not fit.
        undetermined: Fields of the configuration that nothing shows; the checkpoint has some value in their place.
        where: The file or directory that the problems are of.
        against: What it should have fitted.
        next_step: What to do about the problems.
    """

    checkpoint: Checkpoint | None
    problems: tuple[Problem, ...]
    undetermined: frozenset[str]
    where: Path
    against: str
    next_step: str | None

    def require(self) -> Checkpoint:
        """Return the checkpoint.

        Raises:
            MisfitError: There is a problem; all of them are listed.
        """
        if self.problems or self.checkpoint is None:
            raise MisfitError(self.where, self.against, self.problems, self.next_step)
        return self.checkpoint


def fit(found: Found, *, any_vocab: bool) -> Fit:
    """Hold indexed tensors against the table and the configuration.

    Args:
        found: The checkpoint.
        any_vocab: Whether vocab.txt may have another number of rows than the model has words.
    """
    files = OpenFiles()
    try:
        made = _Fitting(found, files).fit(any_vocab)
    except BaseException:
        files.close()
        raise
    if made.problems:
        files.close()
    return made


@dataclass
class _Fitting:
    found: Found
    files: OpenFiles
    problems: list[Problem] = field(default_factory=list)
    #: Fields whose value in the configuration is wrong and that the tensors do not show either.
    undetermined: frozenset[str] = frozenset()

    @property
    def dialect(self) -> Dialect:
        return self.found.dialect

    @cached_property
    def _others(self) -> dict[str, str]:
        """What the file has under a name, or under one that ends so, that is no tensor of numbers."""
        said: dict[str, str] = {}
        for name, text in self.found.index.metadata.items():
            parts = name.split(".")
            for first in range(len(parts)):
                where = f" under {'.'.join(parts[:first])}" if first else ""
                said.setdefault(".".join(parts[first:]), f"the file has {text}{where}")
        return said

    @property
    def kind(self) -> ModelClass:
        return self.found.kind

    def fit(self, any_vocab: bool) -> Fit:
        copies: dict[str, list[StoredTensor]] = {}
        for tensor in self.found.index.tensors:
            copies.setdefault(tensor.name, []).append(tensor)
        by_name = {name: same[0] for name, same in copies.items()}
        shape, reading = self.found.shape, self.found.config
        base = shape.base
        packed = (name for name in self.found.index.metadata if "._packed_params." in name)  # torch's quantized modules
        stranger = altered((*by_name, *packed))
        if stranger is None and not self.found.problems and (by_name or not self._others):
            stranger = whose(by_name)
        if stranger is not None:
            named = Problem("names", f"{len(by_name):,} tensor{'s' * (len(by_name) != 1)}", stranger.what)
            return self._misfit((named,), "a RoFormer", stranger.step, where=self.found.entry)
        if (owner := another_dialects(self.dialect, by_name)) is not None:
            detail = f"{owner}'s, in a file as {self.dialect}'s software writes it"
            named = Problem("names", f"{len(by_name):,} tensors", detail)
            step = (
                f"If its kernels lie as {owner} has them too, say --from {owner}; or save it with {owner}'s software."
            )
            return self._misfit((named,), f"{self.dialect}'s spelling", step, where=self.found.entry)
        if self.found.problems:
            return self._misfit(self.found.problems, "one state dict", self.found.next_step, where=self.found.entry)
        self.undetermined = frozenset(problem.name for problem in reading.problems) - shape.sizes.keys()
        misread = self._misfit(reading.problems, CONFIGURATION, reading.next_step, where=self.found.config_file)
        if reading.source is None:
            return misread
        source = self._count_layers(reading.source, by_name, shape.sizes["num_hidden_layers"], base)
        source = self._take_widths(source, by_name, base)
        bindings = self._bind(by_name, base, source.config)
        if self.found.choice.note:
            source = replace(source, notes=(self.found.choice.note, *source.notes))
        bound = {item.stored.name for item in bindings.values()}
        rest = [name for name in by_name if name not in bound]
        tied, derived, ignored = self._explain(rest, by_name, bindings, source.config, base)
        self._report_unread(by_name)
        again = [(tensor, same) for same in copies.values() for tensor in same[:1] if len(same) > 1]
        for tensor, same in again:
            for other in same[1:]:
                self._require_equal(tensor, other, f"{tensor.name} (stored twice)")
        wrong = {problem.name for problem in self.problems}
        checkpoint = Checkpoint(
            found=self.found,
            base=base,
            source_config=source,
            bindings=bindings,
            duplicates=tuple(name for name in (*tied, *(tensor.name for tensor, _ in again)) if name not in wrong),
            derived=tuple(name for name in derived if name not in wrong),
            ignored=tuple(ignored),
            files=self.files,
        )
        return replace(self._judge(misread, source.config, bindings, any_vocab), checkpoint=checkpoint)

    def _judge(self, misread: Fit, config: RoFormerConfig, bindings: dict[str, Binding], any_vocab: bool) -> Fit:
        """Put the problems of the configuration, the tensors and the vocabulary together."""
        vocabulary = None if any_vocab else vocabulary_misfit(self.found.companions, config.vocab_size)
        rows = () if vocabulary is None else (vocabulary.problem,)
        choice = self.found.choice
        if choice.problem:
            unsettled = Problem("class", "the model's class", choice.problem)
            return self._misfit((unsettled, *misread.problems, *self.problems), "one class", choice.step, where=None)
        if not misread.problems and not self.problems:
            step = None if vocabulary is None else vocabulary.step
            return self._misfit(rows, "its own vocabulary", step, where=self.found.directory)
        if not self.problems and not rows:
            return misread
        problems = (*misread.problems, *of_one_kind(self.problems), *rows)
        learned = [problem for problem in self.problems if LEARNED in problem.detail]
        if learned and sum(problem.kind == "missing" for problem in problems) > 8:
            # a BERT under its own names: what each of them would have to be called says no more
            problems = (*(problem for problem in misread.problems if problem.kind == "function"), *learned)
        problems = without_the_joined(problems)
        hint: str | None = choice.step or self._resized_hint(bindings) or next_step(problems, self.dialect, self.kind)
        if any(problem.kind == "configuration" for problem in misread.problems):
            hint = misread.next_step or hint
        against = f"{self.kind.class_name} in {self.dialect}'s spelling"
        return self._misfit(problems, against, hint, where=self.found.entry)

    def _resized_hint(self, bindings: dict[str, Binding]) -> str | None:
        names = {tie.spelling.in_(self.dialect) for tie in Table(0, self.kind).ties}
        copies = [tensor for tensor in self.found.index.tensors if tensor.name in names]
        return advise(self.problems, bindings, copies, self.dialect)

    def _misfit(self, problems: Iterable[Problem], against: str, next_step: str | None, *, where: Path | None) -> Fit:
        found = tuple(problems)
        step = next_step if found else None
        return Fit(None, found, self.undetermined, where or self.found.path, against, step)

    def _count_layers(
        self, source: SourceConfig, by_name: dict[str, StoredTensor], shown: int, base: bool
    ) -> SourceConfig:
        """Say once that the tensors have another number of layers than the configuration, and go on with theirs.

        Only where every layer that is shown is mostly there: a hole, or a stray tensor, is not another number, nor are
        layers whose tensors are of a kind that is not read.
        """
        said = source.config.num_hidden_layers
        if said == shown or not 0 < shown <= len(by_name) or self.found.index.unread:
            return source
        there = dict.fromkeys(range(shown), 0)
        table = Table(shown, self.kind, Traits.of(source.config))
        rows = [tensor for tensor in table.tensors if tensor.canonical.startswith("layers.")]
        for tensor in rows:
            there[int(tensor.canonical.split(".")[1])] += tensor.name(self.dialect, base=base) in by_name
        if min(there.values()) * shown * 2 < len(rows):
            return source
        layers = f"{shown} layer{'s' * (shown != 1)}"
        self._report_shown("num_hidden_layers", said, layers)
        return replace(source, config=replace(source.config, num_hidden_layers=shown))

    def _take_widths(self, source: SourceConfig, by_name: dict[str, StoredTensor], base: bool) -> SourceConfig:
        """Say once that the tensors agree on other widths than the configuration, and go on with theirs."""
        table = Table.of(source.config, self.kind).by_name(self.dialect, base=base)
        there = [(table[name], each.shape) for name, each in by_name.items() if name in table]
        turned = ((row, shape[:: -1 if row.transposed(self.dialect) else 1]) for row, shape in there)
        widths = agreed_widths(turned, source.config)
        for name, shown in widths.items():
            self._report_shown(name, getattr(source.config, name), str(shown))
        if "hidden_size" in widths:
            self.undetermined |= {"num_attention_heads"}
        found: Mapping[str, Any] = widths
        return replace(source, config=replace(source.config, **found))

    def _report_shown(self, name: str, said: int, shown: str) -> None:
        where = self._where_said(name, "the configuration")
        self.problems.append(Problem("configuration", name, f"{said} {where}, the tensors show {shown}"))

    def _where_said(self, name: str, otherwise: str) -> str:
        """Say where a size was read; ``otherwise`` where there is no file."""
        source, file = self.found.config.source, self.found.config_file
        if source is not None and name in source.given:
            return FROM_SET
        return f"in {otherwise if file is None else file.name}"

    def _bind(self, by_name: dict[str, StoredTensor], base: bool, config: RoFormerConfig) -> dict[str, Binding]:
        """Find every tensor that the table and the configuration ask for, and check its shape and type."""
        table = Table.of(config, self.kind)
        present = {t.group.name for t in table.tensors if t.name(self.dialect, base=base) in by_name}
        needs_project = config.embedding_size != config.hidden_size
        where_said = partial(self._where_said, otherwise="the tensors' shapes")
        # a vector that a writer repeats may be in a file under its second name alone: the value is the same one
        seconds = {
            each.of: by_name.get(each.spelling.in_(self.dialect) or "") for each in table.ties if each.written == "copy"
        }
        bindings: dict[str, Binding] = {}
        for tensor in table.tensors:
            name = tensor.name(self.dialect, base=base)
            if name is None:
                continue
            found = by_name.get(name) or seconds.get(tensor.canonical)
            if tensor.group is PROJECT and not needs_project:
                if found is not None:
                    where = where_said("embedding_size")
                    detail = f"embedding_size equals hidden_size = {config.hidden_size} {where}: no projection"
                    self.problems.append(Problem("unwanted", name, detail))
                    bindings[tensor.canonical] = Binding(tensor, found, False)
                continue
            wanted = tensor.group.optional is None or tensor.group is PROJECT or tensor.group.name in present
            if found is None:
                own = tensor.canonical == "embeddings.project.bias" and config.norm_type != "layer_norm"
                if own and self.dialect == "tf1":
                    self.problems.append(Problem("function", name, UNBIASED))
                elif wanted and not tensor.optional:
                    other = self._others.get(name)
                    self.problems.append(Problem("missing", name) if other is None else Problem("unread", name, other))
                continue
            transposed = tensor.transposed(self.dialect)
            shape = tensor.shape(config.sizes)
            want = shape[::-1] if transposed else shape
            bindings[tensor.canonical] = Binding(tensor, found, transposed != (found.order == "F"))
            if 0 in found.shape:
                self.problems.append(Problem("empty", name, EMPTY))
            elif found.shape != want:
                detail = _shape_detail(tensor, found.shape, want, transposed, where_said)
                self.problems.append(Problem("shape", name, detail))
            if found.dtype not in FLOATS:
                self.problems.append(Problem("dtype", name, f"got {found.dtype}, want {' or '.join(FLOATS)}"))
        return bindings

    def _explain(
        self,
        rest: list[str],
        by_name: dict[str, StoredTensor],
        bindings: dict[str, Binding],
        config: RoFormerConfig,
        base: bool,
    ) -> tuple[list[str], list[str], list[str]]:
        """Account for the names that are not a row's: tied, derived, ignored; anything else is a problem."""
        ties = {duplicate.spelling.in_(self.dialect): duplicate for duplicate in Table.of(config, self.kind).ties}
        tied: list[str] = []
        derived: list[str] = []
        ignored: list[str] = []
        for name in rest:
            if name in ties:
                tied.append(name)
                self._check_tie(ties[name], by_name[name], bindings)
            elif name == POSITIONS.name(self.dialect, base=base):
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

    def _report_unread(self, by_name: dict[str, StoredTensor]) -> None:
        """Report what has the name of a RoFormer's tensor and is of a kind that is not read."""
        known = known_names(self.dialect, by_name) if self.found.index.unread else frozenset()
        reported = {problem.name for problem in self.problems}
        for stored in sorted(self.found.index.unread):
            parts = stored.split(".")
            name = next((own for first in range(len(parts)) if (own := ".".join(parts[first:])) in known), None)
            if name is not None and name not in by_name and name not in reported:
                self.problems.append(Problem("unread", name, self._others[name]))

    def _check_tie(self, duplicate: Duplicate, copy: StoredTensor, bindings: dict[str, Binding]) -> None:
        original = bindings.get(duplicate.of)
        if original is None:
            self.problems.append(Problem("tied", copy.name, f"is in the file and {duplicate.of} is not"))
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
        if self.undetermined & {"num_attention_heads", "max_position_embeddings"}:
            return  # what it should be is not known
        want = (config.max_position_embeddings, config.head_size)
        if 0 in table.shape:
            self.problems.append(Problem("empty", table.name, EMPTY))
        elif table.shape != want:
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


def _shape_detail(
    tensor: Tensor, got: tuple[int, ...], want: tuple[int, ...], transposed: bool, where_said: Callable[[str], str]
) -> str:
    axes = tensor.axes[::-1] if transposed else tensor.axes
    detail = f"got {got}, want ({', '.join(axes)}{',' * (len(axes) == 1)}) = {want}"
    wrong = [
        f"{axis} is {SYMBOLS[axis]} {where_said(SYMBOLS[axis])}"
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
