"""Checkpoints of a run: a model directory as PaddleNLP has it, with what training needs to go on beside the weights.

``output/step-000500/`` holds ``config.json``, ``model_state.pdparams``, ``vocab.txt`` as any checkpoint here, and

    training.safetensors   the optimiser's arrays under canonical parameter names
    training.json          step, settings, scaler, the sums of the log line, a checksum of the file above

The directory appears under its name whole or not at all, so a name is enough to know that it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy
from crc32c import crc32c
from numpy.typing import NDArray

from ..converters.config_fields import read_json
from ..converters.containers import safetensors
from ..converters.containers.stored import Extent, NewTensor
from ..converters.errors import ConvertError, FormatError
from ..converters.output import OutputDirectory
from .meter import Meter

STATE = "training.json"
ARRAYS = "training.safetensors"

_NAME = re.compile(r"step-(\d{6,})")
_VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """What a run needs beside its weights to go on.

    Attributes:
        step: Steps taken; the data's position and every random number follow from it.
        settings: The run's settings as a tree.
        vocabulary: Digest of the vocabulary that the corpora were prepared with.
        corpora: Digest and weight of each corpus.
        scaler: Scale and counters of the loss scaler; empty where there is none.
        meter: Sums of the steps since the last line of the log.
        arrays: The optimiser's state.
    """

    step: int
    settings: dict[str, Any]
    vocabulary: str
    corpora: list[list[Any]]
    scaler: dict[str, Any]
    meter: Meter
    arrays: Mapping[str, NDArray[Any]]


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / f"step-{step:06d}"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The whole checkpoints of a run, oldest first."""
    if not run.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in run.iterdir())
    return sorted((int(match.group(1)), path) for match, path in found if match and (path / STATE).is_file())


def clear_unfinished(run: Path) -> None:
    """Remove what a killed run left half written or half removed; call it where no other process writes this run."""
    for path in run.glob(".step-*"):
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
    """
    target = checkpoint_path(run, state.step)
    with OutputDirectory(target) as output:
        save_model(output.path / "model")
        for path in list((output.path / "model").iterdir()):
            os.rename(path, output.path / path.name)
        (output.path / "model").rmdir()
        checksum = _write_arrays(output.path, state.arrays)
        written = {
            "version": _VERSION,
            "step": state.step,
            "settings": state.settings,
            "vocabulary": state.vocabulary,
            "corpora": state.corpora,
            "scaler": state.scaler,
            "meter": asdict(state.meter),
            "crc32c": {ARRAYS: checksum},
        }
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
    """Read what lies beside a checkpoint's model.

    Raises:
        FormatError: A file is damaged.
        ConvertError: It is not the checkpoint of a run.
    """
    path = directory / STATE
    if not path.is_file():
        raise ConvertError(f"{directory}: no {STATE}: not the checkpoint of a run", "Start from its weights: --init.")
    tree = read_json(path)
    if tree.get("version") != _VERSION:
        raise FormatError(path, f"version = {tree.get('version')!r}, want {_VERSION}")
    kinds = {
        "step": int,
        "settings": dict,
        "vocabulary": str,
        "corpora": list,
        "scaler": dict,
        "meter": dict,
        "crc32c": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(tree.get(key), kind):
            raise FormatError(path, f"{key} = {tree.get(key)!r}, want a {kind.__name__}")
    data = tree["settings"].get("data")
    names = data.get("corpora") if isinstance(data, dict) else None
    if not _are_corpora(tree["corpora"]) or not isinstance(names, list) or len(names) != len(tree["corpora"]):
        raise FormatError(path, f"corpora = {tree['corpora']!r} of {names!r}: want a digest and a weight of each")
    sums = {each.name for each in fields(Meter)}
    if tree["meter"].keys() != sums or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in tree["meter"].values()
    ):
        raise FormatError(path, f"meter = {tree['meter']!r}: want a number for each of {', '.join(sorted(sums))}")
    return TrainingState(
        step=tree["step"],
        settings=tree["settings"],
        vocabulary=tree["vocabulary"],
        corpora=tree["corpora"],
        scaler=tree["scaler"],
        meter=Meter(**tree["meter"]),
        arrays=_read_arrays(directory / ARRAYS, tree["crc32c"].get(ARRAYS)),
    )


def _are_corpora(value: list[Any]) -> bool:
    return all(
        isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], (int, float))
        for each in value
    )


def _write_arrays(directory: Path, arrays: Mapping[str, NDArray[Any]]) -> int:
    layout = safetensors.lay_out(
        ARRAYS, [NewTensor(name, array.dtype.name, array.shape) for name, array in arrays.items()], {}
    )
    slots = layout.create(directory)
    with open(directory / ARRAYS, "r+b") as file:
        for name, array in arrays.items():
            file.seek(slots[name].offset)
            file.write(numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8).data)
        for fragment in layout.fragments({}):
            file.seek(fragment.offset)
            file.write(fragment.content)
    return _checksum(directory / ARRAYS)


def _read_arrays(path: Path, checksum: object) -> dict[str, NDArray[Any]]:
    index = safetensors.index(path)
    found = _checksum(path)
    if found != checksum:
        raise FormatError(path, f"its checksum is {found}, {STATE} wants {checksum}: damaged, or of another checkpoint")
    out: dict[str, NDArray[Any]] = {}
    for tensor in index.tensors:
        assert isinstance(tensor.data, Extent)
        flat = numpy.fromfile(path, tensor.dtype, tensor.size, offset=tensor.data.offset)
        out[tensor.name] = flat.reshape(tensor.shape)
    return out


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 24):
            value = crc32c(piece, value)
    return value


def _force_to_disk(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _remove(directory: Path) -> None:
    # its name goes first: a checkpoint that is half removed must not be found
    aside = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(directory, aside)
    shutil.rmtree(aside, ignore_errors=True)
