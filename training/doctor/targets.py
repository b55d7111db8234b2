"""What a run would run on: a device of this machine, measured, or a kind of GPU elsewhere, by its data sheet."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import replace
from functools import cache

from ...converters.errors import ConvertError
from ...models.config import RoFormerConfig
from ...models.kernels import attention_paddle as kernels_paddle
from ...models.kernels.attention_paddle import candidates
from ...models.processes.start_paddle import paddle
from ...models.proving import choice_paddle as kernel_choice_paddle
from ..settings.tables import Settings
from ..step.estimate import USABLE, Kind, Pace, by_data_sheet
from ..step.precision import half_type, types_of
from . import machine
from .forecast import Target
from .machine import Device
from .probe import probe


def elsewhere(kind: Kind, settings: Settings, ranks: int) -> Target:
    """Return so many GPUs of a kind that is not here, with the pace that its data sheet promises."""
    device = Device(kind.name, kind.memory, kind.capability)
    precision = settings.run.precision if settings.run.precision[:4] in device.types else "fp32"
    pace = by_data_sheet(kind, precision)
    dtype = half_type(precision) or "float32"
    kernels = candidates(kernels_paddle.Device(kind.name, kind.capability), "attention", dtype)
    return Target(
        name=f"a {kind.name}" if ranks == 1 else kind.name,
        room=int(USABLE * kind.memory),
        types=device.types,
        attention=kernels[0].name if kernels else None,
        ranks=ranks,
        measure=lambda rows, length: pace,
        proven=False,
    )


def here(settings: Settings, config: RoFormerConfig, ranks: int | None) -> Target:
    """Return the device of this machine that the settings name; its pace is measured when a stage asks for it.

    Raises:
        ConvertError: The settings name a GPU and there is none, or fewer than ``ranks``.
    """
    gpus, wanted = machine.gpus(), settings.run.device
    if wanted == "gpu" and not gpus:
        raise ConvertError(
            f"device = gpu, but Paddle {machine.build()}, finds no GPU here",
            "Use --device cpu, or name the GPU that the run will have: --gpu V100-32GB.",
        )
    on_gpu = bool(gpus) and wanted != "cpu"
    device = gpus[0] if on_gpu else machine.cpu()
    ranks = ranks or (len(gpus) if on_gpu else 1)
    if on_gpu and ranks > len(gpus):
        raise ConvertError(
            f"{ranks} ranks need one GPU each, but this machine has {len(gpus)}",
            "To estimate a run on several machines, name their GPU: --gpu V100-32GB.",
        )
    half = settings.run.precision[:4]
    precision = settings.run.precision if half in device.types else "fp32"
    paddle.device.set_device("gpu:0" if on_gpu else "cpu")
    verdicts = kernel_choice_paddle.prove(config, types_of(precision), training=True)

    @cache
    def measure(rows: int, length: int) -> Pace:
        found = probe(
            config,
            rows=rows,
            length=length,
            precision=precision,
            recompute=settings.run.recompute,
            masked=settings.data.masked_lm_probability if settings.data.mlm else 0.0,
        )
        source = f"{found.source}, Paddle {machine.build()}"
        if on_gpu:
            return replace(found, source=source)
        # ranks on a CPU share its cores
        crowd = max(1.0, ranks * machine.threads() / machine.cores())
        source += f", OMP_NUM_THREADS={machine.threads()} on {machine.cores()} cores"
        return Pace(found.flops / crowd, found.update_seconds * crowd, source)

    return Target(
        name=device.name,
        room=int(USABLE * device.free / (1 if on_gpu else ranks)),
        types=device.types,
        attention=next((each.kernel for each in verdicts if each.need.place == "attention" and each.agrees), None),
        ranks=ranks,
        measure=measure,
        kernels=tuple(kernel_choice_paddle.lines(verdicts)),
        warnings=tuple(machine.warnings()),
    )
