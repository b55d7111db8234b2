"""What a run says of itself: before its first step what runs, on what and on which text; after its last the result."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from ...models.processes.processor import processor
from ...models.processes.start_paddle import paddle
from ..step.estimate import peak_flops
from ..step.trainer import Trainer
from .feed import Feed


def device_name(device: str) -> str:
    """Return the name that a device of Paddle's, ``cpu`` or ``gpu:0``, gives itself."""
    return processor().name if device == "cpu" else str(paddle.device.cuda.get_device_name(device))


def opening(trainer: Trainer, feed: Feed, device: str, kernels: Sequence[str] = ()) -> list[str]:
    """Say what runs, a line each.

    Args:
        trainer: Model and settings.
        feed: The feed of the data.
        device: The device, as :func:`..step.precision.choose_device` returned it.
        kernels: Which fast kernels were chosen and which left out.
    """
    from ...converters.version import __version__

    settings, config, ranks = trainer.settings, trainer.model.config, trainer.ranks.count
    parameters = sum(math.prod(master.shape) for master in trainer.weights.masters.values())
    exchanged = f", gradients exchanged in {settings.run.exchange}" if ranks > 1 else ""
    data = feed.stage(settings.stage_at(min(trainer.step, settings.steps - 1))[0])
    corpora = ", ".join(
        f"{corpus.directory} (weight {weight:g}): {tokens:,} tokens"
        for (corpus, weight), tokens in zip(trainer.sources.corpora, data.tokens, strict=True)
    )
    stages = f"in {len(settings.stages)} stages" if len(settings.stages) > 1 else "in one stage"
    return [
        f"roformer-pretrain {__version__}, Paddle {paddle.version.full_version}, into {settings.run.output}",
        f"model    {parameters:,} parameters: {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"a vocabulary of {config.vocab_size:,}",
        f"device   {f'{ranks} × ' if ranks > 1 else ''}{device_name(device)}, {settings.run.precision}{exchanged}",
        *(f"kernels  {line}" for line in kernels),
        f"corpus   {corpora} an epoch",
        f"steps    {settings.steps:,} {stages}; an epoch is {data.steps_per_epoch:,}",
    ]


def peak(device: str, precision: str, ranks: int) -> float | None:
    """Add up the operations a second of all ranks' devices by their data sheet; None on a CPU and where unknown."""
    each = None if device == "cpu" else peak_flops(device_name(device), precision)
    return None if each is None else ranks * each


def ending_line(checkpoint: Path) -> str:
    """Say where the result lies and how it is converted."""
    command = f"roformer-convert paddle2torch {shlex.quote(str(checkpoint))}"
    return f"done: the model is in {checkpoint}; convert it with: {command}"
