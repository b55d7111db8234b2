"""The operations of the model in Paddle: its idioms, and every fast path that it has.

``ops_paddle.py``, ``ops_torch.py`` and ``ops_tf.py`` have the same functions under the same names with the same
signatures; how each is computed is the framework's own business. The model itself is written with them in
``roformer_*.py``. ``config.py`` has the shape glossary.
"""

# mypy: disable-error-code="no-any-return,no-untyped-call"
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.table.mapping import Dialect
from .config import MASKED, RoFormerConfig, check_length
from .kernels.attention_paddle import Place, find, on_cpu, packed_way, product_type
from .layout import Layout
from .packing import packed_positions, require_inside
from .packing_choice import how_to_batch
from .processes.devices import NO_TF32, DeviceName, require_gpu
from .processes.frameworks import FRAMEWORKS
from .processes.start_paddle import paddle
from .processes.start_paddle import recompute as paddle_recompute

F = paddle.nn.functional
nn = paddle.nn
Tensor = paddle.Tensor
Parameter = paddle.Tensor
Module = paddle.nn.Layer
ModuleList = paddle.nn.LayerList

_HALVES = (paddle.float16, paddle.bfloat16)
_LARGEST_EPSILON = 1e-3  # that Paddle's norms take

#: The dialect that ``save_pretrained`` writes, whose files hold kernels as this framework does.
DIALECT: Dialect = "paddle"


def compute_on(device: DeviceName) -> None:
    """Have this process compute on a device from now on, in full float32: what is made next is made there.

    Call it before anything is made.

    Raises:
        DeviceError: There is no such device, or it does not start.
    """
    if device.kind == "gpu":
        computes = paddle.device.is_compiled_with_cuda() or paddle.device.is_compiled_with_rocm()
        build, count = f"paddle {paddle.version.full_version}", paddle.device.cuda.device_count() if computes else 0
        require_gpu(device, FRAMEWORKS["paddle"], build=build, computes=computes, count=count)
        os.environ[NO_TF32] = "0"  # Paddle has no switch of its own; cuBLAS reads this at its first product
    paddle.device.set_device(str(device))


def ran_out(error: BaseException) -> bool:
    """Say whether an error means that a device's memory, or the host's, ran out."""
    return isinstance(error, MemoryError) or "ResourceExhausted" in str(error) or "ALLOC_FAILED" in str(error)


def traced() -> bool:
    """Say whether a graph is being made: values are then unknown, and what only this machine can run is no use."""
    return not paddle.in_dynamic_mode()


