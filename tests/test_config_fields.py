"""Configuration files, field by field: each dialect's spelling and defaults, and what a dialect cannot honour."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import CONFIG, DIRECTIONS, SHAPES, read_all, same_bits, write_random

from roformer_convert.converters import ConvertOptions, RoFormerConfig, convert, open_checkpoint
from roformer_convert.converters.errors import ConvertError, FormatError, MisfitError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table import config_fields
from roformer_convert.converters.table.activations import ACTIVATIONS, SYNONYMS, canonical_activation
from roformer_convert.converters.table.config_fields import FIELDS, SourceConfig
from roformer_convert.converters.table.differences import advice, differences
from roformer_convert.converters.table.field_values import parse_settings
from roformer_convert.converters.table.mapping import BASE, CLASSES, DIALECTS, MASKED_LM, Dialect
from roformer_convert.converters.table.statements import FUNCTION

#: Every field another than any dialect's default, so that a field that is dropped shows.
UNUSUAL = RoFormerConfig(
    vocab_size=61,
    embedding_size=14,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=34,
    hidden_act="relu",
    hidden_dropout_prob=0.125,
    attention_probs_dropout_prob=0.375,
    max_position_embeddings=47,
    type_vocab_size=5,
    initializer_range=0.03125,
    layer_norm_eps=1e-6,
    rotary_value=True,
    pooler_activation="relu",
    pad_token_id=7,
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
    return config_fields.write(SourceConfig(config, **more), dialect, kind=MASKED_LM, dtype="float32")


def read(tmp_path: Path, dialect: Dialect, settings: Any, measured: dict[str, int] | None = None) -> SourceConfig:
    path = tmp_path / "config.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return config_fields.read(path, dialect, MEASURED if measured is None else measured, where=tmp_path)


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
    back = config_fields.examine(settings, None, dialect, {}, where=Path(), kind=MASKED_LM, pooler=True).source
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
    there = config_fields.write(found, target, kind=BASE, dtype="float32")[0]
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


@pytest.mark.parametrize(
    ("dialect", "defaults"),
    [
        ("torch", {"num_attention_heads": 12, "hidden_act": "gelu", "max_position_embeddings": 1536}),
        ("tf", {"num_attention_heads": 12, "hidden_act": "gelu", "max_position_embeddings": 1536}),
        ("paddle", {"num_attention_heads": 12, "hidden_act": "gelu", "pooler_activation": "tanh", "pad_token_id": 0}),
        ("tf1", {"max_position_embeddings": 512, "hidden_dropout_prob": 0.0, "layer_norm_eps": 1e-12}),
    ],
)
def test_a_missing_key_takes_its_softwares_default(tmp_path: Path, dialect: Dialect, defaults: dict[str, Any]) -> None:
    least = {"num_attention_heads": 4, "hidden_act": "relu"} if dialect == "tf1" else {}
    config = asdict(read(tmp_path, dialect, least).config)
    assert {name: config[name] for name in defaults} == defaults
    assert {name: config[name] for name in MEASURED} == MEASURED


def test_a_missing_head_count_is_an_error_where_the_software_has_no_default(tmp_path: Path) -> None:
    with pytest.raises(MisfitError, match="num_attention_heads"):
        read(tmp_path, "tf1", {})


def test_an_embedding_size_that_is_null_is_measured(tmp_path: Path) -> None:
    """transformers before 4.5x writes null where E equals H; PaddleNLP's default of 768 holds for nobody's tensors."""
    found = read(tmp_path, "torch", {"embedding_size": None, "hidden_size": 24, "num_attention_heads": 4})
    assert found.config.embedding_size == 14
    assert any("embedding_size = 14, from the tensors' shapes" in note for note in found.notes)


def test_no_padding_token_is_not_the_default_one(tmp_path: Path) -> None:
    settings, _ = written(replace(CONFIG, pad_token_id=None), "torch")
    assert read(tmp_path, "torch", settings).config.pad_token_id is None


OLD = {
    "init_class": "RoFormerForPretraining",
    "init_args": [
        {
            "init_class": "RoFormerModel",
            "vocab_size": 61,
            "embedding_size": 14,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 34,
            "hidden_act": "relu",
            "hidden_dropout_prob": 0.125,
            "max_position_embeddings": 47,
            "type_vocab_size": 5,
            "pool_act": "relu",
            "pad_token_id": 7,
        }
    ],
}


@pytest.mark.parametrize("nested", [OLD, OLD["init_args"][0], {"init_class": "X", "init_args": [OLD], "dropout": 0.1}])
def test_the_older_paddlenlps_nested_arguments_are_read(tmp_path: Path, nested: dict[str, Any]) -> None:
    config = read(tmp_path, "paddle", nested, {}).config
    assert (config.num_attention_heads, config.hidden_act, config.pooler_activation) == (4, "relu", "relu")
    assert (config.embedding_size, config.hidden_size, config.pad_token_id) == (14, 24, 7)


def test_model_config_json_serves_where_there_is_no_config_json(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle")
    settings = json.loads((tmp_path / "ckpt" / "config.json").read_text())
    (tmp_path / "ckpt" / "config.json").unlink()
    for key in ("architectures", "model_type", "dtype"):
        del settings[key]
    nested = {"init_class": "RoFormerForMaskedLM", "init_args": [{"init_class": "RoFormerModel", **settings}]}
    (tmp_path / "ckpt" / "model_config.json").write_text(json.dumps(nested))
    convert(tmp_path / "ckpt", to="torch")
    assert same_bits(read_all(tmp_path / "ckpt-torch"), tensors) == []
    with open_checkpoint(tmp_path / "ckpt-torch") as opened:
        assert opened.config == CONFIG
    there = json.loads((tmp_path / "ckpt-torch" / "config.json").read_text())
    assert not {"init_class", "init_args"} & there.keys()


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
    there, notes = config_fields.write(found, target, kind=MASKED_LM, dtype="float32")
    assert ("use_cache" in there) == (target != "paddle")
    assert any("use_cache = True is left out" in note for note in notes) == (target == "paddle")


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("value", [False, None, 0])
def test_weights_that_are_tied_are_said_to_be(tmp_path: Path, target: Dialect, value: Any) -> None:
    """transformers 5 makes a random head of false; that the two are one tensor was checked when they were read."""
    settings, _ = written(CONFIG, "torch")
    found = read(tmp_path, "torch", {**settings, "tie_word_embeddings": value})
    there, notes = config_fields.write(found, target, kind=MASKED_LM, dtype="float32")
    assert there["tie_word_embeddings"] is True
    assert [note for note in notes if f"tie_word_embeddings = {value} is written as True" in note]
    found = read(tmp_path, "torch", {**settings, "tie_word_embeddings": True})
    there, notes = config_fields.write(found, target, kind=MASKED_LM, dtype="float32")
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
    there, notes = config_fields.write(found, target, kind=MASKED_LM, dtype="float32")
    assert (key in there) == (target not in out_of)
    assert len([note for note in notes if note.startswith(f"{key} = ") and "is left out" in note]) == (target in out_of)


@pytest.mark.parametrize("target", DIALECTS)
def test_another_class_than_the_sources_is_reported(tmp_path: Path, target: Dialect) -> None:
    settings, _ = written(CONFIG, "torch")
    for said, told in ((["RoFormerForCausalLM"], 1), (["RoFormerForMaskedLM"], 0), (None, 0), ([], 0)):
        found = read(tmp_path, "torch", {**settings, "architectures": said})
        there, notes = config_fields.write(found, target, kind=MASKED_LM, dtype="float32")
        assert there.get("architectures") == (None if target == "tf1" else ["RoFormerForMaskedLM"])
        assert len([note for note in notes if "architectures = ['RoFormerForCausalLM'] is not carried" in note]) == told


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_attention_heads", 5, "5 does not divide hidden_size = 24"),
        ("num_attention_heads", 8, "a head size of 3; rotation needs an even one"),
        ("num_attention_heads", 0, "want an integer from 1"),
        ("num_attention_heads", "4", "got '4'"),
        ("num_attention_heads", True, "got True"),
        ("hidden_size", 24.0, "got 24.0"),
        ("hidden_size", -24, "got -24"),
        ("vocab_size", 1 << 40, "want an integer from 1 to 2,147,483,648"),
        ("num_hidden_layers", 10**9, "want an integer from 0 to 4,096"),
        ("num_hidden_layers", [3], r"got \[3\]"),
        ("hidden_dropout_prob", 1.5, "want a probability"),
        ("layer_norm_eps", -1e-12, "want a number of at least 0"),
        ("layer_norm_eps", "1e-12", "got '1e-12'"),
        ("rotary_value", 1, "want true or false"),
        ("hidden_act", 3, "want an activation's name"),
        ("hidden_act", "x" * 70, "want an activation's name"),
        ("max_position_embeddings", 0, "want an integer from 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, key: str, value: Any, words: str) -> None:
    settings, _ = written(CONFIG, "torch")
    with pytest.raises(MisfitError, match=words) as caught:
        read(tmp_path, "torch", {**settings, key: value})
    assert [problem.name for problem in caught.value.problems] == [key]


def test_a_number_of_heads_that_no_file_says_is_told_as_the_default(tmp_path: Path) -> None:
    settings, _ = written(CONFIG, "torch")
    settings = {**settings, "hidden_size": 26, "num_attention_heads": None}
    with pytest.raises(MisfitError, match=r"12 \(torch's default, for config.json does not say it\) does not divide"):
        read(tmp_path, "torch", settings)


def test_all_values_that_cannot_be_are_told_at_once(tmp_path: Path) -> None:
    settings, _ = written(CONFIG, "torch")
    with pytest.raises(MisfitError) as caught:
        read(tmp_path, "torch", {**settings, "vocab_size": "many", "rotary_value": 0, "hidden_dropout_prob": -1})
    assert {problem.name for problem in caught.value.problems} == {"vocab_size", "rotary_value", "hidden_dropout_prob"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1, 2]", "holds a JSON list"),
        ('{"hidden_size": NaN}', "NaN is not a JSON number"),
        ('{"layer_norm_eps": Infinity}', "Infinity is not a JSON number"),
        ('{"a": ' + "[" * 100_000, "not JSON"),
        ('{"a": "\ud800"}', "not"),
        ('{"init_args": [3]}', r"init_args\[0\] is a int"),
        ('{"init_args": [' * 9 + "{}" + "]}" * 9, "more than 8 deep"),
        (" " * (8 << 20) + "{}", "a JSON file of"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(FormatError, match=words):
        config_fields.read(path, "torch", MEASURED, where=tmp_path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    settings, _ = written(CONFIG, "torch")
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(settings).encode())
    assert config_fields.read(path, "torch", {}, where=tmp_path).config == CONFIG


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises((FormatError, MisfitError)):
        read(tmp_path, "torch", '{"hidden_size": ' + "9" * 5000 + "}")


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


@pytest.mark.parametrize("key", ["hidden_act", "pooler_activation"])
def test_an_activation_that_no_software_has_is_refused(tmp_path: Path, key: str) -> None:
    settings, _ = written(CONFIG, "torch")
    with pytest.raises(MisfitError, match=f"{key} .*got 'geluu' in config.json, want an activation's name: gelu, "):
        read(tmp_path, "torch", {**settings, key: "geluu"})
    assert getattr(read(tmp_path, "torch", {**settings, key: "linear"}).config, key) == "linear"


def without(directory: Path, name: str, *keys: str) -> None:
    path = directory / name
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key not in keys}))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("shape", ["everything", "no-pooler"])
def test_a_pooler_whose_activation_no_file_says_is_told(tmp_path: Path, dialect: Dialect, shape: str) -> None:
    write_random(tmp_path / "ckpt", dialect, shape)
    target: Dialect = "torch" if dialect == "paddle" else "paddle"
    words = "pooler_activation = tanh is assumed"
    assert not [note for note in convert(tmp_path / "ckpt", tmp_path / "said", to=target).notes if words in note]
    config = "bert_config.json" if dialect == "tf1" else "config.json"
    without(tmp_path / "ckpt", config, "pool_act", "pooler_activation")
    for notes in (
        convert(tmp_path / "ckpt", tmp_path / "assumed", to=target).notes,
        convert(tmp_path / "ckpt", to=target, options=ConvertOptions(dry_run=True)).notes,
        inspect(tmp_path / "ckpt").notes,
    ):
        told = [note for note in notes if words in note]
        assert len(told) == (shape == "everything")
        assert all("--set pooler_activation=linear" in note for note in told)
    report = convert(
        tmp_path / "ckpt", tmp_path / "set", to=target, options=ConvertOptions(set={"pooler_activation": "linear"})
    )
    assert not [note for note in report.notes if "assumed" in note and "pooler" in note]
    assert "pooler_activation = linear, as it was set" in report.notes
    with open_checkpoint(tmp_path / "set") as there:
        assert there.config == replace(SHAPES[shape][0], pooler_activation="linear")


def test_the_mask_of_a_tf1_source_is_told_unless_a_file_says_it(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1", "masked-lm")
    words = "attention in both directions is assumed"
    assert not [note for note in convert(tmp_path / "ckpt", to="torch").notes if words in note]
    without(tmp_path / "ckpt", "bert_config.json", "roformer_convert")
    for notes in (convert(tmp_path / "ckpt", to="tf").notes, inspect(tmp_path / "ckpt").notes):
        (note,) = (note for note in notes if words in note)
        assert "--set attention=causal" in note
        assert "--set attention=unilm" in note
    (tmp_path / "ckpt" / "bert_config.json").unlink()
    set_heads = {"num_attention_heads": 4, "max_position_embeddings": 47}
    assert [
        note
        for note in convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions(set=set_heads)).notes
        if words in note
    ]
    # whose own software reads a key for it
    write_random(tmp_path / "other", "torch", "masked-lm")
    without(tmp_path / "other", "config.json", "is_decoder", "roformer_convert")
    assert not [note for note in convert(tmp_path / "other", to="tf").notes if words in note]


def test_every_field_can_be_set(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    for item in FIELDS:
        value = getattr(UNUSUAL, item.name)
        if item.name in MEASURED or item.name in ("norm_type", "use_bias"):  # the tensors show them
            continue
        with open_checkpoint(tmp_path / "ckpt", set={item.name: value}) as checkpoint:
            assert checkpoint.config == replace(CONFIG, **{item.name: value})
        text = json.dumps(value) if isinstance(value, tuple) else str(value).lower()
        (given,) = parse_settings([f"{item.name}={text}"]).values()
        assert given == (list(value) if isinstance(value, tuple) else value)
    assert parse_settings(["pad_token_id=null", "hidden_act=relu"]) == {
        "pad_token_id": None,
        "hidden_act": "relu",
    }
    with open_checkpoint(tmp_path / "ckpt", set={"pad_token_id": None}) as checkpoint:
        assert checkpoint.config.pad_token_id is None
    # against the tensors it is held as a file's value is
    with pytest.raises(MisfitError, match="shape"):
        open_checkpoint(tmp_path / "ckpt", set={"vocab_size": 60})


@pytest.mark.parametrize(
    ("field", "value", "shown"), [("norm_type", "rms_norm", "layer_norm"), ("use_bias", False, True)]
)
def test_what_the_tensors_show_cannot_be_set_or_said_otherwise(
    tmp_path: Path, field: str, value: Any, shown: Any
) -> None:
    write_random(tmp_path / "ckpt", "torch")
    with pytest.raises(MisfitError, match=f"{field} +got {value} from --set, and the tensors show {shown}"):
        open_checkpoint(tmp_path / "ckpt", set={field: value})
    path = tmp_path / "ckpt" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(MisfitError) as caught:
        open_checkpoint(tmp_path / "ckpt")
    assert [(problem.kind, problem.name) for problem in caught.value.problems] == [("function", field)]
    assert "another model's are not converted" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pooler": "linear"}, "--set 'pooler': no field of this name\n  Fields: vocab_size, .*attention"),
        ({"norm_type": "batch_norm"}, "want layer_norm or rms_norm"),
        ({"attention": "both"}, "want bidirectional or causal or unilm"),
        ({"labels": "good"}, "want a list of names"),
        ({"pooler_activation": "lienar"}, "got 'lienar', want an activation's name"),
        ({"pooler_activation": True}, "got True, want an activation's name"),
        ({"layer_norm_eps": "tiny"}, "want a number of at least 0"),
        ({"hidden_dropout_prob": 2}, "want a probability"),
        ({"rotary_value": "yes"}, "want true or false"),
        ({"num_attention_heads": 0}, "want an integer from 1"),
        ({"num_attention_heads": None}, "want an integer from 1"),
    ],
)
def test_what_cannot_be_set_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    write_random(tmp_path / "ckpt", "torch")
    with pytest.raises(ConvertError, match=words):
        convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions(set=given))
    for use in (inspect, open_checkpoint):
        with pytest.raises(ConvertError, match=words):
            use(tmp_path / "ckpt", set=given)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["pooler_activation"], "want FIELD=VALUE"),
        (["hidden_act=relu", "hidden_act=gelu"], "gives hidden_act twice"),
    ],
)
def test_what_is_no_setting_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(ConvertError, match=words):
        parse_settings(texts)


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


def of_class(tmp_path: Path, kind: str, more: dict[str, Any], dialect: Dialect = "torch") -> SourceConfig:
    settings, _ = written(CONFIG, dialect)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, **more}))
    return config_fields.read(path, dialect, MEASURED, where=tmp_path, kind=CLASSES[kind], pooler=True)


@pytest.mark.parametrize(
    ("names", "count", "labels", "told"),
    [
        ({"0": "a", "1": "b", "2": "c"}, 3, ("a", "b", "c"), ""),
        ({"2": "c", "0": "a", "1": "b"}, 3, ("a", "b", "c"), ""),
        ({"0": 0, "1": 1, "2": 2}, 3, ("0", "1", "2"), ""),
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, 3, (), ""),
        ({"0": "a", "2": "c", "5": "f"}, 3, (), "leaves numbers without a name"),
    ],
)
def test_labels_are_counted_and_named(
    tmp_path: Path, names: dict[str, Any], count: int, labels: tuple[str, ...], told: str
) -> None:
    found = of_class(tmp_path, "token-classification", {"id2label": names})
    assert (found.config.num_labels, found.config.labels) == (count, labels)
    assert bool([note for note in found.notes if "id2label" in note]) == bool(told)
    assert told in " ".join(found.notes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_answer_has_two_ends_whatever_labels_a_file_names(tmp_path: Path, count: int) -> None:
    found = of_class(tmp_path, "question-answering", {"id2label": {str(n): f"x{n}" for n in range(count)}})
    assert found.config.num_labels == 2
    assert found.config.labels == (("x0", "x1") if count == 2 else ())
    assert bool([note for note in found.notes if "left out" in note]) == (count != 2)


@pytest.mark.parametrize("target", DIALECTS[:3])
@pytest.mark.parametrize(("kind", "said"), [("multiple-choice", None), ("multiple-choice", 3), ("masked-lm", None)])
def test_a_number_of_choices_that_no_file_says_is_told_where_it_is_read(
    tmp_path: Path, kind: str, said: int | None, target: Dialect
) -> None:
    """PaddleNLP alone reads it: whoever asks a model of transformers for answers need not know."""
    found = of_class(tmp_path, kind, {"num_choices": said})
    _, notes = config_fields.write(found, target, kind=CLASSES[kind], dtype="float32")
    told = [note for note in (*found.notes, *notes) if "num_choices" in note]
    assert bool(told) == (target == "paddle" and kind == "multiple-choice" and said is None)


@pytest.mark.parametrize("said", [1, "true", []])
def test_a_decoder_that_is_neither_true_nor_false_is_refused(tmp_path: Path, said: Any) -> None:
    """transformers masks causally wherever the value is not empty."""
    with pytest.raises(MisfitError, match=r"attention.*is_decoder = .* want true or false"):
        of_class(tmp_path, "causal-lm", {"is_decoder": said})


@pytest.mark.parametrize("dialect", ["torch", "tf"])
@pytest.mark.parametrize("pooler", [True, False])
def test_a_summary_projection_is_there_exactly_where_it_is_said(tmp_path: Path, dialect: Dialect, pooler: bool) -> None:
    """transformers draws one that a file lacks at random, and leaves one out that is not said."""
    settings, _ = config_fields.write(
        SourceConfig(CONFIG), dialect, kind=CLASSES["multiple-choice"], dtype="float32", pooler=pooler
    )
    path = tmp_path / "config.json"
    for said in (pooler, not pooler):
        path.write_text(json.dumps({**settings, "summary_use_proj": said}))
        reading = config_fields.examine(
            json.loads(path.read_text()),
            path,
            dialect,
            MEASURED,
            where=tmp_path,
            kind=CLASSES["multiple-choice"],
            pooler=pooler,
        )
        told = [problem.detail for problem in reading.problems]
        assert ["summary_use_proj" in each for each in told] == ([] if said is pooler else [True])


def test_names_are_as_many_as_labels() -> None:
    settings, _ = written(replace(CONFIG, num_labels=3, labels=()), "torch")
    given = {"labels": ["good", "bad"]}
    reading = config_fields.examine(
        settings,
        None,
        "torch",
        MEASURED,
        where=Path("ckpt"),
        kind=CLASSES["token-classification"],
        pooler=True,
        given=given,
    )
    assert [(problem.name, problem.detail) for problem in reading.problems] == [
        ("labels", "2 names ('good, bad') of 3 labels")
    ]
