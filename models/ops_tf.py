"""The operations of the model in TensorFlow: its idioms, and every fast path that it has.

``ops_paddle.py``, ``ops_torch.py`` and ``ops_tf.py`` have the same functions under the same names with the same
signatures; how each is computed is the framework's own business. The model itself is written with them in
``roformer_*.py``. ``config.py`` has the shape glossary.
"""

# mypy: disable-error-code="no-any-return,no-any-unimported,misc,unused-ignore"
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ..converters.table.mapping import Dialect
from .config import MASKED, ModelError, RoFormerConfig, check_length
from .layout import Layout
from .packing import packed_positions, require_inside
from .packing_choice import how_to_batch
from .processes.devices import DeviceError, DeviceName, require_gpu
from .processes.frameworks import FRAMEWORKS
from .tf_module import Module

__all__ = ["Module"]

Tensor: TypeAlias = Any
Parameter: TypeAlias = Any
ModuleList = list

#: The dialect that ``save_pretrained`` writes, whose files hold kernels as this framework does.
DIALECT: Dialect = "tf"


def compute_on(device: DeviceName) -> None:
    """Have this process compute on a device from now on, in full float32: what is made next is made there.

    Call it before anything is made.

    Raises:
        DeviceError: There is no such device, or it does not start.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if device.kind == "gpu":
        build, computes = f"tensorflow {tf.__version__}", tf.test.is_built_with_gpu_support()
        require_gpu(device, FRAMEWORKS["tf"], build=build, computes=computes, count=len(gpus))
    chosen = gpus[device.number : device.number + 1] if device.kind == "gpu" else []
    try:
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)  # or it takes all memory, which others need too
    except RuntimeError as error:  # it is at work already
        raise DeviceError(f"TensorFlow cannot change to {device} any more: {error}", "Choose it first.") from None
    tf.config.experimental.enable_tensor_float_32_execution(False)


def ran_out(error: BaseException) -> bool:
    """Say whether an error means that a device's memory, or the host's, ran out."""
    return isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))


def traced() -> bool:
    """Say whether a graph is being made: values are then unknown, and what only this machine can run is no use."""
    return not tf.executing_eagerly()


def at_hand(x: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return not traced() and x.device.endswith("CPU:0")


def all_real(attention_mask: Tensor) -> bool:
    """Say whether a mask masks nothing, where that is known without waiting for a device."""
    return at_hand(tf.convert_to_tensor(attention_mask)) and bool(tf.reduce_all(tf.cast(attention_mask, tf.bool)))


def inference() -> AbstractContextManager[Any]:
    """Compute within this without keeping anything for a way back."""
    return nullcontext()  # TensorFlow keeps what a GradientTape watches


def to_tensor(values: NDArray[Any], like: Tensor | None = None) -> Tensor:
    """Put an array where ``like`` is, or where this process computes."""
    return tf.constant(values)


def on_host(values: NDArray[Any]) -> Tensor:
    """Make a tensor of an array that stays where its values can be looked at without waiting for a device."""
    with tf.device("CPU:0"):
        return tf.constant(values)


def as_numpy(x: Tensor) -> NDArray[Any]:
    """Return a tensor's values on the host, bfloat16 as bit patterns."""
    x = tf.convert_to_tensor(x)
    values: NDArray[Any] = x.numpy()
    return values.view(np.uint16) if x.dtype == tf.bfloat16 else values


def assign(parameter: Parameter, values: NDArray[Any]) -> None:
    """Fill a parameter with a checkpoint's values, bfloat16 as bit patterns."""
    parameter.assign(values.view(tf.bfloat16.as_numpy_dtype) if parameter.dtype == tf.bfloat16 else values)