def at_hand(x: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return not traced() and x.place.is_cpu_place()


def all_real(attention_mask: Tensor) -> bool:
    """Say whether a mask masks nothing, where that is known without waiting for a device."""
    return at_hand(attention_mask) and bool(attention_mask.astype("bool").all())


def inference() -> AbstractContextManager[Any]:
    """Compute within this without keeping anything for a way back."""
    return paddle.no_grad()


def to_tensor(values: NDArray[Any], like: Tensor | None = None) -> Tensor:
    """Put an array where ``like`` is, or where this process computes."""
    return paddle.to_tensor(values)


def on_host(values: NDArray[Any]) -> Tensor:
    """Make a tensor of an array that stays where its values can be looked at without waiting for a device."""
    return paddle.to_tensor(values, place=paddle.CPUPlace())


def as_numpy(x: Tensor) -> NDArray[Any]:
    """Return a tensor's values on the host, bfloat16 as bit patterns."""
    array: NDArray[Any] = x.numpy()
    return array


def assign(parameter: Parameter, values: NDArray[Any]) -> None:
    """Fill a parameter with a checkpoint's values, bfloat16 as bit patterns."""
    parameter.set_value(values)


def computes(dtype: str) -> bool:
    """Say whether the current device computes in a type."""
    return dtype in ("float32", "float64") or not on_cpu()


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as the converter does."""
    return str(tensor.dtype).removeprefix("paddle.")


def kernel_shape(inputs: int, outputs: int) -> tuple[int, int]:
    """Return the shape in which this framework holds a kernel."""
    return inputs, outputs


def normal(shape: tuple[int, ...], dtype: str, deviation: float, fresh: bool) -> Parameter:
    """Make a parameter at random, or of any values where they do not matter because a checkpoint will fill it."""
    values = nn.initializer.Normal(0.0, deviation) if fresh else nn.initializer.Constant(0.0)
    return paddle.create_parameter(shape, dtype, default_initializer=values)  # type: ignore[arg-type]


def constant(shape: tuple[int, ...], dtype: str, value: float) -> Parameter:
    """Make a parameter of one value."""
    return paddle.create_parameter(shape, dtype, default_initializer=nn.initializer.Constant(value))  # type: ignore[arg-type]


class FixedTable(Module):
    """Constants beside the parameters, in no state dict, whose type does not follow the weights' to a half one.

    Args:
        values: In float64; held in float32, or as they are in a float64 model.
        dtype: Name of the weights' type.
    """

    def __init__(self, values: NDArray[Any], dtype: str) -> None:
        super().__init__()
        self.table: Tensor
        self.values = values
        self.register_buffer("table", self._cast(dtype), persistable=False)

    def _cast(self, dtype: str) -> Tensor:
        return paddle.to_tensor(self.values, dtype="float64" if dtype == "float64" else "float32")

    def _apply(self, func: Any, device: Any, dtype: Any, blocking: Any, include_sublayers: bool = True) -> None:
        # Layer.to(dtype) would round the table, or widen a rounded one: take it anew in the type it should have
        if dtype is not None:
            self.table = self._cast(str(dtype).removeprefix("paddle."))
        super()._apply(func, device, None, blocking, include_sublayers)


def measure(input_ids: Tensor, config: RoFormerConfig) -> tuple[int, int]:
    """Return rows and columns of a batch (B, T).

    Raises:
        LengthError: There are more columns than ``max_position_embeddings``; a graph has an error of the framework's.
    """
    rows, columns = input_ids.shape
    check_length(columns if isinstance(columns, int) else None, config)
    return rows, columns


def real_tokens(ids: Tensor, pad: int) -> Tensor:
    """Say which of ids (B, T) are no padding."""
    return ids != pad


def key_mask(attention_mask: Tensor, like: Tensor, order: Tensor | None = None) -> Tensor:
    """Return what is added to scores of the type of ``like``: (B, 1, 1, T), or with an order (B, 1, T, T).

    Args:
        attention_mask: (B, T), 0 or false at keys that nobody sees.
        like: Names the type.
        order: (B or 1, T): a key is hidden from queries whose number is lower; None where order hides nothing.
    """
    hidden = _here(attention_mask).astype("bool").logical_not()[:, None, None, :]
    return (hidden if order is None else hidden | _later(order)).astype(like.dtype) * MASKED


def _here(x: Tensor) -> Tensor:
    return to_tensor(x.numpy()) if at_hand(x) and not on_cpu() else x


def _later(order: Tensor) -> Tensor:
    return order[:, None, None, :] > order[:, None, :, None]


def order_mask(order: Tensor, like: Tensor) -> Tensor:
    """Return what is added to scores of the type of ``like`` where an order alone hides keys: (B or 1, 1, T, T)."""
    return _later(order).astype(like.dtype) * MASKED


def packed_mask(
    tokens: Tensor, slots: Tensor, shape: tuple[int, int], like: Tensor, order: Tensor | None
) -> Tensor | None:
    """Return the mask of a packed batch of a ``shape`` (B, T) where :func:`attend` needs one beside the lengths."""
    # a CPU needs none; a GPU's is made of the slots, for attention_mask may have stayed on the host
    return None if on_cpu() else key_mask((slots < tokens.shape[0]).reshape(shape), like, order)


def worth_packing(like: Tensor, config: RoFormerConfig, real: int, slots: int) -> bool:
    """Say whether a batch is computed faster packed than padded.

    Args:
        like: One of the model's weights: it names the device and the type.
        config: Its configuration.
        real: Tokens that are not masked.
        slots: Tokens with the masked ones, B * T.
    """
    place: Place | None = None
    if config.attention != "unilm":
        place = "causal_attention" if config.attention == "causal" else "attention"
    way = packed_way(place, product_type(like), config.num_attention_heads, config.head_size)
    return how_to_batch("cpu" if on_cpu() else "gpu", way, real, slots) == "packed"


def causal_mask(columns: int, like: Tensor) -> Tensor | None:
    """Return the mask of real tokens that are read in order where :func:`attend` needs one beside ``causal``."""
    return order_mask(count_up(columns, like), like)


def count_up(columns: int, like: Tensor) -> Tensor:
    """Number the columns of a batch: (1, T)."""
    return paddle.arange(columns).unsqueeze(0)


def running_sum(token_type_ids: Tensor) -> Tensor:
    """Add up the token types (B, T) along each row, each token's own included: (B, T)."""
    return token_type_ids.cumsum(1)


def fold(ids: Tensor) -> Tensor:
    """Make a row of each choice: ids (B, A, T) to (B * A, T)."""
    return ids.reshape([-1, ids.shape[-1]])


def unfold(scores: Tensor, ids: Tensor) -> Tensor:
    """Put the scores (B * A, 1) of the rows that :func:`fold` made of ids (B, A, T) back together: (B, A)."""
    return scores.reshape([-1, ids.shape[1]])


def average(hidden: Tensor) -> Tensor:
    """Average hidden (B, T, H) over the columns: (B, H)."""
    return hidden.mean(1)


def flatten(ids: Tensor, layout: Layout) -> Tensor:
    """Put a batch's ids (B, T) in the order of the run (P,)."""
    ids = ids.reshape([-1])
    return ids if layout.tokens is None else paddle.gather(ids, layout.tokens)


def spread(x: Tensor, layout: Layout) -> Tensor:
    """Lay a run (P, ...) out as its batch (B, T, ...), zero where a packed run has no token."""
    if layout.slots is not None:
        x = paddle.gather(paddle.concat([x, paddle.zeros([1, *x.shape[1:]], x.dtype)]), layout.slots)
    return x.reshape([layout.rows, layout.columns, *x.shape[1:]])


def take(x: Tensor, positions: Any, layout: Layout) -> Tensor:
    """Take the tokens of a run (P, ...) at ``positions`` (K,) of the batch read row by row.

    Raises:
        ModelError: One of them is outside the batch, where that is known without waiting for a device; or the run is
            packed and one is masked.
    """
    if layout.slots is not None:
        found = packed_positions(layout.host_slots, np.asarray(positions), x.shape[0])
        return paddle.gather(x, paddle.to_tensor(found))
    positions = positions.reshape([-1])
    if at_hand(positions):
        require_inside(positions.numpy(), layout.rows * layout.columns)
    return paddle.gather(x, _here(positions))


def turns_of_rows(table: Tensor, rows: int, columns: int, heads: int) -> Tensor:
    """Repeat the first ``columns`` turns of a table (T, D / 2, 2) for each row: (P, 1 or N, D / 2, 2)."""
    turns = table[:columns].unsqueeze(0).expand([rows, columns, -1, -1])
    return _for_heads(turns.reshape([-1, 1, *table.shape[1:]]), heads)


def turns_of_tokens(table: Tensor, columns: Tensor, heads: int) -> Tensor:
    """Take the turns of tokens in columns (P,) of a table (T, D / 2, 2): (P, 1 or N, D / 2, 2)."""
    return _for_heads(paddle.gather(table, columns).unsqueeze(1), heads)


def _for_heads(turns: Tensor, heads: int) -> Tensor:
    # a CPU multiplies complex numbers ten times as fast by a copy for each head as by broadcasting
    return turns.expand([-1, heads, -1, -1]) if on_cpu() else turns


def embed(table: Tensor, ids: Tensor) -> Tensor:
    """Look up the rows ids (P,) of a table (rows, width): (P, width)."""
    return F.embedding(ids, table)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drop elements of x while training."""
    return F.dropout(x, probability) if training and probability else x


# named functions: to_static reads their source, and cannot find a lambda's
def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate=True)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * F.sigmoid(_times(x, 1.702))


def _linear(x: Tensor) -> Tensor:
    return x


def _times(x: Tensor, factor: float) -> Tensor:
    # in a static graph a plain factor is rounded to float32
    return x * paddle.full([], factor, x.dtype) if traced() else x * factor


def _add(x: Tensor, y: Tensor) -> Tensor:
    # x, which nobody else has, may be the batch's largest array: a CPU takes longer to find room for another
    return x + y if traced() or x.dtype != y.dtype else x.add_(y)


#: Activations under their names in the converter's table.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": paddle.tanh,
    "sigmoid": F.sigmoid,
    "linear": _linear,
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply an activation, or none."""
    return x if activation is None else ACTIVATIONS[activation](x)


def project(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
    """Multiply x (P, inputs) by a kernel, add its bias where it has one, and apply an activation."""
    fused = None if bias is None else find("projection", product_type(x), *weight.shape)
    return activate(F.linear(x, weight, bias) if fused is None else fused(x, weight, bias), activation)


def project_together(x: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """Apply several linear layers to the same x (P, inputs)."""
    return [layer(x) for layer in layers]


def score_words(hidden: Tensor, word: Tensor, bias: Tensor | None, layout: Layout | None) -> Tensor:
    """Multiply hidden (P, E) by the word embedding (V, E) and add a bias where there is one: (P, V), or (B, T, V)."""
    # oneDNN's reshape copies, and scores are by far the largest array of a graph: lay out what they are made of
    if layout is not None and layout.slots is None and traced():
        hidden, layout = spread(hidden, layout), None
    scores = paddle.matmul(hidden, word, transpose_y=True)
    scores = scores if bias is None else _add(scores, bias)
    return scores if layout is None else spread(scores, layout)


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the highest of each row of scores (K, V), in float64.

    Args:
        scores: Of any type.
        count: How many.

    Returns:
        Their numbers (K, count), of equals any; they themselves, the highest first; and the sum (K,) over a row of the
        exponential of each score less the highest, NaN where one is not finite.
    """
    wide = scores.astype("float64")
    values, numbers = paddle.topk(wide, count)
    return numbers, values, ((wide - values[:, :1]).exp() + wide * 0).sum(1)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalize each token of x (P, width)."""
    if x.dtype != paddle.float64 and epsilon <= _LARGEST_EPSILON:
        return F.layer_norm(x, x.shape[-1], weight, bias, epsilon)
    # Paddle keeps epsilon in float32
    x = x - x.mean(-1, keepdim=True)
    return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight + bias


def rms_normalize(x: Tensor, epsilon: float) -> Tensor:
    """Divide each token of x (P, width) by the root of its mean square."""
    wide = x.astype("float32") if x.dtype in _HALVES else x
    return (wide * paddle.rsqrt((wide * wide).mean(-1, keepdim=True) + epsilon)).astype(x.dtype)


def add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dropout: float, training: bool
) -> Tensor:
    """Drop elements of x (P, H) while training, add it to the residual (P, H), and normalize."""
    dropout = dropout if training else 0.0
    if epsilon <= _LARGEST_EPSILON:
        fused = find("add_norm", dtype_name(residual), x.shape[-1], dropping=dropout > 0)
        if fused is not None:
            return fused(x, residual, weight, bias, epsilon, dropout)
    return normalize(residual + drop(x, dropout, training), weight, bias, epsilon)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split x (P, H) into heads: (P, N, D)."""
    return x.reshape([-1, heads, x.shape[1] // heads])


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each adjacent pair (2i, 2i + 1) of x (P, N, D) by its token's angle.

    Source: RoFormer, equation 34; pairs are adjacent in every released RoFormer, unlike in GPT-NeoX and its heirs.
    """
    fused = find("rotation", dtype_name(x), *x.shape[1:])
    if fused is not None:
        return fused(x, turns)
    pairs = x.astype(turns.dtype).reshape([-1, x.shape[1], x.shape[2] // 2, 2])
    turned = paddle.as_real(paddle.as_complex(pairs) * paddle.as_complex(turns))  # the fastest way, and the shortest
    return turned.reshape([-1, *x.shape[1:]]).astype(x.dtype)


def rotate_together(runs: Sequence[Tensor], turns: Tensor) -> list[Tensor]:
    """Turn several runs (P, N, D) by the same angles, as :func:`rotate` does each."""
    return [rotate(x, turns) for x in runs]


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Attend within each row: query, key and value (P, N, D) to (P, H). The one place for a fused kernel."""
    heads, size = query.shape[1], query.shape[2]
    # UniLM's order is no kernel's; and with a mask of whole rows nobody knows yet which tokens are real
    if layout.causal or (layout.order is None and (layout.mask is None or layout.lengths is not None)):
        dtype: Any = product_type(query)
        place: Place = "causal_attention" if layout.causal else "attention"
        fused = find(place, dtype, heads, size, dropping=dropout > 0)
        if fused is not None:
            q, k, v = (x.astype(dtype) for x in (query, key, value))
            return fused(q, k, v, _lengths(layout), dropout).reshape([-1, heads * size])
    query = _times(query, size**-0.5)
    if traced() or not on_cpu():
        q, k, v = (spread(x, layout).transpose([0, 2, 1, 3]) for x in (query, key, value))
        context = _attend_together(q, k, v, layout.mask, dropout)
        context = context.transpose([0, 2, 1, 3]).reshape([-1, heads * size])
        return context if layout.tokens is None else paddle.gather(context, layout.tokens)
    order, back = _head_order(_lengths(layout), heads)
    # Paddle's transposes cost a CPU more than the products: looking rows of D up in another order takes a tenth of it
    q, k, v = (F.embedding(order, x.reshape([-1, size])) for x in (query, key, value))
    if layout.lengths is None:
        q, k, v = (x.reshape([layout.rows, heads, layout.columns, size]) for x in (q, k, v))
        context = _attend_together(q, k, v, layout.mask, dropout)
    else:
        # rows of one length at a time: no mask but that of an order, and no work on padding
        real = [length for length in layout.lengths if length]
        groups = [(length, len(list(rows))) for length, rows in groupby(real)]
        parts = [paddle.split(x, [heads * length * rows for length, rows in groups]) for x in (q, k, v)]
        masks: list[Tensor | None] = [None] * len(groups)
        if layout.order is not None:
            orders = paddle.split(layout.order, [length * rows for length, rows in groups])
            numbers = (one.reshape([-1, length]) for (length, _), one in zip(groups, orders, strict=True))
            masks = [order_mask(one, query) for one in numbers]
        runs = [
            [x.reshape([-1, heads, length, size]) for x in run]
            for (length, _), *run in zip(groups, *parts, strict=True)
        ]
        done = [_attend_together(q, k, v, mask, dropout) for (q, k, v), mask in zip(runs, masks, strict=True)]
        context = paddle.concat([x.reshape([-1, size]) for x in done])
    return F.embedding(back, context.reshape([-1, size])).reshape([-1, heads * size])


def _lengths(layout: Layout) -> tuple[int, ...]:
    return (layout.columns,) * layout.rows if layout.lengths is None else layout.lengths


def _attend_together(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores = paddle.matmul(query, key, transpose_y=True)
    if mask is not None:
        if mask.dtype != scores.dtype:  # automatic mixed precision halves the product alone
            mask = mask.astype(scores.dtype)
        # on a CPU copies are ten times as fast as broadcasting; a GPU broadcasts as it reads
        scores = scores + (mask.expand(scores.shape) if on_cpu() else mask)
    weights = F.softmax(scores, axis=-1)
    return paddle.matmul(F.dropout(weights, dropout) if dropout else weights, value)


@lru_cache(maxsize=64)
def _head_order(lengths: tuple[int, ...], heads: int) -> tuple[Tensor, Tensor]:
    # (P * N,) twice: where to look up (token, head) rows to have them as (row, head, token), and the way back
    index = np.arange(sum(lengths) * heads).reshape(-1, heads)
    order = np.concatenate([rows.T.reshape(-1) for rows in np.split(index, np.cumsum(lengths)[:-1])])
    return paddle.to_tensor(order), paddle.to_tensor(np.argsort(order))


def recompute(layer: Module, hidden: Tensor, layout: Layout, name: str) -> Tensor:
    """Compute a layer whose activations are not kept for the way back, but computed again there.

    Raises:
        ModelError: The layer has dropout, and the framework would draw another one the second time.
    """
    # not use_reentrant=False, which in Paddle 2.6 knows no CPU
    return paddle_recompute(layer, hidden, layout, name, None)
