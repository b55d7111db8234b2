"""Open a checkpoint of any dialect: its tensors under canonical names, read lazily, and its configuration.

The reading half of the conversion. :mod:`.weight_files` finds and indexes the files; this holds what they say against
the table and the configuration, and either everything fits or every problem is reported at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import config_fields, weight_files
from .config import RoFormerConfig
from .config_fields import SourceConfig
from .containers.stored import Extent, OpenFiles, StoredTensor
from .dialects import COMPANIONS, DIALECT_FILES, Container
from .errors import ConvertError, MisfitError, Problem
from .mapping import (
    DERIVED,
    GROUPS,
    IGNORED,
    MLM,
    PROJECT,
    SYMBOLS,
    TIED,
    Dialect,
    Duplicate,
    Group,
    Table,
    Tensor,
    count_layers,
    looks_like,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT_TYPES = ("float32", "float16", "bfloat16", "float64")
#: Elements compared at a time where two copies of one tensor must be equal.
_CHUNK = 1 << 20
#: Bytes of a rotary table that is still checked: a million positions at head size 64.
_LARGEST_TABLE = 1 << 28


@dataclass(frozen=True)
class Held:
    """One canonical tensor and where its bytes lie.

    Attributes:
        tensor: Its row of the table.
        stored: Its place in the file.
        turned: Whether the bytes are those of the transposed (in, out) matrix in C order: the dialect's convention and
            the file's own memory order taken together.
    """

    tensor: Tensor
    stored: StoredTensor
    turned: bool


@dataclass
class Checkpoint:
    """A checkpoint whose tensors, table and configuration fit: iterate for canonical names, ``read`` for arrays.

    A context manager: closing it closes the files.

    Attributes:
        path: What was opened.
        dialect: The spelling its files use.
        container: The format of its weight files.
        weights: The files.
        base: Whether it is a bare base model (torch and Paddle then leave the outer prefix out).
        source_config: Configuration as read, with what the table has no field for.
        config_path: The configuration's file, or None where the shapes decided.
        held: Canonical name → tensor, in the table's order.
        duplicates: Second copies of a tensor in the files (tied weights), checked to be equal.
        derived: Tables that the files carry and that were recomputed and checked.
        ignored: Names in the files that are no weights (optimizer slots).
    """

    path: Path
    dialect: Dialect
    container: Container
    weights: weight_files.WeightSet
    base: bool
    source_config: SourceConfig
    config_path: Path | None
    held: dict[str, Held]
    duplicates: tuple[str, ...]
    derived: tuple[str, ...]
    ignored: tuple[str, ...]
    files: OpenFiles = field(repr=False)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.files.__exit__(kind, error, tb)

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, name: object) -> bool:
        return name in self.held

    @property
    def config(self) -> RoFormerConfig:
        return self.source_config.config

    @property
    def directory(self) -> Path:
        """Where its files lie."""
        return self.weights.files[0].parent

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The table's groups that the files hold."""
        present = {held.tensor.group.name for held in self.held.values()}
        return tuple(group for group in GROUPS if group.name in present)

    @property
    def model_class(self) -> str:
        """The class that loads all of it here and the masked-LM part of it elsewhere."""
        return model_class(self.groups)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, each counted once."""
        return sum(held.stored.nbytes for held in self.held.values())

    @cached_property
    def companions(self) -> tuple[Path, ...]:
        """Tokenizer files and licences beside the weights."""
        beside = (self.directory / name for name in COMPANIONS)
        return tuple(weight_files.require_file(path) for path in beside if path.exists())

    def shape(self, name: str) -> tuple[int, ...]:
        """Canonical shape (out, in) of a tensor."""
        return self._held(name).tensor.shape(self.config.sizes)

    def dtype(self, name: str) -> str:
        """Element type of a tensor: float32, float16, bfloat16 or float64."""
        return self._held(name).stored.dtype

    def dtypes(self) -> Counter[str]:
        """Element type → number of tensors."""
        return Counter(held.stored.dtype for held in self.held.values())

    def read(self, name: str, dtype: str | None = None) -> NDArray[Any]:
        """Read one tensor in canonical orientation.

        Args:
            name: Canonical name.
            dtype: Cast to this type; by default the stored one, where bfloat16 comes as uint16 bit patterns.

        Raises:
            KeyError: The checkpoint has no such tensor.
            FormatError: The file was cut short since it was opened.
        """
        import numpy

        from .dtypes import cast, numpy_dtype

        held = self._held(name)
        stored = held.stored
        array = numpy.empty(stored.size, numpy_dtype(stored.dtype))
        stored.data.read_into(self.files, 0, array.view(numpy.uint8).data)
        shape = self.shape(name)
        array = array.reshape(shape[::-1]).T.copy() if held.turned else array.reshape(shape)
        return array if dtype is None else cast(array, stored.dtype, dtype, name=name)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.read(name)

    def _held(self, name: str) -> Held:
        if name not in self.held:
            raise KeyError(f"{self.path} has no tensor {name!r}")
        return self.held[name]


def model_class(groups: tuple[Group, ...]) -> str:
    """Name the class for a file that holds ``groups``: the heads decide."""
    names = {group.name for group in groups}
    if MLM.name not in names:
        return "RoFormerModel"
    return "RoFormerForPretraining" if "sentence-order head" in names else "RoFormerForMaskedLM"


def find_config(directory: Path, dialects: tuple[Dialect, ...]) -> Path | None:
    """The configuration file of a directory, under the first of the dialects' names that is there."""
    for dialect in dialects:
        for name in DIALECT_FILES[dialect].configs:
            if (directory / name).exists():
                return weight_files.require_file(directory / name)
    return None


