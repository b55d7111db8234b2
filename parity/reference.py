"""A RoFormer of our own in numpy and float64, one step at a time, with a switch for each mistake that people make.

Each step is computed from the activations before it, which come from a framework's own dump: so a step that a framework
computes otherwise is found wherever it is, and what followed from it is not blamed. Shares nothing with the models but
the rotary angles' formula. Source: RoFormer, Su et al. 2021 (arXiv 2104.09864), sections 3.2 and 3.4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.table.config import RoFormerConfig
from ..converters.table.rotary import rotary_angles
from ..models.config import MASKED, tap_names
from .cases import Case

Array = NDArray[Any]


@dataclass(frozen=True)
class Switches:
    """What is computed otherwise; each None or empty for what is right.

    Attributes:
        epsilon: Added to a norm's variance.
        activation: Activation of the feed-forward block and the masked-LM transform.
        pooler_activation: Activation of the pooler.
        rotation: ``half`` pairs i with i + D/2, ``backwards`` turns the other way, ``none`` does not rotate.
        rotary_value: Whether values are rotated.
        transposed: Kernels that are used the wrong way round.
        no_bias: Biases that are left out.
        types: ``ignored`` takes type 0 throughout, ``absent`` adds no type.
        word_shift: Rows that the word embedding is shifted by.
        masked: Added to a masked key's score.
        mask: ``ignored``; ``inverted`` masks the real keys; ``pad`` also masks keys that are token 0.
        scaled: Whether scores are divided by the root of the head size.
    """

    epsilon: float | None = None
    activation: str | None = None
    pooler_activation: str | None = None
    rotation: str | None = None
    rotary_value: bool | None = None
    transposed: frozenset[str] = frozenset()
    no_bias: frozenset[str] = frozenset()
    types: str | None = None
    word_shift: int = 0
    masked: float | None = None
    mask: str | None = None
    scaled: bool = True


RIGHT = Switches()


def _erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.ravel()]).reshape(x.shape)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "linear": lambda x: x,
}


class Reference:
    """One model's steps.

    Args:
        config: With activations under the table's names.
        parameters: Canonical name → array, kernels as (out, in), in float64.
    """

    def __init__(self, config: RoFormerConfig, parameters: Mapping[str, Array]) -> None:
        self.config = config
        self.parameters = parameters

    def names(self, *, mlm: bool, sop: bool) -> list[str]:
        """Name the steps in their order."""
        return tap_names(self.config, pooler="pooler.weight" in self.parameters, mlm=mlm, sop=sop)

    def predict(self, name: str, taps: Mapping[str, Array], case: Case, switches: Switches = RIGHT) -> Array:
        """Compute one tap from the taps before it."""
        module = name.rpartition(".")[2]
        if name == "embeddings":
            return self._embed(case, switches)
        if name.startswith("layers."):
            layer = name.split(".")[1]
            before = taps["embeddings" if layer == "0" else f"layers.{int(layer) - 1}.feed_forward_norm"]
            if module in ("query", "key", "value"):
                return self._project_heads(name, before, switches)
            if module == "out":
                return self._attend(name, taps, case, switches)
            if module == "attention_norm":
                change = taps[f"layers.{layer}.attention.out"]
                return self._norm(name, before + change, switches)
            middle = taps[f"layers.{layer}.attention_norm"]
            if module == "feed_forward":
                inner = self._activate(self._linear(f"{name}.up", middle, switches), switches)
                return self._linear(f"{name}.down", inner, switches)
            return self._norm(name, middle + taps[f"layers.{layer}.feed_forward"], switches)
        last = self._hidden(taps)
        if name == "pooler":
            activation = switches.pooler_activation or self.config.pooler_activation
            return ACTIVATIONS[activation](self._linear("pooler", last[:, 0], switches))
        if name == "mlm.transform":
            chosen = last if case.positions is None else last.reshape(-1, last.shape[-1])[case.positions]
            return self._activate(self._linear(name, chosen, switches), switches)
        if name == "mlm.norm":
            return self._norm(name, taps["mlm.transform"], switches)
        if name == "logits":
            scores: Array = (
                taps["mlm.norm"] @ np.roll(self.parameters["embeddings.word.weight"], switches.word_shift, 0).T
            )
            return scores if "mlm.bias" in switches.no_bias else scores + self.parameters["mlm.bias"]
        assert name == "sop", name
        return self._linear(name, taps["pooler"], switches)

    def _hidden(self, taps: Mapping[str, Array]) -> Array:
        count = self.config.num_hidden_layers
        return taps[f"layers.{count - 1}.feed_forward_norm" if count else "embeddings"]

    def _linear(self, name: str, x: Array, switches: Switches) -> Array:
        weight = self.parameters[f"{name}.weight"]
        out: Array = x @ (weight if f"{name}.weight" in switches.transposed else weight.T)
        return out if f"{name}.bias" in switches.no_bias else out + self.parameters[f"{name}.bias"]

    def _activate(self, x: Array, switches: Switches) -> Array:
        return ACTIVATIONS[switches.activation or self.config.hidden_act](x)

    def _norm(self, name: str, x: Array, switches: Switches) -> Array:
        epsilon = self.config.layer_norm_eps if switches.epsilon is None else switches.epsilon
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        out: Array = normal * self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]
        return out

    def _embed(self, case: Case, switches: Switches) -> Array:
        x = np.roll(self.parameters["embeddings.word.weight"], switches.word_shift, 0)[case.input_ids]
        segments = self.parameters["embeddings.segment.weight"]
        if switches.types != "absent":
            types = case.token_type_ids
            x = x + (segments[0] if types is None or switches.types == "ignored" else segments[types])
        x = self._norm("embeddings.norm", x, switches)
        return self._linear("embeddings.project", x, switches) if "embeddings.project.weight" in self.parameters else x

    def _project_heads(self, name: str, x: Array, switches: Switches) -> Array:
        rows, columns, width = x.shape
        heads = self._linear(name, x, switches).reshape(rows, columns, self.config.num_attention_heads, -1)
        rotated = self.config.rotary_value if switches.rotary_value is None else switches.rotary_value
        if name.endswith("value") and not rotated:
            return heads
        angles = rotary_angles(columns, width // self.config.num_attention_heads)[:, None, :]
        cosine, sine = np.cos(angles), np.sin(angles)
        if switches.rotation == "none":
            return heads
        if switches.rotation == "backwards":
            sine = -sine
        half = heads.shape[-1] // 2
        by_halves = switches.rotation == "half"
        a, b = (heads[..., :half], heads[..., half:]) if by_halves else (heads[..., 0::2], heads[..., 1::2])
        pair = (a * cosine - b * sine, b * cosine + a * sine)
        return np.concatenate(pair, -1) if by_halves else np.stack(pair, -1).reshape(heads.shape)

    def _attend(self, name: str, taps: Mapping[str, Array], case: Case, switches: Switches) -> Array:
        prefix = name.removesuffix("out")
        query, key, value = (taps[prefix + part].transpose(0, 2, 1, 3) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2)
        if switches.scaled:
            scores = scores / math.sqrt(query.shape[-1])
        if case.attention_mask is not None or switches.mask == "pad":
            real = np.ones_like(case.input_ids) if case.attention_mask is None else case.attention_mask
            if switches.mask == "pad":
                real = real * (case.input_ids != 0)
            hidden = (real != 0) if switches.mask == "inverted" else (real == 0)
            if switches.mask != "ignored":
                masked = MASKED if switches.masked is None else switches.masked
                scores = scores + hidden[:, None, None, :] * masked
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        context = (weights @ value).transpose(0, 2, 1, 3)
        return self._linear(name, context.reshape(*context.shape[:2], -1), switches)
