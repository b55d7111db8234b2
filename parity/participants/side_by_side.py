"""The participants' processes, one a framework, side by side. Imports no framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...models.processes.devices import ENVIRONMENT
from ...models.processes.process import Process
from .dumps import Dump, different_parameters
from .participants import ComparedModel, Participant

ReportLine = Callable[[str], None]

#: The module that a framework's process runs.
WORKER = f"{__package__}.dump"
#: Said to a framework's process where nobody else did: threads of three frameworks that wait for work must not spin on
#: each other's cores, a small model's threads wait longer than they compute, and TensorFlow's log is not asked for.
_QUIET = {"OMP_WAIT_POLICY": "passive", "TF_CPP_MIN_LOG_LEVEL": "2"}
_SMALL = {**_QUIET, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_SMALL_PARAMETERS = 3_000_000


def variables_for(model: ComparedModel, environment: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Choose the variables that the processes of this run start with."""
    # the command keeps numpy's OpenBLAS to one thread, which a framework built on OpenBLAS would obey too
    changed: dict[str, str | None] = dict(ENVIRONMENT)
    defaults = _SMALL if model.parameters <= _SMALL_PARAMETERS else _QUIET
    changed |= {name: value for name, value in defaults.items() if name not in os.environ}
    return changed | dict(environment or {})


def compute(
    participants: Sequence[Participant],
    model: ComparedModel,
    scratch: Path,
    asked: Mapping[str, Any],
    devices: Mapping[str, str],
    report: ReportLine,
    progress: ReportLine,
    environment: Mapping[str, str | None],
) -> list[Dump]:
    """Run every participant in a process of its own, side by side.

    Args:
        participants: Who computes.
        model: What is compared.
        scratch: Where each leaves a folder.
        asked: What each is asked for beside its directory.
        devices: Framework → device; the CPU where it names none.
        report: Called with a line on what happened.
        progress: Called with what begins now.
        environment: Variables of the processes.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Process(one.label, WORKER, [one.framework], environment)) for one in participants
        ]
        folders = []
        for number, (one, process) in enumerate(zip(participants, processes, strict=True)):
            folders.append(scratch / f"run{number}")
            folders[-1].mkdir()
            process.ask(
                {
                    "dump": {
                        "directory": str(one.directory),
                        "class_name": model.class_name,
                        "out": str(folders[-1]),
                        "dialect": None,
                        "device": devices.get(one.framework, "cpu"),
                        "before_cast": None if one.before_cast is None else str(one.before_cast),
                        **asked,
                    }
                }
            )
        dumps = []
        for number, (one, process, folder) in enumerate(zip(participants, processes, folders, strict=True)):
            computing = ", ".join(each.label for each in participants[number:])
            progress(f"computing: {computing} ({number} of {len(participants)} done)")
            facts = process.answer()
            seconds = ", ".join(f"{part} {taken:.1f} s" for part, taken in facts["seconds"].items())
            report(f"{one.label}: {one.framework} {facts['version']}: {seconds}")
            dumps.append(Dump(one.label, one.framework, one.directory, folder, facts))
        different = sorted({name for one in dumps for name in different_parameters(dumps[0], one)})
        if different:
            for process, folder in zip(processes, folders, strict=True):
                process.ask({"parameters": {"names": different, "out": str(folder / "parameters.npz")}})
            for process in processes:
                process.answer()
        return dumps
