"""Say what a directory is, whether or not it can be converted."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import Problem, fold_layers
from .source.checkpoint import Checkpoint
from .source.fitting import fit
from .source.identification import identify
from .source.splitting import splitting_of
from .source.stated import Stated
from .table.differences import differences
from .table.mapping import DIALECTS, Dialect, Table
from .table.recognition import MOST_LAYERS

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Inspection:
    """What was found in a directory or file.

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
        ignored: Tensors that are not weights.
        left_out: Tensors that are not the model's, by their names in the file.
        problems: What is missing, unknown or contradictory.
        notes: What was assumed.
        companions: Tokenizer files and licences.
        different: Target → what its own software would compute otherwise, for which a conversion to it is refused.
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
    left_out: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    companions: tuple[str, ...]
    different: dict[Dialect, tuple[str, ...]]

    @property
    def converts(self) -> bool:
        """Whether nothing keeps ``convert`` from taking it."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Render as data for ``--json``."""
        return {**asdict(self), "converts": self.converts}

    def folded_problems(self) -> list[tuple[Problem, int]]:
        """Return the problems with layers folded, and how many tensors each line stands for."""
        return fold_layers(self.problems)


def inspect(path: str | Path, **stated: Unpack[Stated]) -> Inspection:
    """Look at a checkpoint directory or file; a misfit is described, not raised.

    Args:
        path: What to look at.
        **stated: What is so whatever the files say.

    Raises:
        FormatError: A file is broken or hostile.
        ConvertError: Nothing there to look at, a field that cannot be set, or a part that is not there.
    """
    found = identify(path, **stated)
    fitted = fit(found, any_vocab=False)
    splitting_of(found.companions, {})  # a conversion reads the same settings
    weights, names = found.weights, {tensor.name for tensor in found.index.tensors}
    assert weights is not None, "what was identified lies in files"
    table = Table(min(found.shape.sizes["num_hidden_layers"], len(names), MOST_LAYERS), found.kind, found.shape.traits)
    present = {
        tensor.group.name
        for base in (False, True)
        for name, tensor in table.by_name(found.dialect, base=base).items()
        if name in names
    }
    groups = tuple(group for group in table.groups if group.name in present)
    known, hint = fitted.checkpoint, (fitted.next_step,) if fitted.next_step else ()
    settings = {} if known is None else asdict(known.config)
    return Inspection(
        path=str(path),
        dialect=found.dialect,
        container=weights.container.name,
        files={part.name: part.stat().st_size for part in weights.parts},
        config_file=None if found.config_file is None else found.config_file.name,
        model_class=found.kind.class_name,
        config={name: value for name, value in settings.items() if name not in fitted.undetermined},
        tensors=len(found.index.tensors),
        parameters=None if known is None else sum(each.stored.size for each in known.bindings.values()),
        dtypes=dict(Counter(tensor.dtype for tensor in found.index.tensors)),
        groups=tuple(group.name for group in groups),
        tied=() if known is None else known.duplicates,
        derived=() if known is None else known.derived,
        ignored=() if known is None else known.ignored,
        left_out=found.left_out,
        problems=fitted.problems,
        notes=(*found.notes, *found.stray_notes, *(() if known is None else known.source_config.notes), *hint),
        companions=tuple(file.name for file in found.companions),
        different={} if known is None else _different(known),
    )


def _different(checkpoint: Checkpoint) -> dict[Dialect, tuple[str, ...]]:
    others = (target for target in DIALECTS if target != checkpoint.dialect)
    found = {
        target: differences(checkpoint.source_config, target, checkpoint.kind, checkpoint.bindings) for target in others
    }
    return {target: tuple(map(str, listed)) for target, listed in found.items() if listed}
