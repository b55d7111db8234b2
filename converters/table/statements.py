"""What a configuration may say of the function that is the same in every RoFormer: all else is another model's.

A model of another kind may have the same tensors (NEZHA has), and its configuration is then all that tells.

Sources: the configurations of the models that are named beside each key, in transformers 5.23, PaddleNLP 2.8.1 and
bert4keras 0.11.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Problem

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Statement:
    """A key with which a configuration says something of the function that is the same in every RoFormer.

    Attributes:
        key: Its name, in whichever dialect.
        agrees: Whether a value, in a file of these settings, says what RoFormer computes.
        want: Such a value, for messages.
        here: What RoFormer computes.
    """

    key: str
    agrees: Callable[[Any, Json], bool]
    want: str
    here: str


def _only(*values: Any) -> Callable[[Any, Json], bool]:
    return lambda value, _: value in values


def _head_size(value: Any, settings: Json) -> bool:
    hidden, heads = settings.get("hidden_size"), settings.get("num_attention_heads", 12)
    return type(value) is int and type(heads) is int and value * heads == hidden


def _plain_rotation(value: Any, _: Json) -> bool:
    """Say whether transformers' description of a rotation says the paper's own, unscaled."""
    plain = {"rope_type": ("default",), "type": ("default",), "rope_theta": (10000,), "factor": (1,)}
    plain["partial_rotary_factor"] = (1,)
    return isinstance(value, dict) and all(each in plain.get(key, ()) for key, each in value.items())


#: transformers' and PaddleNLP's way to name a class; what comes before is the model.
_CLASS = re.compile(r"(?:TF|Flax)?(\w+?)(?:Model|PreTrainedModel|PretrainedModel|LMHeadModel|For[A-Z]\w*)")


def _roformers_class(value: Any, settings: Json) -> bool:
    """Say whether no other model's class is named; where ``model_type`` is there, it decides, whatever the classes."""
    names = value if isinstance(value, list) else [value]
    models = [_CLASS.fullmatch(name) for name in names if isinstance(name, str)]
    others = [model for model in models if model is not None and model[1].lower() not in ("roformer", "roformerv2")]
    return settings.get("model_type") is not None or not others


_ROTATED = "positions rotate queries and keys"
_PAPERS = "the rotation is the paper's"
_NORMED = "norms follow the residual sums, subtract the mean, and have a weight and a bias"
_BIASED = "every kernel has its bias"
_OWN = "every layer has tensors of its own"
_HEADS = "heads share the hidden size evenly"
_PLAIN = "every token attends to every other, by the product of query and key alone"

