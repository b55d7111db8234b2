"""What this machine can do for a training run: devices, types, attention, how ranks talk, versions, room."""

# mypy: disable-error-code="no-untyped-call,attr-defined"
from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...converters.amounts import amount
from ...models import kernels_paddle
from ...models.kernels_paddle import candidates
from ...models.processor import processor
from ...models.start_paddle import NOTES, paddle

#: What a run uses where it is installed: package → what for.
OPTIONAL: Mapping[str, str] = {
    "rjieba": "word segmentation (prepare)",
    "zstandard": ".zst input (prepare)",
    "tensorboardX": "curves for TensorBoard",
    "visualdl": "curves for VisualDL",
    "matplotlib": "plot",
}

#: Types that a run can train in, as its precision names them, and as Paddle does.
TYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

_BELOW = (2, 4)  # of numpy: from here on float() of a one-element tensor raises TypeError


@dataclass(frozen=True)
class Device:
    """A device that computes.

    Attributes:
        name: As its maker calls it.
        memory: Bytes in all.
        free: Bytes that nobody has taken yet.
        capability: CUDA's compute capability; None for a CPU.
    """

    name: str
    memory: int
    free: int
    capability: tuple[int, int] | None = None

    @property
    def types(self) -> tuple[str, ...]:
        """Types that it trains in: ``fp32``, ``fp16``, ``bf16``.

        Source: paddle/amp/auto_cast.py, which turns itself off with a mere warning below 7.0 in float16.
        """
        if self.capability is None:
            return ("fp32",)  # Paddle's AMP leaves everything as it is on a CPU, whatever is_bfloat16_supported says
        return ("fp32", *["fp16"] * (self.capability >= (7, 0)), *["bf16"] * (self.capability >= (8, 0)))

    def fast_attention(self, dtype: str) -> str | None:
        """Name the kernel that may stand in for attention in a type (``float16``), or None; it has to prove itself."""
        found = candidates(kernels_paddle.Device(self.name, self.capability), "attention", dtype)
        return found[0].name if found else None


