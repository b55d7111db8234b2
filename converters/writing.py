"""Write what was planned into a directory, and read it back: the part that conversion and saving share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConvertError
from .source.checkpoint import Checkpoint
from .source.companions import copy_companion
from .source.fitting import fit
from .source.identification import identify
from .table import config_reading
from .table.config_reading import Reading
from .target.plan import Plan

if TYPE_CHECKING:
    from .optimizer.state import OptimizerState
    from .target.engine import Progress

#: Headers, index and configuration, roughly: the room asked for beside payload and companions.
_OVERHEAD_BYTES = 1 << 20


def needed_room(plan: Plan) -> int:
    """Estimate from above the bytes that the result takes."""
    return plan.nbytes_in_all + sum(path.stat().st_size for path in plan.companions) + _OVERHEAD_BYTES


def write_directory(
    plan: Plan,
    directory: Path,
    *,
    state: OptimizerState | None = None,
    verify: bool = True,
    fsync: bool = False,
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write everything of a checkpoint into an empty directory, weights first and the configuration last.

    Args:
        plan: What to write.
        directory: Where.
        state: The optimiser's state that the plan puts beside the weights.
        verify: Read the result back and compare it.
        fsync: Force it to disk.
        progress: Called with bytes just written, and once more when they are compared.

    Raises:
        ConvertError: What was read back differs.
        OSError: It cannot be written.
    """
    from .target import engine

    written = engine.run(plan, directory, verify=verify, fsync=fsync, progress=progress)
    if plan.shard_index is not None:
        write_json(directory / plan.shard_index, _shard_map(plan), fsync)
    side, beside = plan.beside, []
    if side is not None:
        beside = engine.run_file(side.layout, side.steps, directory, verify=verify, fsync=fsync, progress=progress)
    if verify:
        with reopen(plan, directory) as found:
            engine.check_index(written, found)
            if side is not None and state is not None:
                from .optimizer.planning import verify as verify_state

                verify_state(side, beside, state, found)
    for companion in plan.companions:
        if companion.name not in plan.settings:
            copy_companion(companion, directory / companion.name, fsync=fsync)
    for name, text in plan.settings.items():
        _write_text(directory / name, text, fsync)
    write_json(directory / plan.config_name, plan.config, fsync)
    if verify:
        _verify_config(directory / plan.config_name, plan)


def reopen(plan: Plan, directory: Path) -> Checkpoint:
    """Open what was just written as a stranger's would be, with the configuration that is still to be written."""
    found = identify(directory, dialect=plan.target, model_class=plan.kind.name)
    return fit(replace(found, config=Reading(plan.source_config)), any_vocab=True).require()


def _verify_config(path: Path, plan: Plan) -> None:
    """Read the configuration back: every field must mean what it meant in the source."""
    pooler = any(step.binding.tensor.canonical == "pooler.weight" for step in plan.steps)
    back = config_reading.read(path, plan.target, {}, where=path.parent, kind=plan.kind, pooler=pooler).config
    if back != plan.source_config.config:
        raise ConvertError(
            f"{path}: the configuration read back differs: {back} instead of {plan.source_config.config}"
        )


def write_json(path: Path, content: Mapping[str, Any], fsync: bool) -> None:
    """Write a file of JSON, forced to disk where asked."""
    _write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n", fsync)


def _write_text(path: Path, text: str, fsync: bool) -> None:
    # half a surrogate pair, as in a file's name that is not UTF-8, becomes JSON's own escape
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)
        if fsync:
            file.flush()
            os.fsync(file.fileno())


def _shard_map(plan: Plan) -> dict[str, Any]:
    return {
        "metadata": {"total_size": plan.nbytes},
        "weight_map": {step.new.name: file.filename for file in plan.files for step in file.steps},
    }
