"""Configuration files, field by field: each dialect's spelling, and what a dialect cannot honour."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from config_files import UNUSUAL, read, written
from random_checkpoints import CONFIG, DIRECTIONS, write_random

from roformer_convert.converters import RoFormerConfig, convert, open_checkpoint
from roformer_convert.converters.table import config_reading, config_writing
from roformer_convert.converters.table.activations import ACTIVATIONS, SYNONYMS, canonical_activation
from roformer_convert.converters.table.config_fields import FIELDS, SourceConfig
from roformer_convert.converters.table.differences import advice, differences
from roformer_convert.converters.table.mapping import BASE, DIALECTS, MASKED_LM, Dialect


def test_every_field_of_the_configuration_is_in_the_table() -> None:
    assert [item.name for item in FIELDS] == [field.name for field in fields(RoFormerConfig)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_field_survives_every_dialect(tmp_path: Path, dialect: Dialect) -> None:
    settings, _ = written(UNUSUAL, dialect)
    assert read(tmp_path, dialect, settings, {}).config == UNUSUAL


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_configurations_are_translated_in_a_conversion(tmp_path: Path, source: Dialect, target: Dialect) -> None:
    write_random(tmp_path / "ckpt", source, "base")
    report = convert(tmp_path / "ckpt", to=target)
    with open_checkpoint(report.target) as opened:
        assert opened.config == CONFIG
        assert opened.found.config_file is not None
        assert opened.found.config_file.name == ("bert_config.json" if target == "tf1" else "config.json")


def test_the_keys_are_those_of_each_software() -> None:
    settings = {dialect: written(UNUSUAL, dialect)[0] for dialect in DIALECTS}
    assert settings["paddle"]["pool_act"] == "relu"
    assert settings["torch"]["pooler_activation"] == settings["tf1"]["pooler_activation"] == "relu"
    for dialect in DIALECTS[:3]:
        assert settings[dialect]["dtype"] == "float32"
    for dialect in DIALECTS[1:3]:
        assert settings[dialect]["architectures"] == ["RoFormerForMaskedLM"]
        assert settings[dialect]["model_type"] == "roformer"
    assert settings["torch"]["torch_dtype"] == "float32"
    assert not {"dtype", "model_type"} & settings["tf1"].keys()
    assert settings["paddle"]["architectures"] == ["RoFormerv2ForMaskedLM"]
    assert settings["paddle"]["model_type"] == "roformerv2"
    for dialect in DIALECTS:
        assert settings[dialect]["embedding_size"] == 14
        json.dumps(settings[dialect], allow_nan=False)


@pytest.mark.parametrize(
    ("dialect", "field", "value", "words"),
    [
        ("paddle", "attention", "causal", "PaddleNLP lets every token see every other"),
        ("paddle", "attention", "unilm", "PaddleNLP lets every token see every other"),
        ("tf", "attention", "causal", "transformers for TF lets every token see every other"),
        ("torch", "attention", "unilm", "transformers does so where its caller passes a 4-D mask"),
        ("tf1", "rotary_value", True, "bert4keras rotates queries and keys alone"),
        ("tf1", "layer_norm_eps", 1e-5, "bert4keras computes with 1e-12"),
        ("paddle", "layer_norm_eps", 0.01, "PaddlePaddle refuses more than 1e-3"),
        ("paddle", "hidden_act", "gelu_tanh", "PaddleNLP has no such function"),
        ("paddle", "pooler_activation", "leaky_relu", "PaddleNLP has no such function"),
        ("paddle", "hidden_act", "leaky_relu", "PaddleNLP has no such function"),  # of which its heads' table has less
        ("paddle", "hidden_act", "linear", "PaddleNLP has no such function"),
        ("tf", "hidden_act", "linear", "transformers for TF has no such function"),
        ("tf1", "hidden_act", "mish", "bert4keras has no such function"),
        ("torch", "hidden_act", "hardswish", "transformers has no such function"),
        ("tf1", "use_bias", False, "bert4keras wants a bias of each"),
        ("tf", "norm_type", "rms_norm", "transformers for TF builds norms with weights"),
    ],
)
def test_what_a_dialects_software_computes_otherwise_is_a_difference(
    dialect: Dialect, field: str, value: Any, words: str
) -> None:
    usual = replace(CONFIG, layer_norm_eps=1e-12)
    assert differences(SourceConfig(usual), dialect, MASKED_LM, ["pooler.weight"]) == []
    other = replace(usual, **{field: value})
    (found,) = differences(SourceConfig(other), dialect, MASKED_LM, ["pooler.weight"])
    assert found.field == field
    assert words in str(found)
    # and a result that is written all the same says what was meant, to whoever converts it back
    settings, _ = written(other, dialect)
    back = config_reading.examine(settings, None, dialect, {}, where=Path(), kind=MASKED_LM, pooler=True).source
    assert back is not None
    assert back.config == other


def test_what_changes_no_function_is_a_note() -> None:
    assert written(replace(CONFIG, initializer_range=0.02, pad_token_id=0), "tf1")[1] == []
    (note,) = written(replace(CONFIG, initializer_range=0.02, pad_token_id=3), "tf1")[1]
    assert "pad_token_id = 3 is written, but bert4keras will compute with 0" in note


@pytest.mark.parametrize(("dialect", "software"), [("paddle", "PaddleNLP"), ("tf", "transformers for TF")])
def test_biases_that_a_software_starts_at_0_are_no_difference_and_announced(dialect: Dialect, software: str) -> None:
    config = replace(CONFIG, use_bias=False, layer_norm_eps=1e-12)
    assert differences(SourceConfig(config), dialect, MASKED_LM, []) == []
    (note,) = advice(config, dialect, MASKED_LM, [])
    assert note.startswith(f"{software} gives the encoder's kernels biases: it reports them as missing")
    assert advice(replace(config, use_bias=True), dialect, MASKED_LM, []) == []


def test_a_bias_of_words_that_paddlenlp_starts_at_0_is_announced() -> None:
    config = replace(CONFIG, norm_type="rms_norm", layer_norm_eps=1e-12)
    (note,) = advice(config, "paddle", MASKED_LM, [])
    assert "cls.decoder_bias" in note
    for other in (replace(config, use_bias=False), replace(config, norm_type="layer_norm")):
        assert not [said for said in advice(other, "paddle", MASKED_LM, []) if "decoder_bias" in said]
    assert advice(config, "paddle", MASKED_LM, ["mlm.bias"]) == advice(config, "paddle", BASE, []) == []


@pytest.mark.parametrize(
    ("source", "spelled", "target", "want"),
    [
        ("torch", "gelu", "tf1", "gelu"),
        ("torch", "gelu_new", "tf1", "gelu_tanh"),
        ("torch", "gelu_new", "tf", "gelu_new"),
        ("torch", "gelu_pytorch_tanh", "tf", "gelu_new"),
        ("torch", "gelu_pytorch_tanh", "torch", "gelu_pytorch_tanh"),
        ("torch", "gelu_fast", "tf", "gelu_fast"),
        ("torch", "gelu_python", "paddle", "gelu_python"),
        ("paddle", "gelu_python", "tf", "gelu"),
        ("torch", "quick_gelu", "paddle", "quick_gelu"),
        ("torch", "swish", "tf1", "swish"),
        ("tf1", "gelu_tanh", "torch", "gelu_new"),
        ("tf1", "gelu_erf", "torch", "gelu"),
        ("tf1", "gelu_erf", "paddle", "gelu"),
        ("tf1", "swish", "paddle", "swish"),
        ("paddle", "silu", "tf1", "swish"),
        ("paddle", "silu", "torch", "silu"),
        ("paddle", "tanh", "torch", "tanh"),
        ("torch", "relu6", "paddle", "relu6"),
    ],
)
def test_activations_are_spelled_as_the_target_does(
    tmp_path: Path, source: Dialect, spelled: str, target: Dialect, want: str
) -> None:
    settings, _ = written(CONFIG, source)
    settings["hidden_act"] = spelled
    found = read(tmp_path, source, settings)
    there = config_writing.write(found, target, kind=BASE, dtype="float32")[0]
    assert there["hidden_act"] == want
    # and it means the same function there as here
    assert canonical_activation(want, target) == canonical_activation(spelled, source) == found.config.hidden_act


def test_the_tanh_form_is_not_taken_for_the_erf_form() -> None:
    """bert4keras calls the tanh form gelu_tanh, transformers gelu_new: equal words for unequal functions cost 1e-3."""
    assert canonical_activation("gelu", "tf1") == canonical_activation("gelu", "torch") == "gelu"
    assert canonical_activation("gelu_new", "torch") == canonical_activation("gelu_tanh", "tf1") == "gelu_tanh"
    assert canonical_activation("gelu_tanh", "torch") == "gelu_tanh"  # no name of torch's: carried, and so reported


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(0.0, x),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "linear": lambda x: x,
}


@pytest.mark.parametrize("canonical", ACTIVATIONS)
def test_each_name_means_its_function_in_transformers(canonical: str) -> None:
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    points = torch.linspace(-6, 6, 101, dtype=torch.float64)
    names = [ACTIVATIONS[canonical].torch, *(name for name, (of, who) in SYNONYMS.items() if of == canonical)]
    for name in names:
        if name not in activations.ACT2FN:
            assert "torch" not in SYNONYMS.get(str(name), ("", ()))[1]
            continue
        got = activations.ACT2FN[name](points)
        want = torch.tensor([FUNCTIONS[canonical](float(x)) for x in points], dtype=torch.float64)
        # gelu_fast writes sqrt(2/pi) with ten digits
        assert float((got - want).abs().max()) < 1e-9, name


def test_unknown_keys_travel_and_provenance_does_not(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    path = tmp_path / "ckpt" / "config.json"
    extra = {"my_note": {"a": [1, 2]}, "use_cache": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra, "transformers_version": "9.9"}))
    report = convert(tmp_path / "ckpt", to="paddle")
    there = json.loads((report.target / "config.json").read_text())
    assert {key: there[key] for key in extra} == extra
    assert "transformers_version" not in there
    assert any("transformers_version = '9.9' is left out" in note for note in report.notes)


@pytest.mark.parametrize("target", DIALECTS)
def test_use_cache_does_not_make_paddlenlp_return_a_tuple(tmp_path: Path, target: Dialect) -> None:
    """True in every config.json of transformers, where it means nothing; PaddleNLP's encoder would obey."""
    settings, _ = written(CONFIG, "torch")
    found = read(tmp_path, "torch", {**settings, "use_cache": True})
    there, notes = config_writing.write(found, target, kind=MASKED_LM, dtype="float32")
    assert ("use_cache" in there) == (target != "paddle")
    assert any("use_cache = True is left out" in note for note in notes) == (target == "paddle")


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("value", [False, None, 0])
def test_weights_that_are_tied_are_said_to_be(tmp_path: Path, target: Dialect, value: Any) -> None:
    """transformers 5 makes a random head of false; that the two are one tensor was checked when they were read."""
    settings, _ = written(CONFIG, "torch")
    found = read(tmp_path, "torch", {**settings, "tie_word_embeddings": value})
    there, notes = config_writing.write(found, target, kind=MASKED_LM, dtype="float32")
    assert there["tie_word_embeddings"] is True
    assert [note for note in notes if f"tie_word_embeddings = {value} is written as True" in note]
    found = read(tmp_path, "torch", {**settings, "tie_word_embeddings": True})
    there, notes = config_writing.write(found, target, kind=MASKED_LM, dtype="float32")
    assert there["tie_word_embeddings"] is True
    assert not [note for note in notes if "tie_word_embeddings" in note]


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize(
    ("key", "value", "out_of"),
    [
        ("return_dict", False, ("torch", "tf")),
        ("return_dict", True, ("paddle",)),
        ("torchscript", True, ("torch", "tf")),
        ("output_hidden_states", True, ("paddle",)),
        ("output_attentions", True, ("paddle",)),
        ("auto_map", {"AutoModel": "modeling.Model"}, DIALECTS),
        ("custom_pipelines", {"own": {"impl": "own.Pipeline"}}, DIALECTS),
        ("trust_remote_code", True, DIALECTS),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, DIALECTS),
    ],
)
def test_what_changes_a_loaders_answer_is_left_out_and_reported(
    tmp_path: Path, key: str, value: Any, out_of: tuple[Dialect, ...], target: Dialect
) -> None:
    settings, _ = written(CONFIG, "torch")
    found = read(tmp_path, "torch", {**settings, key: value})
    there, notes = config_writing.write(found, target, kind=MASKED_LM, dtype="float32")
    assert (key in there) == (target not in out_of)
    assert len([note for note in notes if note.startswith(f"{key} = ") and "is left out" in note]) == (target in out_of)