def computes(dtype: str) -> bool:
    """Say whether the current device computes in a type."""
    return True


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as the converter does."""
    return str(tensor.dtype.name)


def kernel_shape(inputs: int, outputs: int) -> tuple[int, int]:
    """Return the shape in which this framework holds a kernel."""
    return inputs, outputs


def normal(shape: tuple[int, ...], dtype: str, deviation: float, fresh: bool) -> Parameter:
    """Make a parameter at random, or of any values where they do not matter because a checkpoint will fill it."""
    return tf.Variable(tf.random.normal(shape, 0.0, deviation, dtype) if fresh else tf.zeros(shape, dtype))


def constant(shape: tuple[int, ...], dtype: str, value: float) -> Parameter:
    """Make a parameter of one value."""
    return tf.Variable(tf.cast(tf.fill(shape, value), dtype))


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
        self.table = tf.Variable(tf.constant(values, "float64" if dtype == "float64" else "float32"), trainable=False)


def measure(input_ids: Tensor, config: RoFormerConfig) -> tuple[int, int]:
    """Return rows and columns of a batch (B, T).

    Raises:
        LengthError: There are more columns than ``max_position_embeddings``; a graph has an error of the framework's.
    """
    input_ids = tf.convert_to_tensor(input_ids)
    rows, columns = (tf.shape(input_ids)[i] if size is None else size for i, size in enumerate(input_ids.shape))
    check_length(input_ids.shape[1], config)
    if input_ids.shape[1] is None:
        limit = config.max_position_embeddings
        tf.debugging.assert_less_equal(columns, limit, f"longer than {limit} tokens (max_position_embeddings)")
    return rows, columns


def real_tokens(ids: Tensor, pad: int) -> Tensor:
    """Say which of ids (B, T) are no padding."""
    return tf.not_equal(ids, pad)


def key_mask(attention_mask: Tensor, like: Tensor, order: Tensor | None = None) -> Tensor:
    """Return what is added to scores of the type of ``like``: (B, 1, 1, T), or with an order (B, 1, T, T).

    Args:
        attention_mask: (B, T), 0 or false at keys that nobody sees.
        like: Names the type.
        order: (B or 1, T): a key is hidden from queries whose number is lower; None where order hides nothing.
    """
    hidden = tf.logical_not(tf.cast(attention_mask, tf.bool))[:, None, None, :]
    return tf.cast(hidden if order is None else hidden | _later(order), like.dtype) * MASKED


def _later(order: Tensor) -> Tensor:
    return order[:, None, None, :] > order[:, None, :, None]


def order_mask(order: Tensor, like: Tensor) -> Tensor:
    """Return what is added to scores of the type of ``like`` where an order alone hides keys: (B or 1, 1, T, T)."""
    return tf.cast(_later(order), like.dtype) * MASKED


def packed_mask(
    tokens: Tensor, slots: Tensor, shape: tuple[int, int], like: Tensor, order: Tensor | None
) -> Tensor | None:
    """Return the mask of a packed batch of a ``shape`` (B, T) where :func:`attend` needs one beside the lengths."""
    return key_mask(tf.reshape(slots < tokens.shape[0], shape), like, order)


def worth_packing(like: Tensor, config: RoFormerConfig, real: int, slots: int) -> bool:
    """Say whether a batch is computed faster packed than padded.

    Args:
        like: One of the model's weights: it names the device and the type.
        config: Its configuration.
        real: Tokens that are not masked.
        slots: Tokens with the masked ones, B * T.
    """
    return how_to_batch("cpu" if at_hand(like) else "gpu", "batch", real, slots) == "packed"


def causal_mask(columns: int, like: Tensor) -> Tensor | None:
    """Return the mask of real tokens that are read in order where :func:`attend` needs one beside ``causal``."""
    return order_mask(count_up(columns, like), like)


def count_up(columns: int, like: Tensor) -> Tensor:
    """Number the columns of a batch: (1, T)."""
    return tf.range(columns)[None]


def running_sum(token_type_ids: Tensor) -> Tensor:
    """Add up the token types (B, T) along each row, each token's own included: (B, T)."""
    return tf.cumsum(token_type_ids, axis=1)


def fold(ids: Tensor) -> Tensor:
    """Make a row of each choice: ids (B, A, T) to (B * A, T)."""
    return tf.reshape(ids, [-1, tf.shape(ids)[-1] if ids.shape[-1] is None else ids.shape[-1]])


