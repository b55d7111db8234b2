"""Configuration files for tests: one with every field unusual, written and read in any dialect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from random_checkpoints import CONFIG

from roformer_convert.converters import RoFormerConfig
from roformer_convert.converters.table import config_reading, config_writing
from roformer_convert.converters.table.config_fields import SourceConfig
from roformer_convert.converters.table.mapping import MASKED_LM, Dialect

#: Every field another than any dialect's default, so that a field that is dropped shows.
UNUSUAL = replace(
    CONFIG,
    hidden_act="relu",
    attention_probs_dropout_prob=0.375,
    layer_norm_eps=1e-6,
    rotary_value=True,
    pooler_activation="relu",
    norm_type="rms_norm",
    use_bias=False,
    attention="unilm",
    summary_type="mean",
    num_labels=3,
    labels=("good", "bad", "neither"),
    num_choices=5,
    problem_type="regression",
    classifier_dropout=0.25,
    eos_token_id=9,
)
MEASURED = {"vocab_size": 61, "embedding_size": 14, "hidden_size": 24, "num_hidden_layers": 3}
MEASURED |= {"intermediate_size": 34, "type_vocab_size": 5}


def written(config: RoFormerConfig, dialect: Dialect, **more: Any) -> tuple[dict[str, Any], list[str]]:
    return config_writing.write(SourceConfig(config, **more), dialect, kind=MASKED_LM, dtype="float32")


def read(tmp_path: Path, dialect: Dialect, settings: Any, measured: dict[str, int] | None = None) -> SourceConfig:
    path = tmp_path / "config.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return config_reading.read(path, dialect, MEASURED if measured is None else measured, where=tmp_path)