@pytest.mark.parametrize("target", DIALECTS)
def test_another_class_than_the_sources_is_reported(tmp_path: Path, target: Dialect) -> None:
    settings, _ = written(CONFIG, "torch")
    for said, told in ((["RoFormerForCausalLM"], 1), (["RoFormerForMaskedLM"], 0), (None, 0), ([], 0)):
        found = read(tmp_path, "torch", {**settings, "architectures": said})
        there, notes = config_writing.write(found, target, kind=MASKED_LM, dtype="float32")
        assert there.get("architectures") == (None if target == "tf1" else ["RoFormerForMaskedLM"])
        assert len([note for note in notes if "architectures = ['RoFormerForCausalLM'] is not carried" in note]) == told


@pytest.mark.parametrize(
    ("canonical", "spelled"),
    [("gelu_tanh", "gelu_new"), ("linear", "linear"), ("silu", "silu")],
)
def test_paddles_poolers_know_what_its_encoder_does_not(tmp_path: Path, canonical: str, spelled: str) -> None:
    """PaddleNLP looks a pooler's activation up in ACT2FN, and the encoder's in paddle.nn.functional."""
    config = replace(CONFIG, pooler_activation=canonical)
    assert differences(SourceConfig(config), "paddle", MASKED_LM, ["pooler.weight"]) == []
    settings, _ = written(config, "paddle")
    assert settings["pool_act"] == spelled
    assert read(tmp_path, "paddle", settings).config.pooler_activation == canonical


@pytest.mark.parametrize(("spelled", "canonical"), [("gelu_python", "gelu"), ("gelu_fast", "gelu_tanh")])
def test_paddles_poolers_have_further_names_of_the_same_functions(tmp_path: Path, spelled: str, canonical: str) -> None:
    settings = {**written(CONFIG, "paddle")[0], "pool_act": spelled}
    assert read(tmp_path, "paddle", settings).config.pooler_activation == canonical


def test_a_kind_of_v2_that_bert4keras_projects_without_a_bias_is_a_difference() -> None:
    config = replace(CONFIG, norm_type="rms_norm", use_bias=False)
    fields = [each.field for each in differences(SourceConfig(config), "tf1", BASE, [])]
    assert fields == ["embedding_size"]
    assert differences(SourceConfig(replace(config, embedding_size=24)), "tf1", BASE, []) == []
