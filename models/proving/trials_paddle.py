"""Trials of fast kernels: each is held against the model's own operators, on the device at hand.

A trial computes the same numbers three times, forward and backward: with the kernel, with the model's own operators in
the same type, and with those in float64. :mod:`..kernels.agreement` says how far off it may be. A share of dropout is
part of it: what the kernel dropped is read off its results, and the same elements are dropped from the other two.
"""

# mypy: disable-error-code="no-untyped-call,arg-type"
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.table.rotary import rotary_angles
from ..config import MASKED, RoFormerConfig
from ..kernels.agreement import DisagreesError, require_agreement
from ..kernels.attention_paddle import PLACES, Kernel, Place
from ..layout import Layout
from ..ops_paddle import F, Tensor, attend, count_up, key_mask, rotate
from ..packing import pack
from ..processes.start_paddle import paddle

Arrays = dict[str, NDArray[np.float64]]
#: A place's arithmetic: tensors by name to its result.
Function = Callable[..., Tensor]

_LENGTHS = (130, 1, 0, 64, 37)  # rows of one block of a kernel and of several, with and without a rest
_SEED = 20
_SIGMAS = 6.0  # of the share that is dropped


@dataclass(frozen=True)
class Need:
    """What a kernel is wanted for.

    Attributes:
        place: The function of the model that it would stand in for.
        dtype: Name of the type that it computes in.
        sizes: As :func:`~..kernels.attention_paddle.find` takes them.
        dropout: Share of the elements that it drops.
        epsilon: Epsilon of a norm.
    """

    place: Place
    dtype: str
    sizes: tuple[int, ...]
    dropout: float = 0.0
    epsilon: float = 1e-12


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


def needs(config: RoFormerConfig, dtypes: Iterable[str]) -> list[Need]:
    """List what a model's layers compute that a kernel might, in some types.

    UniLM's mask is no kernel's; without token types it hides nothing, and attention is that of any row.
    """
    heads, hidden, inner = config.num_attention_heads, config.hidden_size, config.intermediate_size
    attention: Place = "causal_attention" if config.attention == "causal" else "attention"
    found = []
    for dtype in dtypes:
        found += [
            Need(attention, dtype, (heads, config.head_size), config.attention_probs_dropout_prob),
            Need("rotation", dtype, (heads, config.head_size)),
            Need("add_norm", dtype, (hidden,), config.hidden_dropout_prob, config.layer_norm_eps),
            *(Need("projection", dtype, sizes) for sizes in ((hidden, hidden), (hidden, inner), (inner, hidden))),
        ]
    return list(dict.fromkeys(found))


def attempt(kernel: Kernel, need: Need) -> Verdict:
    """Try a kernel on the current device; nothing that it raises gets out."""
    try:
        worst = _TRIALS[need.place](kernel.run, need)
    except DisagreesError as error:
        return Verdict(kernel.name, need, False, str(error))
    except Exception as error:
        return Verdict(kernel.name, need, False, f"{type(error).__name__}: {gist(str(error))}")
    return Verdict(kernel.name, need, True, f"its error is at most {worst:.2g} times the plain operators'")


def gist(words: str) -> str:
    """Take the line that says what happened out of an error of Paddle's, which may bring two stacks along."""
    lines = [line.strip() for line in words.rpartition("Error Message Summary:")[2].splitlines()]
    told = [line for line in lines if line[:1] not in ("", "=", "-", "{", "[") and line != "(External)"]
    return next((line for line in told if "rror" in line or "fault" in line), told[0] if told else "")


