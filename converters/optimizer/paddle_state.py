"""``.pdopt``, the state of Paddle's AdamW, which goes by Paddle's own names of the parameters.

A parameter is called by the kind of its layer and a count of those made so far in the process: ``linear_6.w_0``. The
weights' ``.pdparams`` has a table from its names to these. Where that is missing (safetensors), and for what is
written, the names are those of a process in which PaddleNLP builds the model first.

Source: paddle/optimizer/adamw.py, optimizer.py ``state_dict`` and ``set_state_dict``; names as PaddleNLP 2.8.1 gave
them to every class (``fixtures/optimizers``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..containers.pickles import pdparams
from ..errors import ConvertError, quoted
from ..source.checkpoint import Checkpoint
from ..table.dialects import OPTIMIZER_FILES
from ..table.mapping import Table
from ..tensors.stored import FileLayout, NewTensor, OpenFiles, StoredTensor
from .adam_steps import MOST_STEPS
from .state import AdamOptions, Moments, OptimizerState, plain_number, scalar, unknown_layout

FILE = OPTIMIZER_FILES[1]
#: Paddle's words for what it keeps of each parameter: two arrays of its shape, and the powers of both decays.
KINDS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
_WANT = f"arrays called PARAMETER_{{{','.join(KINDS)}}}_0, as paddle.save writes AdamW's state_dict()"
#: A parameter of a half type is trained as a float32 master, under a name of its own.
_ARRAY = re.compile(rf"(.+?)(_fp32_master_\d+)?_({'|'.join(KINDS)})_\d+")
_SCHEDULE, _MASTERS = "LR_Scheduler", "master_weights"

#: Place of a layer's linear modules among the ten that PaddleNLP makes for it; four are made and thrown away.
_LINEAR = {
    "feed_forward.up": 4,
    "feed_forward.down": 5,
    "attention.query": 6,
    "attention.key": 7,
    "attention.value": 8,
    "attention.out": 9,
}


def fresh_names(table: Table, *, project: bool) -> dict[str, str]:
    """Return canonical name → Paddle's, in a process in which PaddleNLP builds a model of the table first.

    Args:
        table: The model's rows; those that PaddleNLP's class does not have get no name.
        project: Whether embeddings are projected to another size.
    """
    layers, v1 = table.layers, table.traits.norms
    first, behind = int(project), int(project) + 10 * layers
    modules = {
        "embeddings.word": "embedding_0",
        "embeddings.segment": "embedding_1",
        "embeddings.norm": "layer_norm_0",
        "embeddings.project": "linear_0",
        "mlm.norm": f"layer_norm_{1 + 2 * layers}",
        "mlm.bias": f"{'ro_former_lm' if v1 else 'ro_formerv2lm'}_prediction_head_0",
    }
    if v1:  # every class of it has a pooler
        modules["pooler"] = f"linear_{behind}"
    modules |= dict.fromkeys(("mlm.transform", "classifier"), f"linear_{behind + v1}")
    for layer in range(layers):
        modules[f"layers.{layer}.attention_norm"] = f"layer_norm_{1 + 2 * layer}"
        modules[f"layers.{layer}.feed_forward_norm"] = f"layer_norm_{2 + 2 * layer}"
        for module, place in _LINEAR.items():
            modules[f"layers.{layer}.{module}"] = f"linear_{first + 10 * layer + place}"
    out = {}
    for name in table.by_canonical:
        module, _, leaf = name.rpartition(".")
        found = modules.get(name) or modules.get(module)  # mlm.bias is a parameter of its module's own
        if found is not None:
            out[name] = f"{found}.{'w' if leaf == 'weight' else 'b'}_0"
    return out


def is_state(value: object) -> bool:
    """Say whether a value is what ``state_dict()`` of Paddle's AdamW gives."""
    return isinstance(value, dict) and any(_ARRAY.fullmatch(key) for key in value)


def read(path: Path, checkpoint: Checkpoint) -> OptimizerState:
    """Read the state of Paddle's AdamW in a file of its own; nothing is unpickled.

    Raises:
        FormatError: The file is broken or hostile.
        ConvertError: It is another optimiser's, or of other parameters.
    """
    return read_tree(path, pdparams.read_tree(path), checkpoint)


