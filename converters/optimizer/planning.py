"""An optimiser's state found beside the weights, planned for a file beside the converted ones, and read back.

The moments go through the engine as weights do: bound to their parameters' rows, transposed where the row says so,
compared as they are written. Their types stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from ..containers.pickles import pdparams, torch_bin
from ..errors import ConvertError, quoted
from ..source.checkpoint import Binding, Checkpoint
from ..table.dialects import DIALECT_FILES
from ..table.mapping import Dialect, Tensor, unread
from ..target.plan import SideFile, Step
from ..target.read_back import Written
from ..tensors.checksums import CheckedPart
from ..tensors.stored import Extent, FileLayout, InMemory, NewTensor, StoredTensor
from . import paddle_state, torch_state, training_state, unified_state
from .state import DEFAULTS, AdamOptions, OptimizerState

Reader = Callable[[Path, Checkpoint], OptimizerState]

#: The files that hold a state, by name, and their readers.
READERS: Mapping[str, Reader] = {
    torch_state.FILE: torch_state.read,
    torch_state.ALSO: torch_state.read,
    paddle_state.FILE: paddle_state.read,
    training_state.FILE: training_state.read,
    unified_state.FILE: unified_state.read,
    unified_state.INDEX: unified_state.read,
}
#: The file that a dialect's software reads.
_OWN: Mapping[Dialect, str] = {"torch": torch_state.FILE, "paddle": paddle_state.FILE}
_NAMED = 8


def choose_file(target: Dialect, name: str | None) -> str:
    """Return the file to write: the dialect's own, or the one asked for.

    Raises:
        ConvertError: The dialect has none, or another one's is asked for.
    """
    own = _OWN.get(target)
    if name is None and own is not None:
        return own
    if name in (own, training_state.FILE) and name is not None:
        return name
    software, ours = DIALECT_FILES[target].software, f"--optimizer-file {training_state.FILE}"
    if own is None:
        what = f"{software} keeps no optimiser's state in a file of its own that is written here"
        raise ConvertError(what, f"Add {ours}, or leave --with-optimizer out.")
    raise ConvertError(
        f"{name} is not {software}'s; wanted {own} or {training_state.FILE}", f"Leave out or add {ours}."
    )


def read_state(checkpoint: Checkpoint, given: AdamOptions) -> OptimizerState:
    """Read the one optimiser's state that lies beside the weights, or with them in one file.

    Args:
        checkpoint: The weights.
        given: What a person says of the optimiser's settings.

    Raises:
        FormatError: The file is broken or hostile.
        MisfitError: Its shapes are not the weights'.
        ConvertError: There is none, there are several, or it is of another layout.
    """
    directory = checkpoint.directory
    names = (path.name for path in directory.iterdir() if path.is_file())
    found = sorted(name for name in names if name in READERS or name.endswith(".pdopt"))
    if len(found) > 1:
        what = f"{directory}: several files of an optimiser's state: {', '.join(found)}"
        raise ConvertError(what, "Leave the one that is meant there.")
    if found:
        path = directory / found[0]
        state = READERS.get(path.name, paddle_state.read)(path, checkpoint)
    else:
        state = _read_inside(checkpoint)
    state.require_fit(checkpoint)
    if not state.moments:
        raise ConvertError(f"{state.path}: it holds no moments: no step was taken", "Leave --with-optimizer out.")
    return replace(state, options=state.options.said(given))


def _read_inside(checkpoint: Checkpoint) -> OptimizerState:
    """Read the state in the weights' own file: ``{"model": …, "optimizer": …}``, or Lightning's ``optimizer_states``.

    Raises:
        ConvertError: There is none, or there are several.
    """
    weights = checkpoint.found.weights
    assert weights is not None, "it lies in files"
    for file in weights.files:
        if weights.container.name == "bin":
            inside, read = dict(_states("", torch_bin.read_tree(file), torch_state.is_state)), torch_state.read_tree
        elif weights.container.name == "pdparams":
            inside, read = dict(_states("", pdparams.read_tree(file), paddle_state.is_state)), paddle_state.read_tree
        else:
            break
        if len(inside) > 1:
            what = f"{file}: it holds several optimisers' states: {', '.join(map(quoted, inside))}"
            raise ConvertError(what, "Save the one that is meant beside the weights.")
        for where, tree in inside.items():
            return replace(read(file, tree, checkpoint), inside=where)
    looked = f"{', '.join(READERS)} (or another .pdopt) beside the weights, and in a pickle with them"
    step = f"It is looked for as {looked}."
    raise ConvertError(f"{checkpoint.directory}: no optimiser's state here", step)


def _states(
    name: str, value: object, is_state: Callable[[object], bool], depth: int = 4
) -> Iterator[tuple[str, dict[str, object]]]:
    """Give what is an optimiser's state in a tree of dicts and lists, and where it is."""
    if is_state(value):
        yield name, cast("dict[str, object]", value)
    elif depth and isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _states(f"{name}.{key}" if name else str(key), item, is_state, depth - 1)