def unfold(scores: Tensor, ids: Tensor) -> Tensor:
    """Put the scores (B * A, 1) of the rows that :func:`fold` made of ids (B, A, T) back together: (B, A)."""
    return tf.reshape(scores, [-1, tf.shape(ids)[1] if ids.shape[1] is None else ids.shape[1]])


def average(hidden: Tensor) -> Tensor:
    """Average hidden (B, T, H) over the columns: (B, H)."""
    return tf.reduce_mean(hidden, axis=1)


def flatten(ids: Tensor, layout: Layout) -> Tensor:
    """Put a batch's ids (B, T) in the order of the run (P,)."""
    ids = tf.reshape(ids, [-1])
    return ids if layout.tokens is None else tf.gather(ids, layout.tokens)


def spread(x: Tensor, layout: Layout) -> Tensor:
    """Lay a run (P, ...) out as its batch (B, T, ...), zero where a packed run has no token."""
    if layout.slots is not None:
        x = tf.gather(tf.concat([x, tf.zeros([1, *x.shape[1:]], x.dtype)], axis=0), layout.slots)
    return tf.reshape(x, [layout.rows, layout.columns, *x.shape[1:]])


def take(x: Tensor, positions: Any, layout: Layout) -> Tensor:
    """Take the tokens of a run (P, ...) at ``positions`` (K,) of the batch read row by row.

    Raises:
        ModelError: One of them is outside the batch, where that is known without waiting for a device; or the run is
            packed and one is masked.
    """
    if layout.slots is not None:
        found = packed_positions(layout.host_slots, np.asarray(positions), x.shape[0])
        return tf.gather(x, found)
    positions = tf.reshape(positions, [-1])
    if at_hand(positions):
        require_inside(positions.numpy(), layout.rows * layout.columns)
    return tf.gather(x, positions)


def turns_of_rows(table: Tensor, rows: int, columns: int, heads: int) -> Tensor:
    """Repeat the first ``columns`` turns of a table (T, D / 2, 2) for each row: (P, 1 or N, D / 2, 2)."""
    # a slice by brackets would end at the table's end in silence; XLA keeps this check and drops assertions
    turns = tf.slice(table, [0, 0, 0], [columns, *table.shape[1:]])
    turns = tf.broadcast_to(turns, [rows, columns, *table.shape[1:]])
    return tf.reshape(turns, [-1, 1, *table.shape[1:]])


def turns_of_tokens(table: Tensor, columns: Tensor, heads: int) -> Tensor:
    """Take the turns of tokens in columns (P,) of a table (T, D / 2, 2): (P, 1 or N, D / 2, 2)."""
    return tf.gather(table, columns)[:, None]


def embed(table: Tensor, ids: Tensor) -> Tensor:
    """Look up the rows ids (P,) of a table (rows, width): (P, width)."""
    return tf.gather(table, ids)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drop elements of x while training."""
    return tf.nn.dropout(x, probability) if training and probability else x


def _gelu(x: Tensor) -> Tensor:
    if x.dtype == tf.float64:  # TensorFlow's own keeps constants in float32
        return 0.5 * x * (1.0 + tf.math.erf(math.sqrt(0.5) * x))
    return tf.nn.gelu(x, approximate=False)  # a graph's optimizer knows this form and computes it inside the product


def _gelu_tanh(x: Tensor) -> Tensor:
    if x.dtype == tf.float64:
        return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    return tf.nn.gelu(x, approximate=True)


#: Activations under their names in the converter's table.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "relu": tf.nn.relu,
    "silu": lambda x: x * tf.sigmoid(x),
    "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "linear": lambda x: x,
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply an activation, or none."""
    return x if activation is None else tf.cast(ACTIVATIONS[activation](_widen(x)), x.dtype)


