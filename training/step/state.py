"""Checkpoints of a run: a model directory as PaddleNLP has it, with what training needs to go on beside the weights.

``output/step-000500/`` holds ``config.json``, ``model_state.pdparams``, ``vocab.txt`` as any checkpoint here, and

    training.safetensors   the optimiser's arrays under canonical parameter names
    training.json          step, settings and their history, place in the data, scaler, the sums of the log line, and
                           a checksum of every file, its own included

The directory appears under its name whole or not at all. What happens to it afterwards shows by the checksums: a run
goes on from the newest checkpoint that is whole, and sets those aside that are not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from ...converters.containers import safetensors
from ...converters.errors import ConvertError, FormatError, reading
from ...converters.json_input import read_json
from ...converters.optimizer import training_state
from ...converters.target.output import OutputDirectory, check_room
from ...converters.tensors.stored import Extent, NewTensor
from ..samples.position import Position
from ..settings.reading import settings_from_tree
from ..settings.tables import Settings
from .meter import Meter
from .schedule import learning_rate

STATE = training_state.RUN
ARRAYS = training_state.FILE

_NAME = re.compile(r"step-(\d{6,})")
#: What a killed run leaves: of a checkpoint that was being written, and of one that was being removed.
_UNFINISHED = re.compile(r"\.step-\d{6,}\.(partial-[\w-]+|old(-[\w-]+)?)")
_VERSION = 2


@dataclass(frozen=True)
class TrainingState:
    """What a run needs beside its weights to go on.

    Attributes:
        step: Steps taken; every random number follows from it.
        settings: Settings of the run.
        vocabulary: Digest of the vocabulary that the corpora were prepared with.
        corpora: Digest and weight of each corpus.
        position: How far they are read.
        scaler: Scale and counters of the loss scaler; empty where there is none.
        meter: Sums of the steps since the last line of the log.
        history: What was changed on a resume, of each: ``step``, after which it is so, and ``changes``, each with
            ``key``, ``before`` and ``now``.
        arrays: The optimiser's state.
    """

    step: int
    settings: Settings
    vocabulary: str
    corpora: list[list[Any]]
    position: Position
    scaler: dict[str, Any]
    meter: Meter
    history: list[dict[str, Any]]
    arrays: Mapping[str, NDArray[Any]]


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return run / f"step-{step:06d}"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints of a run by their names, oldest first; whether they are whole, their contents tell."""
    if not run.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in run.iterdir())
    return sorted((int(match.group(1)), path) for match, path in found if match)


def newest_whole(run: Path) -> tuple[int | None, list[tuple[str, str]]]:
    """Find the newest checkpoint that is whole; every file of it is read.

    Returns:
        Its step, or None where the run has no checkpoint, and the names of newer ones that are damaged, with why.

    Raises:
        ConvertError: There are checkpoints, and none of them is whole.
    """
    damaged: list[tuple[str, str]] = []
    for step, path in reversed(checkpoints(run)):
        try:
            _check(path)
        except ConvertError as error:
            damaged.append((path.name, error.what))
        else:
            return step, damaged
    if damaged:
        raise ConvertError(
            "\n  ".join([f"{run} has no undamaged checkpoint ({len(damaged)} damaged)", *(why for _, why in damaged)]),
            "Restore one from a copy, or start again in another --output.",
        )
    return None, []


def set_aside(directory: Path) -> Path:
    """Give a damaged checkpoint a name that says so, for the run to write its step again; return where it is now."""
    number = 1
    while os.path.lexists(
        aside := directory.with_name(f"{directory.name}.damaged{'' if number == 1 else f'-{number}'}")
    ):
        number += 1
    os.rename(directory, aside)
    return aside


def clear_unfinished(run: Path) -> None:
    """Remove what a killed run left half written or half removed; call it where no other process writes this run."""
    for path in run.glob(".step-*"):
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def write_checkpoint(
    run: Path, state: TrainingState, save_model: Callable[[Path], None], *, keep: int, sync: Callable[[], None]
) -> Path:
    """Write a checkpoint whole or not at all, then remove the oldest past ``keep`` (0: none).

    Args:
        run: The run's directory.
        state: What goes beside the model.
        save_model: Makes a model directory at a path.
        keep: How many checkpoints stay.
        sync: Called before the directory gets its name: what must be on disk by then.

    Raises:
        ConvertError: It cannot be written, for one because the disk is full.
    """
    target = checkpoint_path(run, state.step)
    with OutputDirectory(target) as output:
        check_room(target, sum(array.nbytes for array in state.arrays.values()))
        save_model(output.path / "model")
        for path in list((output.path / "model").iterdir()):
            os.rename(path, output.path / path.name)
        (output.path / "model").rmdir()
        _write_arrays(output.path, state.arrays)
        written: dict[str, Any] = {
            "version": _VERSION,
            "step": state.step,
            # no schedule is known to whoever converts the optimiser's state
            "learning_rate": learning_rate(state.settings, min(state.step + 1, state.settings.steps)),
            "settings": state.settings.as_tree(),
            "vocabulary": state.vocabulary,
            "corpora": state.corpora,
            "position": asdict(state.position),
            "scaler": state.scaler,
            "meter": asdict(state.meter),
            "history": state.history,
            "crc32c": {path.name: _checksum(path) for path in sorted(output.path.iterdir())},
        }
        written["crc32c"][STATE] = _own_checksum(written)
        (output.path / STATE).write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        for path in output.path.iterdir():
            _force_to_disk(path)
        sync()
        output.commit(fsync=True)
    if keep:
        for _, old in checkpoints(run)[:-keep]:
            _remove(old)
    return target


