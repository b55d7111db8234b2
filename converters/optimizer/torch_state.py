"""``optimizer.pt``, the state of torch's AdamW as transformers' Trainer makes and saves it.

It has no names: parameters are counted through two groups, first the matrices (kernels and embeddings, with weight
decay), then the vectors (biases and norms, without), each in the order of ``model.named_parameters()``. A loop of
somebody's own has one group as often, ``AdamW(model.parameters())``, in that order. Tied weights are one parameter. The
rotary table gets no gradient and has no moments, but it is counted wherever it is not frozen: that it is in a model
built from its configuration, and no longer once ``from_pretrained`` has loaded it (transformers 5.23 always, 4.57 where
the file has the table).

Source: ``Trainer.create_optimizer`` and ``get_decay_parameter_names`` in transformers/trainer.py, 4.57 and 5.23;
torch/optim/adamw.py, adam.py ``_init_group``, optimizer.py ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..containers.pickles import torch_bin
from ..errors import ConvertError, quoted
from ..source.checkpoint import Checkpoint
from ..table.dialects import OPTIMIZER_FILES
from ..table.mapping import Group, unread
from ..tensors.stored import FileLayout, NewTensor, OpenFiles, StoredTensor
from .adam_steps import MOST_STEPS
from .state import DEFAULTS, AdamOptions, Moments, OptimizerState, plain_number, scalar, unknown_layout

FILE = OPTIMIZER_FILES[0]
#: What accelerate's ``save_state`` calls the same.
ALSO = "optimizer.bin"
_WANT = "what transformers' Trainer saves of torch's AdamW, or the state_dict() of AdamW(model.parameters())"
_ENTRY = {"step", "exp_avg", "exp_avg_sq"}
#: What other optimisers keep, and whose it is.
_OTHERS = {
    "max_exp_avg_sq": "AdamW with amsgrad",
    "momentum_buffer": "SGD",
    "exp_avg_sq_row": "Adafactor",
    "exp_inf": "Adamax",
    "mu_product": "NAdam",
    "square_avg": "RMSprop",
    "sum": "Adagrad",
    "state1": "an 8-bit optimiser",
}


#: Stands for the rotary table among canonical names.
POSITIONS = "positions"


def named_order(checkpoint: Checkpoint, *, without: Iterable[Group], positions: bool) -> list[str]:
    """Return the canonical names in the order of ``model.named_parameters()``.

    Args:
        checkpoint: The model.
        without: Groups of the table that the class which is trained does not have.
        positions: Whether the rotary table is counted.
    """
    groups = list(checkpoint.table.groups)
    left = list(without)
    rows = [binding.tensor for binding in checkpoint.bindings.values() if binding.tensor.group not in left]
    # a module's own parameter comes before those of the modules in it: cls.predictions.bias before its transform
    rows.sort(key=lambda row: (groups.index(row.group), row.canonical != "mlm.bias"))
    names = [row.canonical for row in rows]
    if positions:  # the encoder's own, before its layers
        names.insert(sum(name.startswith("embeddings.") for name in names), POSITIONS)
    return names


def trained_order(checkpoint: Checkpoint, *, without: Iterable[Group], positions: bool) -> tuple[list[str], list[str]]:
    """Return the canonical names in the Trainer's order: those with weight decay, and those without.

    Args:
        checkpoint: The model.
        without: The same as for :func:`named_order`.
        positions: The same as for :func:`named_order`.
    """
    names = named_order(checkpoint, without=without, positions=positions)
    vectors = {binding.tensor.canonical for binding in checkpoint.bindings.values() if len(binding.tensor.axes) == 1}
    return [name for name in names if name not in vectors], [name for name in names if name in vectors]


def is_state(value: object) -> bool:
    """Say whether a value is what ``state_dict()`` of an optimiser of torch's gives."""
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def read(path: Path, checkpoint: Checkpoint) -> OptimizerState:
    """Read the state of AdamW in a file of its own; nothing is unpickled.

    Raises:
        FormatError: The file is broken or hostile.
        ConvertError: It is another optimiser's, or of other groups.
    """
    return read_tree(path, torch_bin.read_tree(path), checkpoint)


