"""Curves of a run for TensorBoard (through tensorboardX) and for VisualDL, where one of them is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...converters.errors import ConvertError
from ...models.processes.frameworks import MissingPackageError, is_installed
from .records import EvaluationRecord, StepRecord

#: Curve → field of a step's record. The part before the slash is the group that the curve is shown in.
STEP_CURVES = {
    "train/loss": "loss",
    "train/lm_loss": "lm_loss",
    "train/sop_loss": "sop_loss",
    "train/lm_accuracy": "lm_accuracy",
    "train/sop_accuracy": "sop_accuracy",
    "train/gradient_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
    "train/loss_scaling": "loss_scaling",
    "speed/steps_per_second": "steps_per_second",
    "speed/sequences_per_second": "sequences_per_second",
    "speed/tokens_per_second": "tokens_per_second",
}

#: Curve → field of an evaluation's record.
EVALUATION_CURVES = {
    "held_out/lm_loss": "lm_loss",
    "held_out/lm_accuracy": "lm_accuracy",
    "held_out/sop_loss": "sop_loss",
    "held_out/sop_accuracy": "sop_accuracy",
}


class _Writer(Protocol):
    # what tensorboardX's SummaryWriter and VisualDL's LogWriter have in common

    def add_scalar(self, tag: str, value: float, step: int, /) -> Any: ...
    def add_text(self, tag: str, text: str, step: int, /) -> Any: ...
    def flush(self) -> Any: ...
    def close(self) -> Any: ...


class Curves:
    """Curves in one directory; their file is made when the first point comes.

    Args:
        directory: Where the files lie.
        make: Makes a writer for that directory, given the step that the run was resumed from, or None.
    """

    def __init__(self, directory: Path, make: Callable[[Path, int | None], _Writer]) -> None:
        self.directory = directory
        self._make = make
        self._writer: _Writer | None = None
        self._resumed: int | None = None

    def rewind(self, step: int) -> None:
        """Forget every point past ``step``, where there were any."""
        self.close()
        self._resumed = step if self.directory.is_dir() and any(self.directory.iterdir()) else None

    def step(self, record: StepRecord) -> None:
        """Add a point to each curve of the training."""
        self._points(record, STEP_CURVES)

    def evaluation(self, record: EvaluationRecord) -> None:
        """Add a point to each curve of the evaluations."""
        self._points(record, EVALUATION_CURVES)

    def text(self, tag: str, lines: Sequence[str], step: int) -> None:
        """Add lines of text under a tag."""
        self._opened().add_text(tag, "\n\n".join(lines), step)
        self._opened().flush()

    def close(self) -> None:
        """Write out what is held back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _points(self, record: StepRecord | EvaluationRecord, curves: Mapping[str, str]) -> None:
        writer = self._opened()
        for tag, field in curves.items():
            value = getattr(record, field)
            if value is not None and math.isfinite(value):
                writer.add_scalar(tag, value, record.step)
        writer.flush()  # a killed run keeps its points but for the last moment's

    def _opened(self) -> _Writer:
        if self._writer is None:
            self._writer = self._make(self.directory, self._resumed)
        return self._writer


def curves_asked_for(directory: Path, *, tensorboard: bool, visualdl: bool) -> list[Curves]:
    """Make what is asked for, in directories of their own below a run's.

    Raises:
        ConvertError: A package is not installed.
    """
    if tensorboard and not is_installed("tensorboardX"):
        raise MissingPackageError("Drawing curves for TensorBoard", {"tensorboardX": "pretrain"})
    if visualdl and not is_installed("visualdl"):
        raise ConvertError(
            "Drawing curves for VisualDL needs visualdl, which is not installed",
            "Install it with: pip install visualdl, or draw them for TensorBoard.",
        )
    made = []
    if tensorboard:
        made.append(Curves(directory / "tensorboard", _tensorboard))
    if visualdl:
        made.append(Curves(directory / "visualdl", _visualdl))
    return made


def _tensorboard(directory: Path, resumed: int | None) -> _Writer:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped,import-not-found,unused-ignore]

    # a new file beside the old one says from which step on the old one's points no longer hold
    writer: _Writer = SummaryWriter(str(directory), purge_step=None if resumed is None else resumed + 1)
    return writer


def _visualdl(directory: Path, resumed: int | None) -> _Writer:
    from visualdl import LogWriter  # type: ignore[import-untyped,import-not-found,unused-ignore]

    # VisualDL cannot take points back: what follows a resume is a run of its own beside the first
    name = "from the start" if resumed is None else f"from step {resumed}"
    writer: _Writer = LogWriter(logdir=str(directory / name))
    return writer
