"""Trials of fast kernels: each is held against plain operators, on the device at hand, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernel_agreement import DisagreesError, require_agreement
from .kernels_torch import Kernel, Place

Arrays = dict[str, NDArray[np.float64]]
#: Tensors to a result.
Function = Callable[..., Tensor]

_LENGTHS = (130, 1, 0, 64, 37)  # rows of one block of a kernel and of several, with and without a rest
_SEED = 20


@dataclass(frozen=True)
class Need:
    """What a kernel is wanted for.

    Attributes:
        place: The function of the model that it would stand in for.
        dtype: Name of the type that it computes in.
        sizes: Heads and the size of one.
    """

    place: Place
    dtype: str
    sizes: tuple[int, int]


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
    """Try a kernel on a device; nothing that it raises gets out."""
    heads, size = need.sizes
    generator = np.random.default_rng(_SEED)
    names = ("query", "key", "value", "upstream")
    arrays = {name: generator.standard_normal((sum(_LENGTHS), heads, size)) for name in names}

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend_rows(query, key, value, _LENGTHS, need.place == "causal_attention")

    def fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return kernel.run(query, key, value, _LENGTHS)

    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            worst = _compare(fast, plain, arrays, need.dtype, device)
    except DisagreesError as error:
        return Verdict(kernel.name, need, False, str(error))
    except Exception as error:
        return Verdict(kernel.name, need, False, gist(error))
    return Verdict(kernel.name, need, True, f"its error is at most {worst:.2g} times the plain operators'")


def gist(error: Exception) -> str:
    """Say in a line what went wrong, whatever PyTorch says beside it."""
    return shorten(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 160, placeholder=" …")


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


def _compare(fast: Function, plain: Function, arrays: Arrays, dtype: str, device: torch.device) -> float:
    rounded = {name: _array(_tensor(array, dtype, device)) for name, array in arrays.items()}
    exact = _differentiate(plain, rounded, "float64", device)
    ours, theirs = (_differentiate(one, rounded, dtype, device) for one in (plain, fast))
    return require_agreement(exact, ours, theirs, dtype)


def _differentiate(function: Function, arrays: Arrays, dtype: str, device: torch.device) -> Arrays:
    """Compute a result and its gradients for an upstream one."""
    inputs = {name: _tensor(array, dtype, device) for name, array in arrays.items() if name != "upstream"}
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
