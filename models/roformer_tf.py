"""RoFormer in TensorFlow: one of three mirrored files.

``roformer_paddle.py``, ``roformer_torch.py`` and ``roformer_tf.py`` hold the same classes in the same order under the
same names, line by line. How a framework does a thing stands in ``ops_paddle.py``, ``ops_torch.py`` and ``ops_tf.py``,
under the same names too. Parameters carry the converter's canonical names, so a raw ``state_dict()`` has our names and
the ecosystems' spellings exist in files alone. ``config.py`` has the shape glossary.

Tokens are computed as one run (P, H) from the embeddings to the heads; only attention knows rows. P is B * T, or the
real tokens alone when the batch is packed.

Source: RoFormer, Su et al. 2021 (arXiv 2104.09864); the function is that of ``RoFormerForMaskedLM`` in transformers and
PaddleNLP.
"""

# mypy: disable-error-code="no-any-return,unused-ignore"
from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..converters.source.renaming import ALL, Parts
from ..converters.table.mapping import Dialect
from ..converters.table.rotary import rotary_angles
from . import pretrained
from .config import ModelError, RoFormerConfig, pad_token, supported
from .layout import Layout
from .ops_tf import (
    DIALECT,
    FixedTable,
    Module,
    ModuleList,
    Parameter,
    Tensor,
    activate,
    add_norm,
    all_real,
    as_numpy,
    assign,
    attend,
    average,
    causal_mask,
    computes,
    constant,
    count_up,
    drop,
    dtype_name,
    embed,
    flatten,
    fold,
    kernel_shape,
    key_mask,
    measure,
    normal,
    normalize,
    order_mask,
    packed_mask,
    project,
    project_together,
    real_tokens,
    recompute,
    rms_normalize,
    rotate_together,
    running_sum,
    score_words,
    split_heads,
    spread,
    take,
    to_tensor,
    traced,
    turns_of_rows,
    turns_of_tokens,
    unfold,
)
from .packing import pack

Taps = MutableMapping[str, Tensor]
Model = TypeVar("Model", bound="RoFormerModel")


def tap(taps: Taps | None, name: str, value: Tensor, layout: Layout | None = None) -> None:
    """Record an activation; a run is laid out as its batch."""
    if taps is not None:
        taps[name] = value if layout is None else spread(value, layout)


class ParameterMaker:
    """Makes parameters of one type, at random or zero where a checkpoint will fill them.

    Args:
        config: Says the standard deviation of a fresh weight.
        dtype: Name of the type.
        fresh: Whether values matter.
    """

    def __init__(self, config: RoFormerConfig, dtype: str, fresh: bool = True) -> None:
        self.deviation = config.initializer_range
        self.dtype = dtype
        self.fresh = fresh

    def normal(self, shape: tuple[int, ...]) -> Parameter:
        """Make a weight."""
        return normal(shape, self.dtype, self.deviation, self.fresh)

    def constant(self, shape: tuple[int, ...], value: float) -> Parameter:
        """Make a bias or a norm's scale."""
        return constant(shape, self.dtype, value)


class Linear(Module):
    """Multiply by a kernel, add a bias where there is one, apply an activation."""

    def __init__(self, inputs: int, outputs: int, make: ParameterMaker, bias: bool = True) -> None:
        super().__init__()
        self.weight = make.normal(kernel_shape(inputs, outputs))
        self.bias = make.constant((outputs,), 0.0) if bias else None

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
        return normalize(x, self.weight, self.bias, self.epsilon)

    def add(self, x: Tensor, residual: Tensor, dropout: float, training: bool) -> Tensor:
        """Drop elements of x (P, width) while training, add it to the residual (P, width), and normalize."""
        return add_norm(x, residual, self.weight, self.bias, self.epsilon, dropout, training)