def open_checkpoint(
    path: str | Path,
    *,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
) -> Checkpoint:
    """Open a checkpoint of any dialect without reading payloads, except where two copies of a tensor must be compared.

    Args:
        path: A checkpoint directory, one weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.

    Raises:
        MisfitError: Tensors, table and configuration do not fit; every problem is listed.
        FormatError: A file is broken or hostile.
        ConvertError: Nothing there to open.
    """
    path = Path(path)
    weights = weight_files.find(path, dialect)
    stored = weight_files.index(weights)
    spoken = dialect or spoken_dialect(weights, stored)
    if dialect is not None:
        _require_spoken(weights.shard_index or weights.files[0], dialect, stored)
    directory = weights.files[0].parent
    config_path = None if config is None else weight_files.require_file(Path(config))
    if config_path is None:
        config_path = find_config(directory, (spoken,))
    return resolve(path, weights, stored, spoken, config_path)


def spoken_dialect(weights: weight_files.WeightSet, stored: list[StoredTensor]) -> Dialect:
    """The dialect whose spelling most tensors have; the container's own on a tie."""
    if len(weights.dialects) == 1:
        return weights.dialects[0]
    return max(weights.dialects, key=lambda dialect: _spelled(dialect, stored))


def _spelled(dialect: Dialect, stored: list[StoredTensor]) -> int:
    """How many of the tensors have a row's name in ``dialect``."""
    names = {tensor.name for tensor in stored}
    table = Table(count_layers(dialect, list(names)))
    return max(len(names & table.by_name(dialect, base=base).keys()) for base in (False, True))


def _require_spoken(where: Path, dialect: Dialect, stored: list[StoredTensor]) -> None:
    """Refuse a dialect that was asked for when the tensors plainly speak another: one line instead of a hundred.

    Raises:
        ConvertError: More than twice as many names are another dialect's.
    """
    counts = {other: _spelled(other, stored) for other in DIALECT_FILES}
    best = max(counts, key=lambda other: counts[other])
    if counts[best] > 2 * counts[dialect]:
        raise ConvertError(
            f"{where}: the tensors have {best}'s names ({counts[best]} of {len(stored)}), not {dialect}'s "
            f"({counts[dialect]})",
            "Use `roformer-convert convert SOURCE --to …`, which finds the dialect out by itself.",
        )


