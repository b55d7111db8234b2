"""One small random model of every class and trait of the family, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from random_checkpoints import CONFIG, UNPROJECTED, Tensors, random_array

from roformer_convert.converters import RoFormerConfig, save_checkpoint
from roformer_convert.converters.table.mapping import CLASSES, PRETRAINING, PROJECT, SOP, Dialect, ModelClass, Table


@dataclass(frozen=True)
class FamilyModel:
    """One model.

    Attributes:
        kind: Its class.
        config: Its configuration.
        pooler: Whether it has a pooler, where its class may do without.
        head_bias: Whether its head has a bias, where RoFormerV2 may do without.
    """

    kind: ModelClass
    config: RoFormerConfig
    pooler: bool
    head_bias: bool = True

    def tensors(self) -> Tensors:
        """Make every tensor, at random and in float64's values of float32."""
        found = {}
        for tensor in Table.of(self.config, self.kind).tensors:
            absent = tensor.group is PROJECT and self.config.embedding_size == self.config.hidden_size
            absent = absent or (tensor.canonical.startswith("pooler.") and not self.pooler)
            absent = absent or (tensor.canonical in ("classifier.bias", "mlm.bias") and not self.head_bias)
            absent = absent or (tensor.group is SOP and self.kind is not PRETRAINING)
            if not absent:
                found[tensor.canonical] = random_array(tensor.canonical, tensor.shape(self.config.sizes))
        return found

    def write(self, directory: Path, dialect: Dialect = "torch", tensors: Tensors | None = None) -> Tensors:
        """Write it as a checkpoint, whatever the dialect's own software would compute; return its tensors."""
        tensors = self.tensors() if tensors is None else tensors
        save_checkpoint(directory, tensors, self.config, dialect=dialect, kind=self.kind, allow_different=True)
        return tensors


def _model(kind: str, pooler: bool = False, *, v2: bool = False, **traits: Any) -> FamilyModel:
    config = replace(CONFIG, num_labels=6, num_choices=3, layer_norm_eps=1e-6)
    if v2:  # without a projection, for the embedding is the decoder
        config = replace(UNPROJECTED, num_labels=6, num_choices=3, norm_type="rms_norm", hidden_act="relu")
        traits = {"use_bias": False, **traits}
    bias = traits.pop("head_bias", True)
    return FamilyModel(CLASSES[kind], replace(config, **traits), pooler, bias)


# fmt: off
MODELS: Mapping[str, FamilyModel] = {
    "base":                          _model("base"),
    "base, linear pooler":           _model("base", True, pooler_activation="linear"),
    "base, UniLM, linear pooler":    _model("base", True, attention="unilm", pooler_activation="linear"),
    "base V2":                       _model("base", v2=True),
    "masked LM":                     _model("masked-lm", rotary_value=True),
    "masked LM without biases":      _model("masked-lm", use_bias=False),
    "masked LM V2":                  _model("masked-lm", v2=True),
    "masked LM V2 with biases":      _model("masked-lm", v2=True, use_bias=True),
    "masked LM V2, kernels' biases": _model("masked-lm", v2=True, use_bias=True, head_bias=False),
    "pretraining":                   _model("pretraining", True),
    "causal LM":                     _model("causal-lm", attention="causal"),
    "causal LM with a pooler":       _model("causal-lm", True, attention="causal"),
    "causal LM, UniLM":              _model("causal-lm", attention="unilm"),
    "causal LM V2":                  _model("causal-lm", v2=True, attention="causal"),
    "labels":                        _model("sequence-classification", True, pooler_activation="gelu"),
    "labels, causal":                _model("sequence-classification", True, attention="causal"),
    "many labels":                   _model("sequence-classification", True, pooler_activation="gelu",
                                            problem_type="multi_label_classification"),
    "a number":                      _model("sequence-classification", True, pooler_activation="gelu", num_labels=1),
    "labels V2":                     _model("sequence-classification", True, v2=True),
    "labels V2, first token alone":  _model("sequence-classification", v2=True, head_bias=False),
    "token labels":                  _model("token-classification"),
    "token labels, unused pooler":   _model("token-classification", True),
    "token labels V2":               _model("token-classification", v2=True),
    "answers":                       _model("question-answering"),
    "answers V2, UniLM":             _model("question-answering", v2=True, attention="unilm"),
    "choices, first":                _model("multiple-choice", True),
    "choices, last, no projection":  _model("multiple-choice", summary_type="last", pooler_activation="linear"),
    "choices, mean, activation":     _model("multiple-choice", summary_type="mean"),
    "choices V2":                    _model("multiple-choice", v2=True, pooler_activation="linear"),
}
# fmt: on
