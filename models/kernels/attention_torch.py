"""Fast kernels that PyTorch has for GPUs: which of them may stand in for a function of the model.

``ops_torch.py`` is written in operators that exist everywhere, and asks :func:`~.choice_torch.find` whether
something faster stands ready. Which kernel may be tried is a function of the device, the type and the version of
PyTorch (:func:`candidates`); which is used is decided by a trial on the device at hand.

To teach the model a kernel is to add a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..packing_choice import Way

#: The functions of the model that a kernel can stand in for: attend within the rows of a packed batch, where each token
#: sees its whole row, or its row up to itself; turn several runs; add and normalize where nothing asks for a way back.
Place = Literal["attention", "causal_attention", "rotation", "add_norm"]
HALVES = ("float16", "bfloat16")
#: The version of PyTorch that runs.
VERSION: tuple[int, int] = tuple(int(part) for part in torch.__version__.split(".")[:2])  # type: ignore[assignment]


@dataclass(frozen=True)
class Device:
    """A device that computes.

    Attributes:
        kind: PyTorch's type of device: ``"cpu"``, ``"cuda"``.
        name: Its name, as its maker gives it.
        capability: CUDA's compute capability; None where there is none.
        multiprocessors: How many a GPU has.
    """

    kind: str
    name: str
    capability: tuple[int, int] | None = None
    multiprocessors: int = 0


@dataclass(frozen=True)
class Kernel:
    """A fast kernel that may stand in for a function of the model.

    Attributes:
        name: For messages.
        place: What it stands in for.
        version: The first version of PyTorch that has it.
        capability: The lowest compute capability that it has machine code for.
        types: Types that it computes in, forward and, but for ``add_norm``, backward.
        takes: Whether it takes such sizes: heads and the size of one, or the width.
        run: The kernel. To attend: query, key and value (P, N, D) and the tokens of each row, to (P, N, D). To rotate:
            turns (P, 1, D / 2, 2) and up to three runs (P, N, D), to as many. To add and normalize: x and the residual
            (P, H), weight, bias and epsilon, to (P, H).
        source: Where these facts come from.
    """

    name: str
    place: Place
    version: tuple[int, int]
    capability: tuple[int, int]
    types: tuple[str, ...]
    takes: Callable[..., bool]
    run: Callable[..., Any]
    source: str


@lru_cache(maxsize=64)
def _rows(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, int]:
    real = [length for length in lengths if length]  # a row without a token has no part in the run
    with torch.inference_mode(False):  # kept, and maybe needed for a way back another time
        starts = torch.tensor([0, *real]).cumsum(0).to(torch.int32)
        return send(starts, device), max(real)


def _varlen(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], **more: Any) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = _rows(lengths, query.device)
    return cast(Tensor, varlen_attn(query, key, value, starts, starts, longest, longest, **more))


def _causal_varlen(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
    # 2.10 has a flag for it; from 2.11 on it is a window of all tokens before and none after
    more: dict[str, Any] = {"is_causal": True} if VERSION < (2, 11) else {"window_size": (-1, 0)}
    return _varlen(query, key, value, lengths, **more)


def _flash_takes(heads: int, size: int) -> bool:
    return size % 8 == 0 and size <= 256


def _rotate(turns: Tensor, *runs: Tensor) -> tuple[Tensor, ...]:
    from .fused_triton import rotate

    return rotate(turns, *runs)


def _add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    from .fused_triton import add_norm

    return add_norm(x, residual, weight, bias, epsilon)


def _one_block(*sizes: int) -> bool:
    return math.prod(sizes) <= 8192  # of a token, whose every element one program of threads holds


_VARLEN = (
    "documentation of torch.nn.attention.varlen, 2.10 to 2.13; FlashAttention 2, which it calls: types, sizes, 8.0"
)

_TRITON = "Triton 3.0, which PyTorch 2.4 brings: tl.split, tl.join; its README: compute capability 8.0"

#: All candidates; of those of one place, the first that may and does.
KERNELS: tuple[Kernel, ...] = (
    Kernel("varlen_attn", "attention", (2, 10), (8, 0), HALVES, _flash_takes, _varlen, _VARLEN),
    Kernel("varlen_attn", "causal_attention", (2, 10), (8, 0), HALVES, _flash_takes, _causal_varlen, _VARLEN),
    Kernel(
        "a kernel in Triton", "rotation", (2, 4), (8, 0), (*HALVES, "float32", "float64"), _one_block, _rotate, _TRITON
    ),
    Kernel("a kernel in Triton", "add_norm", (2, 4), (8, 0), (*HALVES, "float32"), _one_block, _add_norm, _TRITON),
)

_pretended: list[Device] = []


def device_of(x: Tensor) -> Device:
    """Return the device that a tensor is on; nothing else asks PyTorch for it."""
    return _pretended[-1] if _pretended else _device(x.device)


@lru_cache(maxsize=16)
def _device(device: torch.device) -> Device:
    if device.type != "cuda":
        return Device(device.type, device.type)
    found = torch.cuda.get_device_properties(device)
    return Device("cuda", found.name, (found.major, found.minor), found.multi_processor_count)


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; the host does not wait until it has arrived."""
    if x.device == device:
        return x
    # to the host there is nothing to be had without waiting; and pinned memory might change before it is read
    return x.to(device, non_blocking=x.device.type == "cpu" and not x.is_pinned())


@contextmanager
def pretending(device: Device) -> Iterator[None]:
    """Take the branches of another device within this, and compute on this one."""
    _pretended.append(device)
    try:
        yield
    finally:
        _pretended.pop()


def candidates(
    device: Device, place: Place, dtype: str, sizes: tuple[int, ...], version: tuple[int, int] = VERSION
) -> list[Kernel]:
    """List the kernels that may be tried on a device at a place in a type, best first.

    Args:
        device: The device.
        place: The function of the model.
        dtype: Name of the type that it computes in.
        sizes: Heads and the size of one; of ``add_norm`` the width.
        version: PyTorch's.
    """
    return [
        kernel
        for kernel in KERNELS
        if kernel.place == place
        and device.capability is not None
        and device.capability >= kernel.capability
        and dtype in kernel.types
        and version >= kernel.version
        and kernel.takes(*sizes)
    ]


def packed_way(device: Device, kernel: bool) -> Way:
    """Say how a packed batch is attended on a device, with or without a kernel for rows of different lengths."""
    # a GPU would wait for the hundred small kernels of a row at a time
    return "rows" if device.kind == "cpu" else "kernel" if kernel else "batch"