def read_tree(path: Path, tree: Mapping[str, object], checkpoint: Checkpoint) -> OptimizerState:
    """Read the state of AdamW from what its ``state_dict()`` gave.

    Raises:
        ConvertError: It is another optimiser's, or of other groups.
    """
    state, groups = tree.get("state"), tree.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list) or not all(isinstance(g, dict) for g in groups):
        raise unknown_layout(path, "it has no state and param_groups", _WANT)
    for number, entry in state.items():
        keys = set(entry) if isinstance(entry, dict) else set()
        if keys != _ENTRY:
            whose = next((name for key, name in _OTHERS.items() if key in keys), "another optimiser")
            got = ", ".join(quoted(key, 40) for key in sorted(keys)[:8]) or "nothing"
            raise unknown_layout(path, f"parameter {quoted(number)} has {got}: {whose}", f"AdamW's {_listed(_ENTRY)}")
    names = _names(path, checkpoint, groups)
    options = _options(path, groups)
    notes: tuple[str, ...] = ()
    if len(groups) == 1 and options.weight_decay:
        decay = options.weight_decay
        notes = (
            f"the source's one group has the weight decay {decay:g} for biases and norms too, which have none here",
        )
    moments: dict[str, Moments] = {}
    with OpenFiles() as files:
        for number, entry in state.items():
            if names.get(number, POSITIONS) == POSITIONS:
                where = "the rotary table, which is not trained" if number in names else "in no group"
                raise unknown_layout(path, f"parameter {quoted(number)} is {where}", _WANT)
            first, second = entry["exp_avg"], entry["exp_avg_sq"]
            if not isinstance(first, StoredTensor) or not isinstance(second, StoredTensor):
                raise unknown_layout(path, f"the moments of parameter {number} are no tensors", _WANT)
            moments[names[number]] = Moments(first, second, _steps(path, files, number, entry["step"]))
    return OptimizerState(path, (path,), "torch", moments, options, last_step=_most_steps(moments), notes=notes)


def _names(path: Path, checkpoint: Checkpoint, groups: list[dict[str, Any]]) -> dict[str, str]:
    """Return number in the file → canonical name, where the groups are those of a model with these weights."""
    count = 0
    for group in groups:
        numbers = group.get("params")
        if not isinstance(numbers, list) or numbers != list(range(count, count + len(numbers))):
            raise unknown_layout(path, "its groups do not count the parameters from 0 on", _WANT)
        count += len(numbers)
    found = [len(group["params"]) for group in groups]
    left = unread("torch", checkpoint.kind, checkpoint.table.traits)
    choices = [(without, positions) for without in (left, ()) for positions in (True, False)]
    tried = [trained_order(checkpoint, without=without, positions=positions) for without, positions in choices]
    for order, (without, positions) in zip(tried, choices, strict=True):
        if found == [len(names) for names in order]:
            return {str(number): name for number, name in enumerate(order[0] + order[1])}
        if found == [len(order[0]) + len(order[1])]:
            names = named_order(checkpoint, without=without, positions=positions)
            return {str(number): name for number, name in enumerate(names)}
    wanted = " or ".join(dict.fromkeys(f"{len(decayed)} and {len(rest)}" for decayed, rest in tried))
    alone = " or ".join(dict.fromkeys(str(len(decayed) + len(rest)) for decayed, rest in tried))
    raise unknown_layout(
        path,
        f"it has {len(found)} group{'s' * (len(found) != 1)} of {', '.join(map(str, found[:8]))} parameters",
        f"the Trainer's two of {wanted}: the matrices, then biases and norms, every weight of the model trained; "
        f"or one of {alone}, as model.parameters() gives them",
    )


