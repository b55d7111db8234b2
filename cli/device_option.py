"""The option of every command that computes: the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .models.processes.devices import DeviceName

    _Type = click.ParamType[DeviceName]
else:
    _Type = click.ParamType


class Device(_Type):
    """A device under a name that people type: cpu, gpu, cuda, gpu:1."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DeviceName:
        """Return the device that is meant."""
        from .models.processes.devices import DeviceError, DeviceName

        try:
            return DeviceName.of(str(value))
        except DeviceError as error:
            self.fail(f"{error.what}. {error.next_step}", param, ctx)


DEVICE = click.option(
    "--device",
    type=Device(),
    default="cpu",
    show_default=True,
    metavar="cpu|gpu[:N]",
    help="What computes; GPUs are numbered from 0, and each framework needs its build for them.",
)
