"""RoFormer in PyTorch: one of three mirrored files.

``roformer_paddle.py``, ``roformer_torch.py`` and ``roformer_tf.py`` hold the same classes in the same order under the
same names; a line that differs is a framework's idiom. Parameters carry the converter's canonical names, so a raw
``state_dict()`` has our names and the ecosystems' spellings exist in files alone. ``config.py`` has the shape glossary.

Tokens are computed as one run (P, H) from the embeddings to the heads; only attention knows rows. P is B * T, or the
real tokens alone when the batch is packed.

Source: RoFormer, Su et al. 2021 (arXiv 2104.09864); the function is that of ``RoFormerForMaskedLM`` in transformers and
PaddleNLP.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from ..converters.table.mapping import Dialect
from ..converters.table.rotary import rotary_angles
from . import pretrained
from .config import MASKED, ModelError, RoFormerConfig, check_length, pad_token, supported
from .packing import pack, packed_positions, require_inside

#: The dialect that ``save_pretrained`` writes, whose files hold kernels as this framework does.
DIALECT: Dialect = "torch"

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
            x = torch.cat([x, x.new_zeros((1, *x.shape[1:]))])[self.slots]
        return x.reshape(self.rows, self.columns, *x.shape[1:])

    def take(self, x: Tensor, positions: Any) -> Tensor:
        """Take the tokens of a run (P, ...) at ``positions`` (K,) of the batch read row by row."""
        if self.slots is not None:
            found = packed_positions(self.slots.cpu().numpy(), torch.as_tensor(positions).cpu().numpy(), x.shape[0])
            return x[torch.from_numpy(found).to(x.device)]
        positions = torch.as_tensor(positions, device=x.device).reshape(-1)
        if at_hand(positions):
            require_inside(positions.numpy(), self.rows * self.columns)
        return x[positions]


def tap(taps: Taps | None, name: str, value: Tensor, layout: Layout | None = None) -> None:
    """Record an activation; a run is laid out as its batch."""
    if taps is not None:
        taps[name] = value if layout is None else layout.spread(value)


def traced() -> bool:
    """Say whether a graph is being made: values are then unknown, and what only this machine can run is no use."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def at_hand(x: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return not traced() and x.device.type == "cpu"


def all_real(attention_mask: Tensor) -> bool:
    """Say whether a mask masks nothing, where that is known without waiting for a device."""
    return at_hand(attention_mask) and bool(attention_mask.all())


def key_mask(attention_mask: Tensor, like: Tensor) -> Tensor:
    """Turn attention_mask (B, T) into what is added to scores of the type of ``like``: (B, 1, 1, T)."""
    return (~attention_mask.bool()).to(like.dtype)[:, None, None, :] * MASKED


def flatten(ids: Tensor, layout: Layout) -> Tensor:
    """Put a batch's ids (B, T) in the order of the run (P,)."""
    ids = ids.reshape(-1)
    return ids if layout.tokens is None else ids[layout.tokens]


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drop elements of x while training."""
    return F.dropout(x, probability) if training and probability else x


#: Activations under their names in the converter's table.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply an activation, or none."""
    return x if activation is None else ACTIVATIONS[activation](x)


#: Activations that oneDNN applies inside its matrix product, as ``mkldnn._linear_pointwise`` spells them.
_FUSED: dict[str | None, tuple[str, str]] = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
    "sigmoid": ("sigmoid", ""),
}


def project(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None = None) -> Tensor:
    """Multiply x (P, inputs) by a kernel, add its bias and apply an activation."""
    # PyTorch's own product goes to MKL, which on AMD processors runs at 0.7 of oneDNN's speed: inference on a CPU asks
    # oneDNN, by the operator that torch.compile itself uses, with the activation inside
    if activation in _FUSED and _onednn_takes(x, weight):
        name, algorithm = _FUSED[activation]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return activate(F.linear(x, weight, bias), activation)


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Say whether oneDNN's own linear operator applies: it has no gradient and knows plain CPU tensors alone."""
    return (
        _ONEDNN
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _ONEDNN_BFLOAT16))
        and weight.dtype == x.dtype
        and x.shape[0] > 0
        and not traced()
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn_works() -> bool:
    # the operator is PyTorch's own and not documented: try it once, on numbers that show a wrong result
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x = torch.tensor([[1.0, 2.0]])
    weight, bias = torch.tensor([[3.0, 5.0], [-7.0, 11.0], [0.5, 0.25]]), torch.tensor([0.0, 1.0, -1.5])
    try:
        with torch.no_grad():
            got = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.equal(got, torch.tensor([[13.0, 16.0, 0.0]]))