def _options(path: Path, groups: list[dict[str, Any]]) -> AdamOptions:
    """Read the settings, which all groups must share but for the weight decay."""
    read = [_group_options(path, group) for group in groups]
    decay = read[0].weight_decay
    if read[1:] and read[1] != AdamOptions(**{**vars(read[0]), "weight_decay": 0.0}):
        raise unknown_layout(
            path, f"its groups have other settings: {read[0]} and {read[1]}", "the same, no decay last"
        )
    for switch in ("amsgrad", "maximize"):
        if any(group.get(switch) for group in groups):
            raise unknown_layout(path, f"{switch} is on", "AdamW without it")
    if decay and any(group.get("decoupled_weight_decay") is False for group in groups):
        raise unknown_layout(path, "it is Adam's, whose weight decay goes through the moments", "AdamW's")
    return read[0]


def _group_options(path: Path, group: dict[str, Any]) -> AdamOptions:
    betas = group.get("betas")
    given = [group.get("lr"), *(betas if isinstance(betas, list) else [betas]), group.get("eps")]
    numbers = [plain_number(value) for value in (*given, group.get("weight_decay"))]
    if len(numbers) != 5 or None in numbers:
        raise unknown_layout(path, "a group lacks AdamW's lr, betas, eps and weight_decay as numbers from 0 on", _WANT)
    options = AdamOptions(*numbers)
    if max(options.beta1 or 0.0, options.beta2 or 0.0) >= 1:
        raise unknown_layout(path, f"betas {options.beta1}, {options.beta2}", "numbers below 1")
    return options


def _steps(path: Path, files: OpenFiles, number: str, value: object) -> int:
    def fail(what: str) -> ConvertError:
        return unknown_layout(path, what, "a number of steps")

    steps = scalar(files, value, fail) if isinstance(value, StoredTensor) else value
    if not isinstance(steps, int | float) or not 0 <= steps <= MOST_STEPS or steps != int(steps):
        raise fail(f"parameter {number} has taken {quoted(steps)} steps")
    return int(steps)


def _most_steps(moments: Mapping[str, Moments]) -> int:
    return max((each.steps or 0 for each in moments.values()), default=0)


def lay_out(
    order: tuple[list[str], list[str]], tensors: Mapping[str, tuple[NewTensor, ...]], options: AdamOptions
) -> FileLayout:
    """Lay out a file that ``torch.load`` takes with ``weights_only=True``, and AdamW's ``load_state_dict``.

    Args:
        order: Canonical names of both groups.
        tensors: Of each of them that was trained, ``step``, ``exp_avg`` and ``exp_avg_sq``.
        options: The settings, all of them known.
    """
    names = order[0] + order[1]
    state = {
        number: dict(zip(("step", "exp_avg", "exp_avg_sq"), tensors[name], strict=True))
        for number, name in enumerate(names)
        if name in tensors
    }
    split = len(order[0])
    known = DEFAULTS.said(options)
    groups = [
        {
            "lr": known.lr,
            "betas": (known.beta1, known.beta2),
            "eps": known.eps,
            "weight_decay": decay,
            "amsgrad": False,
            "maximize": False,
            "foreach": None,
            "capturable": False,
            "differentiable": False,
            "fused": None,
            "decoupled_weight_decay": True,
            "params": list(numbers),
        }
        for decay, numbers in ((known.weight_decay, range(split)), (0.0, range(split, len(names))))
    ]
    return torch_bin.lay_out_tree(FILE, {"state": state, "param_groups": groups})


def tensor_names(order: tuple[list[str], list[str]]) -> dict[str, str]:
    """Return canonical name → what its tensors' names in the file begin with."""
    return {name: f"state.{number}." for number, name in enumerate(order[0] + order[1])}


def _listed(keys: Iterable[str]) -> str:
    *most, last = sorted(keys)
    return f"{', '.join(most)} and {last}"
