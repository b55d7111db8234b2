"""What this machine has for a training run: devices with their memory and types, room on the disk, and its traps."""

# mypy: disable-error-code="no-untyped-call,attr-defined"
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...converters.amounts import amount
from ...models.processor import processor
from ...models.start_paddle import paddle


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


def cpu() -> Device:
    """The processor, with the memory that this process can have."""
    return Device(processor().name, *_host_memory())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads of one of Paddle's operators on the CPU; Paddle says 1 on import where nobody said anything."""
    return int(os.environ.get("OMP_NUM_THREADS", "1") or 1)


def gpus() -> tuple[Device, ...]:
    """The GPUs that Paddle can use."""
    if not paddle.is_compiled_with_cuda():
        return ()
    try:
        return tuple(_gpu(number) for number in range(paddle.device.cuda.device_count()))
    except (RuntimeError, OSError):  # a driver that is broken or too old
        return ()


def build() -> str:
    """Paddle's version, and what it is built for."""
    kind = f"for CUDA {paddle.version.cuda()}" if paddle.is_compiled_with_cuda() else "without CUDA"
    return f"{paddle.__version__}, built {kind}"


def warnings(numpy_version: str = np.__version__) -> list[str]:
    """Say what a run here will trip over, a sentence each."""
    out = []
    if tuple(int(part) for part in numpy_version.split(".")[:2]) >= (2, 4):
        out.append(
            f"numpy {numpy_version}: float() of a one-element Paddle tensor is a TypeError from 2.4 on, and "
            "Paddle's own GradScaler dies of it when it first lowers the scale; install 'numpy<2.4'"
        )
    if processor().vendor == "AuthenticAMD" and os.environ.get("MKL_DEBUG_CPU_TYPE") != "5":
        out.append("MKL_DEBUG_CPU_TYPE is not 5: matrix products on this AMD processor run at half speed and less")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > (count := os.cpu_count() or 1) + 0.5:
        out.append(
            f"others keep the machine busy (load {load:.1f} on {count} cores): what is measured now is "
            "slower than it will be on a quiet one"
        )
    if not paddle.is_compiled_with_cuda() and (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        out.append("there is an NVIDIA driver and this Paddle cannot use it; install the GPU build, see docs")
    return out


def _gpu(number: int) -> Device:
    found: Any = paddle.device.cuda.get_device_properties(number)
    memory = int(found.total_memory)
    return Device(str(found.name), memory, _free_of_gpu(number, memory), (int(found.major), int(found.minor)))


def _free_of_gpu(number: int, memory: int) -> int:
    # what other processes hold is not in Paddle's own count; the driver numbers the devices that are hidden, too
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        which = visible.split(",")[number].strip() if visible else number
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={which}"],
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


def room(directory: Path) -> tuple[Path, int]:
    """Find the nearest directory that exists, and the bytes that are free there."""
    there = directory.resolve()
    while not there.is_dir():
        there = there.parent
    return there, shutil.disk_usage(there).free


def lines(directory: Path) -> list[tuple[str, str]]:
    """Say what this machine has for a run that writes to ``directory``: what, and how it stands with it."""
    host, cards = cpu(), gpus()
    what = f"{host.name}, {cores()} core{'s' * (cores() != 1)}, {threads()} thread{'s' * (threads() != 1)} an operator"
    out = [
        ("processor", f"{what} (OMP_NUM_THREADS)"),
        ("memory", f"{amount(host.free)} free of {amount(host.memory)}"),
        ("Paddle", build()),
    ]
    for number, gpu in enumerate(cards):
        assert gpu.capability is not None
        capability = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        out.append((f"GPU {number}", f"{gpu.name}, {amount(gpu.free)} free of {amount(gpu.memory)}, {capability}"))
    if not cards:
        out.append(("GPU", "none that Paddle can use"))
    there, free = room(directory)
    types = (cards[0] if cards else host).types
    return [*out, ("types", ", ".join(types)), ("disk", f"{amount(free)} free at {there}")]