# fmt: off
#: What a configuration may say of the function, whose it is, and what RoFormer computes: all else is another model's.
FUNCTION: tuple[Statement, ...] = (
    Statement("model_type",                     _only("roformer", "roformerv2"),       '"roformer"',      "the table is RoFormer's"),
    Statement("architectures",                  _roformers_class,                      "RoFormer's",      "the table is RoFormer's"),
    Statement("init_class",                     _roformers_class,                      "RoFormer's",      "the table is RoFormer's"),   # PaddleNLP before 2.4
    Statement("position_embedding_type",        _only("rotary", "rope"),               '"rotary"',        _ROTATED),  # BERT and its kin in transformers
    Statement("use_rotary_position",            _only(True),                           "true",            _ROTATED),  # JunnYu's first releases
    Statement("use_relative_position",          _only(False),                          "false",           _ROTATED),  # NEZHA
    Statement("max_relative_position",          _only(),                               "none",            _ROTATED),  # NEZHA in transformers and PaddleNLP
    Statement("relative_attention",             _only(False),                          "false",           _ROTATED),  # DeBERTa
    Statement("max_relative_positions",         _only(-1, 0),                          "none",            _ROTATED),  # DeBERTa
    Statement("relative_attention_num_buckets", _only(),                               "none",            _ROTATED),  # MPNet
    Statement("hierarchical_position",          _only(False),                          "none",            _ROTATED),  # bert4keras
    Statement("rope_theta",                     _only(10000),                          "10000",           _PAPERS),   # this and the next: transformers
    Statement("rope_scaling",                   _plain_rotation,                       "none",            _PAPERS),
    Statement("rope_parameters",                _plain_rotation,                       "none",            _PAPERS),
    Statement("rotary_emb_base",                _only(10000),                          "10000",           _PAPERS),   # GPT-NeoX
    Statement("rotary_emb_fraction",            _only(1),                              "1",               _PAPERS),   # NomicBERT
    Statement("rotary_pct",                     _only(1),                              "1",               _PAPERS),   # GPT-NeoX
    Statement("partial_rotary_factor",          _only(1),                              "1",               _PAPERS),
    Statement("rotary_dim",                     _head_size,                            "the head size",   _PAPERS),   # GPT-J
    Statement("rotary_emb_interleaved",         _only(True),                           "true",            "the rotation turns neighbours, not halves"),  # NomicBERT
    Statement("normalize_before",               _only(False),                          "false",           _NORMED),   # PaddleNLP
    Statement("pre_norm",                       _only(False),                          "false",           _NORMED),
    Statement("norm_first",                     _only(False),                          "false",           _NORMED),   # PyTorch
    Statement("prenorm",                        _only(False),                          "false",           _NORMED),   # NomicBERT
    Statement("attention_bias",                 _only(True),                           "true",            _BIASED),   # ModernBERT
    Statement("mlp_bias",                       _only(True),                           "true",            _BIASED),   # ModernBERT
    Statement("norm_bias",                      _only(True),                           "true",            _BIASED),   # ModernBERT
    Statement("qkv_bias",                       _only(True),                           "true",            _BIASED),
    Statement("num_hidden_groups",  lambda value, settings: value == settings.get("num_hidden_layers"), "num_hidden_layers", _OWN),  # ALBERT
    Statement("inner_group_num",                _only(1),                              "1",               _OWN),      # ALBERT
    Statement("shared_segment_embeddings",      _only(False),                          "false",           "segments have embeddings of their own"),  # bert4keras
    Statement("pruned_heads",                   _only({}),                             "none",            "every layer has all of its heads"),  # transformers
    Statement("attention_head_size",            _head_size,                            "the head size",   _HEADS),    # bert4keras
    Statement("attention_key_size",             _head_size,                            "the head size",   _HEADS),    # bert4keras
    Statement("head_dim",                       _head_size,                            "the head size",   _HEADS),
    Statement("num_key_value_heads", lambda value, settings: value == settings.get("num_attention_heads", 12), "num_attention_heads", _HEADS),
    Statement("residual_attention_scores",      _only(False),                          "false",           _PLAIN),    # RealFormer in bert4keras
    Statement("attention_type",                 _only("original_full"),                '"original_full"', _PLAIN),    # BigBird
    Statement("attention_window",               _only(),                               "none",            _PLAIN),    # Longformer
    Statement("add_cross_attention",            _only(False),                          "false",           "attention is to the layer's own input"),
    Statement("is_encoder_decoder",             _only(False),                          "false",           "there is an encoder alone"),
)
# fmt: on
#: The next step for another model's weights.
ANOTHERS = (
    "The configuration says that the weights compute something other than RoFormer does; another model's are not "
    "converted. If it is not theirs, name their own with --config FILE."
)


def other_function(settings: Json, named: str) -> list[Problem]:
    """Name what the settings say of the function and RoFormer does not compute."""
    problems = []
    for statement in FUNCTION:
        value = settings.get(statement.key)
        if value is not None and not statement.agrees(value, settings):
            got = json.dumps(value, ensure_ascii=False)
            shown = got if len(got) <= 60 else f"{got[:57]}..."
            detail = f"got {shown} in {named}, want {statement.want}: {statement.here}"
            problems.append(Problem("function", statement.key, detail))
    return problems
