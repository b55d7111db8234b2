"""RoFormer in TensorFlow: one of three mirrored files.

``roformer_paddle.py``, ``roformer_torch.py`` and ``roformer_tf.py`` hold the same classes in the same order under the
same names; a line that differs is a framework's idiom. Parameters carry the converter's canonical names, so a raw
``state_dict()`` has our names and the ecosystems' spellings exist in files alone. ``config.py`` has the shape glossary.

Tokens are computed as one run (P, H) from the embeddings to the heads; only attention knows rows. P is B * T, or the
real tokens alone when the batch is packed.

Source: RoFormer, Su et al. 2021 (arXiv 2104.09864); the function is that of ``RoFormerForMaskedLM`` in transformers and
PaddleNLP.
"""

# mypy: disable-error-code="no-any-return,no-any-unimported,misc,unused-ignore"
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy
import tensorflow as tf
from numpy.typing import NDArray

from ..converters.table.mapping import Dialect
from ..converters.table.rotary import rotary_angles
from . import pretrained
from .config import MASKED, ModelError, RoFormerConfig, check_length, pad_token, supported
from .packing import pack, packed_positions, require_inside
from .tf_module import Module

Tensor: TypeAlias = Any
Parameter: TypeAlias = Any

#: The dialect that ``save_pretrained`` writes, whose files hold kernels as this framework does.
DIALECT: Dialect = "tf"

Taps = MutableMapping[str, Tensor]
Model = TypeVar("Model", bound="RoFormerModel")


class Layout(NamedTuple):
    """How the P tokens of a run lie in their batch, made once for all layers.

    Attributes:
        rows: B.
        columns: T.
        turns: (P, 1 or N, D / 2, 2) cosine and sine of each token's angles.
        mask: (B, 1, 1, T) added to the scores of whole rows, or None where that adds nothing.
        lengths: Tokens of each row in a packed run, or None.
        tokens: (P,) index in the batch of each token of a packed run, or None.
        slots: (B * T,) place in a packed run of each of the batch's tokens, P where it is masked, or None.
    """

    rows: int
    columns: int
    turns: Tensor
    mask: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    tokens: Tensor | None = None
    slots: Tensor | None = None

    def spread(self, x: Tensor) -> Tensor:
        """Lay a run (P, ...) out as its batch (B, T, ...), zero where a packed run has no token."""
        if self.slots is not None:
            x = tf.gather(tf.concat([x, tf.zeros([1, *x.shape[1:]], x.dtype)], axis=0), self.slots)
        return tf.reshape(x, [self.rows, self.columns, *x.shape[1:]])

    def take(self, x: Tensor, positions: Any) -> Tensor:
        """Take the tokens of a run (P, ...) at ``positions`` (K,) of the batch read row by row."""
        if self.slots is not None:
            found = packed_positions(self.slots.numpy(), numpy.asarray(positions), x.shape[0])
            return tf.gather(x, found)
        positions = tf.reshape(positions, [-1])
        if at_hand(positions):
            require_inside(positions.numpy(), self.rows * self.columns)
        return tf.gather(x, positions)


def tap(taps: Taps | None, name: str, value: Tensor, layout: Layout | None = None) -> None:
    """Record an activation; a run is laid out as its batch."""
    if taps is not None:
        taps[name] = value if layout is None else layout.spread(value)


def traced() -> bool:
    """Say whether a graph is being made: values are then unknown, and what only this machine can run is no use."""
    return not tf.executing_eagerly()


