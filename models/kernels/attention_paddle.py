"""Fast kernels that Paddle has for GPUs: which of them may stand in for a function of the model, and which do.

``ops_paddle.py`` is written in operators that exist everywhere, and asks :func:`find` at five places whether
something faster stands ready. What stands ready was a candidate by capability and type (:func:`candidates`), and then
proved itself on the device at hand (:mod:`..proving.choice_paddle`); before that, and on a CPU, nothing does.

Every capability and type below is a fact of Paddle's own sources or of the kernels that its GPU wheels register, named
beside it. Paddle 2.6 and 3.x have them all under these names; where a version has one no more, its trial says so. To
teach the model a kernel is to add a row.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined,no-any-return"
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

from ..packing_choice import Way
from ..processes.start_paddle import paddle

Tensor = paddle.Tensor
#: The functions of the model that a kernel can stand in for: attend, where every token of a row sees all of it or those
#: up to itself, rotate, add_norm and project.
Place = Literal["attention", "causal_attention", "rotation", "add_norm", "projection"]
PLACES: tuple[Place, ...] = ("attention", "causal_attention", "rotation", "add_norm", "projection")
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Device:
    """A device that computes.

    Attributes:
        name: Its name, as its maker gives it.
        capability: CUDA's compute capability; None for a CPU.
    """

    name: str
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class Kernel:
    """A fast kernel that may stand in for a function of the model.

    Attributes:
        name: For messages; one name in each place.
        place: What it stands in for.
        capability: The lowest compute capability that it has machine code for.
        types: Types that it computes in, forward and backward.
        operators: Paddle's names of the operators that it calls, forward and backward.
        run: The kernel, with the arguments of its place: see the functions below.
        source: Where capability and types come from.
    """

    name: str
    place: Place
    capability: tuple[int, int]
    types: tuple[str, ...]
    operators: tuple[str, ...]
    run: Callable[..., Tensor]
    source: str


def _rows(lengths: tuple[int, ...]) -> tuple[Tensor, int, Any]:
    """Say where rows begin in a run, how long the longest is, and Paddle's mask for them; on the current device."""
    return _rows_on(lengths, str(paddle.device.get_device()))


@lru_cache(maxsize=64)
def _rows_on(lengths: tuple[int, ...], device: str) -> tuple[Tensor, int, Any]:
    from paddle.incubate.nn.attn_bias import BlockDiagonalMask

    real = [length for length in lengths if length]  # a row without a token has no part in the run
    mask = BlockDiagonalMask.from_seqlens(real)
    return mask.q_seqinfo.seqstart, max(real), mask


def _flash(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], dropout: float, causal: bool = False
) -> Tensor:
    from paddle.nn.functional.flash_attention import flash_attn_unpadded

    starts, longest, _ = _rows(lengths)
    context, _ = flash_attn_unpadded(
        query, key, value, starts, starts, longest, longest, query.shape[2] ** -0.5, dropout, causal, training=True
    )
    return context


def _memory_efficient(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], dropout: float, causal: bool = False
) -> Tensor:
    from paddle.incubate.nn.memory_efficient_attention import memory_efficient_attention

    q, k, v = (x.unsqueeze(0) for x in (query, key, value))  # the run is one row, within which blocks attend
    mask = _rows(lengths)[2]
    mask = mask.make_causal() if causal else mask
    # "training" keeps what the backward pass needs, which costs next to nothing
    return memory_efficient_attention(q, k, v, mask, dropout, query.shape[2] ** -0.5, training=True).squeeze(0)


def _fused_rotation(x: Tensor, turns: Tensor) -> Tensor:
    from paddle.incubate.nn.functional import fused_rotary_position_embedding

    turns = turns.astype(x.dtype)  # a half type rounds the table, as it rounds what comes out
    cos, sin = (turns[..., i].repeat_interleave(2, axis=-1).unsqueeze(0) for i in (0, 1))  # (1, P, 1, D)
    with paddle.amp.auto_cast(False):  # which in Paddle 3 would halve float32 input
        # "neox" is what Paddle calls adjacent pairs; everybody else calls the other style so
        found = fused_rotary_position_embedding(x.unsqueeze(0), sin=sin, cos=cos, use_neox_rotary_style=True)
    return found[0].squeeze(0)


def _fused_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dropout: float
) -> Tensor:
    from paddle.incubate.nn.functional import fused_bias_dropout_residual_layer_norm

    with paddle.amp.auto_cast(False):  # which would halve the norm's own weights: the kernel wants them in float32
        return fused_bias_dropout_residual_layer_norm(
            x.astype(residual.dtype).unsqueeze(0),
            residual.unsqueeze(0),
            ln_scale=weight.astype("float32"),
            ln_bias=bias.astype("float32"),
            dropout_rate=dropout,
            ln_epsilon=epsilon,
            training=True,
        ).squeeze(0)


