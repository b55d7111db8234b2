"""``optimizer.safetensors``, the state of Paddle's AdamW in a unified checkpoint of PaddleNLP's, and its masters.

Arrays are called ``<name of the weight>/<kind>_0`` with Paddle's words for the kinds, and lie as Paddle has them. The
masters in ``master_weights.safetensors`` have their weights' names. Several ranks write parts, and an index of them.

Source: PaddleNLP 2.8 paddlenlp/trainer/plugins/unified_checkpoint.py ``save_unified_optimizer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..containers import safetensors
from ..containers.pickles import pdparams
from ..errors import FormatError, quoted
from ..json_input import read_json
from ..source.checkpoint import Checkpoint
from ..tensors.stored import StoredTensor
from .adam_steps import MOST_STEPS
from .paddle_state import KINDS, read_moments
from .state import AdamOptions, OptimizerState, plain_number, unknown_layout

FILE, MASTERS, _SCHEDULE = "optimizer.safetensors", "master_weights.safetensors", "scheduler.pdparams"
INDEX = f"{FILE}.index.json"
_WANT = f"arrays called WEIGHT/{{{','.join(KINDS)}}}_0, as PaddleNLP's unified checkpoint has them"


def read(path: Path, checkpoint: Checkpoint) -> OptimizerState:
    """Read the state of a unified checkpoint, given one of its files or their index.

    Raises:
        FormatError: A file is broken, or missing.
        ConvertError: It is of other parameters.
    """
    names = {binding.stored.name: name for name, binding in checkpoint.bindings.items()}
    for tie in checkpoint.table.ties:  # Paddle has one parameter, and PaddleNLP calls it by either name
        for spelled in (tie.spelling.in_("paddle"), checkpoint.table.by_canonical[tie.of].name("paddle", base=False)):
            if spelled is not None:
                names.setdefault(spelled, tie.of)
    files: list[Path] = []
    kept: dict[str, dict[str, StoredTensor]] = {}
    for tensor in _tensors(path, FILE, files):
        weight, _, kind = tensor.name.rpartition("/")
        kind = kind.removesuffix("_0")
        if kind not in KINDS or weight not in names:
            raise unknown_layout(path, f"it has {quoted(tensor.name)}", f"{_WANT}, and WEIGHT one of the weights")
        kept.setdefault(names[weight], {})[kind] = tensor
    masters = {}
    for tensor in _tensors(path, MASTERS, files):
        if tensor.name not in names:
            raise unknown_layout(path, f"{MASTERS} has {quoted(tensor.name)}", "the weights' names")
        masters[names[tensor.name]] = tensor
    schedule = _schedule(path.with_name(_SCHEDULE), files)
    epoch = schedule.get("last_epoch")
    return OptimizerState(
        path=path,
        files=tuple(files),
        layout="paddle",
        moments=read_moments(path, kept, _WANT),
        options=AdamOptions(lr=schedule.get("last_lr")),
        last_step=None if epoch is None else min(int(epoch), MOST_STEPS),
        schedule=dict(schedule),
        masters=masters,
    )


def _tensors(path: Path, name: str, files: list[Path]) -> Iterator[StoredTensor]:
    """Give the tensors of a file, or of those that its index lists; add to ``files`` what was read."""
    single, index = path.with_name(name), path.with_name(f"{name}.index.json")
    parts = [single] if single.is_file() else []
    if not parts and index.is_file():
        listed = read_json(index).get("weight_map")
        shards = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
        if not shards or any(Path(shard).name != shard or "\\" in shard for shard in shards):
            raise FormatError(index, 'its "weight_map" does not list files beside it')
        parts = [path.with_name(shard) for shard in shards]
        files.append(index)
    files += parts
    for part in parts:
        yield from safetensors.index(part).tensors


def _schedule(path: Path, files: list[Path]) -> dict[str, float]:
    """Read the numbers of Paddle's learning-rate scheduler, where its file is there."""
    if not path.is_file():
        return {}
    files.append(path)
    numbers = {key: plain_number(value) for key, value in pdparams.read_tree(path).items()}
    return {key: value for key, value in numbers.items() if value is not None}
