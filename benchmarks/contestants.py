"""Who takes part in a benchmark, their processes, and the variables that all of them get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from roformer_convert.models.processes.processor import processor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: Wait before a run: OpenMP's threads spin for 0.2 s after their work, in the way of the next process's.
_REST_SECONDS = 0.25


@dataclass(frozen=True)
class Contestant:
    """One who computes in a benchmark.

    Attributes:
        label: In the table.
        dialect: What it reads.
        script: What runs in its process.
        python: Its interpreter.
    """

    label: str
    dialect: str
    script: Path
    python: Path


def ours(dialect: str, script: str) -> Contestant:
    """One of our models, in this environment."""
    return Contestant("ours", dialect, HERE / "ours" / script, Path(sys.executable))


def peer(label: str, dialect: str, script: str, environment: str | None = None) -> Contestant:
    """A peer, in the environment ``.peers/environment``, or in this one."""
    python = ROOT / ".peers" / environment / "bin" / "python" if environment else Path(sys.executable)
    return Contestant(label, dialect, HERE / "peers" / script, python)


class Worker:
    """A contestant's process; a context manager."""

    def __init__(self, contestant: Contestant, source: Path, threads: int, environment: Mapping[str, str]) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._name = contestant.script.name
        self._child = subprocess.Popen(
            [str(contestant.python), str(contestant.script), str(source), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=dict(environment),
            text=True,
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._words.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._words.seek(0)
            words = self._words.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self._name} ended with {self._child.returncode}:\n{words}")
        found: dict[str, Any] = json.loads(line)
        return found


class Workers:
    """The processes of one row after another; a context manager. A process that the next row needs too is kept."""

    def __init__(self, start: Callable[[str], Worker]) -> None:
        self._start = start
        self._running: dict[str, Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.keep([])

    def keep(self, names: Sequence[str]) -> dict[str, Worker]:
        """End every process but those of ``names``, start what is missing, return them in that order."""
        for name in [name for name in self._running if name not in names]:
            self._running.pop(name).__exit__(None, None, None)
        for name in names:
            if name not in self._running:
                self._running[name] = self._start(name)
        return {name: self._running[name] for name in names}


def in_turn(
    sides: Sequence[tuple[Worker, str]],
    *,
    least: int,
    most: int,
    seconds: float,
    processor_time: bool = False,
    between: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Run each side's prepared job in turn; return the seconds of each run of each.

    Args:
        sides: Process and job.
        least: Turns at least.
        most: Turns at most.
        seconds: Further turns are taken while the runs so far took less in all.
        processor_time: Count one thread's processor seconds.
        between: Called before each turn.
    """
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(most):
        if turn >= least and sum(map(sum, times)) > seconds:
            break
        between()
        for (worker, job), found in zip(sides, times, strict=True):
            time.sleep(_REST_SECONDS)
            found.append(worker.ask(job=job, processor_time=processor_time)["seconds"])
    return times


def environment(threads: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of every contestant's process, and those among them that are set here."""
    numbers = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []
    if numbers:
        os.sched_setaffinity(0, numbers)  # XLA counts the processors that it may use
    chosen = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # what start_paddle.py asks of glibc for ours, here asked for everyone
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    if "AuthenticAMD" in processor().vendor:
        chosen["MKL_DEBUG_CPU_TYPE"] = "5"
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("OPENBLAS_", "KMP_", "MKL_", "OMP_"))
    }
    return {**kept, **chosen}, chosen
