"""The device that a person asks for by ``--device``, and what is said where a framework has no such one.

What each framework does with it is ``compute_on`` in its operations (``ops_*.py``). Imports no framework.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...converters.errors import ConvertError, quoted
from .frameworks import Framework

_FORM = re.compile(r"(?P<kind>cpu|gpu|cuda)(?::(?P<number>[0-9]{1,3}))?")
_MOST_LISTED = 8
#: The variable by which NVIDIA's libraries are kept from rounding the factors of float32 products, by "0".
NO_TF32 = "NVIDIA_TF32_OVERRIDE"
#: Variables of a process in which a framework computes. The command keeps numpy's OpenBLAS to one thread, which a
#: framework that is built on OpenBLAS would obey too.
ENVIRONMENT: Mapping[str, str | None] = {"OPENBLAS_NUM_THREADS": None, NO_TF32: "0"}


class DeviceError(ConvertError):
    """A name is no device's, or a framework has no such device here."""


@dataclass(frozen=True)
class DeviceName:
    """A device as a person names it.

    Attributes:
        kind: What it is.
        number: Of a GPU, from 0, among those that CUDA_VISIBLE_DEVICES shows.
    """

    kind: Literal["cpu", "gpu"] = "cpu"
    number: int = 0

    @classmethod
    def of(cls, name: str) -> DeviceName:
        """Read ``cpu``, ``gpu`` or ``gpu:1``; ``cuda`` is another word for gpu.

        Raises:
            DeviceError: It is none of them.
        """
        found = _FORM.fullmatch(name.strip().lower())
        if found is None or (found["kind"] == "cpu" and int(found["number"] or 0)):
            raise DeviceError(f"{quoted(name, 40)} is no device", "Known: cpu, gpu (the first one), gpu:1 and so on.")
        return cls("cpu" if found["kind"] == "cpu" else "gpu", int(found["number"] or 0))

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"gpu:{self.number}"


CPU = DeviceName()


def require_gpu(device: DeviceName, framework: Framework, *, build: str, computes: bool, count: int) -> None:
    """Refuse a GPU that a framework does not have.

    Args:
        device: The GPU that is asked for.
        framework: The framework.
        build: Its package and version.
        computes: Whether this build has code for GPUs.
        count: How many GPUs it sees.

    Raises:
        DeviceError: It has no such one; the build that has GPUs is named.
    """
    if device.number < count:
        return
    if count:
        listed = ", ".join(f"gpu:{number}" for number in range(min(count, _MOST_LISTED)))
        more = ", …" if count > _MOST_LISTED else ""
        raise DeviceError(f"there is no {device}: {build} sees {count} here", f"Choose --device {listed}{more}.")
    install = f"The build for GPUs: {framework.gpu_build}"
    if not computes:
        raise DeviceError(f"there is no {device}: {build} is built for CPUs alone", install)
    raise DeviceError(
        f"there is no {device}: {build} sees no GPU here",
        f"nvidia-smi must list one, and CUDA_VISIBLE_DEVICES must not hide it. {install}",
    )
