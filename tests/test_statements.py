"""What a configuration says of another function than RoFormer's: each such key is a problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from config_files import read, written
from random_checkpoints import CONFIG, write_random

from roformer_convert.converters import convert
from roformer_convert.converters.errors import MisfitError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.converters.table.statements import FUNCTION

#: Values that say what RoFormer computes, and one that says something else, for each key of FUNCTION: (agree, differ).
SAYINGS: dict[str, tuple[list[Any], Any]] = {
    "model_type": (["roformer"], "nezha"),
    "architectures": ([["RoFormerModel"], ["TFRoFormerForMaskedLM"], ["MyEncoder"], []], ["NezhaForMaskedLM"]),
    "init_class": (["RoFormerForPretraining", "X"], "BertModel"),
    "position_embedding_type": (["rotary"], "absolute"),
    "use_rotary_position": ([True], False),
    "use_relative_position": ([False, 0], True),
    "max_relative_position": ([], 64),
    "relative_attention": ([False], True),
    "max_relative_positions": ([-1], 512),
    "relative_attention_num_buckets": ([], 32),
    "hierarchical_position": ([False], 0.4),
    "rope_theta": ([10000, 10000.0], 500000.0),
    "rope_scaling": ([{"rope_type": "default"}, {"type": "default", "factor": 1.0}], {"type": "linear", "factor": 2.0}),
    "rope_parameters": ([{"rope_theta": 10000.0, "rope_type": "default"}], {"rope_theta": 160000.0}),
    "rotary_emb_base": ([10000], 1000),
    "rotary_emb_fraction": ([1.0], 0.5),
    "rotary_pct": ([1.0], 0.25),
    "partial_rotary_factor": ([1.0], 0.5),
    "rotary_dim": ([6], 2),
    "rotary_emb_interleaved": ([True], False),
    "normalize_before": ([False], True),
    "pre_norm": ([False], True),
    "norm_first": ([False], True),
    "prenorm": ([False], True),
    "attention_bias": ([True], False),
    "mlp_bias": ([True], False),
    "norm_bias": ([True], False),
    "qkv_bias": ([True], False),
    "num_hidden_groups": ([3], 1),
    "inner_group_num": ([1], 2),
    "shared_segment_embeddings": ([False], True),
    "pruned_heads": ([{}], {"0": [1]}),
    "attention_head_size": ([6], 12),
    "attention_key_size": ([6], 3),
    "head_dim": ([6], 8),
    "num_key_value_heads": ([4], 1),
    "residual_attention_scores": ([False], True),
    "attention_type": (["original_full"], "block_sparse"),
    "attention_window": ([], [512, 512, 512]),
    "add_cross_attention": ([False], True),
    "is_encoder_decoder": ([False], True),
}


def test_every_key_that_may_say_another_function_is_tried() -> None:
    assert [said.key for said in FUNCTION] == list(SAYINGS)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("key", SAYINGS)
def test_what_is_said_of_another_function_is_a_problem(tmp_path: Path, dialect: Dialect, key: str) -> None:
    """Tensors of the same names and shapes may be another model's: NEZHA's are, and convert without a word."""
    settings, _ = written(CONFIG, dialect)
    if key in ("architectures", "init_class"):
        settings.pop("model_type", None)  # which says more than a class
    agreeing, other = SAYINGS[key]
    for value in (None, *agreeing):
        assert read(tmp_path, dialect, {**settings, key: value}).config == CONFIG
    with pytest.raises(MisfitError, match=rf"function +{key} +got .* in config\.json, want .*: ") as caught:
        read(tmp_path, dialect, {**settings, key: other})
    assert [(problem.kind, problem.name) for problem in caught.value.problems] == [("function", key)]
    assert json.dumps(other)[:20] in str(caught.value)
    assert "another model's are not converted" in str(caught.value)
    assert "--config FILE" in str(caught.value)


def test_a_class_of_somebodys_own_is_no_other_model_where_the_model_type_says_roformer(tmp_path: Path) -> None:
    settings, _ = written(CONFIG, "torch")
    assert read(tmp_path, "torch", {**settings, "architectures": ["MyModel"]}).config == CONFIG


def test_another_function_is_told_with_everything_else(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    path = tmp_path / "ckpt" / "config.json"
    settings = {**json.loads(path.read_text()), "model_type": "nezha", "hidden_size": 26, "num_attention_heads": "many"}
    path.write_text(json.dumps(settings))
    with pytest.raises(MisfitError) as caught:
        convert(tmp_path / "ckpt", to="paddle")
    assert {"function", "configuration"} <= {problem.kind for problem in caught.value.problems}
    assert [entry.name for entry in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize("name", ["49-nezha-tf1", "50-nezha-torch-base"])
def test_nezha_is_refused(tmp_path: Path, name: str) -> None:
    """Written by its own software; as a RoFormer its logits would be 2.73 off."""
    case = Path(__file__).resolve().parents[2] / "shared" / "cases" / name
    if not case.exists():
        pytest.skip("no checkpoints of other software beside the repository")
    for target in DIALECTS:
        with pytest.raises(MisfitError, match="function"):
            convert(case, tmp_path / "out", to=target)
    found = inspect(case)
    assert not found.converts
    assert {problem.kind for problem in found.problems} == {"function"}
    assert list(tmp_path.iterdir()) == []


#: Configurations as they were published, with the keys that say something of the function.
PUBLISHED: dict[str, dict[str, Any]] = {
    # github.com/JunnYu/RoFormer_pytorch, converted/config.json at 5d14a44: what its first converter wrote
    "JunnYu's first": {"inner_group_num": 1, "use_rotary_position": True, "classifier_dropout_prob": 0.1},
    "JunnYu's package": {"norm_type": "layer_norm", "use_bias": True, "is_decoder": False},
    "transformers": {"rotary_value": False, "use_cache": True, "tokenizer_class": "RoFormerTokenizer"},
    "PaddleNLP": {"normalize_before": False, "add_cross_attention": False, "act_dropout": 0, "paddlenlp_version": None},
    "Google's": {"directionality": "bidi", "pooler_type": "first_token_transform", "pooler_num_fc_layers": 3},
}


@pytest.mark.parametrize("owner", PUBLISHED)
def test_published_configurations_say_nothing_else(tmp_path: Path, owner: str) -> None:
    for dialect in DIALECTS:
        settings, _ = written(CONFIG, dialect)
        assert read(tmp_path, dialect, {**settings, **PUBLISHED[owner]}).config == CONFIG