def project(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
    """Multiply x (P, inputs) by a kernel, add its bias where it has one, and apply an activation."""
    product = tf.matmul(x, weight)
    return activate(product if bias is None else tf.nn.bias_add(product, bias), activation)


def _widen(x: Tensor) -> Tensor:
    """Return x in float32 where its type is a half one, which TensorFlow would compute a function in."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def project_together(x: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """Apply several linear layers to the same x (P, inputs)."""
    return [layer(x) for layer in layers]


def score_words(hidden: Tensor, word: Tensor, bias: Tensor | None, layout: Layout | None) -> Tensor:
    """Multiply hidden (P, E) by the word embedding (V, E) and add a bias where there is one: (P, V), or (B, T, V)."""
    scores = tf.matmul(hidden, word, transpose_b=True)
    scores = scores if bias is None else scores + bias
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
    wide = tf.cast(scores, tf.float64)
    values, numbers = tf.math.top_k(wide, count)
    return numbers, values, tf.reduce_sum(tf.exp(wide - values[:, :1]) + wide * 0, 1)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalize each token of x (P, width)."""
    wide = _widen(x)
    wide -= tf.reduce_mean(wide, -1, keepdims=True)
    wide *= tf.math.rsqrt(tf.reduce_mean(wide * wide, -1, keepdims=True) + epsilon)
    return tf.cast(wide * _widen(weight) + _widen(bias), x.dtype)


def rms_normalize(x: Tensor, epsilon: float) -> Tensor:
    """Divide each token of x (P, width) by the root of its mean square."""
    wide = _widen(x)
    return tf.cast(wide * tf.math.rsqrt(tf.reduce_mean(wide * wide, -1, keepdims=True) + epsilon), x.dtype)


def add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dropout: float, training: bool
) -> Tensor:
    """Drop elements of x (P, H) while training, add it to the residual (P, H), and normalize."""
    return normalize(residual + drop(x, dropout, training), weight, bias, epsilon)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split x (P, H) into heads: (P, N, D)."""
    return tf.reshape(x, [-1, heads, x.shape[1] // heads])


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each adjacent pair (2i, 2i + 1) of x (P, N, D) by its token's angle.

    Source: RoFormer, equation 34; pairs are adjacent in every released RoFormer, unlike in GPT-NeoX and its heirs.
    """
    pairs = tf.reshape(tf.cast(x, turns.dtype), [-1, x.shape[1], x.shape[2] // 2, 2])
    cosine, sine = turns[..., :1], turns[..., 1:] * tf.constant([-1.0, 1.0], turns.dtype)
    turned = pairs * cosine + tf.reverse(pairs, [-1]) * sine
    return tf.cast(tf.reshape(turned, tf.shape(x)), x.dtype)


def rotate_together(runs: Sequence[Tensor], turns: Tensor) -> list[Tensor]:
    """Turn several runs (P, N, D) by the same angles, as :func:`rotate` does each."""
    return [rotate(x, turns) for x in runs]


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Attend within each row: query, key and value (P, N, D) to (P, H). The one place for a fused kernel."""
    heads, size = query.shape[1], query.shape[2]
    # a packed run goes back to rows for the products, whose time is little beside the linear layers'
    q, k, v = (tf.transpose(spread(x, layout), [0, 2, 1, 3]) for x in (query * size**-0.5, key, value))
    scores = _widen(tf.matmul(q, k, transpose_b=True))
    if layout.mask is not None:
        scores += tf.cast(layout.mask, scores.dtype)
    weights = tf.cast(tf.nn.softmax(scores, axis=-1), v.dtype)
    context = tf.matmul(tf.nn.dropout(weights, dropout) if dropout else weights, v)
    context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, heads * size])
    return context if layout.tokens is None else tf.gather(context, layout.tokens)


def recompute(layer: Module, hidden: Tensor, layout: Layout, name: str) -> Tensor:
    """Compute a layer whose activations are not kept for the way back, but computed again there.

    Raises:
        ModelError: The layer has dropout, and the framework would draw another one the second time.
    """
    if layer.dropout or layer.attention.dropout:
        raise ModelError(
            "TensorFlow cannot checkpoint gradients through dropout",
            "Set hidden_dropout_prob and attention_probs_dropout_prob to 0, or gradient_checkpointing to False.",
        )
    return tf.recompute_grad(partial(layer, layout=layout, name=name, taps=None))(hidden)
