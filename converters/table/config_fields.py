"""``config.json``, ``bert_config.json``, ``model_config.json``, field by field: the table's idea for hyper-parameters.

A row of :data:`FIELDS` says what a field is called in every dialect, what a missing key means there, and what the
dialect's own software computes regardless of the file. :mod:`.config_reading` turns a file into a
:class:`~.config.RoFormerConfig`, :mod:`.config_writing` turns that into a file. Fields that no single key holds are
derived (:mod:`.derived_fields`).

Sources: ``RoFormerConfig`` of transformers 5.23, of JunnYu's roformer 0.4.3 and of PaddleNLP 2.8.1 (``RoFormerv2Config``
too), ``build_transformer_model`` of bert4keras 0.11.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..json_input import Json
from .config import RoFormerConfig
from .mapping import Dialect, Spelling

#: The key under which a result records the fields that its dialect's own keys cannot say, for whoever converts it back.
RECORD = "roformer_convert"


@dataclass(frozen=True)
class Field:
    """One hyper-parameter: its key in each dialect, what a missing key means there, what the software computes anyway.

    Attributes:
        name: Attribute of :class:`RoFormerConfig`.
        key: Spelling of the key; None where the field is derived.
        missing: Value that each dialect's software takes for an absent key; None where the tensors decide.
        fixed: Value that a dialect's software computes with whatever the file says; None where it reads the file.
    """

    name: str
    key: Spelling
    missing: tuple[Any, Any, Any, Any] = (None, None, None, None)
    fixed: tuple[Any, Any, Any, Any] = (None, None, None, None)


_DERIVED = Spelling(None, None, None, None)


def _same(name: str) -> Spelling:
    return Spelling(name, name, name, name)


def _all(value: Any) -> tuple[Any, Any, Any, Any]:
    return (value, value, value, value)


# fmt: off
FIELDS: tuple[Field, ...] = (
    #                                    key in paddle, torch, tf, tf1            a missing key means          computed whatever the file says
    Field("vocab_size",                  _same("vocab_size")),
    Field("embedding_size",              _same("embedding_size")),
    Field("hidden_size",                 _same("hidden_size")),
    Field("num_hidden_layers",           _same("num_hidden_layers")),
    Field("num_attention_heads",         _same("num_attention_heads"),            (12, 12, 12, None)),
    Field("intermediate_size",           _same("intermediate_size")),
    Field("hidden_act",                  _same("hidden_act"),                     ("gelu", "gelu", "gelu", None)),
    Field("hidden_dropout_prob",         _same("hidden_dropout_prob"),            (0.1, 0.1, 0.1, 0.0)),
    Field("attention_probs_dropout_prob", _same("attention_probs_dropout_prob"),  (0.1, 0.1, 0.1, 0.0)),
    Field("max_position_embeddings",     _same("max_position_embeddings"),        (1536, 1536, 1536, 512)),
    Field("type_vocab_size",             _same("type_vocab_size")),
    Field("initializer_range",           _same("initializer_range"),              _all(0.02),                  (None, None, None, 0.02)),
    # bert4keras 0.11.5 passes 1e-12 to the norms of BERT's layers and its default 1e-7 to RoFormer's: docs/decisions.md
    Field("layer_norm_eps",              _same("layer_norm_eps"),                 _all(1e-12),                 (None, None, None, 1e-12)),
    Field("rotary_value",                _same("rotary_value"),                   _all(False),                 (None, None, None, False)),
    Field("pooler_activation",           _DERIVED,                                _all("tanh")),
    Field("pad_token_id",                _same("pad_token_id"),                   _all(0),                     (None, None, None, 0)),
    Field("norm_type",                   _DERIVED),
    Field("use_bias",                    _DERIVED),
    Field("attention",                   _DERIVED),
    Field("summary_type",                _DERIVED),
    Field("num_labels",                  _DERIVED),
    Field("labels",                      _DERIVED),
    Field("num_choices",                 _same("num_choices"),                    _all(2)),
    Field("problem_type",                _same("problem_type")),
    Field("classifier_dropout",          _DERIVED),
    Field("eos_token_id",                _same("eos_token_id")),
)
# fmt: on
#: What an absent key means in PaddleNLP's RoFormerV2 instead.
MISSING_V2: Mapping[Dialect, Json] = {"paddle": {"hidden_act": "relu", "max_position_embeddings": 512}}


@dataclass(frozen=True)
class SourceConfig:
    """A configuration file as it was read.

    Attributes:
        config: The configuration in canonical terms.
        spellings: Values whose spelling is kept where the target understands it (activation names).
        extra: Keys the table has no field for, carried as they are.
        notes: What was assumed and why, for the report.
        assumed: Fields that some software computes by and that no file says.
        given: Fields that a person set, whatever the file says.
    """

    config: RoFormerConfig
    spellings: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumed: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()
