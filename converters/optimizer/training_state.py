"""``training.safetensors``, the state of this project's own training, and ``training.json`` beside it.

Arrays are called ``<canonical name>:<kind>`` with Paddle's words for the kinds, and lie as Paddle has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..containers import safetensors
from ..errors import FormatError, quoted
from ..json_input import read_json
from ..source.checkpoint import Checkpoint
from ..table.dialects import OPTIMIZER_FILES
from ..tensors.checksums import CheckedPart
from ..tensors.stored import ChecksummedExtent, FileLayout, NewTensor, StoredTensor
from .adam_steps import MOST_STEPS
from .paddle_state import KINDS, read_moments
from .state import AdamOptions, OptimizerState, plain_number, unknown_layout

FILE = OPTIMIZER_FILES[2]
#: Step, settings and checksums of the run; a conversion writes none, for it knows no run.
RUN = "training.json"
_WANT = f"arrays called PARAMETER:KIND, KIND being {', '.join(KINDS)}"


def read(path: Path, checkpoint: Checkpoint) -> OptimizerState:
    """Read the state of this project's training.

    Raises:
        FormatError: A file is broken.
        ConvertError: It is of other parameters.
    """
    run = path.with_name(RUN)
    said = read_json(run) if run.is_file() else {}
    kept: dict[str, dict[str, StoredTensor]] = {}
    for tensor in _checked(path, safetensors.index(path).tensors, said):
        name, _, kind = tensor.name.rpartition(":")
        if kind not in KINDS or name not in checkpoint:
            raise unknown_layout(path, f"it has {quoted(tensor.name)}", _WANT + " and PARAMETER one of the weights")
        kept.setdefault(name, {})[kind] = tensor
    step = plain_number(said.get("step"))
    return OptimizerState(
        path=path,
        files=(path, run) if said else (path,),
        layout="paddle",
        moments=read_moments(path, kept, _WANT),
        options=_options(said),
        last_step=None if step is None else min(int(step), MOST_STEPS),
        notes=(f"of {RUN} only AdamW's settings are carried: no schedule, loss scale, or place in the data",)
        if said
        else (),
    )


def _checked(path: Path, tensors: tuple[StoredTensor, ...], said: Mapping[str, Any]) -> list[StoredTensor]:
    """Bind the arrays to the file's checksum, where ``training.json`` has it: whoever reads one, reads it checked."""
    checksums = said.get("crc32c")
    checksum = checksums.get(path.name) if isinstance(checksums, dict) else None
    if type(checksum) is not int:
        return list(tensors)
    try:
        whole = ChecksummedExtent(path, 0, path.stat().st_size, checksum)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
    return [replace(tensor, data=CheckedPart(tensor.data, whole, path.name)) for tensor in tensors]


def _options(said: Mapping[str, Any]) -> AdamOptions:
    settings = said.get("settings")
    optimizer = settings.get("optimizer") if isinstance(settings, dict) else None
    there = optimizer if isinstance(optimizer, dict) else {}
    return AdamOptions(
        lr=plain_number(said.get("learning_rate")),
        beta1=plain_number(there.get("beta1")),
        beta2=plain_number(there.get("beta2")),
        eps=plain_number(there.get("adam_epsilon")),
        weight_decay=plain_number(there.get("weight_decay")),
    )


def lay_out(tensors: Mapping[str, tuple[NewTensor, ...]]) -> FileLayout:
    """Lay out the arrays of each of :data:`KINDS`, by canonical name."""
    return safetensors.lay_out(FILE, [new for arrays in tensors.values() for new in arrays], {})