def train_masters(checkpoint: Checkpoint, state: OptimizerState) -> None:
    """Bind the weights to the float32 masters that were trained in their place."""
    for name, stored in state.masters.items():
        checkpoint.bindings[name] = state.binding(checkpoint.bindings[name].tensor, stored)


def plan_state(
    state: OptimizerState, checkpoint: Checkpoint, target: Dialect, filename: str, *, frozen_positions: bool = False
) -> SideFile:
    """Plan the file of a state.

    Args:
        state: What was read.
        checkpoint: The weights that it belongs to.
        target: The dialect that they are converted to.
        filename: The file, as :func:`choose_file` gave it.
        frozen_positions: Whether ``optimizer.pt`` is for a model that was built from its configuration.

    Raises:
        ConvertError: The file holds a setting that nothing says.
    """
    rows = [row for row in checkpoint.table.tensors if row.canonical in state.moments]
    notes: list[str] = []
    layout: FileLayout
    if filename == torch_state.FILE:
        traits = checkpoint.table.traits
        counted = traits.norms and not frozen_positions  # JunnYu's package, for RoFormerV2, leaves it frozen
        order = torch_state.trained_order(
            checkpoint, without=unread(target, checkpoint.kind, traits), positions=counted
        )
        if traits.norms:
            made_by = "from its configuration" if frozen_positions else "with from_pretrained"
            notes.append(f"{filename} counts its parameters as in a model that is made {made_by} (--frozen-positions)")
        names = torch_state.tensor_names(order)
        made = _steps(state, checkpoint, rows, "torch", names, ("step", "exp_avg", "exp_avg_sq"))
        layout = torch_state.lay_out(order, _by_name(made), _settled(state, notes))
    elif filename == paddle_state.FILE:
        left = unread(target, checkpoint.kind, checkpoint.table.traits)
        project = "embeddings.project.weight" in checkpoint
        there = {row.canonical for row in rows if row.group not in left}
        fresh = paddle_state.fresh_names(checkpoint.table, project=project)
        names = {name: f"{paddle}_" for name, paddle in fresh.items() if name in there}
        endings = tuple(f"{kind}_0" for kind in paddle_state.KINDS)
        made = _steps(state, checkpoint, rows, "paddle", names, endings)
        layout = paddle_state.lay_out(_by_name(made), _schedule(state))
        notes.append(f"{filename} has the names of a process in which PaddleNLP builds this model before any other")
    else:
        names = {row.canonical: f"{row.canonical}:" for row in rows}
        made = _steps(state, checkpoint, rows, "paddle", names, paddle_state.KINDS)
        layout = training_state.lay_out(_by_name(made))
    return SideFile(
        filename=filename,
        steps=tuple(step for steps in made.values() for step in steps),
        layout=layout,
        summary=_summary(state, made),
        notes=(*state.notes, *_notes(state, checkpoint, made, filename), *notes),
    )


def verify(side: SideFile, written: list[Written], state: OptimizerState, found: Checkpoint) -> None:
    """Read what was written with its own reader: every moment where its bytes are, and as many steps as before.

    Raises:
        ConvertError: It finds something else: this program is at fault.
    """
    back = READERS[side.filename](found.directory / side.filename, found)
    back.require_fit(found)
    places = {
        (one.step.binding.tensor.canonical, one.step.new.name): (one.slot.offset, one.slot.nbytes) for one in written
    }
    if back.moments.keys() != {name for name, _ in places}:
        raise ConvertError(f"{back.path}: it is read back as the state of other parameters")
    for name, moments in back.moments.items():
        for each in (moments.first, moments.second):
            data = each.data.part if isinstance(each.data, CheckedPart) else each.data
            if not isinstance(data, Extent) or places.get((name, each.name)) != (data.offset, data.nbytes):
                raise ConvertError(f"{back.path}: a moment of {name} is found elsewhere than where it was written")
    back = replace(back, options=back.options.said(state.options))
    for name in back.moments:
        if back.powers(name) != state.powers(name) and back.steps(name) != state.steps(name):
            raise ConvertError(f"{back.path}: {name} is read back after other steps than it has taken")