def _fused_projection(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from paddle.incubate.nn.functional import fused_linear

    return fused_linear(x, weight, bias)


_WHEEL = "kernels that paddlepaddle-gpu 2.6.2 registers"
_FLASH = ("flash_attn_unpadded", "flash_attn_unpadded_grad")
_MEMORY_EFFICIENT = ("memory_efficient_attention", "memory_efficient_attention_grad")

#: All candidates; of those of one place, the first that may and does.
KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "FlashAttention", "attention", (8, 0), HALVES, _FLASH, _flash,
        f"{_WHEEL}; Paddle issue 63568: below 8.0 it is refused",
    ),
    Kernel(
        "memory-efficient attention", "attention", (5, 0), ("float16", "bfloat16", "float32"), _MEMORY_EFFICIENT,
        _memory_efficient, f"{_WHEEL}; cutlass's forward and backward for sm 50, 70, 75 and 80",
    ),
    Kernel(
        "FlashAttention", "causal_attention", (8, 0), HALVES, _FLASH, partial(_flash, causal=True), "as above",
    ),
    Kernel(
        "memory-efficient attention", "causal_attention", (5, 0), ("float16", "bfloat16", "float32"),
        _MEMORY_EFFICIENT, partial(_memory_efficient, causal=True), "as above",
    ),
    Kernel(
        "fused rotation", "rotation", (5, 0), ("float16", "bfloat16", "float32"),
        ("fused_rotary_position_embedding", "fused_rotary_position_embedding_grad"), _fused_rotation, _WHEEL,
    ),
    Kernel(
        "fused dropout, sum and norm", "add_norm", (5, 0), ("float16", "float32"),
        ("fused_bias_dropout_residual_layer_norm", "fused_bias_dropout_residual_layer_norm_grad"), _fused_add_norm,
        _WHEEL,
    ),
    Kernel(
        "product with its bias", "projection", (5, 0), ("float16", "bfloat16", "float32"),
        ("fused_gemm_epilogue", "fused_gemm_epilogue_grad"), _fused_projection,
        f"{_WHEEL}; cuBLASLt, CUDA 11.6 and later",
    ),
)  # fmt: skip

_pretended: list[tuple[Device, bool, Callable[[Kernel, str], object]]] = []
#: What proved itself: device, place, type, sizes and whether it drops elements → kernel.
_chosen: dict[tuple[Device, Place, str, tuple[int, ...], bool], Kernel] = {}


def current_device() -> Device:
    """Return the device that computes; nothing else asks Paddle for it."""
    return _pretended[-1][0] if _pretended else _device(paddle.device.get_device())


@lru_cache(maxsize=16)
def _device(place: str) -> Device:
    if not place.startswith("gpu"):
        return Device("CPU", None)
    number = int(place.partition(":")[2] or 0)
    major, minor = paddle.device.cuda.get_device_capability(number)
    return Device(str(paddle.device.cuda.get_device_name(number)), (major, minor))


def on_cpu() -> bool:
    """Say whether the current device is a CPU."""
    return current_device().capability is None


def candidates(device: Device, place: Place, dtype: str) -> list[Kernel]:
    """List the kernels that may be tried on a device at a place in a type, best first."""
    if device.capability is None:
        return []
    return [
        kernel
        for kernel in KERNELS
        if kernel.place == place and device.capability >= kernel.capability and dtype in kernel.types
    ]


def choose(kernel: Kernel, dtype: str, sizes: tuple[int, ...], dropping: bool) -> None:
    """Let a kernel stand in from now on, on this device, for a type and for sizes that it proved itself with.

    Args:
        kernel: It.
        dtype: Name of the type.
        sizes: As :func:`find` takes them.
        dropping: Whether it was right where it drops elements, too.
    """
    for each in {False, dropping}:
        _chosen[current_device(), kernel.place, dtype, sizes, each] = kernel


def find(place: Place, dtype: str, *sizes: int, dropping: bool = False) -> Callable[..., Tensor] | None:
    """Return what stands in at a place, or None where the model's own operators do.

    Args:
        place: The function of the model.
        dtype: Name of the type that it would compute in.
        sizes: Attention and rotation: heads and head size. The norm: its width. A projection: inputs and outputs.
        dropping: Whether it will drop elements.
    """
    kernel = _ready(place, dtype, sizes, dropping)
    if kernel is not None and _pretended:
        _pretended[-1][2](kernel, dtype)
        return None
    return None if kernel is None else kernel.run


def packed_way(place: Place | None, dtype: str, *sizes: int) -> Way:
    """Say how a packed batch is attended on the current device, where nothing is dropped.

    Args:
        place: What a kernel would stand in for; None where none could.
        dtype: Name of the type that it would compute in.
        sizes: Heads and head size.
    """
    if on_cpu():
        return "rows"
    return "batch" if place is None or _ready(place, dtype, sizes, False) is None else "kernel"


def _ready(place: Place, dtype: str, sizes: tuple[int, ...], dropping: bool) -> Kernel | None:
    if _pretended:
        device, fast, _ = _pretended[-1]
        return next(iter(candidates(device, place, dtype)), None) if fast else None
    if not _chosen or not paddle.in_dynamic_mode():
        return None
    return _chosen.get((current_device(), place, dtype, sizes, dropping))


def product_type(x: Tensor) -> str:
    """Name the type that a matrix product of x computes in: automatic mixed precision may halve it."""
    tracer = paddle.base.framework._dygraph_tracer()
    if tracer is not None and tracer._amp_level != paddle.base.core.AmpLevel.O0:
        return str(tracer._amp_dtype)
    return str(x.dtype).removeprefix("paddle.")


@contextmanager
def pretending(
    device: Device, *, fast: bool = True, heard: Callable[[Kernel, str], object] = lambda kernel, dtype: None
) -> Iterator[None]:
    """Take the branches of another device within this, and compute on this one: what a GPU would run can be recorded.

    Args:
        device: The device whose branches are taken.
        fast: Whether to act as if the first candidate of each place had proved itself. Having no machine code here, it
            is not called: the model's own operators stand in for it.
        heard: Called with each kernel, and the type, that would have been.
    """
    _pretended.append((device, fast, heard))
    try:
        yield
    finally:
        _pretended.pop()
