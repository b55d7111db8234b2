"""The curves of a run as its metrics hold them: what :mod:`.plot` draws, read from ``metrics.jsonl`` and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError, FormatError
from .metrics import METRICS, read_metrics

Floats = NDArray[np.float64]

#: Numbers that are drawn, by kind of record.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "step": ("lm_loss", "sop_loss", "learning_rate", "tokens_per_second"),
    "evaluation": ("lm_loss", "lm_accuracy", "sop_loss", "sop_accuracy"),
}


@dataclass(frozen=True)
class Curve:
    """One number over the run, where it is finite.

    Attributes:
        steps: (K,) steps, increasing.
        values: (K,) one value a step.
    """

    steps: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class RunCurves:
    """The curves of one run.

    Attributes:
        name: What it is called in the picture.
        curves: (kind, field) → its curve, empty ones too.
        stages: Step before each stage's first, and what the stage is.
    """

    name: str
    curves: Mapping[tuple[str, str], Curve]
    stages: tuple[tuple[int, str], ...]

    def __getitem__(self, key: tuple[str, str]) -> Curve:
        return self.curves[key]

    def by_stage(self, curve: Curve) -> list[Curve]:
        """Cut a curve where a stage begins: losses and speeds jump there, which no average may hide."""
        cuts = np.searchsorted(curve.steps, [step for step, _ in self.stages[1:]], side="right").tolist()
        parts = [
            Curve(curve.steps[begin:end], curve.values[begin:end])
            for begin, end in zip([0, *cuts], [*cuts, len(curve)], strict=True)
        ]
        return [part for part in parts if len(part)]


def read_runs(paths: Sequence[Path]) -> list[RunCurves]:
    """Read runs, each a run's directory or its metrics file; they are named by what tells their paths apart.

    Raises:
        ConvertError: There is no such file, or it has no steps yet.
        FormatError: It holds something else.
    """
    files = [path / METRICS if path.is_dir() else path for path in paths]
    names = distinct_names([file.resolve().parent for file in files])
    return [_read(file, name) for file, name in zip(files, names, strict=True)]


def distinct_names(directories: Sequence[Path]) -> list[str]:
    """Name directories by as many of their last parts as tell them apart."""
    for count in range(1, max(len(path.parts) for path in directories) + 1):
        names = ["/".join(path.parts[-count:]) for path in directories]
        if len(set(names)) == len(set(directories)):
            break
    return names


def _read(file: Path, name: str) -> RunCurves:
    records = read_metrics(file)
    if not any(record["kind"] == "step" for record in records):
        raise ConvertError(f"{file}: no step is recorded", "Wait for the run's first line (log_steps), then plot it.")
    curves = {
        (kind, field): _curve(file, [record for record in records if record["kind"] == kind], field)
        for kind, fields in FIELDS.items()
        for field in fields
    }
    stages = tuple(
        (record["step"], f"{record['length']} tokens × {record['batch_size']}")
        for record in records
        if record["kind"] == "stage"
    )
    return RunCurves(name, curves, stages)


def _curve(file: Path, records: Sequence[Mapping[str, Any]], field: str) -> Curve:
    points: dict[int, float] = {}
    for record in records:
        value = record.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise FormatError(file, f"{field} of step {record['step']} is {str(value)[:40]!r}; wanted a number")
        if abs(value) < 1e300 and math.isfinite(value):
            points[record["step"]] = float(value)  # of two with one step the later counts
    steps = sorted(points)
    return Curve(np.array(steps, np.float64), np.array([points[step] for step in steps], np.float64))


def smooth(values: Floats, reach: int) -> Floats:
    """Average each value with its neighbours; nothing lags but the end, which has none after it.

    Args:
        values: (K,) one value a step.
        reach: Neighbours on either side; fewer towards the beginning, where losses fall fast.
    """
    count = len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(count)
    first = places - np.minimum(reach, places)
    last = np.minimum(places + np.minimum(reach, places), count - 1)
    averages: Floats = (sums[last + 1] - sums[first]) / (last + 1 - first)
    return averages