class RmsNorm(Module):
    """Division by the root of the mean square over the last axis, RoFormerV2's: no mean is subtracted, and there are no
    parameters.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each token of x (P, width)."""
        return rms_normalize(x, self.epsilon)

    def add(self, x: Tensor, residual: Tensor, dropout: float, training: bool) -> Tensor:
        """Drop elements of x (P, width) while training, add it to the residual (P, width), and normalize."""
        return rms_normalize(residual + drop(x, dropout, training), self.epsilon)


def norm(width: int, config: RoFormerConfig, make: ParameterMaker) -> Norm | RmsNorm:
    """Make the norm of a configuration."""
    if config.norm_type == "rms_norm":
        return RmsNorm(config.layer_norm_eps)
    return Norm(width, config.layer_norm_eps, make)


class Embedding(Module):
    """A table of rows."""

    def __init__(self, rows: int, width: int, make: ParameterMaker) -> None:
        super().__init__()
        self.weight = make.normal((rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (P,): (P, width)."""
        return embed(self.weight, ids)


class RotaryTable(FixedTable):
    """Cosine and sine of every position's angles: a function of the configuration.

    Computed in float64 and held in float32 (float64 in a float64 model) whatever the weights' type: rounding the table
    to a half type moves logits by 1e-3.
    """

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        angles = rotary_angles(config.max_position_embeddings, config.head_size)
        super().__init__(np.stack([np.cos(angles), np.sin(angles)], axis=-1), make.dtype)
        self.heads = config.num_attention_heads

    def forward(self, rows: int, columns: int) -> Tensor:
        """Return the turns of a whole batch (B, T) as a run: (P, 1 or N, D / 2, 2)."""
        return turns_of_rows(self.table, rows, columns, self.heads)

    def look_up(self, columns: Tensor) -> Tensor:
        """Return the turns of tokens in columns (P,): (P, 1 or N, D / 2, 2)."""
        return turns_of_tokens(self.table, columns, self.heads)


class RoFormerEmbeddings(Module):
    """Words and token types, normalized, projected to H where E differs."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.word = Embedding(config.vocab_size, config.embedding_size, make)
        self.segment = Embedding(config.type_vocab_size, config.embedding_size, make)
        self.norm = norm(config.embedding_size, config, make)
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
        self.query = Linear(config.hidden_size, config.hidden_size, make, config.use_bias)
        self.key = Linear(config.hidden_size, config.hidden_size, make, config.use_bias)
        self.value = Linear(config.hidden_size, config.hidden_size, make, config.use_bias)
        self.out = Linear(config.hidden_size, config.hidden_size, make, config.use_bias)

    def forward(self, hidden: Tensor, layout: Layout, name: str, taps: Taps | None) -> Tensor:
        """Attend within each row of hidden (P, H)."""
        projected = project_together(hidden, (self.query, self.key, self.value))
        query, key, value = (split_heads(x, self.heads) for x in projected)
        if self.rotary_value:
            query, key, value = rotate_together((query, key, value), layout.turns)
        else:
            query, key = rotate_together((query, key), layout.turns)
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
        self.up = Linear(config.hidden_size, config.intermediate_size, make, config.use_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, make, config.use_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map each token of hidden (P, H)."""
        return self.down(self.up(hidden, self.activation))


class RoFormerLayer(Module):
    """Attention and feed-forward, each added to its input and normalized."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.attention = RoFormerAttention(config, make)
        self.attention_norm = norm(config.hidden_size, config, make)
        self.feed_forward = RoFormerFeedForward(config, make)
        self.feed_forward_norm = norm(config.hidden_size, config, make)

    def forward(self, hidden: Tensor, layout: Layout, name: str, taps: Taps | None) -> Tensor:
        """Map hidden (P, H)."""
        change = self.attention(hidden, layout, f"{name}.attention", taps)
        hidden = self.attention_norm.add(change, hidden, self.dropout, self.training)
        tap(taps, f"{name}.attention_norm", hidden, layout)
        change = self.feed_forward(hidden)
        tap(taps, f"{name}.feed_forward", change, layout)
        hidden = self.feed_forward_norm.add(change, hidden, self.dropout, self.training)
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
        self.layers = ModuleList([RoFormerLayer(self.config, make) for _ in range(config.num_hidden_layers)])
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
        num_labels: int | None = None,
        set: Mapping[str, Any] | None = None,
        model_class: str | None = None,
        parts: Parts = ALL,
    ) -> Model:
        """Load a checkpoint directory of any dialect, ready for inference.

        Args:
            directory: Of Paddle, PyTorch, TF2 or TF1; read lazily, with no other framework imported.
            dtype: Type to compute in; None for the stored one.
            dialect: Overrules what the files look like.
            config: A configuration file that does not lie beside the weights.
            extend_to: Longest sequence in tokens, where the configuration allows less.
            fresh_heads: Start a head that the files lack at random instead of refusing.
            num_labels: Labels of a classifier that starts at random.
            set: Field of the configuration → value, whatever its file says: ``{"attention": "causal"}``.
            model_class: Class of the checkpoint, whatever its files say: ``"token-classification"``.
            parts: Which tensors of its files are meant: ``Parts(prefix="student.")``.
        """
        with pretrained.opened(
            pretrained.class_of(cls),
            directory,
            layout=DIALECT,
            dtype=dtype,
            dialect=dialect,
            config=config,
            set=set,
            model_class=model_class,
            parts=parts,
            extend_to=extend_to,
            fresh_heads=fresh_heads,
            num_labels=num_labels,
            computes=computes,
        ) as source:
            model = cls(source.config, dtype=source.dtype, fresh=fresh_heads, **source.parts)
            for name, parameter in model.named_parameters():
                values = source.read(name)
                if values is not None:
                    assign(parameter, values)
        model.eval()
        return model

    def save_pretrained(
        self,
        directory: str | Path,
        force: bool = False,
        companions: Iterable[str | Path] = (),
        allow_different: bool = False,
    ) -> None:
        """Write a checkpoint directory in this framework's own dialect.

        Args:
            directory: Refused where it exists, unless ``force``.
            force: Replace it.
            companions: Files to lay beside the weights, such as ``vocab.txt``.
            allow_different: Write it though the dialect's own software would compute another function.
        """
        pretrained.save(
            directory,
            [(name, as_numpy(parameter)) for name, parameter in self.named_parameters()],
            self.config,
            kind=pretrained.class_of(type(self)),
            dialect=DIALECT,
            dtype=dtype_name(self.embeddings.word.weight),
            force=force,
            companions=companions,
            allow_different=allow_different,
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
        batch = spread(hidden, layout)
        pooled = self.pool(batch, taps)
        return batch if positions is None else take(hidden, positions, layout), pooled

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
            attention_mask = real_tokens(input_ids, pad_token(self.config))
        layout = self.lay_out(input_ids, attention_mask, packed, token_type_ids)
        input_ids = flatten(input_ids, layout)
        token_type_ids = None if token_type_ids is None else flatten(token_type_ids, layout)
        hidden = self.embeddings(input_ids, token_type_ids)
        tap(taps, "embeddings", hidden, layout)
        for i, layer in enumerate(self.layers):
            if self.gradient_checkpointing and self.training and taps is None:
                hidden = recompute(layer, hidden, layout, f"layers.{i}")
            else:
                hidden = layer(hidden, layout, f"layers.{i}", taps)
        return hidden, layout

    def lay_out(
        self, input_ids: Tensor, attention_mask: Tensor | None, packed: bool, token_type_ids: Tensor | None = None
    ) -> Layout:
        """Work out positions and masking of a batch (B, T)."""
        rows, columns = measure(input_ids, self.config)
        if attention_mask is not None and all_real(attention_mask):
            attention_mask = None
        if packed and traced():
            raise ModelError(
                "packed runs eagerly alone: lengths are read on the host. Leave packed out of a compiled call"
            )
        like = self.embeddings.word.weight
        causal = self.config.attention == "causal"
        if causal and attention_mask is None:
            return Layout(rows, columns, self.rotary(rows, columns), causal_mask(columns, like), causal=True)
        order = self.reading_order(columns, token_type_ids)
        packing = pack(as_numpy(attention_mask)) if packed and attention_mask is not None else None
        if packing is not None and packing.tokens.size:
            found = (packing.columns, packing.tokens, packing.slots)
            places, tokens, slots = (to_tensor(array, input_ids) for array in found)
            mask = packed_mask(tokens, slots, (rows, columns), like, order)
            turns = self.rotary.look_up(places)
            layout = Layout(rows, columns, turns, mask, packing.lengths, tokens, slots, packing.slots)
            if order is None:
                return layout
            return layout._replace(order=places if causal else flatten(order, layout), causal=causal)
        if attention_mask is not None:
            mask = key_mask(attention_mask, like, order)
        else:
            mask = None if order is None else order_mask(order, like)
        return Layout(rows, columns, self.rotary(rows, columns), mask)

    def reading_order(self, columns: int, token_type_ids: Tensor | None) -> Tensor | None:
        """Return the order in which a batch (B, T) is read, or None where every token sees every key.

        It is (B, T), or (1, T) for all rows: a key is hidden from the queries of its row whose number is lower. Causal
        attention counts the columns. UniLM adds up the token types: type 0 at the beginning is read at once, and from
        the first token of type 1 on each token sees those up to it.

        Source: UniLM, Dong et al. 2019 (arXiv 1905.03197), with the sum by which bert4keras computes it.
        """
        if self.config.attention == "causal":
            return count_up(columns, self.embeddings.word.weight)
        if self.config.attention == "unilm" and token_type_ids is not None:
            return running_sum(token_type_ids)
        return None

    def summarize(self, hidden: Tensor) -> Tensor:
        """Take the token of each row of hidden (B, T, H) that stands for it, the first: (B, H)."""
        return hidden[:, 0]

    def pool(self, hidden: Tensor, taps: Taps | None) -> Tensor | None:
        """Map what stands for each row of hidden (B, T, H): (B, H), or None without a pooler."""
        if self.pooler is None:
            return None
        pooled = self.pooler(self.summarize(hidden), self.config.pooler_activation)
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
        """Score hidden (P, H) against the word embedding (V, E): (P, V), or by a layout its batch (B, T, V)."""
        hidden = self.transform(hidden, self.activation)
        tap(taps, "mlm.transform", hidden, layout)
        hidden = self.norm(hidden)
        tap(taps, "mlm.norm", hidden, layout)
        logits = score_words(hidden, word, self.bias, layout)
        tap(taps, "logits", logits)
        return logits


class RoFormerV2MaskedLMHead(Module):
    """Scores of every word for a token by the word embedding alone, and a bias where there is one."""

    def __init__(self, config: RoFormerConfig, make: ParameterMaker, bias: bool) -> None:
        super().__init__()
        if config.embedding_size != config.hidden_size:
            raise ModelError(
                f"RoFormerV2's masked-LM head multiplies by the word embedding: embedding_size = "
                f"{config.embedding_size} must be hidden_size = {config.hidden_size}"
            )
        self.bias = make.constant((config.vocab_size,), 0.0) if bias else None

    def forward(self, hidden: Tensor, word: Tensor, layout: Layout | None, taps: Taps | None) -> Tensor:
        """Score hidden (P, H) against the word embedding (V, H): (P, V), or by a layout its batch (B, T, V)."""
        logits = score_words(hidden, word, self.bias, layout)
        tap(taps, "logits", logits)
        return logits


class RoFormerForMaskedLM(RoFormerModel):
    """The encoder with its masked-LM head. A pooler that the checkpoint has is kept and not computed.

    Args:
        config: Its ``norm_type`` says which head it is.
        pooler: Whether there is a pooler.
        dtype: Type of the weights: float32, float64, bfloat16 or float16.
        fresh: Whether weights start at random; False where they are loaded next.
        decoder_bias: Whether a RoFormerV2 whose kernels have biases scores words with one; JunnYu's has none.
    """

    def __init__(
        self,
        config: RoFormerConfig,
        pooler: bool = False,
        dtype: str = "float32",
        fresh: bool = True,
        decoder_bias: bool = True,
    ) -> None:
        super().__init__(config, pooler, dtype, fresh)
        make = ParameterMaker(self.config, dtype, fresh)
        v2, bias = config.norm_type == "rms_norm", config.use_bias and decoder_bias
        self.mlm = RoFormerV2MaskedLMHead(self.config, make, bias) if v2 else RoFormerMaskedLMHead(self.config, make)

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
            return self.mlm(take(hidden, positions, layout), self.embeddings.word.weight, None, taps)
        return self.mlm(hidden, self.embeddings.word.weight, layout, taps)


class RoFormerForPretraining(RoFormerForMaskedLM):
    """The encoder with pooler, masked-LM head and sentence-order head."""

    def __init__(
        self,
        config: RoFormerConfig,
        pooler: bool = True,
        dtype: str = "float32",
        fresh: bool = True,
        decoder_bias: bool = True,
    ) -> None:
        super().__init__(config, True, dtype, fresh, decoder_bias)
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
        pooled = self.pool(spread(hidden, layout), taps)
        logits = self.score(hidden, layout, positions, taps)
        order = self.sop(pooled)
        tap(taps, "sop", order)
        return logits, order


class RoFormerForCausalLM(RoFormerForMaskedLM):
    """The encoder with its masked-LM head as a language model. In every class ``attention`` says what a token sees."""


class RoFormerClassifier(Module):
    """Scores of labels, after dropout."""

    def __init__(self, config: RoFormerConfig, labels: int, make: ParameterMaker, bias: bool) -> None:
        super().__init__()
        chosen = config.classifier_dropout
        self.dropout = config.hidden_dropout_prob if chosen is None else chosen
        self.weight = make.normal(kernel_shape(config.hidden_size, labels))
        self.bias = make.constant((labels,), 0.0) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Score x (P, H): (P, C)."""
        return project(drop(x, self.dropout, self.training), self.weight, self.bias)


class RoFormerWithClassifier(RoFormerModel):
    """The encoder with a classifier: what the classes below share.

    Args:
        config: Its ``num_labels`` is C where a class has no number of its own.
        pooler: Whether there is a pooler, where a class may do without.
        dtype: Type of the weights: float32, float64, bfloat16 or float16.
        fresh: Whether weights start at random; False where they are loaded next.
        classifier_bias: Whether the classifier has a bias; PaddleNLP's RoFormerV2 has none where its encoder has none.
    """

    def __init__(
        self,
        config: RoFormerConfig,
        pooler: bool = False,
        dtype: str = "float32",
        fresh: bool = True,
        classifier_bias: bool = True,
    ) -> None:
        super().__init__(config, pooler or self.needs_pooler(config), dtype, fresh)
        make = ParameterMaker(self.config, dtype, fresh)
        self.classifier = RoFormerClassifier(self.config, self.count_labels(), make, classifier_bias)

    @staticmethod
    def needs_pooler(config: RoFormerConfig) -> bool:
        """Say whether there is no such model without a pooler."""
        return False

    def count_labels(self) -> int:
        """Return C."""
        return self.config.num_labels


class RoFormerForSequenceClassification(RoFormerWithClassifier):
    """The encoder with a classifier of its rows, behind the pooler, which RoFormerV2 may lack."""

    @staticmethod
    def needs_pooler(config: RoFormerConfig) -> bool:
        """Say whether there is no such model without a pooler."""
        return config.norm_type == "layer_norm"

    def forward(  # type: ignore[override]  # a head returns what it computes
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_pad_token: bool = False,
        packed: bool = False,
        taps: Taps | None = None,
    ) -> Tensor:
        """Score every label for each row: logits (B, C)."""
        logits = self.classify(input_ids, token_type_ids, attention_mask, mask_pad_token, packed, taps)
        tap(taps, "classifier", logits)
        return logits

    def classify(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        mask_pad_token: bool,
        packed: bool,
        taps: Taps | None,
    ) -> Tensor:
        """Score every label for each row of input_ids (B, T): logits (B, C)."""
        hidden, layout = self.encode(input_ids, token_type_ids, attention_mask, mask_pad_token, packed, taps)
        batch = spread(hidden, layout)
        pooled = self.pool(batch, taps)
        return self.classifier(self.stand_in(batch) if pooled is None else pooled)

    def stand_in(self, hidden: Tensor) -> Tensor:
        """Return what is classified of each row of hidden (B, T, H) without a pooler: (B, H)."""
        return self.summarize(hidden)


class RoFormerForTokenClassification(RoFormerWithClassifier):
    """The encoder with a classifier of its tokens. A pooler that the checkpoint has is kept and not computed."""

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
        """Score every label for each token: logits (B, T, C), or (K, C) at chosen positions."""
        hidden, layout = self.encode(input_ids, token_type_ids, attention_mask, mask_pad_token, packed, taps)
        if positions is not None:
            hidden = take(hidden, positions, layout)
        logits = self.classifier(hidden)
        if positions is None:
            logits = spread(logits, layout)
        tap(taps, "classifier", logits)
        return logits


class RoFormerForQuestionAnswering(RoFormerForTokenClassification):
    """The encoder with two scores of each token: that the answer starts there, then that it ends there."""

    def count_labels(self) -> int:
        """Return C: start and end."""
        return 2


class RoFormerForMultipleChoice(RoFormerForSequenceClassification):
    """The encoder with a score of each choice of a question, behind the pooler where there is one.

    The configuration's ``summary_type`` says what stands for a row.
    """

    @staticmethod
    def needs_pooler(config: RoFormerConfig) -> bool:
        """Say whether there is no such model without a pooler."""
        return False

    def count_labels(self) -> int:
        """Return C: the score."""
        return 1

    def summarize(self, hidden: Tensor) -> Tensor:
        """Take what stands for each row of hidden (B * A, T, H), where padding counts: (B * A, H)."""
        if self.config.summary_type == "mean":
            return average(hidden)
        return hidden[:, -1] if self.config.summary_type == "last" else hidden[:, 0]

    def stand_in(self, hidden: Tensor) -> Tensor:
        """Return what is scored of each row of hidden (B * A, T, H) without a pooler: (B * A, H)."""
        return activate(self.summarize(hidden), self.config.pooler_activation)

    def forward(  # type: ignore[override]  # a head returns what it computes
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_pad_token: bool = False,
        packed: bool = False,
        taps: Taps | None = None,
    ) -> Tensor:
        """Score each choice: logits (B, A). All inputs are (B, A, T)."""
        if len(input_ids.shape) != 3:
            raise ModelError(f"multiple choice takes input_ids (B, choices, T); got {tuple(input_ids.shape)}")
        if packed and self.config.summary_type != "first":
            raise ModelError(
                f"summary_type = {self.config.summary_type} looks at padding, of which a packed batch computes nothing",
                "Leave packed off.",
            )
        types = None if token_type_ids is None else fold(token_type_ids)
        mask = None if attention_mask is None else fold(attention_mask)
        scores = self.classify(fold(input_ids), types, mask, mask_pad_token, packed, taps)
        logits = unfold(scores, input_ids)
        tap(taps, "classifier", logits)
        return logits