def resolve(
    path: Path,
    weights: weight_files.WeightSet,
    stored: list[StoredTensor],
    dialect: Dialect,
    config: Path | SourceConfig | None,
) -> Checkpoint:
    """Hold indexed tensors against the table and the configuration.

    Args:
        path: What was opened, for messages.
        weights: Its files.
        stored: Their tensors.
        dialect: The spelling they use.
        config: The configuration's file, None to work it out, or one that is known already (what was just written).

    Raises:
        MisfitError: Something does not fit; every problem is listed.
    """
    where = weights.files[0] if weights.shard_index is None else weights.shard_index
    files = OpenFiles()
    try:
        return _Resolver(path, where, weights, stored, dialect, files).resolve(config)
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
    problems: list[Problem] = field(default_factory=list)

    def resolve(self, config: Path | SourceConfig | None) -> Checkpoint:
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
        if isinstance(config, SourceConfig):
            source, config_path = config, None
        else:
            source = config_fields.read(config, self.dialect, measured, where=self.path)
            config_path = config
        held = self._fit(by_name, base, source.config, config_path)
        rest = [name for name in by_name if name not in {item.stored.name for item in held.values()}]
        tied, derived, ignored = self._explain(rest, by_name, held, source.config, base)
        again = [(tensor, same) for same in copies.values() for tensor in same[:1] if len(same) > 1]
        for tensor, same in again:
            for other in same[1:]:
                self._require_equal(tensor, other, f"{tensor.name} (stored twice)")
        if self.problems:
            hint = _hint(self.problems, self.dialect)
            raise MisfitError(self.where, f"{self._against(held)} in {self.dialect}'s spelling", self.problems, hint)
        return Checkpoint(
            path=self.path,
            dialect=self.dialect,
            container=self.weights.container,
            weights=self.weights,
            base=base or (self.dialect in ("tf", "tf1") and not any(h.tensor.group is MLM for h in held.values())),
            source_config=source,
            config_path=config_path,
            held=held,
            duplicates=(*tied, *(tensor.name for tensor, _ in again)),
            derived=tuple(derived),
            ignored=tuple(ignored),
            files=self.files,
        )

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
        held: dict[str, Held] = {}
        for tensor in table.tensors:
            name = tensor.name(self.dialect, base=base)
            found = by_name.get(name)
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
            if found.dtype not in FLOAT_TYPES:
                self.problems.append(Problem("dtype", name, f"got {found.dtype}, want {' or '.join(FLOAT_TYPES)}"))
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
            byte = _first_difference(self.files, one, other)
            if byte is not None:
                element = byte // (one.nbytes // one.size)
                index = _unravel(element, one.shape)
                self.problems.append(Problem("tied", name, f"the two differ, first at element {index}"))

    def _check_derived(self, table: StoredTensor, config: RoFormerConfig) -> None:
        """Recompute the rotary table and compare; the stored one may have been rounded to its type."""
        import numpy

        from .dtypes import cast, numpy_dtype
        from .rotary import embed_positions

        want = (config.max_position_embeddings, config.head_size)
        if table.shape != want:
            detail = f"got {table.shape}, want (max_position_embeddings, head size) = {want}"
            self.problems.append(Problem("shape", table.name, detail))
            return
        if table.dtype not in FLOAT_TYPES:
            self.problems.append(Problem("dtype", table.name, f"got {table.dtype}, want {' or '.join(FLOAT_TYPES)}"))
            return
        if table.nbytes > _LARGEST_TABLE:
            detail = f"a rotary table of {table.nbytes:,} bytes, want at most {_LARGEST_TABLE:,}"
            self.problems.append(Problem("derived", table.name, detail))
            return
        array = numpy.empty(table.size, numpy_dtype(table.dtype))
        table.data.read_into(self.files, 0, array.view(numpy.uint8).data)
        values = cast(array, table.dtype, "float64", name=table.name)
        values = values.reshape(want[::-1]).T if table.order == "F" else values.reshape(want)
        difference = numpy.abs(values - embed_positions(*want))
        # half a unit in the last place of 1.0, and another for a sine computed by another library
        bound = 2.0 * {"float64": 2.0**-24, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[table.dtype]
        worst = float(difference.max(initial=0.0))
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


def _first_difference(files: OpenFiles, one: StoredTensor, other: StoredTensor) -> int | None:
    """Byte at which two tensors of one size first differ, or None."""
    if (
        isinstance(one.data, Extent)
        and isinstance(other.data, Extent)
        and (one.data.path, one.data.offset) == (other.data.path, other.data.offset)
    ):
        return None
    left, right = bytearray(_CHUNK), bytearray(_CHUNK)
    for start in range(0, one.nbytes, _CHUNK):
        count = min(_CHUNK, one.nbytes - start)
        one.data.read_into(files, start, memoryview(left)[:count])
        other.data.read_into(files, start, memoryview(right)[:count])
        if left[:count] != right[:count]:
            return start + next(i for i in range(count) if left[i] != right[i])
    return None


def _unravel(element: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index: list[int] = []
    for size in reversed(shape):
        element, remainder = divmod(element, size)
        index.append(remainder)
    return tuple(reversed(index))


def _hint(problems: list[Problem], dialect: Dialect) -> str:
    """The next step that fits the problems."""
    missing = [problem.name for problem in problems if problem.kind == "missing"]
    unknown = [problem for problem in problems if problem.kind == "unknown"]
    ends = ("bias", "beta", "gamma", "norm1.weight", "norm2.weight", "LayerNorm.weight", "layer_norm.weight")
    if len(missing) > 8 and all(name.endswith(ends) for name in missing):
        return (
            "This looks like RoFormerV2 (no biases, norms without parameters), which is not converted yet; "
            "nothing can be made up for the missing tensors."
        )
    if len(missing) > 8 and len(unknown) > 8:
        return f"Few of the names are {dialect}'s RoFormer. If the files speak another dialect, say which with --from."
    if unknown and all("looks like" in problem.detail for problem in unknown):
        return (
            "Convert the pretrained model, or remove these tensors first: heads that were fine-tuned have no row yet."
        )
    if any(problem.kind == "shape" for problem in problems):
        return "The configuration and the weights are of two models, or the file is damaged: fetch both again."
    return "Nothing is guessed: the table in converters/mapping.py must account for every tensor."
