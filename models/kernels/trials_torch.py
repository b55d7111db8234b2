"""Trials of fast kernels: each is held against plain operators, on the device at hand, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ...converters.table.rotary import rotary_angles
from .agreement import DisagreesError, require_agreement
from .attention_torch import Kernel, Place

Arrays = dict[str, NDArray[np.float64]]
#: Tensors to a result, or to several.
Function = Callable[..., Any]

_LENGTHS = (130, 1, 0, 64, 37)  # rows of one block of a kernel and of several, with and without a rest
_EPSILON = 0.1  # large enough for a kernel that leaves it out to be noticed
_SEED = 20


@dataclass(frozen=True)
class Need:
    """What a kernel is wanted for.

    Attributes:
        place: The function of the model that it would stand in for.
        dtype: Name of the type that it computes in.
        sizes: Heads and the size of one; of ``add_norm`` the width.
    """

    place: Place
    dtype: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """The result of a trial.

    Attributes:
        kernel: Name of the kernel.
        need: What it was tried for.
        agrees: Whether it may be used.
        why: How far off it is, or what went wrong.
    """

    kernel: str
    need: Need
    agrees: bool
    why: str


def attempt(kernel: Kernel, need: Need, device: torch.device) -> Verdict:
    """Try a kernel on a device; nothing that it raises gets out.

    Raises:
        torch.OutOfMemoryError: There was no room to try it, which says nothing about the kernel.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            worst = _TRIALS[need.place](kernel.run, need, device)
    except torch.cuda.OutOfMemoryError:
        raise
    except DisagreesError as error:
        return Verdict(kernel.name, need, False, str(error))
    except Exception as error:
        return Verdict(kernel.name, need, False, gist(error))
    return Verdict(kernel.name, need, True, f"its error is at most {worst:.2g} times the plain operators'")


def gist(error: Exception) -> str:
    """Say in a line what went wrong, whatever PyTorch says beside it."""
    return shorten(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 160, placeholder=" …")


def _try_attention(run: Function, need: Need, device: torch.device) -> float:
    arrays = _random({name: (sum(_LENGTHS), *need.sizes) for name in ("query", "key", "value", "upstream")})

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend_rows(query, key, value, _LENGTHS, need.place == "causal_attention")

    def fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return cast(Tensor, run(query, key, value, _LENGTHS))

    return _compare(fast, plain, arrays, need.dtype, device)


def _try_rotation(run: Function, need: Need, device: torch.device) -> float:
    heads, size = need.sizes
    angles = rotary_angles(512, size)[np.concatenate([np.arange(length) for length in _LENGTHS]) * 3]
    table = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None]).to(device)
    worst = 0.0
    for count in (2, 3):  # query and key; value too
        # side by side, as one product gives them
        arrays = _random(dict.fromkeys(("runs", "upstream"), (sum(_LENGTHS), count * heads * size)))
        fast, plain = (_side_by_side(one, table, heads, count) for one in (run, rotate_runs))
        worst = max(worst, _compare(fast, plain, arrays, need.dtype, device))
    return worst


def _side_by_side(run: Function, table: Tensor, heads: int, count: int) -> Function:
    def apply(joint: Tensor) -> Tensor:
        turns = table if joint.dtype == torch.float64 else table.float()
        runs = (x.reshape(len(x), heads, -1) for x in joint.chunk(count, dim=1))
        return torch.cat([x.flatten(1) for x in run(turns, *runs)], dim=1)

    return apply


def _try_add_norm(run: Function, need: Need, device: torch.device) -> float:
    (width,) = need.sizes
    runs = dict.fromkeys(("x", "residual"), (sum(_LENGTHS), width))
    arrays = _random({**runs, "weight": (width,), "bias": (width,)})
    arrays["weight"] += 2.0

    def plain(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(residual + x, (width,), weight, bias, _EPSILON)

    def fast(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return cast(Tensor, run(x, residual, weight, bias, _EPSILON))

    return _compare(fast, plain, arrays, need.dtype, device)


_TRIALS: dict[Place, Callable[[Function, Need, torch.device], float]] = {
    "attention": _try_attention,
    "causal_attention": _try_attention,
    "rotation": _try_rotation,
    "add_norm": _try_add_norm,
}


def rotate_runs(turns: Tensor, *runs: Tensor) -> list[Tensor]:
    """Turn runs (P, N, D), written out, by turns (P, 1, D / 2, 2)."""
    cosine, sine = turns.unbind(-1)
    found = []
    for x in runs:
        even, odd = (x[..., start::2].to(turns.dtype) for start in (0, 1))
        turned = torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), dim=-1)
        found.append(turned.flatten(-2).to(x.dtype))
    return found


def attend_rows(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], causal: bool) -> Tensor:
    """Attend within each row of a run, written out: query, key and value (P, N, D) to (P, N, D)."""
    rows = []
    for q, k, v in zip(*(torch.split(x, list(lengths)) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        scores = q @ k.transpose(1, 2) * q.shape[2] ** -0.5
        if causal:
            later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        rows.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(rows)


def _random(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    generator = np.random.default_rng(_SEED)
    return {name: generator.standard_normal(shape) for name, shape in shapes.items()}


def _compare(fast: Function, plain: Function, arrays: Arrays, dtype: str, device: torch.device) -> float:
    rounded = {name: _array(_tensor(array, dtype, device)) for name, array in arrays.items()}
    exact = _differentiate(plain, rounded, "float64", device)
    ours, theirs = (_differentiate(one, rounded, dtype, device) for one in (plain, fast))
    return require_agreement(exact, ours, theirs, dtype)


def _differentiate(function: Function, arrays: Arrays, dtype: str, device: torch.device) -> Arrays:
    """Compute a result and, where there is an upstream one, its gradients."""
    inputs = {name: _tensor(array, dtype, device) for name, array in arrays.items() if name != "upstream"}
    if "upstream" not in arrays:
        with torch.no_grad():
            return {"the result": _array(function(*inputs.values()))}
    for each in inputs.values():
        each.requires_grad_()
    result = function(*inputs.values())
    gradients = torch.autograd.grad(result, list(inputs.values()), _tensor(arrays["upstream"], dtype, device))
    named = {f"gradient of {name}": _array(each) for name, each in zip(inputs, gradients, strict=True)}
    return {"the result": _array(result), **named}


def _tensor(array: NDArray[np.float64], dtype: str, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, getattr(torch, dtype))


def _array(tensor: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.detach().to("cpu", torch.float64).numpy()
    return found
