"""The RoFormer family's forward pass in numpy and float64, from canonical tensors: the tests' independent judge.

Written from the papers (RoFormer, Su et al. 2021, section 3.4.2; BERT, Devlin et al. 2019; UniLM, Dong et al. 2019) and
from what the family's writers compute, which their own logits confirm; not from ``models/``. Slow and short on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roformer_convert.converters import RoFormerConfig

Array = NDArray[Any]  # what numpy's operators give is Any to the type checker, so results are named before returned


def widen(array: Array) -> Array:
    """Any stored type → float64, exactly; uint16 is bfloat16's bits."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    """Weigh x by the normal distribution's own share below it."""
    weighed: Array = 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))
    return weighed


def _sigmoid(x: Array) -> Array:
    share: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return share


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "linear": lambda x: x,
}


class Forward:
    """One model; every method takes and gives float64.

    Args:
        tensors: Canonical name → array, kernels as (out, in). A bias that is not there is not added.
        config: What is computed.
        table: [sin | cos] (positions, D), where another than the exact one shall be used.
    """

    def __init__(self, tensors: Mapping[str, Array], config: RoFormerConfig, table: Array | None = None) -> None:
        self.tensors = {name: widen(array) for name, array in tensors.items()}
        self.config = config
        self.table = table

    def linear(self, name: str, x: Array) -> Array:
        out: Array = x @ self.tensors[f"{name}.weight"].T
        if f"{name}.bias" in self.tensors:
            out = out + self.tensors[f"{name}.bias"]
        return out

    def norm(self, name: str, x: Array) -> Array:
        if self.config.norm_type == "rms_norm":
            divided: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.layer_norm_eps)
            return divided
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config.layer_norm_eps)
        out: Array = centred / spread * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
        return out

    def rotate(self, x: Array) -> Array:
        """Rotate each adjacent pair of x (B, N, T, D) by position × 10000^(-2i/D)."""
        count, width = x.shape[-2:]
        if self.table is None:
            angle = np.arange(count)[:, None] * 10000.0 ** (-2.0 * np.arange(width // 2) / width)
            sine, cosine = np.sin(angle), np.cos(angle)
        else:
            sine, cosine = self.table[:count, : width // 2], self.table[:count, width // 2 :]
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cosine - x[..., 1::2] * sine
        out[..., 1::2] = x[..., 1::2] * cosine + x[..., 0::2] * sine
        return out

    def sees(self, token_type_ids: Array) -> Array:
        """Which key (last axis) each query (the one before) sees by the kind of attention: (B, T, T)."""
        rows, columns = token_type_ids.shape
        found = np.ones((rows, columns, columns), bool)
        for row, i, j in np.ndindex(found.shape):
            if self.config.attention == "causal":
                found[row, i, j] = j <= i
            elif self.config.attention == "unilm":
                found[row, i, j] = token_type_ids[row, : j + 1].sum() <= token_type_ids[row, : i + 1].sum()
        return found

    def hidden(self, input_ids: Array, token_type_ids: Array, attention_mask: Array) -> Array:
        """Encode tokens (B, T) → (B, T, H)."""
        x = (
            self.tensors["embeddings.word.weight"][input_ids]
            + self.tensors["embeddings.segment.weight"][token_type_ids]
        )
        x = self.norm("embeddings.norm", x)
        if "embeddings.project.weight" in self.tensors:
            x = self.linear("embeddings.project", x)
        seen = self.sees(token_type_ids) & (attention_mask[:, None, :] != 0)
        hide = np.where(seen, 0.0, -1e9)[:, None]
        heads = self.config.num_attention_heads
        activate = ACTIVATIONS[self.config.hidden_act]
        for layer in range(self.config.num_hidden_layers):
            at = f"layers.{layer}."

            def split(y: Array) -> Array:
                apart: Array = y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)
                return apart

            query, key, value = (split(self.linear(f"{at}attention.{name}", x)) for name in ("query", "key", "value"))
            query, key = self.rotate(query), self.rotate(key)
            if self.config.rotary_value:
                value = self.rotate(value)
            score = query @ key.transpose(0, 1, 3, 2) / math.sqrt(self.config.head_size) + hide
            share = np.exp(score - score.max(-1, keepdims=True))
            share /= share.sum(-1, keepdims=True)
            mixed = (share @ value).transpose(0, 2, 1, 3).reshape(x.shape)
            x = self.norm(f"{at}attention_norm", x + self.linear(f"{at}attention.out", mixed))
            wide = activate(self.linear(f"{at}feed_forward.up", x))
            x = self.norm(f"{at}feed_forward_norm", x + self.linear(f"{at}feed_forward.down", wide))
        return x

    def logits(self, hidden: Array) -> Array:
        """Score the vocabulary: (B, T, H) → (B, T, V)."""
        if self.config.norm_type == "layer_norm":
            transformed = ACTIVATIONS[self.config.hidden_act](self.linear("mlm.transform", hidden))
            hidden = self.norm("mlm.norm", transformed)
        scores: Array = hidden @ self.tensors["embeddings.word.weight"].T
        if "mlm.bias" in self.tensors:
            scores = scores + self.tensors["mlm.bias"]
        return scores

    def pooled(self, chosen: Array) -> Array:
        """Map what stands for each row by the pooler: (B, H) → (B, H)."""
        return ACTIVATIONS[self.config.pooler_activation](self.linear("pooler", chosen))

    def pair(self, hidden: Array) -> Array:
        """Probabilities of the sentence pair's order: (B, T, H) → (B, 2)."""
        score = self.linear("sop", self.pooled(hidden[:, 0]))
        share: Array = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        return share

    def row_labels(self, hidden: Array) -> Array:
        """Score the labels of rows: (B, T, H) → (B, C)."""
        chosen = hidden[:, 0]
        return self.linear("classifier", self.pooled(chosen) if "pooler.weight" in self.tensors else chosen)

    def token_labels(self, hidden: Array) -> Array:
        """Score the labels of tokens, or where an answer starts and ends: (B, T, H) → (B, T, C)."""
        return self.linear("classifier", hidden)

    def choices(self, input_ids: Array, token_type_ids: Array, attention_mask: Array) -> Array:
        """Score the choices of questions: (B, A, T) → (B, A)."""
        scores = np.empty(input_ids.shape[:2])
        for question, choice in np.ndindex(scores.shape):
            row = (ids[question, choice][None] for ids in (input_ids, token_type_ids, attention_mask))
            hidden = self.hidden(*row)[0]
            chosen = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[self.config.summary_type]
            if "pooler.weight" in self.tensors:
                chosen = self.linear("pooler", chosen)
            chosen = ACTIVATIONS[self.config.pooler_activation](chosen)
            scores[question, choice] = self.linear("classifier", chosen)[0]
        return scores
