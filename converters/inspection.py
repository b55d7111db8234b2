"""Say what a directory is, whether or not it can be converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import weight_files
from .checkpoint import Checkpoint, model_class
from .companions import find_companions, vocabulary_problem
from .errors import MisfitError, Problem, fold_layers
from .fitting import resolve
from .mapping import GROUPS, Dialect, Table, count_layers
from .opening import find_config, spoken_dialect


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        path: What was looked at.
        dialect: Whose spelling the tensors have.
        container: Format of the weight files.
        files: File name → bytes.
        config_file: Name of the configuration, or None.
        model_class: The class that loads it.
        config: Canonical field → value, without those that are not known; empty where none is.
        tensors: Number of tensors in the files, second copies included.
        parameters: Number of elements, each row's tensor counted once; None where no configuration is known.
        dtypes: Element type → number of tensors.
        groups: Parts of the model that are there.
        tied: Second copies of a tensor, equal to the first.
        derived: Tables that follow from the configuration.
        ignored: Tensors that are no weights.
        problems: What is missing, unknown or contradictory.
        notes: What was assumed.
        companions: Tokenizer files and licences.
    """

    path: str
    dialect: Dialect
    container: str
    files: dict[str, int]
    config_file: str | None
    model_class: str
    config: dict[str, Any]
    tensors: int
    parameters: int | None
    dtypes: dict[str, int]
    groups: tuple[str, ...]
    tied: tuple[str, ...]
    derived: tuple[str, ...]
    ignored: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    companions: tuple[str, ...]

    @property
    def converts(self) -> bool:
        """Whether nothing keeps ``convert`` from taking it."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Render as data for ``--json``."""
        return {**asdict(self), "converts": self.converts}

    def folded_problems(self) -> list[tuple[Problem, int]]:
        """The problems with layers folded, and how many tensors each line stands for."""
        return fold_layers(self.problems)


def inspect(
    path: str | Path,
    *,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
) -> Inspection:
    """Look at a checkpoint directory or file; a misfit is described, not raised.

    Args:
        path: What to look at.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of the configuration → value, whatever its file says.

    Raises:
        FormatError: A file is broken or hostile.
        ConvertError: Nothing there to look at, or a field that cannot be set.
    """
    path = Path(path)
    weights = weight_files.find(path, dialect)
    stored = weight_files.index(weights)
    spoken = dialect or spoken_dialect(weights, stored)
    directory = weights.files[0].parent
    config_path = find_config(directory, (spoken,)) if config is None else weight_files.require_file(Path(config))
    companions = find_companions(directory)
    files = {file.name: file.stat().st_size for file in weights.files}
    if weights.container == "ckpt":
        prefix = weights.files[0].name.removesuffix(".index")
        files |= {shard.name: shard.stat().st_size for shard in sorted(directory.glob(f"{prefix}.data-*"))}
    names = {tensor.name for tensor in stored}
    table = Table(count_layers(spoken, list(names)))
    present = {
        tensor.group.name
        for base in (False, True)
        for name, tensor in table.by_name(spoken, base=base).items()
        if name in names
    }
    common: dict[str, Any] = {
        "path": str(path),
        "dialect": spoken,
        "container": weights.container,
        "files": files,
        "config_file": None if config_path is None else config_path.name,
        "model_class": model_class(tuple(group for group in GROUPS if group.name in present)),
        "tensors": len(stored),
        "dtypes": dict(Counter(tensor.dtype for tensor in stored)),
        "companions": tuple(file.name for file in companions),
        "groups": tuple(group.name for group in GROUPS if group.name in present),
    }
    known: Checkpoint | None
    problems: tuple[Problem, ...] = ()
    hint: tuple[str, ...] = ()
    unsure: frozenset[str] = frozenset()
    try:
        with resolve(path, weights, stored, spoken, config_path, companions, given=set) as known:
            vocabulary = vocabulary_problem(companions, known.config.vocab_size)
        if vocabulary is not None:
            problems = (vocabulary,)
    except MisfitError as error:
        known, problems, unsure = error.checkpoint, error.problems, error.unsure
        hint = (error.next_step,) if error.next_step else ()
    if known is None:
        return Inspection(
            **common, config={}, parameters=None, tied=(), derived=(), ignored=(), problems=problems, notes=hint
        )
    return Inspection(
        **common,
        config={name: value for name, value in asdict(known.config).items() if name not in unsure},
        parameters=sum(held.stored.size for held in known.held.values()),
        tied=known.duplicates,
        derived=known.derived,
        ignored=known.ignored,
        problems=problems,
        notes=(*_other_architectures(known), *known.source_config.notes, *hint),
    )


def _other_architectures(known: Checkpoint) -> tuple[str, ...]:
    """Name the classes of the configuration that are none of those converted: a fine-tuned model's."""
    said = known.source_config.extra.get("architectures")
    names = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    own = ("roformermodel", "roformerformaskedlm", "roformerforpretraining")
    others = [name[:80] for name in names if name.removeprefix("TF").lower() not in own]
    return (f"the configuration names {', '.join(others)}",) if others else ()
