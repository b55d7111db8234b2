"""A RoFormer of our own in numpy and float64, one step at a time, with a switch for each mistake that people make.

Each step is computed from the activations before it, which come from a framework's own dump: so a step that a framework
computes otherwise is found wherever it is, and what followed from it is not blamed. Shares nothing with the models but
the rotary angles' formula. Sources: RoFormer, Su et al. 2021 (arXiv 2104.09864), sections 3.2 and 3.4.2; RoFormerV2's
norm and the UniLM mask as bert4keras 0.11.5 computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.table.config import RoFormerConfig
from ...converters.table.rotary import rotary_angles
from ...models.config import MASKED
from ..questions.cases import Case
from ..questions.tasks import Task

Array = NDArray[Any]


@dataclass(frozen=True)
class Switches:
    """What is computed otherwise; each None or empty for what is right.

    Attributes:
        epsilon: Added to a norm's variance, or to its mean square.
        centred: Whether a norm subtracts the mean.
        activation: Activation of the feed-forward block and the masked-LM transform.
        pooler_activation: Activation of the pooler, and of multiple choice without one.
        position: Which hidden state of a row is pooled: ``first``, ``last``, ``last real`` or ``mean``.
        rotation: ``half`` pairs i with i + D/2, ``backwards`` turns the other way, ``none`` does not rotate.
        rotary_value: Whether values are rotated.
        first: The position of a row's first token.
        transposed: Kernels that are used the wrong way round.
        no_bias: Biases that are left out.
        negated: Linear modules whose kernel has the other sign, and norms that subtract where they should add.
        types: ``ignored`` takes type 0 throughout, ``absent`` adds no type.
        word_shift: Rows that the word embedding is shifted by.
        masked: Added to a masked key's score.
        mask: ``ignored``; ``inverted`` masks the real keys; ``pad`` also masks keys that are token 0.
        attention: Which keys a query sees.
        scaled: Whether scores are divided by the root of the head size.
        order: The order in which a classifier's scores come; empty for the right one.
    """

    epsilon: float | None = None
    centred: bool | None = None
    activation: str | None = None
    pooler_activation: str | None = None
    position: str | None = None
    rotation: str | None = None
    rotary_value: bool | None = None
    first: int = 0
    transposed: frozenset[str] = frozenset()
    no_bias: frozenset[str] = frozenset()
    negated: frozenset[str] = frozenset()
    types: str | None = None
    word_shift: int = 0
    masked: float | None = None
    mask: str | None = None
    attention: str | None = None
    scaled: bool = True
    order: tuple[int, ...] = ()


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
        parameters: Canonical name → array, kernels as (out, in), in float64. A norm without parameters, a kernel or a
            classifier without a bias and a head without a pooler are computed as what they are.
        task: What the model's class computes.
        rounded: What a type leaves of a number, called with every array that a framework stores on the way.
    """

    def __init__(
        self,
        config: RoFormerConfig,
        parameters: Mapping[str, Array],
        task: Task,
        rounded: Callable[[Array], Array] = lambda x: x,
    ) -> None:
        self.config = config
        self.parameters = parameters
        self.task = task
        self.rounded = rounded

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
                return self._add_norm(name, before, taps[f"layers.{layer}.attention.out"], switches)
            middle = taps[f"layers.{layer}.attention_norm"]
            if module == "feed_forward":
                inner = self._activate(self._linear(f"{name}.up", middle, switches), switches)
                return self._linear(f"{name}.down", inner, switches)
            return self._add_norm(name, middle, taps[f"layers.{layer}.feed_forward"], switches)
        if name == "pooler":
            return self._activate_pooled(self._linear(name, self._pick(taps, case, switches), switches), switches)
        if name == "mlm.transform":
            return self._activate(self._linear(name, self._chosen(taps, case), switches), switches)
        if name == "mlm.norm":
            return self._norm(name, taps["mlm.transform"], switches)
        if name == "logits":
            word = self._words(switches)
            return self._add_bias("mlm", self.rounded(self.scored(taps, case) @ word.T), switches)
        if name == "classifier":
            return self._classify(taps, case, switches)
        assert name == "sop", name
        return self._linear(name, taps["pooler"], switches)

    def scored(self, taps: Mapping[str, Array], case: Case) -> Array:
        """Return what is multiplied by the word embedding: RoFormerV2 takes the hidden states themselves."""
        return taps["mlm.norm"] if "mlm.norm" in taps else self._chosen(taps, case)

    def _chosen(self, taps: Mapping[str, Array], case: Case) -> Array:
        last = self._hidden(taps)
        return last if case.positions is None else last.reshape(-1, last.shape[-1])[case.positions]

    def _pick(self, taps: Mapping[str, Array], case: Case, switches: Switches) -> Array:
        """Return the hidden state of each row that stands for it: (B, H)."""
        last = self._hidden(taps)
        position = switches.position or (self.config.summary_type if self.task.head == "options" else "first")
        if position == "mean":
            return self.rounded(last.mean(1))
        if position == "last real" and case.attention_mask is not None:
            real = case.attention_mask.reshape(-1, case.attention_mask.shape[-1]) != 0
            place = real.shape[1] - 1 - real[:, ::-1].argmax(1)
        else:
            place = np.full(len(last), 0 if position == "first" else -1)
        picked: Array = last[np.arange(len(last)), place]
        return picked

    def _classify(self, taps: Mapping[str, Array], case: Case, switches: Switches) -> Array:
        if self.task.head in ("token labels", "spans"):
            x = self._hidden(taps)
        elif "pooler" in taps:
            x = taps["pooler"]
        else:
            x = self._pick(taps, case, switches)
            if self.task.head == "options":
                x = self._activate_pooled(x, switches)
        scores = self._linear("classifier", x, switches)
        if self.task.head == "options":
            scores = scores.reshape(case.input_ids.shape[:-1])
        return scores[..., list(switches.order)] if switches.order else scores

    def _hidden(self, taps: Mapping[str, Array]) -> Array:
        count = self.config.num_hidden_layers
        return taps[f"layers.{count - 1}.feed_forward_norm" if count else "embeddings"]

    def _linear(self, name: str, x: Array, switches: Switches) -> Array:
        weight = self.parameters[f"{name}.weight"]
        product = x @ (weight if f"{name}.weight" in switches.transposed else weight.T) * _sign(name, switches)
        return self._add_bias(name, self.rounded(product), switches)

    def _add_bias(self, name: str, x: Array, switches: Switches) -> Array:
        bias = None if f"{name}.bias" in switches.no_bias else self.parameters.get(f"{name}.bias")
        return x if bias is None else self.rounded(x + bias)

    def _activate(self, x: Array, switches: Switches) -> Array:
        return self.rounded(ACTIVATIONS[switches.activation or self.config.hidden_act](x))

    def _activate_pooled(self, x: Array, switches: Switches) -> Array:
        return self.rounded(ACTIVATIONS[switches.pooler_activation or self.config.pooler_activation](x))

    def _add_norm(self, name: str, x: Array, change: Array, switches: Switches) -> Array:
        return self._norm(name, self.rounded(x + _sign(name, switches) * change), switches)

    def _norm(self, name: str, x: Array, switches: Switches) -> Array:
        epsilon = self.config.layer_norm_eps if switches.epsilon is None else switches.epsilon
        centred = self.config.norm_type == "layer_norm" if switches.centred is None else switches.centred
        if centred:
            x = x - x.mean(-1, keepdims=True)
        normal = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        weight = self.parameters.get(f"{name}.weight")
        return self._add_bias(name, self.rounded(normal if weight is None else normal * weight), switches)

    def _embed(self, case: Case, switches: Switches) -> Array:
        words = self._words(switches)
        x = words[case.input_ids.reshape(-1, case.input_ids.shape[-1])]
        segments = self.parameters["embeddings.segment.weight"]
        if switches.types != "absent":
            x = x + segments[np.zeros_like(_types(case)) if switches.types == "ignored" else _types(case)]
        x = self._norm("embeddings.norm", self.rounded(x), switches)
        return self._linear("embeddings.project", x, switches) if "embeddings.project.weight" in self.parameters else x

    def _words(self, switches: Switches) -> Array:
        words = self.parameters["embeddings.word.weight"]
        return np.roll(words, switches.word_shift, 0) if switches.word_shift else words

    def _project_heads(self, name: str, x: Array, switches: Switches) -> Array:
        rows, columns, width = x.shape
        heads = self._linear(name, x, switches).reshape(rows, columns, self.config.num_attention_heads, -1)
        rotated = self.config.rotary_value if switches.rotary_value is None else switches.rotary_value
        if name.endswith("value") and not rotated:
            return heads
        size = width // self.config.num_attention_heads
        angles = rotary_angles(columns, size, first=switches.first)[:, None, :]
        cosine, sine = np.cos(angles), np.sin(angles)
        if switches.rotation == "none":
            return heads
        if switches.rotation == "backwards":
            sine = -sine
        half = heads.shape[-1] // 2
        by_halves = switches.rotation == "half"
        a, b = (heads[..., :half], heads[..., half:]) if by_halves else (heads[..., 0::2], heads[..., 1::2])
        pair = (a * cosine - b * sine, b * cosine + a * sine)
        turned = np.concatenate(pair, -1) if by_halves else np.stack(pair, -1).reshape(heads.shape)
        return self.rounded(turned)

    def _attend(self, name: str, taps: Mapping[str, Array], case: Case, switches: Switches) -> Array:
        prefix = name.removesuffix("out")
        query, key, value = (taps[prefix + part].transpose(0, 2, 1, 3) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2)
        if switches.scaled:
            scores = scores / math.sqrt(query.shape[-1])
        visible = self._visible(case, switches)
        masked = MASKED if switches.masked is None else switches.masked
        scores = self.rounded(scores + np.where(visible, 0.0, masked)[:, None])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = self.rounded(weights / weights.sum(-1, keepdims=True))
        context = self.rounded(weights @ value).transpose(0, 2, 1, 3)
        return self._linear(name, context.reshape(*context.shape[:2], -1), switches)

    def _visible(self, case: Case, switches: Switches) -> NDArray[np.bool_]:
        """Say which keys each query sees: (B, T, T), or (B, 1, T) where it is the same for all."""
        words = case.input_ids.reshape(-1, case.input_ids.shape[-1])
        real = np.ones(words.shape, bool)
        if case.attention_mask is not None and switches.mask != "ignored":
            real = (case.attention_mask.reshape(words.shape) != 0) != (switches.mask == "inverted")
        if switches.mask == "pad":
            real = real & (words != 0)
        attention = switches.attention or self.config.attention
        if attention == "bidirectional":
            return real[:, None, :]
        if attention == "causal":
            place = np.broadcast_to(np.arange(words.shape[1]), words.shape)
        else:  # UniLM: the running sum of the token types says which stretch a token is in
            place = np.cumsum(_types(case), -1)
        seen: NDArray[np.bool_] = (place[:, None, :] <= place[:, :, None]) & real[:, None, :]
        return seen


def _sign(name: str, switches: Switches) -> float:
    return -1.0 if name in switches.negated else 1.0


def _types(case: Case) -> NDArray[np.int64]:
    """Return the token types (B, T), type 0 where a case has none; multiple choice's options are rows of their own."""
    types = np.zeros_like(case.input_ids) if case.token_type_ids is None else case.token_type_ids
    return types.reshape(-1, types.shape[-1])