def read_checkpoint(directory: Path) -> TrainingState:
    """Check a whole checkpoint, and read what lies beside its model.

    Raises:
        FormatError: A file is damaged, missing, or of another step.
        ConvertError: It is not the checkpoint of a run.
    """
    tree = _check(directory)
    return TrainingState(
        step=tree["step"],
        settings=settings_from_tree(tree["settings"], directory / STATE),
        vocabulary=tree["vocabulary"],
        corpora=tree["corpora"],
        position=Position.from_tree(tree["position"]),
        scaler=tree["scaler"],
        meter=Meter(**tree["meter"]),
        history=tree["history"],
        arrays=_read_arrays(directory / ARRAYS),
    )


def read_moments(directory: Path) -> dict[str, NDArray[Any]]:
    """Read an optimiser's state to start from: a run's, or one that was converted.

    Raises:
        FormatError: It is damaged.
        ConvertError: There is none.
    """
    path = directory / ARRAYS
    if not path.is_file():
        raise ConvertError(
            f"{directory}: no {ARRAYS}, which --init-optimizer takes AdamW's state from",
            f"Convert it with the weights: roformer-convert … --with-optimizer --optimizer-file {ARRAYS}",
        )
    return _read_arrays(path)


def _check(directory: Path) -> dict[str, Any]:
    """Hold every file of a checkpoint against its checksum; return what ``training.json`` says, which is then ours.

    Raises:
        FormatError: A file is damaged, missing, or of another step.
        ConvertError: It is not the checkpoint of a run.
    """
    path = directory / STATE
    if not path.is_file():
        raise ConvertError(f"{directory}: no {STATE}: not the checkpoint of a run", "Start from its weights: --init.")
    tree = read_json(path)
    if tree.get("version") != _VERSION:
        raise FormatError(
            path,
            f"version = {tree.get('version')!r}, want {_VERSION}: another release wrote it",
            next_step="Start from its weights: --init.",
        )
    checksums = tree.get("crc32c")
    if not isinstance(checksums, dict) or checksums.get(STATE) != _own_checksum(tree):
        raise FormatError(path, "its own checksum does not match: damaged, or changed by hand")
    if directory.name != checkpoint_path(directory.parent, tree["step"]).name:
        raise FormatError(path, f"is of step {tree['step']:,}, but lies in {directory.name}")
    for name, checksum in checksums.items():
        if name == STATE:
            continue
        file = directory / name
        with reading(file):
            found = _checksum(file)
        if found != checksum:
            raise FormatError(file, f"its checksum is {found}, {STATE} wants {checksum}: damaged, or of another step")
    return tree


def _write_arrays(directory: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    layout = safetensors.lay_out(
        ARRAYS, [NewTensor(name, array.dtype.name, array.shape) for name, array in arrays.items()], {}
    )
    layout.create(directory)
    with open(directory / ARRAYS, "r+b") as file:
        for name, array in arrays.items():
            file.seek(layout.slots[name].offset)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for fragment in layout.fragments({}):
            file.seek(fragment.offset)
            file.write(fragment.content)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    out: dict[str, NDArray[Any]] = {}
    for tensor in safetensors.index(path).tensors:
        assert isinstance(tensor.data, Extent)
        flat = np.fromfile(path, tensor.dtype, tensor.size, offset=tensor.data.offset)
        out[tensor.name] = flat.reshape(tensor.shape)
    return out


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 24):
            value = crc32c(piece, value)
    return value


def _own_checksum(tree: Mapping[str, Any]) -> int:
    """Compute the checksum of ``training.json``'s other contents, however they are laid out as text."""
    rest = {**tree, "crc32c": {name: value for name, value in tree["crc32c"].items() if name != STATE}}
    return int(crc32c(json.dumps(rest, sort_keys=True).encode()))


def _force_to_disk(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _remove(directory: Path) -> None:
    # its name goes first: a checkpoint that is half removed must not be found
    aside = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(directory, aside)
    shutil.rmtree(aside, ignore_errors=True)