def read_tree(path: Path, tree: Mapping[str, object], checkpoint: Checkpoint) -> OptimizerState:
    """Read the state of Paddle's AdamW from what its ``state_dict()`` gave.

    Raises:
        ConvertError: It is another optimiser's, or of other parameters.
    """
    arrays: dict[str, dict[str, StoredTensor]] = {}
    tree = {key: value for key, value in tree.items() if key != pdparams.NAME_TABLE}
    schedule, masters = tree.pop(_SCHEDULE, {}), tree.pop(_MASTERS, {})
    if not isinstance(schedule, dict) or not isinstance(masters, dict):
        raise unknown_layout(path, f"its {_SCHEDULE} or {_MASTERS} is no dict", _WANT)
    for key, value in tree.items():
        match = _ARRAY.fullmatch(key)
        if match is None or not isinstance(value, StoredTensor):
            raise unknown_layout(path, f"it has {quoted(key)}", _WANT)
        if value is not arrays.setdefault(match[1], {}).setdefault(match[3], value):
            raise unknown_layout(path, f"it has {match[3]} of {quoted(match[1])} twice", "one optimiser's state")
    names = _names(path, checkpoint, {*arrays, *masters})
    moments = {names[parameter]: each for parameter, each in read_moments(path, arrays, _WANT).items()}
    epoch = plain_number(schedule.get("last_epoch"))
    return OptimizerState(
        path=path,
        files=(path,),
        layout="paddle",
        moments=moments,
        options=AdamOptions(lr=plain_number(schedule.get("last_lr"))),
        last_step=None if epoch is None else min(int(epoch), MOST_STEPS),
        schedule={key: value for key, value in schedule.items() if plain_number(value) is not None},
        masters={names[name]: value for name, value in masters.items() if isinstance(value, StoredTensor)},
    )


def read_moments(path: Path, kept: Mapping[str, Mapping[str, StoredTensor]], want: str) -> dict[str, Moments]:
    """Put together what is kept of each parameter: its moments, and the powers, which are read.

    Args:
        path: The file, for messages.
        kept: Parameter → kind → array.
        want: What the file should have, for messages.

    Raises:
        ConvertError: A parameter lacks a kind, or a power is no number from 0 to 1.
    """
    moments = {}
    with OpenFiles() as files:
        for parameter, arrays in kept.items():
            if arrays.keys() != set(KINDS):
                raise unknown_layout(path, f"of {quoted(parameter)} it has {', '.join(sorted(arrays))}", want)
            first, second, *powers = (arrays[kind] for kind in KINDS)
            moments[parameter] = Moments(first, second, powers=_read_powers(path, files, *powers))
    return moments


def _read_powers(path: Path, files: OpenFiles, *stored: StoredTensor) -> tuple[float, float]:
    """Read both powers of a parameter.

    Raises:
        ConvertError: One is no number from 0 to 1.
    """

    def fail(what: str) -> ConvertError:
        return unknown_layout(path, what, "powers of both decays")

    first, second = (scalar(files, each, fail) for each in stored)
    if not (0 <= first < 1 and 0 <= second < 1):
        raise fail(f"{quoted(stored[0].name)} and its neighbour are {first:g} and {second:g}")
    return first, second


def _names(path: Path, checkpoint: Checkpoint, parameters: set[str]) -> dict[str, str]:
    """Return Paddle's name → canonical name for every parameter of a state."""
    project = "embeddings.project.weight" in checkpoint
    table = _name_table(checkpoint)
    if table is None:
        known = {paddle: name for name, paddle in fresh_names(checkpoint.table, project=project).items()}
        origin = "a process in which PaddleNLP builds the model first, for the weights have no table of names"
    else:
        known = {}
        for name, binding in checkpoint.bindings.items():
            stored = binding.stored.name
            # what is written around a name in the file may have been seen through
            told = [stored] if stored in table else [key for key in table if key.endswith(f".{stored}")]
            if len(told) == 1:
                known[str(table[told[0]])] = name
        origin = f"the table in {checkpoint.found.entry.name}"
    unknown = sorted(name for name in parameters if known.get(name) not in checkpoint)
    if unknown:
        named = ", ".join(quoted(name, 60) for name in unknown[:4]) + ("" if len(unknown) < 5 else " …")
        raise unknown_layout(
            path, f"it is of parameters that the weights do not have: {named}", f"names as in {origin}"
        )
    return {name: known[name] for name in parameters}


def _name_table(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return the table of names in the weights' files, or None where they have none."""
    weights = checkpoint.found.weights
    assert weights is not None, "it lies in files"
    table: dict[str, Any] = {}
    if weights.container.name == "pdparams":
        for file in weights.files:
            found = pdparams.read_tree(file).get(pdparams.NAME_TABLE)
            table |= found if isinstance(found, dict) else {}
    return table or None


def lay_out(tensors: Mapping[str, tuple[NewTensor, ...]], schedule: Mapping[str, object]) -> FileLayout:
    """Lay out a file that ``paddle.load`` and AdamW's ``set_state_dict`` take.

    Args:
        tensors: Canonical name → the arrays of each of :data:`KINDS`.
        schedule: State of the learning-rate scheduler.
    """
    by_kind = [new for kind in zip(*tensors.values(), strict=True) for new in kind]
    return pdparams.lay_out(FILE, by_kind, {_SCHEDULE: dict(schedule)} if schedule else {})