def _try_attention(run: Function, need: Need) -> float:
    heads, size = need.sizes
    causal = need.place == "causal_attention"
    layout, tokens = _layout(_LENGTHS, causal), sum(_LENGTHS)
    seen = [np.tril(np.ones((length, length))) if causal else np.ones((length, length)) for length in _LENGTHS]
    arrays = _random(dict.fromkeys(("query", "key", "value", "upstream"), (tokens, heads, size)))

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, layout, 0.0).reshape(query.shape)

    def fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return run(query, key, value, _LENGTHS, 0.0)

    worst = _compare(fast, plain, arrays, need.dtype, "")
    if not need.dropout:
        return worst

    def dropping(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        paddle.seed(_SEED)
        return run(query, key, value, _LENGTHS, need.dropout)

    def following(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dropping(query, key, value)
        return run(query, key, value, _LENGTHS, need.dropout)

    kept = _kept_weights(dropping, arrays, need)
    _require_share(_flat(kept, seen), need.dropout)
    _require_others(_flat(kept, seen), _flat(_kept_weights(following, arrays, need), seen))

    def plain_dropping(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = []
        runs = [_split(x) for x in (query, key, value)]
        masks = [(mask, sees) for mask, sees in zip(kept, seen, strict=True) if mask.size]
        for q, k, v, (mask, sees) in zip(*runs, masks, strict=True):
            scores = paddle.matmul(q * size**-0.5, k, transpose_y=True)
            weights = F.softmax(scores + paddle.to_tensor((1 - sees) * MASKED).astype(scores.dtype), axis=-1)
            weights = weights * paddle.to_tensor(mask / (1 - need.dropout)).astype(weights.dtype)
            rows.append(paddle.matmul(weights, v).transpose([1, 0, 2]))
        return paddle.concat(rows)

    return max(worst, _compare(dropping, plain_dropping, arrays, need.dtype, " with dropout"))


def _kept_weights(dropping: Function, arrays: Arrays, need: Need) -> list[NDArray[np.float64]]:
    """Read off what attention keeps: (N, L, L) ones and zeros for each row of L tokens.

    Values that are unit vectors bring each weight out by itself, D of a row at a time. The same seed drops the same
    weights, or a run could not be resumed bit for bit.
    """
    heads, size = need.sizes
    row = np.repeat(np.arange(len(_LENGTHS)), _LENGTHS)
    column = np.concatenate([np.arange(length) for length in _LENGTHS])
    kept = [np.zeros((heads, length, length)) for length in _LENGTHS]
    query, key = (_tensor(arrays[name], need.dtype) for name in ("query", "key"))
    for first in range(0, max(_LENGTHS), size):
        values = np.zeros((len(row), heads, size))
        inside = (column >= first) & (column < first + size)
        values[inside, :, column[inside] - first] = 1.0
        out = _array(dropping(query, key, _tensor(values, need.dtype)))
        for number, each in enumerate(kept):
            part = each[:, :, first : first + size]
            part[:] = out[row == number].transpose(1, 0, 2)[:, :, : part.shape[2]] != 0
    return kept


def _try_rotation(run: Function, need: Need) -> float:
    heads, size = need.sizes
    arrays = _random({name: (sum(_LENGTHS), heads, size) for name in ("x", "upstream")})
    angles = rotary_angles(512, size)[np.concatenate([np.arange(length) for length in _LENGTHS]) * 3]
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None].astype(np.float32)

    def plain(x: Tensor) -> Tensor:
        return rotate(x, paddle.to_tensor(turns.astype("float64") if x.dtype == paddle.float64 else turns))

    return _compare(lambda x: run(x, paddle.to_tensor(turns)), plain, arrays, need.dtype, "")


def _try_add_norm(run: Function, need: Need) -> float:
    (width,) = need.sizes
    runs = {name: (sum(_LENGTHS), width) for name in ("x", "residual", "upstream")}
    arrays = _random({**runs, "weight": (width,), "bias": (width,)})
    arrays["weight"] += 2.0

    def plain(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(residual + x, width, weight, bias, need.epsilon)

    def fast(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return run(x, residual, weight, bias, need.epsilon, 0.0)

    worst = _compare(fast, plain, arrays, need.dtype, "")
    if not need.dropout:
        return worst

    def dropping(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        paddle.seed(_SEED)
        return run(x, residual, weight, bias, need.epsilon, need.dropout)

    def following(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dropping(x, residual, weight, bias)
        return run(x, residual, weight, bias, need.epsilon, need.dropout)

    kept = _kept_elements(dropping, arrays, need)
    _require_share(kept, need.dropout)
    _require_others(kept, _kept_elements(following, arrays, need))

    def plain_dropping(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return plain(x * paddle.to_tensor(kept / (1 - need.dropout)).astype(x.dtype), residual, weight, bias)

    return max(worst, _compare(dropping, plain_dropping, arrays, need.dtype, " with dropout"))


def _kept_elements(dropping: Function, arrays: Arrays, need: Need) -> NDArray[np.bool_]:
    """Read off what goes into a norm: what is kept hands its gradient on, grown; later held to the forward pass."""
    found = _differentiate(dropping, arrays, need.dtype)
    kept: NDArray[np.bool_] = abs(found["gradient of x"]) > abs(found["gradient of residual"]) / 2
    return kept


def _try_projection(run: Function, need: Need) -> float:
    inputs, outputs = need.sizes
    shapes = {"x": (sum(_LENGTHS), inputs), "weight": (inputs, outputs), "bias": (outputs,)}
    arrays = _random({**shapes, "upstream": (sum(_LENGTHS), outputs)})
    return _compare(run, F.linear, arrays, need.dtype, "")


_TRIALS: dict[Place, Callable[[Function, Need], float]] = {
    "attention": _try_attention,
    "causal_attention": _try_attention,
    "rotation": _try_rotation,
    "add_norm": _try_add_norm,
    "projection": _try_projection,
}
assert tuple(_TRIALS) == PLACES


def _compare(fast: Function, plain: Function, arrays: Arrays, dtype: str, when: str) -> float:
    """Hold a kernel's result and gradients against the plain operators'; return the largest error in their errors.

    Raises:
        DisagreesError: One is off by more.
    """
    rounded = {name: _array(_tensor(array, dtype)) for name, array in arrays.items()}
    exact, ours, theirs = (
        {f"{name}{when}": found for name, found in _differentiate(function, rounded, kind).items()}
        for function, kind in ((plain, "float64"), (plain, dtype), (fast, dtype))
    )
    return require_agreement(exact, ours, theirs, dtype)


def _differentiate(function: Function, arrays: Arrays, dtype: str) -> Arrays:
    """Compute a result and its gradients for an upstream one."""
    inputs = {name: _tensor(array, dtype) for name, array in arrays.items() if name != "upstream"}
    for each in inputs.values():
        each.stop_gradient = False
    result = function(*inputs.values())
    result.backward(_tensor(arrays["upstream"], dtype).astype(result.dtype))
    gradients = {f"gradient of {name}": _array(each.grad) for name, each in inputs.items()}
    return {"the result": _array(result), **gradients}


def _require_share(kept: NDArray[Any], dropout: float) -> None:
    share, deviation = 1 - kept.mean(), (dropout * (1 - dropout) / kept.size) ** 0.5
    if not abs(share - dropout) <= _SIGMAS * deviation:
        raise DisagreesError(f"it drops {100 * share:.1f} % of the elements, want {100 * dropout:.1f} %")


def _require_others(kept: NDArray[Any], next_kept: NDArray[Any]) -> None:
    """Refuse a mask that stays: the layers of a step, and its steps, would all drop the same elements."""
    if (kept == next_kept).all():
        raise DisagreesError("its next call drops the same elements")


def _flat(masks: list[NDArray[np.float64]], seen: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Line the masks (N, L, L) of all rows up, where a token sees the key at all."""
    return np.concatenate([mask[:, sees != 0].reshape(-1) for mask, sees in zip(masks, seen, strict=True)])


def _layout(lengths: tuple[int, ...], causal: bool) -> Layout:
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    rows, columns = real.shape
    packing = pack(real)
    tokens, slots, places = (paddle.to_tensor(each) for each in (packing.tokens, packing.slots, packing.columns))
    like = paddle.zeros([1], "float32")
    mask = key_mask(paddle.to_tensor(real), like, count_up(columns, like) if causal else None)
    layout = Layout(rows, columns, paddle.zeros([0]), mask, packing.lengths, tokens, slots)
    return layout._replace(order=places, causal=True) if causal else layout


def _split(x: Tensor) -> list[Tensor]:
    """Split a run (P, N, D) into the rows that have tokens: (N, L, D) each."""
    return [each.transpose([1, 0, 2]) for each in paddle.split(x, [length for length in _LENGTHS if length])]


def _random(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    generator = np.random.default_rng(_SEED)
    return {name: generator.standard_normal(shape) for name, shape in shapes.items()}


def _tensor(array: NDArray[Any], dtype: str) -> Tensor:
    return paddle.to_tensor(array).astype(dtype)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.detach().astype("float64").numpy()
    return found
