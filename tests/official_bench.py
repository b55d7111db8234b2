"""One checkpoint, our own run of it, and a worker of an official participant that loads copies with planted faults.

A fault is planted after the job is made and before the worker loads: what the gate writes itself has none, and what a
person brings with one is refused before anything runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.source.stated import Stated
from roformer_convert.models.config import supported, tap_names
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.parity.explaining.stored_parameters import StoredParameters
from roformer_convert.parity.judging.bounds import derive
from roformer_convert.parity.judging.measure import measure
from roformer_convert.parity.participants.dump import Dumper
from roformer_convert.parity.participants.dumps import Dump
from roformer_convert.parity.participants.participants import look_at, write_stated
from roformer_convert.parity.questions.case_file import write_cases
from roformer_convert.parity.questions.cases import make_cases
from roformer_convert.parity.serving.asking import Started, answered, fetch_parameters, started
from roformer_convert.parity.serving.jobs import directory_for, job_for
from roformer_convert.parity.serving.software import require_official
from roformer_convert.parity.serving.verdicts import OfficialResult, judge_official

Plant = Callable[[Path], None]


def nothing(directory: Path) -> None:
    """Plant no fault."""


class Workers:
    """Workers of official participants, each started when it is first asked for, as a context manager.

    Args:
        folder: Where each has a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = ExitStack()
        self.found: dict[str, Started] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def __getitem__(self, said: str) -> Started:
        """Return the worker that ``--with`` would ask."""
        if said not in self.found:
            folder = self.folder / f"worker{len(self.found)}"
            folder.mkdir()
            (self.found[said],) = self.stack.enter_context(started(require_official([said]), {}, folder))
        return self.found[said]


class OfficialBench:
    """A checkpoint and its official participant.

    Args:
        folder: Where it all lies.
        checkpoint: What is compared.
        worker: The participant.
        stated: What no file of the checkpoint says: fields of its configuration.
    """

    def __init__(
        self, folder: Path, checkpoint: Path, worker: Started, stated: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.worker = worker
        self.directory = checkpoint
        if stated:
            (self.directory,), _ = write_stated([checkpoint], Stated(set=stated), folder)
        self.model, self.dialects = look_at([self.directory])
        vocabulary = self.model.vocabulary
        self.tokenizer = None if vocabulary is None else Tokenizer.from_pretrained(vocabulary)
        config, task = supported(self.model.config), self.model.task
        self.cases = make_cases(config, task, self.tokenizer)
        listed = write_cases(folder / "cases.npz", self.cases, None)
        self.ours = self._dump(listed)
        order = tap_names(config, pooler=True, mlm=task.mlm, sop=task.sop, classifier=task.head is not None)
        self.bounds = derive(measure([self.ours], self.cases, order), order)
        self.number = 0

    def _dump(self, listed: list[dict[str, Any]]) -> Dump:
        import torch

        torch.set_num_threads(1)  # a tiny model's threads wait longer than they compute
        out = self.folder / "ours"
        out.mkdir()
        asked = {
            "directory": str(self.directory),
            "class_name": self.model.class_name,
            "out": str(out),
            "cases_file": str(self.folder / "cases.npz"),
            "cases": listed,
            "dialect": None,
        }
        return Dump("torch", "torch", self.directory, out, Dumper("torch").answer({"dump": asked}))

    def judge(self, plant: Plant = nothing, after: Plant = nothing) -> OfficialResult:
        """Let the worker load a copy, with a fault that is planted in it, or in what the worker computed."""
        self.number += 1
        software = self.worker.wanted.software
        directory = self.folder / f"copy{self.number}"
        shutil.copytree(directory_for(software, [self.directory], self.dialects, self.folder), directory)
        for old in self.worker.folder.glob("float*.npz"):
            old.unlink()
        assert software.dialect is not None
        official, job = job_for(
            self.worker,
            [directory],
            [software.dialect],
            self.model,
            self.tokenizer,
            self.cases,
            self.folder / "cases.npz",
            self.folder,
        )
        plant(Path(job["directory"]))
        self.worker.process.ask({"run": job})
        official = answered(self.worker, official)
        after(self.worker.folder)
        with open_checkpoint(self.directory) as checkpoint:
            return judge_official(
                official,
                self.ours,
                self.cases,
                self.model,
                self.tokenizer,
                self.bounds,
                5,
                StoredParameters(checkpoint),
                partial(fetch_parameters, self.worker, official),
            )


def failed(result: OfficialResult) -> list[str]:
    """Name the checks that failed."""
    return [verdict.check.removeprefix("official: ") for verdict in result.verdicts if not verdict.passed]


def kinds(result: OfficialResult) -> set[str]:
    """Name the kinds of causes."""
    return {cause.kind for cause in result.causes}