def at_hand(x: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return not traced() and x.device.endswith("CPU:0")


def all_real(attention_mask: Tensor) -> bool:
    """Say whether a mask masks nothing, where that is known without waiting for a device."""
    return at_hand(tf.convert_to_tensor(attention_mask)) and bool(tf.reduce_all(tf.cast(attention_mask, tf.bool)))


def key_mask(attention_mask: Tensor, like: Tensor) -> Tensor:
    """Turn attention_mask (B, T) into what is added to scores of the type of ``like``: (B, 1, 1, T)."""
    return tf.cast(tf.logical_not(tf.cast(attention_mask, tf.bool)), like.dtype)[:, None, None, :] * MASKED


def flatten(ids: Tensor, layout: Layout) -> Tensor:
    """Put a batch's ids (B, T) in the order of the run (P,)."""
    ids = tf.reshape(ids, [-1])
    return ids if layout.tokens is None else tf.gather(ids, layout.tokens)


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
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply an activation, or none."""
    return x if activation is None else tf.cast(ACTIVATIONS[activation](_widen(x)), x.dtype)


def project(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None = None) -> Tensor:
    """Multiply x (P, inputs) by a kernel, add its bias and apply an activation."""
    return activate(tf.nn.bias_add(tf.matmul(x, weight), bias), activation)


def _widen(x: Tensor) -> Tensor:
    """Return x in float32 where its type is a half one, which TensorFlow would compute a function in."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def add_norm(x: Tensor, residual: Tensor, norm: Norm, dropout: float, training: bool) -> Tensor:
    """Drop elements of x (P, H) while training, add it to the residual (P, H), and normalize."""
    return norm(residual + drop(x, dropout, training))


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


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Attend within each row: query, key and value (P, N, D) to (P, H). The one place for a fused kernel."""
    heads, size = query.shape[1], query.shape[2]
    # a packed run goes back to rows for the products, whose time is little beside the linear layers'
    q, k, v = (tf.transpose(layout.spread(x), [0, 2, 1, 3]) for x in (query * size**-0.5, key, value))
    scores = _widen(tf.matmul(q, k, transpose_b=True))
    if layout.mask is not None:
        scores += tf.cast(layout.mask, scores.dtype)
    weights = tf.cast(tf.nn.softmax(scores, axis=-1), v.dtype)
    context = tf.matmul(tf.nn.dropout(weights, dropout) if dropout else weights, v)
    context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, heads * size])
    return context if layout.tokens is None else tf.gather(context, layout.tokens)


def _refuse_dropout(config: RoFormerConfig) -> None:
    # recompute_grad draws dropout anew when it computes a layer again, and the gradient would be of neither
    if config.hidden_dropout_prob or config.attention_probs_dropout_prob:
        raise ModelError(
            "TensorFlow cannot checkpoint gradients through dropout",
            "Set hidden_dropout_prob and attention_probs_dropout_prob to 0, or gradient_checkpointing to False.",
        )


def assign(parameter: Parameter, values: NDArray[Any]) -> None:
    """Fill a parameter with a checkpoint's values, bfloat16 as bit patterns."""
    parameter.assign(values.view(tf.bfloat16.as_numpy_dtype) if parameter.dtype == tf.bfloat16 else values)


def as_numpy(parameter: Parameter) -> NDArray[Any]:
    """Return a parameter's values for a checkpoint, bfloat16 as bit patterns."""
    values: NDArray[Any] = parameter.numpy()
    return values.view(numpy.uint16) if parameter.dtype == tf.bfloat16 else values


def computes(dtype: str) -> bool:
    """Say whether the current device computes in a type."""
    return True


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as the converter does."""
    return str(tensor.dtype.name)


class ParameterMaker:
    """Makes parameters of one type, at random or zero where a checkpoint will fill them.

    Args:
        config: Says the standard deviation of a fresh weight.
        dtype: Name of the type.
        fresh: Whether values matter.
    """

    def __init__(self, config: RoFormerConfig, dtype: str, fresh: bool = True) -> None:
        self.deviation = config.initializer_range
        self.dtype = tf.as_dtype(dtype)
        self.fresh = fresh

    def normal(self, shape: tuple[int, ...]) -> Parameter:
        """Make a weight."""
        values = tf.random.normal(shape, 0.0, self.deviation, self.dtype) if self.fresh else tf.zeros(shape, self.dtype)
        return tf.Variable(values)

    def constant(self, shape: tuple[int, ...], value: float) -> Parameter:
        """Make a bias or a norm's scale."""
        return tf.Variable(tf.cast(tf.fill(shape, value), self.dtype))


class Linear(Module):
    """Multiply by a kernel, add a bias, apply an activation."""

    def __init__(self, inputs: int, outputs: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((inputs, outputs))
        self.bias = make.constant((outputs,), 0.0)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x (P, inputs) to (P, outputs)."""
        return project(x, self.weight, self.bias, activation)


class Norm(Module):
    """Layer normalization over the last axis."""

    def __init__(self, width: int, epsilon: float, make: ParameterMaker) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = make.constant((width,), 1.0)
        self.bias = make.constant((width,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each token of x (P, width)."""
        wide = _widen(x)
        wide -= tf.reduce_mean(wide, -1, keepdims=True)
        wide *= tf.math.rsqrt(tf.reduce_mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return tf.cast(wide * _widen(self.weight) + _widen(self.bias), x.dtype)


class Embedding(Module):
    """A table of rows."""

    def __init__(self, rows: int, width: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (P,): (P, width)."""
        return tf.gather(self.weight, ids)


class RotaryTable(Module):
    """Cosine and sine of every position's angles: a function of the configuration, in no state dict.

    Computed in float64 and held in float32 (float64 in a float64 model) whatever the weights' type: rounding the table
    to a half type moves logits by 1e-3.
    """

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.turns: Tensor
        self.config = config
        self.turns = tf.Variable(self._compute(make.dtype), trainable=False)

    def forward(self, rows: int, columns: int) -> Tensor:
        """Return the turns of a whole batch (B, T) as a run: (P, 1 or N, D / 2, 2)."""
        # a slice by brackets would end at the table's end in silence; XLA keeps this check and drops assertions
        turns = tf.slice(self.turns, [0, 0, 0], [columns, *self.turns.shape[1:]])
        turns = tf.broadcast_to(turns, [rows, columns, *self.turns.shape[1:]])
        return tf.reshape(turns, [-1, 1, *self.turns.shape[1:]])

    def look_up(self, columns: Tensor) -> Tensor:
        """Return the turns of tokens in columns (P,): (P, 1 or N, D / 2, 2)."""
        return tf.gather(self.turns, columns)[:, None]

    def _compute(self, dtype: tf.DType) -> Tensor:
        angles = rotary_angles(self.config.max_position_embeddings, self.config.head_size)
        turns = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=-1)
        return tf.constant(turns, tf.float64 if dtype == tf.float64 else tf.float32)


class RoFormerEmbeddings(Module):
    """Words and token types, normalized, projected to H where E differs."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.word = Embedding(config.vocab_size, config.embedding_size, make)
        self.segment = Embedding(config.type_vocab_size, config.embedding_size, make)
        self.norm = Norm(config.embedding_size, config.layer_norm_eps, make)
        self.project = None
        if config.embedding_size != config.hidden_size:
            self.project = Linear(config.embedding_size, config.hidden_size, make)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Embed input_ids (P,), of token type 0 where token_type_ids is None: (P, H)."""
        segment = self.segment.weight[0] if token_type_ids is None else self.segment(token_type_ids)
        hidden = self.norm(self.word(input_ids) + segment)
        hidden = drop(hidden, self.dropout, self.training)
        return hidden if self.project is None else self.project(hidden)


class RoFormerAttention(Module):
    """Attention whose queries and keys are rotated by their position."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.rotary_value = config.rotary_value
        self.dropout = config.attention_probs_dropout_prob
        self.query = Linear(config.hidden_size, config.hidden_size, make)
        self.key = Linear(config.hidden_size, config.hidden_size, make)
        self.value = Linear(config.hidden_size, config.hidden_size, make)
        self.out = Linear(config.hidden_size, config.hidden_size, make)

    def forward(self, hidden: Tensor, layout: Layout, name: str, taps: Taps | None) -> Tensor:
        """Attend within each row of hidden (P, H)."""
        query = rotate(split_heads(self.query(hidden), self.heads), layout.turns)
        key = rotate(split_heads(self.key(hidden), self.heads), layout.turns)
        value = split_heads(self.value(hidden), self.heads)
        if self.rotary_value:
            value = rotate(value, layout.turns)
        tap(taps, f"{name}.query", query, layout)
        tap(taps, f"{name}.key", key, layout)
        tap(taps, f"{name}.value", value, layout)
        out = self.out(attend(query, key, value, layout, self.dropout if self.training else 0.0))
        tap(taps, f"{name}.out", out, layout)
        return out


class RoFormerFeedForward(Module):
    """Up to F, activation, down to H."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.up = Linear(config.hidden_size, config.intermediate_size, make)
        self.down = Linear(config.intermediate_size, config.hidden_size, make)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map each token of hidden (P, H)."""
        return self.down(self.up(hidden, self.activation))


class RoFormerLayer(Module):
    """Attention and feed-forward, each added to its input and normalized."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.attention = RoFormerAttention(config, make)
        self.attention_norm = Norm(config.hidden_size, config.layer_norm_eps, make)
        self.feed_forward = RoFormerFeedForward(config, make)
        self.feed_forward_norm = Norm(config.hidden_size, config.layer_norm_eps, make)

    def forward(self, hidden: Tensor, layout: Layout, name: str, taps: Taps | None) -> Tensor:
        """Map hidden (P, H)."""
        change = self.attention(hidden, layout, f"{name}.attention", taps)
        hidden = add_norm(change, hidden, self.attention_norm, self.dropout, self.training)
        tap(taps, f"{name}.attention_norm", hidden, layout)
        change = self.feed_forward(hidden)
        tap(taps, f"{name}.feed_forward", change, layout)
        hidden = add_norm(change, hidden, self.feed_forward_norm, self.dropout, self.training)
        tap(taps, f"{name}.feed_forward_norm", hidden, layout)
        return hidden


class RoFormerModel(Module):
    """The encoder, with a pooler where its checkpoint has one.

    Args:
        config: Any that :func:`~.config.supported` accepts.
        pooler: Whether there is a pooler.
        dtype: Type of the weights: float32, float64, bfloat16 or float16.
        fresh: Whether weights start at random; False where they are loaded next.
    """

    def __init__(self, config: RoFormerConfig, pooler: bool = True, dtype: str = "float32", fresh: bool = True) -> None:
        super().__init__()
        self.config = supported(config)
        self.gradient_checkpointing = False
        make = ParameterMaker(self.config, dtype, fresh)
        self.embeddings = RoFormerEmbeddings(self.config, make)
        self.rotary = RotaryTable(self.config, make)
        self.layers = [RoFormerLayer(self.config, make) for _ in range(config.num_hidden_layers)]
        self.pooler = Linear(config.hidden_size, config.hidden_size, make) if pooler else None

    @classmethod
    def from_pretrained(
        cls: type[Model],
        directory: str | Path,
        dtype: str | None = None,
        dialect: Dialect | None = None,
        config: str | Path | None = None,
        extend_to: int | None = None,
        fresh_heads: bool = False,
    ) -> Model:
        """Load a checkpoint directory of any dialect, ready for inference.

        Args:
            directory: Of Paddle, PyTorch, TF2 or TF1; read lazily, with no other framework imported.
            dtype: Type to compute in; None for the stored one.
            dialect: Overrules what the files look like.
            config: A configuration file that does not lie beside the weights.
            extend_to: Longest sequence in tokens, where the configuration allows less.
            fresh_heads: Start a head that the files lack at random instead of refusing.
        """
        with pretrained.opened(
            cls.__name__,
            directory,
            layout=DIALECT,
            dtype=dtype,
            dialect=dialect,
            config=config,
            extend_to=extend_to,
            fresh_heads=fresh_heads,
            computes=computes,
        ) as source:
            model = cls(source.config, pooler=source.pooler, dtype=source.dtype, fresh=fresh_heads)
            for name, parameter in model.named_parameters():
                values = source.read(name)
                if values is not None:
                    assign(parameter, values)
        model.eval()
        return model

    def save_pretrained(
        self, directory: str | Path, force: bool = False, companions: Iterable[str | Path] = ()
    ) -> None:
        """Write a checkpoint directory in this framework's own dialect.

        Args:
            directory: Refused where it exists, unless ``force``.
            force: Replace it.
            companions: Files to lay beside the weights, such as ``vocab.txt``.
        """
        pretrained.save(
            directory,
            [(name, as_numpy(parameter)) for name, parameter in self.named_parameters()],
            self.config,
            dialect=DIALECT,
            dtype=dtype_name(self.embeddings.word.weight),
            force=force,
            companions=companions,
        )

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        mask_pad_token: bool = False,
        packed: bool = False,
        taps: Taps | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode a batch: hidden (B, T, H), or (K, H) at chosen positions, and pooled (B, H) or None.

        Args:
            input_ids: (B, T).
            token_type_ids: (B, T); None for type 0 throughout.
            attention_mask: (B, T), 0 or false at tokens that nobody attends to; None where every token is real.
            positions: (K,) indices in the batch read row by row, row * T + column: the result is wanted there alone.
            mask_pad_token: Without an attention_mask, mask the tokens that are the configuration's pad_token_id.
            packed: Compute the real tokens alone; the result is zero elsewhere. Their places are read on the host, so
                this is not for traced or compiled graphs.
            taps: Filled with named activations (see :func:`~.config.tap_names`); None costs nothing.
        """
        hidden, layout = self.encode(input_ids, token_type_ids, attention_mask, mask_pad_token, packed, taps)
        batch = layout.spread(hidden)
        pooled = self.pool(batch, taps)
        return batch if positions is None else layout.take(hidden, positions), pooled

    def encode(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        mask_pad_token: bool,
        packed: bool,
        taps: Taps | None,
    ) -> tuple[Tensor, Layout]:
        """Encode input_ids (B, T) as one run of tokens: hidden (P, H), and how they lie."""
        input_ids = tf.convert_to_tensor(input_ids)
        if attention_mask is None and mask_pad_token:
            attention_mask = input_ids != pad_token(self.config)
        layout = self.lay_out(input_ids, attention_mask, packed)
        input_ids = flatten(input_ids, layout)
        token_type_ids = None if token_type_ids is None else flatten(token_type_ids, layout)
        hidden = self.embeddings(input_ids, token_type_ids)
        tap(taps, "embeddings", hidden, layout)
        for i, layer in enumerate(self.layers):
            if self.gradient_checkpointing and self.training and taps is None:
                _refuse_dropout(self.config)
                hidden = tf.recompute_grad(partial(layer, layout=layout, name=f"layers.{i}", taps=None))(hidden)
            else:
                hidden = layer(hidden, layout, f"layers.{i}", taps)
        return hidden, layout

    def lay_out(self, input_ids: Tensor, attention_mask: Tensor | None, packed: bool) -> Layout:
        """Work out positions and masking of a batch (B, T)."""
        rows, columns = (tf.shape(input_ids)[i] if size is None else size for i, size in enumerate(input_ids.shape))
        check_length(input_ids.shape[1], self.config)
        if input_ids.shape[1] is None:
            limit = self.config.max_position_embeddings
            tf.debugging.assert_less_equal(columns, limit, f"longer than {limit} tokens (max_position_embeddings)")
        if attention_mask is not None and all_real(attention_mask):
            attention_mask = None
        if packed and traced():
            raise ModelError(
                "packed runs eagerly alone: lengths are read on the host. Leave packed out of a compiled call"
            )
        packing = pack(numpy.asarray(attention_mask)) if packed and attention_mask is not None else None
        if packing is not None and packing.tokens.size:
            mask = key_mask(attention_mask, self.embeddings.word.weight)
            found = [tf.constant(a) for a in (packing.columns, packing.tokens, packing.slots)]
            return Layout(rows, columns, self.rotary.look_up(found[0]), mask, packing.lengths, found[1], found[2])
        mask = None if attention_mask is None else key_mask(attention_mask, self.embeddings.word.weight)
        return Layout(rows, columns, self.rotary(rows, columns), mask)

    def pool(self, hidden: Tensor, taps: Taps | None) -> Tensor | None:
        """Map the first token of each row of hidden (B, T, H): (B, H), or None without a pooler."""
        if self.pooler is None:
            return None
        pooled = self.pooler(hidden[:, 0], self.config.pooler_activation)
        tap(taps, "pooler", pooled)
        return pooled


class RoFormerMaskedLMHead(Module):
    """Scores of every word for a token; the decoder is the word embedding."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.transform = Linear(config.hidden_size, config.embedding_size, make)
        self.norm = Norm(config.embedding_size, config.layer_norm_eps, make)
        self.bias = make.constant((config.vocab_size,), 0.0)

    def forward(self, hidden: Tensor, word: Tensor, layout: Layout | None, taps: Taps | None) -> Tensor:
        """Score hidden (P, H) against the word embedding (V, E): (P, V). Without a layout taps stay runs."""
        hidden = self.transform(hidden, self.activation)
        tap(taps, "mlm.transform", hidden, layout)
        hidden = self.norm(hidden)
        tap(taps, "mlm.norm", hidden, layout)
        logits = tf.matmul(hidden, word, transpose_b=True) + self.bias
        tap(taps, "logits", logits, layout)
        return logits


class RoFormerForMaskedLM(RoFormerModel):
    """The encoder with its masked-LM head. A pooler that the checkpoint has is kept and not computed."""

    def __init__(
        self, config: RoFormerConfig, pooler: bool = False, dtype: str = "float32", fresh: bool = True
    ) -> None:
        super().__init__(config, pooler, dtype, fresh)
        self.mlm = RoFormerMaskedLMHead(self.config, ParameterMaker(self.config, dtype, fresh))

    def forward(  # type: ignore[override]  # a head returns what it computes
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        mask_pad_token: bool = False,
        packed: bool = False,
        taps: Taps | None = None,
    ) -> Tensor:
        """Score every word at each token: logits (B, T, V), or (K, V) at chosen positions."""
        hidden, layout = self.encode(input_ids, token_type_ids, attention_mask, mask_pad_token, packed, taps)
        return self.score(hidden, layout, positions, taps)

    def score(self, hidden: Tensor, layout: Layout, positions: Tensor | None, taps: Taps | None) -> Tensor:
        """Score hidden (P, H): logits (B, T, V), or (K, V) at chosen positions."""
        if positions is not None:
            return self.mlm(layout.take(hidden, positions), self.embeddings.word.weight, None, taps)
        return layout.spread(self.mlm(hidden, self.embeddings.word.weight, layout, taps))


class RoFormerForPretraining(RoFormerForMaskedLM):
    """The encoder with pooler, masked-LM head and sentence-order head."""

    def __init__(self, config: RoFormerConfig, pooler: bool = True, dtype: str = "float32", fresh: bool = True) -> None:
        super().__init__(config, True, dtype, fresh)
        self.sop = Linear(config.hidden_size, 2, ParameterMaker(self.config, dtype, fresh))

    def forward(  # type: ignore[override]  # a head returns what it computes
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        mask_pad_token: bool = False,
        packed: bool = False,
        taps: Taps | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score words as :class:`RoFormerForMaskedLM` does, and the order of the two sentences: (B, 2)."""
        hidden, layout = self.encode(input_ids, token_type_ids, attention_mask, mask_pad_token, packed, taps)
        pooled = self.pool(layout.spread(hidden), taps)
        logits = self.score(hidden, layout, positions, taps)
        order = self.sop(pooled)
        tap(taps, "sop", order)
        return logits, order