_ONEDNN = _onednn_works()
#: oneDNN has no bfloat16 products on a processor without AVX-512, where PyTorch's own do work.
_ONEDNN_BFLOAT16 = _ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def add_norm(x: Tensor, residual: Tensor, norm: Norm, dropout: float, training: bool) -> Tensor:
    """Drop elements of x (P, H) while training, add it to the residual (P, H), and normalize."""
    return norm(residual + drop(x, dropout, training))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split x (P, H) into heads: (P, N, D)."""
    return x.reshape(-1, heads, x.shape[1] // heads)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each adjacent pair (2i, 2i + 1) of x (P, N, D) by its token's angle.

    Source: RoFormer, equation 34; pairs are adjacent in every released RoFormer, unlike in GPT-NeoX and its heirs.
    """
    pairs = x.to(turns.dtype).reshape(-1, x.shape[1], x.shape[2] // 2, 2)
    if traced():  # exporters and inductor have no complex numbers
        (a, b), (cosine, sine) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
    else:  # one pass over memory, 20 times as fast here
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.reshape(x.shape).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Attend within each row: query, key and value (P, N, D) to (P, H). The one place for a fused kernel."""
    width = query.shape[1] * query.shape[2]
    if layout.lengths is not None:
        # a row at a time, of its own length: no mask, and no work on padding
        runs = zip(*(torch.split(x, list(layout.lengths)) for x in (query, key, value)), strict=True)
        rows = [[x.transpose(0, 1).unsqueeze(0) for x in run] for run in runs if len(run[0])]
        out = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)[0].transpose(0, 1) for q, k, v in rows]
        return torch.cat(out).reshape(-1, width)
    batch = (layout.rows, layout.columns, *query.shape[1:])
    q, k, v = (x.reshape(batch).transpose(1, 2) for x in (query, key, value))
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask, dropout_p=dropout)
    return context.transpose(1, 2).reshape(-1, width)


def assign(parameter: Parameter, values: NDArray[Any]) -> None:
    """Fill a parameter with a checkpoint's values, bfloat16 as bit patterns."""
    tensor = torch.from_numpy(values)
    if parameter.dtype == torch.bfloat16:
        tensor = tensor.view(torch.bfloat16)
    with torch.no_grad():
        parameter.data = tensor.to(parameter.device)


def as_numpy(parameter: Parameter) -> NDArray[Any]:
    """Return a parameter's values for a checkpoint, bfloat16 as bit patterns."""
    values = parameter.detach().cpu().contiguous()
    array: NDArray[Any] = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def computes(dtype: str) -> bool:
    """Say whether the current device computes in a type."""
    return True


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as the converter does."""
    return str(tensor.dtype).removeprefix("torch.")


class ParameterMaker:
    """Makes parameters of one type, at random or zero where a checkpoint will fill them.

    Args:
        config: Says the standard deviation of a fresh weight.
        dtype: Name of the type.
        fresh: Whether values matter.
    """

    def __init__(self, config: RoFormerConfig, dtype: str, fresh: bool = True) -> None:
        self.deviation = config.initializer_range
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.fresh = fresh

    def normal(self, shape: tuple[int, ...]) -> Parameter:
        """Make a weight."""
        values = torch.empty(shape, dtype=self.dtype)
        return Parameter(values.normal_(0.0, self.deviation) if self.fresh else values)

    def constant(self, shape: tuple[int, ...], value: float) -> Parameter:
        """Make a bias or a norm's scale."""
        return Parameter(torch.full(shape, value, dtype=self.dtype))


class Linear(nn.Module):
    """Multiply by a kernel, add a bias, apply an activation."""

    def __init__(self, inputs: int, outputs: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((outputs, inputs))
        self.bias = make.constant((outputs,), 0.0)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x (P, inputs) to (P, outputs)."""
        return project(x, self.weight, self.bias, activation)


class Norm(nn.Module):
    """Layer normalization over the last axis."""

    def __init__(self, width: int, epsilon: float, make: ParameterMaker) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = make.constant((width,), 1.0)
        self.bias = make.constant((width,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each token of x (P, width)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Embedding(nn.Module):
    """A table of rows."""

    def __init__(self, rows: int, width: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (P,): (P, width)."""
        return F.embedding(ids, self.weight)


class RotaryTable(nn.Module):
    """Cosine and sine of every position's angles: a function of the configuration, in no state dict.

    Computed in float64 and held in float32 (float64 in a float64 model) whatever the weights' type: rounding the table
    to a half type moves logits by 1e-3.
    """

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.turns: Tensor
        self.config = config
        self.register_buffer("turns", self._compute(make.dtype), persistent=False)

    def forward(self, rows: int, columns: int) -> Tensor:
        """Return the turns of a whole batch (B, T) as a run: (P, 1 or N, D / 2, 2)."""
        turns = self.turns[:columns].expand(rows, -1, -1, -1)
        return turns.reshape(-1, 1, *self.turns.shape[1:])

    def look_up(self, columns: Tensor) -> Tensor:
        """Return the turns of tokens in columns (P,): (P, 1 or N, D / 2, 2)."""
        return self.turns[columns].unsqueeze(1)

    def _compute(self, dtype: torch.dtype) -> Tensor:
        angles = rotary_angles(self.config.max_position_embeddings, self.config.head_size)
        turns = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=-1)
        return torch.from_numpy(turns).to(torch.float64 if dtype == torch.float64 else torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryTable:
        # Module.to(dtype) would round the table, or widen a rounded one: compute it anew in the type it should have
        moved = fn(self.turns)
        if moved.dtype == self.turns.dtype:
            self.turns = moved
        else:
            self.turns = self._compute(moved.dtype).to(moved.device)
        return self


class RoFormerEmbeddings(nn.Module):
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


class RoFormerAttention(nn.Module):
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


class RoFormerFeedForward(nn.Module):
    """Up to F, activation, down to H."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.up = Linear(config.hidden_size, config.intermediate_size, make)
        self.down = Linear(config.intermediate_size, config.hidden_size, make)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map each token of hidden (P, H)."""
        return self.down(self.up(hidden, self.activation))


class RoFormerLayer(nn.Module):
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


class RoFormerModel(nn.Module):
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
        self.layers = nn.ModuleList([RoFormerLayer(self.config, make) for _ in range(config.num_hidden_layers)])
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
        return model.eval()

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
                hidden = checkpoint(layer, hidden, layout, f"layers.{i}", None, use_reentrant=False)
            else:
                hidden = layer(hidden, layout, f"layers.{i}", taps)
        return hidden, layout

    def lay_out(self, input_ids: Tensor, attention_mask: Tensor | None, packed: bool) -> Layout:
        """Work out positions and masking of a batch (B, T)."""
        rows, columns = input_ids.shape
        if torch.compiler.is_compiling():  # a graph has no way to raise an error of ours
            limit = self.config.max_position_embeddings
            what = f"longer than {limit} tokens (max_position_embeddings)"
            torch._check(columns <= limit, lambda: what)  # type: ignore[no-untyped-call]
        else:
            check_length(columns, self.config)
        if attention_mask is not None and all_real(attention_mask):
            attention_mask = None
        if packed and traced():
            raise ModelError(
                "packed runs eagerly alone: lengths are read on the host. Leave packed out of a compiled call"
            )
        packing = pack(attention_mask.cpu().numpy()) if packed and attention_mask is not None else None
        if packing is not None and packing.tokens.size:
            found = [torch.from_numpy(a).to(input_ids.device) for a in (packing.columns, packing.tokens, packing.slots)]
            return Layout(rows, columns, self.rotary.look_up(found[0]), None, packing.lengths, found[1], found[2])
        mask = None if attention_mask is None else key_mask(attention_mask, self.embeddings.word.weight)
        return Layout(rows, columns, self.rotary(rows, columns), mask)

    def pool(self, hidden: Tensor, taps: Taps | None) -> Tensor | None:
        """Map the first token of each row of hidden (B, T, H): (B, H), or None without a pooler."""
        if self.pooler is None:
            return None
        pooled = self.pooler(hidden[:, 0], self.config.pooler_activation)
        tap(taps, "pooler", pooled)
        return pooled


class RoFormerMaskedLMHead(nn.Module):
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
        logits = project(hidden, word, self.bias)
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
