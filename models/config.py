"""What the three models share that needs no framework: the configuration, the shape glossary, the limits and names.

:class:`RoFormerConfig` is the converters' own: there is one. Everything here is plain Python and numpy, so that Paddle,
PyTorch and TensorFlow read the same number from the same place.

Shape glossary, used in every docstring of ``roformer_*.py``:

    B  rows of a batch              H  hidden_size
    T  columns of a batch           N  num_attention_heads
    P  tokens that are computed:    D  head size, H / N
       B * T, or fewer if packed    F  intermediate_size
    K  chosen positions             E  embedding_size
    L  num_hidden_layers            V  vocab_size
    A  choices of a question        S  type_vocab_size
                                    C  num_labels
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from ..converters.errors import ConvertError
from ..converters.table.activations import ACTIVATIONS, SYNONYMS
from ..converters.table.config import Attention, NormType, RoFormerConfig, SummaryType

__all__ = [
    "MASKED",
    "LengthError",
    "ModelError",
    "RoFormerConfig",
    "activation",
    "check_length",
    "pad_token",
    "supported",
    "tap_names",
    "with_limit",
]

#: Added to the score of a key that is masked. float16 holds it with any score beside it (its largest is 65504), in
#: every type exp(MASKED) is exactly 0 beside one real key, and a row with no real key at all stays finite.
MASKED = -1e4

_KINDS = {"attention": get_args(Attention), "norm_type": get_args(NormType), "summary_type": get_args(SummaryType)}


class ModelError(ConvertError):
    """A model is asked for what it does not compute."""


class LengthError(ModelError):
    """A sequence is longer than the rotary table."""


def check_length(length: int | None, config: RoFormerConfig) -> None:
    """Refuse a sequence past the limit; a length that is unknown while a graph is traced (None, -1) passes.

    Raises:
        LengthError: ``length`` is above ``max_position_embeddings``.
    """
    limit = config.max_position_embeddings
    if length is not None and length > limit:
        raise LengthError(
            f"a sequence of {length} tokens; the limit is {limit} (max_position_embeddings in the configuration)",
            f"Shorten the text, or raise the limit: from_pretrained(..., extend_to={length}), --max-length {length}.",
        )


def pad_token(config: RoFormerConfig) -> int:
    """Return the token that padding consists of.

    Raises:
        ModelError: The configuration names none.
    """
    if config.pad_token_id is None:
        raise ModelError(
            "mask_pad_token asks for the configuration's pad_token_id, which is null", "Pass an attention_mask instead."
        )
    return config.pad_token_id


def with_limit(config: RoFormerConfig, extend_to: int | None) -> RoFormerConfig:
    """Raise ``max_position_embeddings`` to ``extend_to`` tokens: rotation has no weights, so any length works."""
    if extend_to is None or extend_to <= config.max_position_embeddings:
        return config
    return replace(config, max_position_embeddings=extend_to)


def supported(config: RoFormerConfig) -> RoFormerConfig:
    """Return a configuration that the models compute, activations under the table's names.

    Raises:
        ModelError: An unknown activation, kind of attention, of norm or of summary, or a head size that is odd or no
            whole number.
    """
    for field, known in _KINDS.items():
        if getattr(config, field) not in known:
            raise ModelError(f"{field} = {getattr(config, field)!r} is not known", f"Known: {', '.join(known)}.")
    if config.hidden_size % config.num_attention_heads or config.head_size % 2:
        raise ModelError(
            f"num_attention_heads = {config.num_attention_heads} must divide hidden_size = {config.hidden_size} "
            "into an even head size: rotation turns pairs"
        )
    return replace(
        config,
        hidden_act=activation(config.hidden_act, "hidden_act"),
        pooler_activation=activation(config.pooler_activation, "pooler_activation"),
    )


def activation(name: str, field: str) -> str:
    """Translate an activation's name in any dialect to the table's.

    Raises:
        ModelError: No function of that name is known.
    """
    if name in ACTIVATIONS:
        return name
    for canonical, spelling in ACTIVATIONS.items():
        if name in spelling:
            return canonical
    if name in SYNONYMS:
        return SYNONYMS[name][0]
    known = sorted({*ACTIVATIONS, *SYNONYMS, *(s for spelling in ACTIVATIONS.values() for s in spelling if s)})
    raise ModelError(f"{field} = {name!r} is not known", f"Known: {', '.join(known)}.")


def tap_names(config: RoFormerConfig, *, pooler: bool, mlm: bool, sop: bool, classifier: bool = False) -> list[str]:
    """Names of the activations that ``taps`` records, in the order in which they are computed.

    A name is that of the module whose output it is; queries, keys and values are taken after their rotation, split
    into heads (B, T, N, D). Everything else is (B, T, H), but ``pooler`` (B, H), ``mlm.transform`` and ``mlm.norm``
    (B, T, E), ``logits`` (B, T, V), ``sop`` (B, 2) and ``classifier``, (B, C) of rows, (B, T, C) of tokens and (B, A)
    of choices; with ``positions``, K stands in place of B, T in the head. RoFormerV2's masked-LM head is ``logits``
    alone. Of choices, B * A stands in place of B before the classifier.
    """
    names = ["embeddings"]
    for i in range(config.num_hidden_layers):
        names += [
            f"layers.{i}.attention.query",
            f"layers.{i}.attention.key",
            f"layers.{i}.attention.value",
            f"layers.{i}.attention.out",
            f"layers.{i}.attention_norm",
            f"layers.{i}.feed_forward",
            f"layers.{i}.feed_forward_norm",
        ]
    names += ["pooler"] * pooler
    names += ["mlm.transform", "mlm.norm"] * (mlm and config.norm_type == "layer_norm")
    names += ["logits"] * mlm
    names += ["sop"] * sop
    names += ["classifier"] * classifier
    return names