@dataclass(frozen=True)
class Machine:
    """The machine at hand, as a process that trains sees it.

    Attributes:
        cpu: The processor with the memory it can have.
        cores: That this process may use.
        threads: Of one of Paddle's operators on the CPU.
        gpus: Those that Paddle can use.
        why_no_gpu: Where there are none.
        collectives: Libraries that ranks can talk through: ``nccl``, ``gloo``.
        versions: Package → version.
        missing: Optional packages that are not installed.
        notes: What was done to start Paddle.
        warnings: What a run here will trip over.
    """

    cpu: Device
    cores: int
    threads: int
    gpus: tuple[Device, ...]
    why_no_gpu: str
    collectives: tuple[str, ...]
    versions: Mapping[str, str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def device(self) -> Device:
        """What a run takes that is not told."""
        return self.gpus[0] if self.gpus else self.cpu


def look() -> Machine:
    """Look at this machine."""
    core = paddle.base.core
    memory, free = _host_memory()
    gpus = tuple(_gpu(number) for number in range(_gpu_count()))
    versions = {name: _version(name) for name in ("paddlepaddle", "paddlepaddle-gpu", "numpy", *OPTIONAL)}
    versions["paddle"] = str(paddle.__version__)
    found = {name: version for name, version in versions.items() if version}
    if not paddle.is_compiled_with_cuda():
        why = f"Paddle {paddle.__version__} is built without CUDA"
    else:
        why = f"Paddle {paddle.__version__} is built for CUDA {paddle.version.cuda()} and finds no device"
    return Machine(
        cpu=Device(processor().name, memory, free),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=int(os.environ.get("OMP_NUM_THREADS", "1") or 1),  # Paddle sets it to 1 on import where it is not set
        gpus=gpus,
        why_no_gpu="" if gpus else why,
        collectives=tuple(name.lower() for name in ("NCCL", "Gloo") if hasattr(core, f"ProcessGroup{name}")),
        versions=found,
        missing=tuple(name for name in OPTIONAL if not versions[name]),
        notes=tuple(NOTES),
        warnings=tuple(_warnings(found)),
    )


def _warnings(versions: Mapping[str, str]) -> list[str]:
    out = []
    numpy = tuple(int(part) for part in versions["numpy"].split(".")[:2])
    if numpy >= _BELOW:
        out.append(
            f"numpy {versions['numpy']}: float() of a one-element Paddle tensor is a TypeError from 2.4 on, and "
            "Paddle's own GradScaler dies of it when it first lowers the scale; install 'numpy<2.4'"
        )
    if processor().vendor == "AuthenticAMD" and os.environ.get("MKL_DEBUG_CPU_TYPE") != "5":
        out.append("MKL_DEBUG_CPU_TYPE is not 5: matrix products on this AMD processor run at half speed and less")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (cores := os.cpu_count() or 1) + 0.5:
        out.append(
            f"others keep the machine busy (load {os.getloadavg()[0]:.1f} on {cores} cores): what is measured now is "
            "slower than it will be on a quiet one"
        )
    if not paddle.is_compiled_with_cuda() and (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        out.append("there is an NVIDIA driver and this Paddle cannot use it; install the GPU build, see docs")
    return out


def _gpu_count() -> int:
    if not paddle.is_compiled_with_cuda():
        return 0
    try:
        return int(paddle.device.cuda.device_count())
    except (RuntimeError, OSError):  # a driver that is broken or too old
        return 0


def _gpu(number: int) -> Device:
    found: Any = paddle.device.cuda.get_device_properties(number)
    memory = int(found.total_memory)
    return Device(str(found.name), memory, _free_of_gpu(number, memory), (int(found.major), int(found.minor)))


def _free_of_gpu(number: int, memory: int) -> int:
    # what other processes hold is not in Paddle's own count
    try:
        import subprocess

        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={number}"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return min(memory, int(said.stdout.split()[0]) << 20)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return memory


def _host_memory() -> tuple[int, int]:
    """Bytes of memory, and of it what a new process can have, a container's limit counted."""
    values = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            values[name] = int(rest.split()[0]) << 10
        memory, free = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        if not hasattr(os, "sysconf"):
            return 0, 0
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = memory
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int(Path("/sys/fs/cgroup", limit).read_text())
            memory, free = min(memory, most), min(free, most - int(Path("/sys/fs/cgroup", used).read_text()))
        except (OSError, ValueError):
            continue
    return memory, free


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def room(directory: Path) -> tuple[Path, int]:
    """Find the nearest directory that exists, and the bytes that are free there."""
    there = directory.resolve()
    while not there.is_dir():
        there = there.parent
    return there, shutil.disk_usage(there).free


def attention(device: Device) -> str:
    """Say which attention a device gets in each of its types, and why."""
    if device.capability is None:
        return "products and softmax: there is no fast kernel for CPUs"
    found: dict[str, list[str]] = {}
    for short in device.types:
        found.setdefault(device.fast_attention(TYPES[short]) or "products and softmax", []).append(short)
    said = "; ".join(f"{kernel} in {' and '.join(types)}" for kernel, types in found.items())
    why = "" if device.capability >= (8, 0) else ", FlashAttention wants compute capability 8.0"
    return f"{said}{why}; where it does not prove itself, products and softmax"


def lines(machine: Machine, directory: Path) -> list[tuple[str, str]]:
    """Say what this machine can do: what, and how it stands with it.

    Args:
        machine: As :func:`look` found it.
        directory: Where a run would write.
    """
    device = machine.device
    out = [
        ("processor", f"{machine.cpu.name}, {machine.cores} core{'s' * (machine.cores != 1)}"),
        ("memory", f"{amount(machine.cpu.free)} free of {amount(machine.cpu.memory)}"),
    ]
    if machine.gpus:
        for number, gpu in enumerate(machine.gpus):
            assert gpu.capability is not None
            capability = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
            out.append((f"GPU {number}", f"{gpu.name}, {amount(gpu.free)} free of {amount(gpu.memory)}, {capability}"))
    else:
        out.append(("GPU", f"none: {machine.why_no_gpu}"))
    why = "" if machine.gpus else " (Paddle's automatic mixed precision does nothing on a CPU)"
    out.append(("types", ", ".join(device.types) + why))
    out.append(("attention", attention(device)))
    wanted = "nccl" if machine.gpus else "gloo"
    talk = wanted if wanted in machine.collectives else f"no {wanted} in this Paddle: one rank alone"
    out.append(("ranks", f"{talk} (python -m paddle.distributed.launch)" if talk == wanted else talk))
    out.append(("threads", f"{machine.threads} an operator (OMP_NUM_THREADS), one rank"))
    mkl = os.environ.get("MKL_DEBUG_CPU_TYPE")
    out.append(("MKL", f"MKL_DEBUG_CPU_TYPE={mkl}" if mkl else "as it is (MKL_DEBUG_CPU_TYPE is not set)"))
    names = ["paddle", "numpy"]
    versions = [f"Python {platform.python_version()}", *(f"{name} {machine.versions[name]}" for name in names)]
    out.append(("versions", ", ".join(versions)))
    here = [f"{name} {machine.versions[name]}" for name in OPTIONAL if name in machine.versions]
    out.append(("with it", ", ".join(here) or "nothing optional"))
    if machine.missing:
        out.append(("missing", ", ".join(f"{name} for {OPTIONAL[name]}" for name in machine.missing)))
    there, free = room(directory)
    out.append(("disk", f"{amount(free)} free at {there}"))
    return out
