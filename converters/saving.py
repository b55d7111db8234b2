"""Write arrays under canonical names as a checkpoint directory: the models' ``save_pretrained`` ends here.

The arrays are held against the table as a file's tensors are, so the plan, the engine and the comparison are those of
every conversion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MisfitError, Problem, all_or_nothing
from .source.fitting import fit
from .source.identification import Found
from .source.weight_set import require_file
from .table.config import RoFormerConfig
from .table.config_fields import SourceConfig
from .table.config_reading import Reading
from .table.mapping import BASE, MASKED_LM, PRETRAINING, Dialect, ModelClass, Table
from .table.recognition import Choice
from .target.output import OutputDirectory, check_room
from .target.plan import make_plan
from .tensors.stored import Index, InMemory, StoredTensor
from .writing import needed_room, write_directory

if TYPE_CHECKING:
    from numpy.typing import NDArray


@all_or_nothing()
def save_checkpoint(
    directory: str | Path,
    tensors: Mapping[str, NDArray[Any]],
    config: RoFormerConfig,
    *,
    dialect: Dialect,
    kind: ModelClass | None = None,
    dtypes: Mapping[str, str] | None = None,
    container: str | None = None,
    max_shard_size: int | None = None,
    force: bool = False,
    companions: Iterable[str | Path] = (),
    extra: Mapping[str, Any] | None = None,
    allow_different: bool = False,
    positions: bool = True,
) -> None:
    """Write arrays under canonical names as a checkpoint directory of ``dialect``, whole or not at all.

    Args:
        directory: Where it shall appear.
        tensors: Canonical name → array, kernels as (out, in).
        config: Their configuration.
        dialect: Dialect to write.
        kind: The model's class; by default the one for words that the names show, or the bare encoder.
        dtypes: Name → type, where the array's own says too little: ``"bfloat16"`` for uint16 bit patterns.
        container: Format of the weight files.
        max_shard_size: Largest weight file in bytes of payload.
        force: Replace an existing checkpoint directory.
        companions: Tokenizer files to copy along.
        extra: Further keys of the configuration file.
        allow_different: Write it though the dialect's own software would compute another function.
        positions: Write the rotary table where the dialect's software keeps it among the weights.

    Raises:
        MisfitError: Tensors and configuration do not fit the table.
        ConvertError: The directory cannot be written.
    """
    import numpy as np

    kinds = dict(dtypes or {})
    kind = _of_words(tensors) if kind is None else kind
    table = Table.of(config, kind)
    problems = [Problem("unknown", name) for name in tensors if name not in table.by_canonical]
    stored: list[StoredTensor] = []
    for name, array in tensors.items():
        tensor = table.by_canonical.get(name)
        if tensor is not None:
            # a view of another program's file may be big-endian, and no file that is written here is
            plain = np.ascontiguousarray(array, np.asarray(array).dtype.newbyteorder("<")).reshape(np.shape(array))
            torch_name = tensor.name("torch")
            assert torch_name is not None, "torch has a name for everything"
            stored.append(StoredTensor(torch_name, kinds.get(name, plain.dtype.name), plain.shape, InMemory(plain)))
    if problems:
        raise MisfitError(directory, "the table", problems, "Name tensors as converters/table/mapping.py does.")
    # torch's names go with the canonical orientation
    found = Found(
        path=Path(directory),
        weights=None,
        index=Index(tuple(stored), {}),
        dialect="torch",
        config_file=None,
        config=Reading(SourceConfig(config, extra=dict(extra or {}))),
        choice=Choice(kind, settled=True),
        companions=tuple(require_file(Path(path)) for path in companions),
    )
    source = fit(found, any_vocab=True).require()
    plan = make_plan(
        source,
        dialect,
        container=container,
        max_shard_size=max_shard_size,
        allow_different=allow_different,
        positions=positions,
    )
    check_room(Path(directory).resolve(), needed_room(plan))
    with source, OutputDirectory(Path(directory), files=source.companions, force=force) as output:
        write_directory(plan, output.path)
        output.commit()


def _of_words(names: Iterable[str]) -> ModelClass:
    modules = {name.partition(".")[0] for name in names}
    return BASE if "mlm" not in modules else PRETRAINING if "sop" in modules else MASKED_LM