Steps = dict[str, tuple[Step, ...]]


def _steps(
    state: OptimizerState,
    checkpoint: Checkpoint,
    rows: list[Tensor],
    layout: Dialect,
    names: Mapping[str, str],
    endings: tuple[str, ...],
) -> Steps:
    """Plan the tensors of every parameter that has a name in the file, in the order of ``endings``."""
    sizes = checkpoint.config.sizes
    out: Steps = {}
    for row in rows:
        name, moments = row.canonical, state.moments[row.canonical]
        if name not in names:
            continue
        shape = row.shape(sizes)
        turned = row.transposed(layout)
        made = []
        numbers = iter([state.steps(name)] if "step" in endings else state.powers(name))
        two = iter((moments.first, moments.second))
        for ending in endings:
            if ending == "step" or "pow_acc" in ending:
                array = np.full((1,) if "pow_acc" in ending else (), next(numbers), np.float32)
                stored = StoredTensor(f"{name}:{ending}", "float32", array.shape, InMemory(array))
                new = NewTensor(names[name] + ending, "float32", array.shape)
                made.append(Step(new, Binding(row, stored, False), False))
            else:
                stored = next(two)
                binding = state.binding(row, stored)
                new = NewTensor(names[name] + ending, stored.dtype, shape[::-1] if turned else shape)
                made.append(Step(new, binding, binding.transposed != turned and len(shape) == 2))
        out[name] = tuple(made)
    return out


def _by_name(made: Steps) -> dict[str, tuple[NewTensor, ...]]:
    return {name: tuple(step.new for step in steps) for name, steps in made.items()}


def _settled(state: OptimizerState, notes: list[str]) -> AdamOptions:
    """Return settings that are all known, and note what is assumed.

    Raises:
        ConvertError: Nothing says the learning rate.
    """
    if state.options.lr is None:
        raise ConvertError(
            f"{state.path}: {torch_state.FILE} holds the learning rate, and no file here says it",
            "Say what it is at the next step: --adam lr=1e-4",
        )
    # the powers have told that Paddle's decays are these
    unsaid = [name for name, value in vars(state.options).items() if value is None and not name.startswith("beta")]
    assumed = [f"{name} {getattr(DEFAULTS, name):g}" for name in unsaid]
    if assumed:
        notes.append(
            f"assumed of AdamW, for no file says it: {', '.join(assumed)}; say otherwise with --adam NAME=VALUE"
        )
    return DEFAULTS.said(state.options)


def _schedule(state: OptimizerState) -> Mapping[str, object]:
    """Return a state for Paddle's learning-rate scheduler, which wants one where there is any."""
    if state.schedule or state.options.lr is None or state.last_step is None:
        return state.schedule
    return {"last_epoch": state.last_step, "last_lr": state.options.lr}


def _summary(state: OptimizerState, made: Steps) -> str:
    steps = {state.moments[name].steps for name in made}
    if None in steps:  # Paddle's powers: told as a number where they tell it
        try:
            steps = {state.steps(name) for name in made}
        except ConvertError:
            steps = set()
    known = sorted(step for step in steps if step is not None)
    told = f" after {known[0]:,} steps" if len(known) == 1 else f" after {known[0]:,} to {known[-1]:,} steps"
    return f"AdamW's moments of {len(made)} tensors{told if known else ''}, from {state.path.name}"


def _notes(state: OptimizerState, checkpoint: Checkpoint, made: Steps, filename: str) -> list[str]:
    notes = []
    if state.masters:
        notes.append(f"the weights written are the {len(state.masters)} float32 masters of {state.path.name}")
    never = [name for name in checkpoint.bindings if name not in state.moments]
    if never:
        notes.append(f"never trained, so without moments: {_listed(never)}")
    dropped = [name for name in state.moments if name not in made]
    if dropped:
        notes.append(
            f"the class that {filename} is for has no such weights, so their moments are left out: {_listed(dropped)}"
        )
    if filename != torch_state.FILE:
        told = [f"{name} {value:g}" for name, value in vars(state.options).items() if value is not None]
        notes.append(
            f"AdamW's settings are in no {filename}, so set them in code" + (f": {', '.join(told)}" if told else "")
        )
    if filename == torch_state.FILE and state.schedule:
        notes.append("the state of Paddle's learning-rate scheduler is not carried, but for the rate")
    return notes


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
