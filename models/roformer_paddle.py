"""RoFormer in Paddle: one of three mirrored files.

``roformer_paddle.py``, ``roformer_torch.py`` and ``roformer_tf.py`` hold the same classes in the same order under the
same names; a line that differs is a framework's idiom. Parameters carry the converter's canonical names, so a raw
``state_dict()`` has our names and the ecosystems' spellings exist in files alone. ``config.py`` has the shape glossary.

Tokens are computed as one run (P, H) from the embeddings to the heads; only attention knows rows. P is B * T, or the
real tokens alone when the batch is packed.

Source: RoFormer, Su et al. 2021 (arXiv 2104.09864); the function is that of ``RoFormerForMaskedLM`` in transformers and
PaddleNLP.
"""

# mypy: disable-error-code="no-any-return,no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy
from numpy.typing import NDArray

from ..converters.table.mapping import Dialect
from ..converters.table.rotary import rotary_angles
from . import pretrained
from .config import MASKED, ModelError, RoFormerConfig, check_length, pad_token, supported
from .kernels_paddle import find, on_cpu, product_type
from .packing import pack, packed_positions, require_inside
from .start_paddle import paddle, recompute

F = paddle.nn.functional
nn = paddle.nn
Tensor = paddle.Tensor
Parameter = paddle.Tensor

_LARGEST_EPSILON = 1e-3  # that Paddle's norms take

#: The dialect that ``save_pretrained`` writes, whose files hold kernels as this framework does.
DIALECT: Dialect = "paddle"

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
            x = paddle.gather(paddle.concat([x, paddle.zeros([1, *x.shape[1:]], x.dtype)]), self.slots)
        return x.reshape([self.rows, self.columns, *x.shape[1:]])

    def take(self, x: Tensor, positions: Any) -> Tensor:
        """Take the tokens of a run (P, ...) at ``positions`` (K,) of the batch read row by row."""
        if self.slots is not None:
            found = packed_positions(self.slots.numpy(), numpy.asarray(positions), x.shape[0])
            return paddle.gather(x, paddle.to_tensor(found))
        positions = positions.reshape([-1])
        if at_hand(positions):
            require_inside(positions.numpy(), self.rows * self.columns)
        return paddle.gather(x, positions)


def tap(taps: Taps | None, name: str, value: Tensor, layout: Layout | None = None) -> None:
    """Record an activation; a run is laid out as its batch."""
    if taps is not None:
        taps[name] = value if layout is None else layout.spread(value)


def traced() -> bool:
    """Say whether a graph is being made: values are then unknown, and what only this machine can run is no use."""
    return not paddle.in_dynamic_mode()


