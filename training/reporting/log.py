"""What a run says while it runs: the log line, the metrics file, curves, a progress line.

One :class:`RunLog`, on the first rank alone. The order that makes a resumed run's file equal an uninterrupted one's:
report a step, evaluate, then save the checkpoint; on resume call :meth:`RunLog.rewind` with the checkpoint's step.

Every line begins with the time, but for the reference run's, which programs read field for field, and what hangs
indented below another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from .curves import curves_asked_for
from .metrics import METRICS, MetricsFile
from .progress import Progress
from .records import EvaluationRecord, StageRecord, StepRecord

__all__ = ["EvaluationRecord", "RunLog", "StageRecord", "StepRecord"]


def _print(line: str) -> None:
    print(line, flush=True)


class RunLog:
    """Where a run's reports go. A context manager that closes itself.

    Args:
        directory: The run's directory, with ``metrics.jsonl``, and ``tensorboard/`` and ``visualdl/`` where asked for.
        tensorboard: Draw curves for TensorBoard.
        visualdl: Draw curves for VisualDL.
        terminal: Keep a progress line at the bottom of the terminal; nothing where stderr is not a terminal.
        plan: Steps and tokens a step of each stage, for the progress line's share and time left.
        echo: Takes each line of the log; standard output where nothing else is said.
        now: Gives the seconds since 1970.

    Raises:
        MissingPackageError: Curves are asked for and their package is not installed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tensorboard: bool = False,
        visualdl: bool = False,
        terminal: bool = False,
        plan: Sequence[tuple[int, int]] = (),
        echo: Callable[[str], None] = _print,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = MetricsFile(directory / METRICS)
        self._curves = curves_asked_for(directory, tensorboard=tensorboard, visualdl=visualdl)
        self._progress = Progress(plan, live=terminal, now=now)
        self._echo = echo
        self._now = now
        self._stages: set[int] = set()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rewind(self, step: int) -> None:
        """Forget every record past ``step``; call it first, with 0 for a new run.

        Raises:
            FormatError: ``metrics.jsonl`` holds something else.
        """
        kept = self._metrics.rewind(step)
        self._stages = {record["stage"] for record in kept if record["kind"] == "stage"}
        for curves in self._curves:
            curves.rewind(step)
        self._progress.start(step)

    def stage(self, record: StageRecord) -> None:
        """Report that a stage begins; a stage that was reported already, before a resume, is passed over."""
        if record.stage in self._stages:
            return
        self._stages.add(record.stage)
        self._metrics.write("stage", asdict(record))
        cut = f"{record.batch_tokens:,} tokens, on average " if record.batch_tokens else ""
        self.say(
            f"stage {record.stage}: {record.steps:,} steps of {cut}{record.batch_size:,} sequences "
            f"of at most {record.length:,} tokens"
        )

    def step(self, record: StepRecord) -> None:
        """Report the steps since the last report."""
        self._metrics.write("step", asdict(record))
        for curves in self._curves:
            curves.step(record)
        self._write(record.line())
        self._progress.move(record.step)
        self._progress.speed(record.tokens_per_second, record.peak_share)
        self.say(self._progress.text())

    def evaluation(self, record: EvaluationRecord) -> None:
        """Report an evaluation on held-out text."""
        self._metrics.write("evaluation", asdict(record))
        for curves in self._curves:
            curves.evaluation(record)
        self.say(record.line())

    def fill_mask(self, lines: Iterable[str], *, step: int) -> None:
        """Report what the model puts into a few sentences after ``step`` steps."""
        lines = list(lines)
        self._metrics.write("fill_mask", {"step": step, "lines": lines})
        for curves in self._curves:
            curves.text("fill_mask", lines, step)
        for line in lines:
            self._write(f"  {line}")

    def progress(self, step: int) -> None:
        """Move the progress line; cheap enough for every step."""
        self._progress.move(step)

    def say(self, line: str, *below: str) -> None:
        """Print a line that is in no file, with the time before it, and others indented below it."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._now()))
        self._write(f"[{stamp}] {line}", *(f"  {each}" for each in below))

    def _write(self, *lines: str) -> None:
        """Print lines above the progress line."""
        self._progress.clear()
        for line in lines:
            self._echo(line)
        self._progress.draw()

    def sync(self) -> None:
        """Force the records to the disk; call it before a checkpoint is given its name."""
        self._metrics.sync()

    def close(self) -> None:
        """Close every file and clear the progress line."""
        self._progress.clear()
        self._metrics.close()
        for curves in self._curves:
            curves.close()
