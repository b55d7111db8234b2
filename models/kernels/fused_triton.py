"""Kernels in Triton for PyTorch on a GPU: several runs turned in one launch, and a sum with its norm.

They compute what ``rotate`` and ``add_norm`` of ``ops_torch.py`` do, in one pass over memory.
:mod:`.attention_torch` names them as candidates, and imports this where a trial asks for it: triton comes with
PyTorch's builds for GPUs alone.
"""

# ruff: noqa: N803
# mypy: allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="import,misc,no-any-return,no-any-unimported,no-untyped-def,unused-ignore"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _pairs(
    x, token, stride, head_stride,
    HEADS: tl.constexpr, SIZE: tl.constexpr, HB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    # whole tokens are loaded and stored: pairs are taken apart in registers
    heads, places = tl.arange(0, HB)[:, None], tl.arange(0, SB)[None, :]
    at = token * stride + heads * head_stride + places
    loaded = tl.load(x + at, mask=(heads < HEADS) & (places < SIZE), other=0.0)
    return tl.split(tl.reshape(loaded, (HB, SB // 2, 2)))


@triton.jit
def _turn(
    out, a, b, cosine, sine, token,
    HEADS: tl.constexpr, SIZE: tl.constexpr, HB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    heads, places = tl.arange(0, HB)[:, None], tl.arange(0, SB)[None, :]
    a, b = a.to(cosine.dtype), b.to(cosine.dtype)
    turned = tl.reshape(tl.join(a * cosine - b * sine, b * cosine + a * sine), (HB, SB))
    at = (token * HEADS + heads) * SIZE + places
    tl.store(out + at, turned.to(out.dtype.element_ty), mask=(heads < HEADS) & (places < SIZE))


@triton.jit
def _rotate_kernel(
    x, y, z, x_out, y_out, z_out, turns, x_stride, y_stride, z_stride, sign,
    COUNT: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, HB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    # everything is asked of memory before anything is waited for
    cosine, sine = _pairs(turns, token, SIZE, 0, HEADS, SIZE, HB, SB)
    x_even, x_odd = _pairs(x, token, x_stride, SIZE, HEADS, SIZE, HB, SB)
    if COUNT > 1:
        y_even, y_odd = _pairs(y, token, y_stride, SIZE, HEADS, SIZE, HB, SB)
    if COUNT > 2:
        z_even, z_odd = _pairs(z, token, z_stride, SIZE, HEADS, SIZE, HB, SB)
    sine *= sign
    _turn(x_out, x_even, x_odd, cosine, sine, token, HEADS, SIZE, HB, SB)
    if COUNT > 1:
        _turn(y_out, y_even, y_odd, cosine, sine, token, HEADS, SIZE, HB, SB)
    if COUNT > 2:
        _turn(z_out, z_even, z_odd, cosine, sine, token, HEADS, SIZE, HB, SB)


@triton.jit
def _add_norm_kernel(x, residual, weight, bias, out, epsilon, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < WIDTH
    at = token * WIDTH + places
    total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + places, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + places, mask=inside, other=0.0).to(tl.float32)
    wide = total.to(out.dtype.element_ty).to(tl.float32)  # the sum is rounded, as it is where it goes through memory
    apart = tl.where(inside, wide - tl.sum(wide, axis=0) / WIDTH, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=0) / WIDTH + epsilon)
    tl.store(out + at, (apart * scale * factor + shift).to(out.dtype.element_ty), mask=inside)


def _warps(elements: int) -> int:
    return max(1, min(16, elements // 256))


def _turn_runs(turns: Tensor, runs: tuple[Tensor, ...], sign: float) -> tuple[Tensor, ...]:
    tokens, heads, size = runs[0].shape
    # a token's heads lie side by side; tokens need not, in one product for query, key and value
    runs = tuple(x if x.stride()[1:] == (size, 1) else x.contiguous() for x in runs)
    out = tuple(x.new_empty(x.shape) for x in runs)
    sources, targets = ((*each, each[0], each[0])[:3] for each in (runs, out))  # the last are not looked at
    blocks = triton.next_power_of_2(heads), triton.next_power_of_2(size)
    if tokens:
        with torch.cuda.device_of(turns):
            _rotate_kernel[(tokens,)](
                *sources, *targets, turns.contiguous(), *(x.stride(0) for x in sources), sign,
                len(runs), heads, size, *blocks, num_warps=_warps(blocks[0] * blocks[1]),
            )  # fmt: skip
    return out


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(turns: Tensor, sign: float, *runs: Tensor) -> tuple[Tensor, ...]:
        return _turn_runs(turns, runs, sign)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.sign = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (turns,) = ctx.saved_tensors
        return None, None, *_Rotation.apply(turns, -ctx.sign, *gradients)  # a turn is undone by the turn back


def rotate(turns: Tensor, *runs: Tensor) -> tuple[Tensor, ...]:
    """Turn each adjacent pair of up to three runs (P, N, D) by its token's angle.

    Args:
        turns: (P, 1, D / 2, 2), cosine and sine, in the type to compute in.
        runs: Of one shape and type.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in runs):
        return _Rotation.apply(turns, 1.0, *runs)
    return _turn_runs(turns, runs, 1.0)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Add x (P, H) to the residual (P, H) and normalize each token; one type, not float64; there is no way back."""
    x, residual = x.contiguous(), residual.contiguous()
    tokens, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    if tokens:
        with torch.cuda.device_of(x):
            _add_norm_kernel[(tokens,)](x, residual, weight, bias, out, epsilon, width, block, num_warps=_warps(block))
    return out
