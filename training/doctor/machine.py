"""What this machine has for a training run: devices with their memory and types, and what will hinder a run on it."""

# mypy: disable-error-code="no-untyped-call,attr-defined"
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...models.processes.processor import processor
from ...models.processes.start_paddle import paddle


@dataclass(frozen=True)
class Device:
    """A device that computes.

    Attributes:
        name: Its name, as its maker gives it.
        free: Bytes of memory that nobody has taken yet.
        capability: CUDA's compute capability; None for a CPU.
    """

    name: str
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
    """Return the processor, with the memory that this process can have."""
    return Device(processor().name, _free_on_host())


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return how many threads an operator of Paddle takes on the CPU; on import Paddle sets 1 where nothing is set."""
    return int(os.environ.get("OMP_NUM_THREADS", "1") or 1)


def gpus() -> tuple[Device, ...]:
    """Return the GPUs that Paddle can use."""
    if not paddle.is_compiled_with_cuda():
        return ()
    try:
        return tuple(_gpu(number) for number in range(paddle.device.cuda.device_count()))
    except (RuntimeError, OSError):  # a driver that is broken or too old
        return ()


def build() -> str:
    """Return Paddle's version, and what it is built for."""
    kind = f"for CUDA {paddle.version.cuda()}" if paddle.is_compiled_with_cuda() else "without CUDA"
    return f"{paddle.__version__}, built {kind}"


def warnings(numpy_version: str = np.__version__) -> list[str]:
    """Say what will stop or slow down a run on this machine, a sentence each."""
    out = []
    if tuple(int(part) for part in numpy_version.split(".")[:2]) >= (2, 4):
        out.append(
            f"numpy {numpy_version}: from 2.4 on, float() of a Paddle tensor with one element raises TypeError, and so "
            "does Paddle's GradScaler when it first lowers the loss scale. Install 'numpy<2.4'."
        )
    if processor().vendor == "AuthenticAMD" and os.environ.get("MKL_DEBUG_CPU_TYPE") != "5":
        out.append("MKL_DEBUG_CPU_TYPE is not 5: matrix products on this AMD processor take twice as long, or longer.")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > (count := os.cpu_count() or 1) + 0.5:
        out.append(
            f"other processes keep this machine busy (load {load:.1f} on {count} cores): an idle machine is faster "
            "than what is measured now."
        )
    if not paddle.is_compiled_with_cuda() and (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        out.append("there is an NVIDIA driver, but this build of Paddle is without CUDA: install paddlepaddle-gpu.")
    return out


def _gpu(number: int) -> Device:
    found: Any = paddle.device.cuda.get_device_properties(number)
    free = _free_of_gpu(number, int(found.total_memory))
    return Device(str(found.name), free, (int(found.major), int(found.minor)))


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


def _free_on_host() -> int:
    """Return the bytes of memory that a new process can have, a container's limit counted."""
    try:
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(known["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError, IndexError):
        if not hasattr(os, "sysconf"):
            return 0
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            taken = int(Path("/sys/fs/cgroup", used).read_text())
            free = min(free, int(Path("/sys/fs/cgroup", limit).read_text()) - taken)
        except (OSError, ValueError):
            continue
    return free


def free_on_disk(directory: Path) -> int:
    """Return the bytes that are free where ``directory`` is, or would be."""
    there = directory.resolve()
    while not there.is_dir():
        there = there.parent
    return shutil.disk_usage(there).free
