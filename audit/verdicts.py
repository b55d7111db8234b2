"""Hold what was recorded against the kernels of a GPU build, and the GPU pretended against what each kernel wants."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .dispatch_log import Operator, Recording
from .kernel_list import KernelList

Capability = tuple[int, int]

#: Operators whose kernels refuse older GPUs, and since which compute capability they do not. Gradients go by the
#: operator's name.
#: Source: Paddle issue 63568 ("FlashAttention is unsupported" below 8.0); the architectures for which
#: paddle/phi/kernels/fusion/cutlass/memory_efficient_attention generates kernels (sm 50, 70, 75, 80).
LOWEST_OF_OPERATOR: dict[str, Capability] = {
    "flash_attn": (8, 0),
    "flash_attn_unpadded": (8, 0),
    "memory_efficient_attention": (5, 0),
}
#: Types of which Paddle says the same: ``auto_cast`` switches itself off with a warning below.
#: Source: _is_gpu_float16_supported and _is_gpu_bfloat16_supported of paddle/amp/auto_cast.py, 2.6.2.
LOWEST_OF_TYPE: dict[str, Capability] = {"float16": (7, 0), "bfloat16": (8, 0)}

#: What newer releases call an operator of 2.6.2, whose kernels the list names.
OLDER_NAMES = {
    "div_scale": "scale",  # a tensor divided by a number; 2.6 multiplies by the inverse
}

_CAPABILITY = re.compile(r", (\d+)\.(\d+)$")


@dataclass(frozen=True, order=True)
class Fault:
    """Something that would go wrong on a GPU, or a recording that cannot be trusted.

    Attributes:
        what: It.
        scenarios: In which it was seen.
        callers: From where it was called, if anybody knows.
    """

    what: str
    scenarios: tuple[str, ...]
    callers: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [self.what, *(f"    called from {caller}" for caller in self.callers)]
        more = f" and {len(self.scenarios) - 1} more scenarios" if len(self.scenarios) > 1 else ""
        return "\n".join([*lines, f"    in {self.scenarios[0]}{more}"])


def judge(recordings: Iterable[Recording], kernels: KernelList) -> list[Fault]:
    """List every fault once, with all scenarios that have it."""
    seen: dict[str, tuple[list[str], set[str]]] = {}
    for recording in recordings:
        for operator in recording.callers:
            for what in _complaints(operator, capability_of(recording.scenario), kernels):
                scenarios, callers = seen.setdefault(what, ([], set()))
                scenarios.append(recording.scenario)
                callers |= callers_of(recording, operator)
        for what in dict.fromkeys(recording.doubts):
            seen.setdefault(what, ([], set()))[0].append(recording.scenario)
    return sorted(Fault(what, tuple(where), tuple(sorted(callers))) for what, (where, callers) in seen.items())


def capability_of(scenario: str) -> Capability:
    """Read off a scenario's name which GPU it pretends."""
    found = _CAPABILITY.search(scenario)
    assert found is not None, scenario
    return int(found[1]), int(found[2])


def callers_of(recording: Recording, operator: Operator) -> set[str]:
    """Say from where an operator was called; of a gradient, where the operator was whose gradient it is."""
    name = operator.name.removesuffix("_grad")
    found = {each for other, callers in recording.callers.items() if other.name == name for each in callers}
    return found if name != operator.name and found else set(recording.callers[operator])


def _complaints(operator: Operator, capability: Capability, kernels: KernelList) -> Iterable[str]:
    name = operator.name.removesuffix("_grad")
    known = OLDER_NAMES.get(name, name) + operator.name[len(name) :]
    types = kernels.types.get(known)
    if types is None:
        yield f"{operator}: {kernels.build} has no GPU kernel of this name"
    elif operator.dtype not in types:
        yield f"{operator}: {kernels.build} has GPU kernels for {', '.join(sorted(types))} alone"
    for lowest in (LOWEST_OF_OPERATOR.get(name), LOWEST_OF_TYPE.get(operator.dtype)):
        if lowest is not None and capability < lowest:
            yield f"{operator}: wants compute capability {_dotted(lowest)}; the GPU has {_dotted(capability)}"


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"
