"""What a field of the configuration may be, and ``--set``: what a person says in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from ..errors import ConvertError, quoted
from ..json_input import Json, parse_value
from .activations import ACTIVATIONS, KNOWN
from .config import Attention, NormType, RoFormerConfig, SummaryType

_MOST_LAYERS = 4096
_LARGEST_SIZE = 1 << 31
_SHORT = 40  # characters; no number of a configuration is longer

ACTIVATION_FIELDS = ("hidden_act", "pooler_activation")
_ANNOTATIONS = RoFormerConfig.__annotations__
_INTEGER = {name for name, kind in _ANNOTATIONS.items() if kind.startswith("int")}
_BOOLEAN = {name for name, kind in _ANNOTATIONS.items() if kind == "bool"}
_MAY_BE_NONE = {name for name, kind in _ANNOTATIONS.items() if kind.endswith("None")}
_PROBABILITY = {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"}
_WORDS: Mapping[str, tuple[str, ...]] = {
    "attention": get_args(Attention),
    "norm_type": get_args(NormType),
    "summary_type": get_args(SummaryType),
    "problem_type": ("regression", "single_label_classification", "multi_label_classification"),
}
#: From zero; every other integer from one.
_FROM_ZERO = ("pad_token_id", "eos_token_id", "num_hidden_layers")


def complaint(name: str, value: Any) -> str:
    """Say what ``value`` should have been, or nothing where it is fine."""
    if value is None and name in _MAY_BE_NONE:
        return ""
    if name in _INTEGER:
        least, most = int(name not in _FROM_ZERO), _MOST_LAYERS if name == "num_hidden_layers" else _LARGEST_SIZE
        if type(value) is not int or not least <= value <= most:
            return f"an integer from {least} to {most:,}"
    elif name in _BOOLEAN:
        if type(value) is not bool:
            return "true or false"
    elif name in ACTIVATION_FIELDS:
        if type(value) is not str or value not in KNOWN:
            return f"an activation's name: {', '.join(ACTIVATIONS)} or one of the dialects' own"
    elif name in _WORDS:
        if value not in _WORDS[name]:
            return " or ".join(_WORDS[name])
    elif name == "labels":
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
            return "a list of names"
    elif type(value) not in (int, float) or not 0 <= value < 1e30:
        return "a number of at least 0"
    elif name in _PROBABILITY and value > 1:
        return "a probability"
    return ""


def parse_settings(texts: Iterable[str]) -> Json:
    """``["pooler_activation=linear", "rotary_value=true"]`` → field name → value, as its field's type.

    Raises:
        ConvertError: Not FIELD=VALUE, no such field, or a field given twice.
    """
    given: Json = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConvertError(f"--set {quoted(text)}: want FIELD=VALUE", "For example --set pooler_activation=linear")
        if name in given:
            raise ConvertError(f"--set gives {name} twice")
        given[name] = value
        if name not in ACTIVATION_FIELDS and (len(value) < _SHORT or name == "labels"):
            with contextlib.suppress(
                ValueError, RecursionError
            ):  # text: what the field wants is said where it is checked
                given[name] = parse_value(value)
    return given


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse what no field can be set to.

    Raises:
        ConvertError: There is no such field, or its value is wrong.
    """
    for name, value in given.items():
        if name not in _ANNOTATIONS:
            raise ConvertError(f"--set {quoted(name)}: no field of this name", f"Fields: {', '.join(_ANNOTATIONS)}.")
        wrong = complaint(name, value)
        if wrong:
            raise ConvertError(f"--set {name}: got {quoted(value)}, want {wrong}")
