"""Types of a run's arithmetic, and dynamic loss scaling.

float16 has no small numbers: gradients below 6e-8 vanish. The loss is therefore multiplied by a scale before the
backward pass and the gradients divided by it after; a scale that is too large makes them infinite, the step is left
out, and after ``decr_every_n`` such steps in a row the scale shrinks. The scaler is ours, in float32 on the host as
Paddle's kernel keeps it, so that its state is four numbers of a checkpoint and its rules can be tested anywhere.

Source: the rules of ``AmpScaler._update`` in paddle/amp/grad_scaler.py, Paddle 3.3; Micikevicius et al., Mixed
Precision Training (arXiv 1710.03740).
"""

# mypy: disable-error-code="no-untyped-call,arg-type"
from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...converters.errors import ConvertError, FormatError
from ...models.processes.start_paddle import paddle
from ..settings.tables import Precision, Run, Scaling

_HALVES = {"fp16": "float16", "bf16": "bfloat16"}


def choose_device(run: Run) -> str:
    """Choose what computes and make it Paddle's current device: ``cpu``, or ``gpu:0`` and so on.

    Raises:
        ConvertError: There is no such device, or it does not compute in the type that is asked for.
    """
    has_cuda = paddle.device.is_compiled_with_cuda()
    gpus = paddle.device.cuda.device_count() if has_cuda else 0
    if run.device == "gpu" and not gpus:
        why = "no GPU is found" if has_cuda else "this build of Paddle is for CPUs only"
        raise ConvertError(f"device = 'gpu', but {why}", "Install paddlepaddle-gpu, or choose --device cpu.")
    if run.device == "cpu" or not gpus:
        if run.precision != "fp32":
            raise ConvertError(
                f"precision = {run.precision!r} needs a GPU, and this run computes on the CPU",
                "Choose --precision fp32: Paddle's mixed precision does nothing on a CPU.",
            )
        paddle.device.set_device("cpu")
        return "cpu"
    device = f"gpu:{paddle.distributed.ParallelEnv().device_id}"
    paddle.device.set_device(device)
    half = half_type(run.precision)
    # auto_cast would turn itself off with a warning, and the run go on in float32
    if half == "bfloat16" and not paddle.amp.is_bfloat16_supported():
        raise ConvertError(
            f"precision = {run.precision!r}: {paddle.device.cuda.get_device_name()} has no bfloat16",
            "Choose --precision fp16-o2, or fp16-o1.",
        )
    if half == "float16" and not paddle.amp.is_float16_supported():
        raise ConvertError(
            f"precision = {run.precision!r}: Paddle computes in float16 from compute capability 7.0 on, but "
            f"{paddle.device.cuda.get_device_name()} has a lower one",
            "Choose --precision fp32.",
        )
    return device


def half_type(precision: str) -> str | None:
    """Return the half type of a precision (``fp16-o2``, or ``fp16`` alone), or None."""
    return _HALVES.get(precision.partition("-")[0])


def is_halved(precision: Precision) -> bool:
    """Say whether the model itself holds its weights in the half type (O2), beside float32 masters."""
    return precision.endswith("-o2")


def types_of(precision: Precision) -> tuple[str, ...]:
    """Return the types that a run computes in: O1 leaves norms and evaluations in float32."""
    half = half_type(precision)
    if half is None:
        return ("float32",)
    return (half,) if is_halved(precision) else (half, "float32")


#: What O2 does in the half type beside what Paddle's list allows. Paddle would look embeddings up in float32, and as a
#: sum takes the type of its widest part, every layer's input would stay float32, at O1's memory and traffic. Both names
#: are one operator's, in Paddle's older and newer spelling.
#: Source: ``autocast_smart_context_manager`` of PaddleNLP's trainer.
HALVED_UNDER_O2 = frozenset({"lookup_table_v2", "embedding"})


def autocast(precision: Precision) -> AbstractContextManager[Any]:
    """Within this, operators compute in the half type where that is safe (O1) or nearly always (O2)."""
    half = half_type(precision)
    if half is None:
        return nullcontext()
    context: AbstractContextManager[Any] = paddle.amp.auto_cast(
        dtype=half,
        level=precision[-2:].upper(),
        custom_white_list=set(HALVED_UNDER_O2) if is_halved(precision) else None,
    )
    return context


@dataclass
class LossScaler:
    """The scale and its counters.

    Attributes:
        options: When and how it changes.
        scale: What the loss is multiplied by, a float32 value.
        good_steps: Good steps in a row since the scale last changed.
        bad_steps: Steps in a row whose gradients were not finite.
    """

    options: Scaling
    scale: float
    good_steps: int = 0
    bad_steps: int = 0

    @classmethod
    def fresh(cls, options: Scaling) -> LossScaler:
        """Return a scaler before its first step."""
        return cls(options, float(np.float32(options.init_loss_scaling)))

    @classmethod
    def loaded(cls, options: Scaling, state: Mapping[str, Any]) -> LossScaler:
        """Return a scaler as a checkpoint has it.

        Raises:
            FormatError: ``state`` is not what :meth:`state` gave.
        """
        if not (
            isinstance(state.get("scale"), float)
            and state["scale"] > 0
            and all(isinstance(state.get(key), int) for key in ("good_steps", "bad_steps"))
        ):
            raise FormatError("training.json", f"scaler = {state!r}: want scale, good_steps and bad_steps")
        return cls(options, state["scale"], state["good_steps"], state["bad_steps"])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of it."""
        return {"scale": self.scale, "good_steps": self.good_steps, "bad_steps": self.bad_steps}

    def update(self, finite: bool) -> None:
        """Count a step whose gradients were finite or not, and change the scale where it is time."""
        if finite:
            self.bad_steps = 0
            self.good_steps += 1
            if self.good_steps == self.options.incr_every_n:
                self.good_steps = 0
                with np.errstate(over="ignore"):
                    grown = float(np.float32(self.scale) * np.float32(self.options.incr_ratio))
                if math.isfinite(grown):
                    self.scale = grown
        else:
            self.good_steps = 0
            self.bad_steps += 1
            if self.bad_steps == self.options.decr_every_n:
                self.bad_steps = 0
                self.scale = float(np.float32(self.scale) * np.float32(self.options.decr_ratio))

    @property
    def vanished(self) -> bool:
        """Whether the scale has fallen so far that something else is wrong."""
        return self.scale < self.options.min_loss_scaling