def at_hand(x: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return not traced() and x.place.is_cpu_place()


def all_real(attention_mask: Tensor) -> bool:
    """Say whether a mask masks nothing, where that is known without waiting for a device."""
    return at_hand(attention_mask) and bool(attention_mask.astype("bool").all())


def key_mask(attention_mask: Tensor, like: Tensor) -> Tensor:
    """Turn attention_mask (B, T) into what is added to scores of the type of ``like``: (B, 1, 1, T)."""
    return attention_mask.astype("bool").logical_not().astype(like.dtype)[:, None, None, :] * MASKED


def flatten(ids: Tensor, layout: Layout) -> Tensor:
    """Put a batch's ids (B, T) in the order of the run (P,)."""
    ids = ids.reshape([-1])
    return ids if layout.tokens is None else paddle.gather(ids, layout.tokens)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drop elements of x while training."""
    return F.dropout(x, probability) if training and probability else x


# named functions: to_static reads their source, and cannot find a lambda's
def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate=True)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * F.sigmoid(_times(x, 1.702))


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
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply an activation, or none."""
    return x if activation is None else ACTIVATIONS[activation](x)


def project(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None = None) -> Tensor:
    """Multiply x (P, inputs) by a kernel, add its bias and apply an activation."""
    fused = find("projection", product_type(x), *weight.shape)
    return activate(F.linear(x, weight, bias) if fused is None else fused(x, weight, bias), activation)


def add_norm(x: Tensor, residual: Tensor, norm: Norm, dropout: float, training: bool) -> Tensor:
    """Drop elements of x (P, H) while training, add it to the residual (P, H), and normalize."""
    fused = find("add_norm", dtype_name(residual), x.shape[-1]) if norm.epsilon <= _LARGEST_EPSILON else None
    if fused is not None:
        return fused(x, residual, norm.weight, norm.bias, norm.epsilon, dropout if training else 0.0)
    return norm(residual + drop(x, dropout, training))


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


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Attend within each row: query, key and value (P, N, D) to (P, H). The one place for a fused kernel."""
    heads, size = query.shape[1], query.shape[2]
    if layout.mask is None or layout.lengths is not None:  # else nobody knows yet which tokens are real
        dtype: Any = product_type(query)
        fused = find("attention", dtype, heads, size)
        if fused is not None:
            q, k, v = (x.astype(dtype) for x in (query, key, value))
            return fused(q, k, v, _lengths(layout), dropout).reshape([-1, heads * size])
    query = _times(query, size**-0.5)
    if traced() or not on_cpu():
        q, k, v = (layout.spread(x).transpose([0, 2, 1, 3]) for x in (query, key, value))
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
        # rows of one length at a time: no mask, and no work on padding
        real = [length for length in layout.lengths if length]
        groups = [(length, len(list(rows))) for length, rows in groupby(real)]
        parts = [paddle.split(x, [heads * length * rows for length, rows in groups]) for x in (q, k, v)]
        runs = [[x.reshape([-1, length, size]) for x in run] for (length, _), *run in zip(groups, *parts, strict=True)]
        context = paddle.concat([_attend_together(q, k, v, None, dropout).reshape([-1, size]) for q, k, v in runs])
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
    index = numpy.arange(sum(lengths) * heads).reshape(-1, heads)
    order = numpy.concatenate([rows.T.reshape(-1) for rows in numpy.split(index, numpy.cumsum(lengths)[:-1])])
    return paddle.to_tensor(order), paddle.to_tensor(numpy.argsort(order))


def assign(parameter: Parameter, values: NDArray[Any]) -> None:
    """Fill a parameter with a checkpoint's values, bfloat16 as bit patterns."""
    parameter.set_value(values)


def as_numpy(parameter: Parameter) -> NDArray[Any]:
    """Return a parameter's values for a checkpoint, bfloat16 as bit patterns."""
    array: NDArray[Any] = parameter.numpy()
    return array


def computes(dtype: str) -> bool:
    """Say whether the current device computes in a type."""
    return dtype in ("float32", "float64") or not on_cpu()


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as the converter does."""
    return str(tensor.dtype).removeprefix("paddle.")


class ParameterMaker:
    """Makes parameters of one type, at random or zero where a checkpoint will fill them.

    Args:
        config: Says the standard deviation of a fresh weight.
        dtype: Name of the type.
        fresh: Whether values matter.
    """

    def __init__(self, config: RoFormerConfig, dtype: str, fresh: bool = True) -> None:
        self.deviation = config.initializer_range
        self.dtype: Any = dtype
        self.fresh = fresh

    def normal(self, shape: tuple[int, ...]) -> Parameter:
        """Make a weight."""
        values = nn.initializer.Normal(0.0, self.deviation) if self.fresh else nn.initializer.Constant(0.0)
        return paddle.create_parameter(shape, self.dtype, default_initializer=values)

    def constant(self, shape: tuple[int, ...], value: float) -> Parameter:
        """Make a bias or a norm's scale."""
        return paddle.create_parameter(shape, self.dtype, default_initializer=nn.initializer.Constant(value))


class Linear(nn.Layer):
    """Multiply by a kernel, add a bias, apply an activation."""

    def __init__(self, inputs: int, outputs: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((inputs, outputs))
        self.bias = make.constant((outputs,), 0.0)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x (P, inputs) to (P, outputs)."""
        return project(x, self.weight, self.bias, activation)


class Norm(nn.Layer):
    """Layer normalization over the last axis."""

    def __init__(self, width: int, epsilon: float, make: ParameterMaker) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = make.constant((width,), 1.0)
        self.bias = make.constant((width,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each token of x (P, width)."""
        if x.dtype != paddle.float64 and self.epsilon <= _LARGEST_EPSILON:
            return F.layer_norm(x, x.shape[-1], self.weight, self.bias, self.epsilon)
        # Paddle keeps epsilon in float32
        x = x - x.mean(-1, keepdim=True)
        return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.weight + self.bias


class Embedding(nn.Layer):
    """A table of rows."""

    def __init__(self, rows: int, width: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (P,): (P, width)."""
        return F.embedding(ids, self.weight)


class RotaryTable(nn.Layer):
    """Cosine and sine of every position's angles: a function of the configuration, in no state dict.

    Computed in float64 and held in float32 (float64 in a float64 model) whatever the weights' type: rounding the table
    to a half type moves logits by 1e-3.
    """

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.turns: Tensor
        self.config = config
        self.register_buffer("turns", self._compute(make.dtype), persistable=False)

    def forward(self, rows: int, columns: int) -> Tensor:
        """Return the turns of a whole batch (B, T) as a run: (P, 1 or N, D / 2, 2)."""
        turns = self.turns[:columns].unsqueeze(0).expand([rows, columns, -1, -1])
        return self._for_heads(turns.reshape([-1, 1, *self.turns.shape[1:]]))

    def look_up(self, columns: Tensor) -> Tensor:
        """Return the turns of tokens in columns (P,): (P, 1 or N, D / 2, 2)."""
        return self._for_heads(paddle.gather(self.turns, columns).unsqueeze(1))

    def _for_heads(self, turns: Tensor) -> Tensor:
        # a CPU multiplies complex numbers ten times as fast by a copy for each head as by broadcasting
        return turns.expand([-1, self.config.num_attention_heads, -1, -1]) if on_cpu() else turns

    def _compute(self, dtype: str) -> Tensor:
        angles = rotary_angles(self.config.max_position_embeddings, self.config.head_size)
        turns = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=-1)
        return paddle.to_tensor(turns, dtype="float64" if dtype == "float64" else "float32")

    def _apply(self, func: Any, device: Any, dtype: Any, blocking: Any, include_sublayers: bool = True) -> None:
        # Layer.to(dtype) would round the table, or widen a rounded one: compute it anew in the type it should have
        if dtype is not None:
            self.turns = self._compute(str(dtype).removeprefix("paddle."))
        super()._apply(func, device, None, blocking, include_sublayers)


class RoFormerEmbeddings(nn.Layer):
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


class RoFormerAttention(nn.Layer):
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


class RoFormerFeedForward(nn.Layer):
    """Up to F, activation, down to H."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.up = Linear(config.hidden_size, config.intermediate_size, make)
        self.down = Linear(config.intermediate_size, config.hidden_size, make)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map each token of hidden (P, H)."""
        return self.down(self.up(hidden, self.activation))


class RoFormerLayer(nn.Layer):
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


class RoFormerModel(nn.Layer):
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
        self.layers = nn.LayerList([RoFormerLayer(self.config, make) for _ in range(config.num_hidden_layers)])
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
        if attention_mask is None and mask_pad_token:
            attention_mask = input_ids != pad_token(self.config)
        layout = self.lay_out(input_ids, attention_mask, packed)
        input_ids = flatten(input_ids, layout)
        token_type_ids = None if token_type_ids is None else flatten(token_type_ids, layout)
        hidden = self.embeddings(input_ids, token_type_ids)
        tap(taps, "embeddings", hidden, layout)
        for i, layer in enumerate(self.layers):
            if self.gradient_checkpointing and self.training and taps is None:
                # not use_reentrant=False, which in Paddle 2.6 knows no CPU
                hidden = recompute(layer, hidden, layout, f"layers.{i}", None)
            else:
                hidden = layer(hidden, layout, f"layers.{i}", taps)
        return hidden, layout

    def lay_out(self, input_ids: Tensor, attention_mask: Tensor | None, packed: bool) -> Layout:
        """Work out positions and masking of a batch (B, T)."""
        rows, columns = input_ids.shape
        check_length(columns if isinstance(columns, int) else None, self.config)
        if attention_mask is not None and all_real(attention_mask):
            attention_mask = None
        if packed and traced():
            raise ModelError(
                "packed runs eagerly alone: lengths are read on the host. Leave packed out of a compiled call"
            )
        like = self.embeddings.word.weight
        packing = pack(attention_mask.numpy()) if packed and attention_mask is not None else None
        if packing is not None and packing.tokens.size:
            found = [paddle.to_tensor(a) for a in (packing.columns, packing.tokens, packing.slots)]
            # a CPU needs none; a GPU's is made of the slots, for attention_mask may have stayed on the host
            mask = None if on_cpu() else key_mask((found[2] < found[1].shape[0]).reshape([rows, columns]), like)
            return Layout(rows, columns, self.rotary.look_up(found[0]), mask, packing.lengths, found[1], found[2])
        mask = None if attention_mask is None else key_mask(attention_mask, like)
        return Layout(rows, columns, self.rotary(rows, columns), mask)

    def pool(self, hidden: Tensor, taps: Taps | None) -> Tensor | None:
        """Map the first token of each row of hidden (B, T, H): (B, H), or None without a pooler."""
        if self.pooler is None:
            return None
        pooled = self.pooler(hidden[:, 0], self.config.pooler_activation)
        tap(taps, "pooler", pooled)
        return pooled


class RoFormerMaskedLMHead(nn.Layer):
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
        logits = _add(paddle.matmul(hidden, word, transpose_y=True), self.bias)
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
