"""Where each participant computes, and whether it computes float32 in full there.

``--device gpu`` sends all of them to the first GPU, ``--device paddle=gpu,torch=cpu`` each to its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

import numpy as np

from ...converters.errors import ConvertError, quoted
from ...converters.other_names import usual_name
from ...models.processes.devices import NO_TF32, DeviceError, DeviceName
from ...models.processes.frameworks import FRAMEWORKS
from .dumps import Dump

_SIZE = 64  # of the matrices that are tried: a fast kernel may want whole tiles


def read_devices(text: str) -> dict[str, str]:
    """Read what was asked for: framework → device, the same for all, or by framework (the others stay on the CPU).

    Raises:
        DeviceError: A name is no device's, or no framework's.
    """
    found: dict[str, str] = {}
    for item in text.split(","):
        typed, equals, device = item.rpartition("=")
        name = usual_name(typed.strip(), FRAMEWORKS)
        if equals and name not in FRAMEWORKS:
            raise DeviceError(f"{quoted(typed, 40)} is no framework", f"Known: {', '.join(FRAMEWORKS)}.")
        chosen = str(DeviceName.of(device))
        found |= {name: chosen} if equals else dict.fromkeys(FRAMEWORKS, chosen)
    return found


def require_participants(devices: Mapping[str, str], frameworks: Iterable[str]) -> None:
    """Refuse a device for a framework that computes nothing.

    Raises:
        ConvertError: One of those that are named one by one does not take part.
    """
    idle = sorted(set(devices) - set(frameworks))
    if idle and len(devices) < len(FRAMEWORKS):
        raise ConvertError(
            f"--device names {idle[0]}={devices[idle[0]]}, and {idle[0]} takes no part",
            "Name it with --frameworks too.",
        )


def require_full_float32(operations: ModuleType, device: str) -> None:
    """Try whether products keep the digits of float32: GPUs have a faster way that rounds factors to 10 bits (TF32).

    Raises:
        ConvertError: They do not.
    """
    factors = np.full((_SIZE, _SIZE), 1.0 + 2.0**-20, np.float32)
    product = operations.project(
        operations.to_tensor(factors), operations.to_tensor(np.eye(_SIZE, dtype=np.float32)), None
    )
    if not np.array_equal(operations.as_numpy(product), factors):
        raise ConvertError(
            f"float32 products on {device} lose digits of their factors (TF32, or a bfloat16 mode)",
            f"Set {NO_TF32}=0, and leave ONEDNN_DEFAULT_FPMATH_MODE and its like unset.",
        )


def tell_devices(dumps: Sequence[Dump]) -> list[str]:
    """Say who computed on a GPU."""
    found = [(dump.label, dump.facts.get("device", "cpu")) for dump in dumps]
    return [f"{label} computed on {device}, float32 in full (TF32 off)" for label, device in found if device != "cpu"]
