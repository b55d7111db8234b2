"""Activations: one function, its name in each dialect.

Sources: ``ACT2FN`` of transformers 5.23 and of PaddleNLP 2.8.1, what its ``clip`` and ``artist`` set in
``paddle.nn.functional`` when ``paddlenlp.transformers`` is imported, ``activations`` of bert4keras 0.11.5 and of Keras.
"""

from __future__ import annotations

from collections.abc import Mapping

from .mapping import Dialect, Spelling

# fmt: off
#: Canonical activation → what each dialect calls it; None where its software has no such function.
ACTIVATIONS: Mapping[str, Spelling] = {
    "gelu":       Spelling("gelu",    "gelu",       "gelu",       "gelu"),
    "gelu_tanh":  Spelling(None,      "gelu_new",   "gelu_new",   "gelu_tanh"),
    "quick_gelu": Spelling("quick_gelu", "quick_gelu", "quick_gelu", None),  # PaddleNLP puts it into paddle.nn.functional
    "relu":       Spelling("relu",    "relu",       "relu",       "relu"),
    "silu":       Spelling("silu",    "silu",       "silu",       "swish"),
    "mish":       Spelling("mish",    "mish",       "mish",       None),
    "tanh":       Spelling("tanh",    "tanh",       "tanh",       "tanh"),
    "sigmoid":    Spelling("sigmoid", "sigmoid",    "sigmoid",    "sigmoid"),
    "linear":     Spelling("linear",  "linear",     "linear",     "linear"),  # roformer-sim's pooler
}
#: Further names of the same functions, and who has them.
SYNONYMS: Mapping[str, tuple[str, tuple[Dialect, ...]]] = {
    "gelu_python":       ("gelu",      ("torch", "paddle")),
    "gelu_erf":          ("gelu",      ("tf1",)),
    "gelu_new":          ("gelu_tanh", ("torch", "tf", "paddle")),  # in PaddleNLP's heads
    "gelu_pytorch_tanh": ("gelu_tanh", ("torch",)),
    "gelu_python_tanh":  ("gelu_tanh", ("torch",)),
    "gelu_fast":         ("gelu_tanh", ("torch", "tf", "paddle")),  # in PaddleNLP's heads too
    "gelu_accurate":     ("gelu_tanh", ("torch",)),
    "swish":             ("silu",      ("torch", "tf", "paddle", "tf1")),
}
#: Functions that some software computes and the models here do not → in whose files the name means the same.
FURTHER_ACTIVATIONS: Mapping[str, tuple[Dialect, ...]] = {
    "gelu_10": ("torch", "tf"),
    **dict.fromkeys(("laplace", "prelu", "relu2", "relu_squared"), ("torch",)),
    **dict.fromkeys(("leaky_relu", "relu6"), ("torch", "paddle")),
    **dict.fromkeys(("celu", "hardsigmoid", "hardswish", "hardtanh", "log_sigmoid", "tanhshrink"), ("paddle",)),
    **dict.fromkeys(("elu", "selu", "softplus", "softsign"), ("paddle", "tf1")),
    **dict.fromkeys(("exponential", "hard_sigmoid"), ("tf1",)),
}
# fmt: on

#: Every name that some software has.
KNOWN = {
    *ACTIVATIONS,
    *SYNONYMS,
    *FURTHER_ACTIVATIONS,
    *(name for each in ACTIVATIONS.values() for name in each if name is not None),
}


def canonical_activation(name: str, dialect: Dialect) -> str:
    """Translate an activation's name in ``dialect``; an unknown one is returned as it is."""
    for canonical, spelling in ACTIVATIONS.items():
        if spelling.in_(dialect) == name:
            return canonical
    meaning, dialects = SYNONYMS.get(name, (name, ()))
    return meaning if dialect in dialects else name


#: What PaddleNLP's heads and poolers call functions that its encoder, which looks in ``paddle.nn.functional``, has not.
_PADDLES_HEADS = {"gelu_tanh": "gelu_new", "linear": "linear", "gelu_10": "gelu_10"}
#: Functions that the encoder has and the heads' table (``ACT2FN``) has not.
_NOT_IN_PADDLES_HEADS = {*FURTHER_ACTIVATIONS} - {"relu6", "gelu_10"}


def in_paddles_heads(canonical: str) -> bool:
    """Say whether PaddleNLP's heads know a function."""
    return canonical not in _NOT_IN_PADDLES_HEADS


def spell_activation(canonical: str, spelled: str | None, dialect: Dialect, *, in_head: bool = False) -> str | None:
    """Name a function in ``dialect``, as the source ``spelled`` it where that is understood; None where it is unknown.

    Args:
        canonical: The function.
        spelled: Its name in the source.
        dialect: Whose name is wanted.
        in_head: Whether a pooler or a head computes it, and not the encoder.
    """
    if dialect == "paddle" and in_head:
        if canonical in _PADDLES_HEADS:
            return _PADDLES_HEADS[canonical]
        if not in_paddles_heads(canonical):
            return None
    if canonical == "linear" and not in_head and dialect in ("paddle", "tf"):
        return None  # neither's encoder knows it
    if canonical not in ACTIVATIONS:
        return canonical if dialect in FURTHER_ACTIVATIONS.get(canonical, ()) else None
    usual = ACTIVATIONS[canonical].in_(dialect)
    meaning, understood_by = SYNONYMS.get(spelled or "", ("", ()))
    return spelled if meaning == canonical and dialect in understood_by and usual is not None else usual
