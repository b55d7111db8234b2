"""The processor of the machine, as it names itself: for reports and benchmarks, and to choose kernels by."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """The processor of this machine.

    Attributes:
        name: Its model, for people.
        vendor: Its maker as it names itself (``AuthenticAMD``), or an empty string.
        flags: Extensions of its instruction set, as Linux names them.
    """

    name: str
    vendor: str
    flags: frozenset[str]


@cache
def processor() -> Processor:
    """Describe the processor: by /proc/cpuinfo where there is one, else as far as Python knows it."""
    said: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            field, _, value = line.partition(":")
            said.setdefault(field.strip(), value.strip())
    except OSError:
        pass
    known = platform.processor()
    vendor = next((word for word in known.replace(",", " ").split() if word.startswith("Authentic")), "")
    return Processor(
        name=said.get("model name") or known or platform.machine(),
        vendor=said.get("vendor_id") or vendor,
        flags=frozenset(said.get("flags", "").split()),
    )
