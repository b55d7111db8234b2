"""Which fast kernel stands in for a function of the model: the first that agrees with plain operators where it runs.

A kernel is tried (:mod:`.trials_torch`) when it is first asked for, once a process for each device, type and
size. One that disagrees, or cannot run, is left out with a line in the log, and the model's own operators go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .attention_torch import VERSION, Device, Place, candidates, device_of
from .trials_torch import Need, Verdict, attempt

_log = logging.getLogger(__name__)

#: What was found out, in the order of the trials.
verdicts: list[Verdict] = []


def find(place: Place, like: Tensor, *sizes: int) -> Callable[..., Any] | None:
    """Return what stands in at a place, or None where the model's own operators do.

    Args:
        place: The function of the model.
        like: Names the device and the type that it computes in.
        sizes: Heads and the size of one; of ``add_norm`` the width.
    """
    device = device_of(like)
    if device.capability is None:
        return None
    return _settled(place, like.dtype, sizes, device, like.device)


@lru_cache(maxsize=64)
def _settled(
    place: Place, dtype: torch.dtype, sizes: tuple[int, ...], device: Device, where: torch.device
) -> Callable[..., Any] | None:
    need = Need(place, str(dtype).removeprefix("torch."), sizes)
    for kernel in candidates(device, need.place, need.dtype, need.sizes, VERSION):
        found = attempt(kernel, need, where)
        verdicts.append(found)
        what = f"{kernel.name} for {need.place} in {need.dtype} on {device.name}"
        if found.agrees:
            _log.info("%s: %s", what, found.why)
            return kernel.run
        _log.warning("%s is left out: %s", what, found.why)
    return None
