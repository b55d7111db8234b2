"""Configuration files, field by field: each dialect's spelling and defaults, and what a dialect cannot honour."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import CONFIG, DIRECTIONS, read_all, same_bits, write_random

from roformer_convert.converters import RoFormerConfig, config_fields, convert, open_checkpoint
from roformer_convert.converters.config_fields import ACTIVATIONS, FIELDS, SYNONYMS, SourceConfig, canonical_activation
from roformer_convert.converters.errors import FormatError, MisfitError
from roformer_convert.converters.mapping import DIALECTS, Dialect

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
    is_decoder=True,
)
MEASURED = {"vocab_size": 61, "embedding_size": 14, "hidden_size": 24, "num_hidden_layers": 3}
MEASURED |= {"intermediate_size": 34, "type_vocab_size": 5}


def written(config: RoFormerConfig, dialect: Dialect, **more: Any) -> tuple[dict[str, Any], list[str]]:
    return config_fields.write(
        SourceConfig(config, **more), dialect, architecture="RoFormerForMaskedLM", dtype="float32"
    )


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
        assert opened.config_path is not None
        assert opened.config_path.name == ("bert_config.json" if target == "tf1" else "config.json")


def test_the_keys_are_those_of_each_software() -> None:
    settings = {dialect: written(UNUSUAL, dialect)[0] for dialect in DIALECTS}
    assert settings["paddle"]["pool_act"] == "relu"
    assert settings["torch"]["pooler_activation"] == settings["tf1"]["pooler_activation"] == "relu"
    for dialect in ("paddle", "torch", "tf"):
        assert settings[dialect]["architectures"] == ["RoFormerForMaskedLM"]
        assert settings[dialect]["model_type"] == "roformer"
        assert settings[dialect]["dtype"] == "float32"
    assert settings["torch"]["torch_dtype"] == "float32"
    assert not {"architectures", "dtype", "model_type"} & settings["tf1"].keys()
    for dialect in DIALECTS:
        assert settings[dialect]["embedding_size"] == 14
        json.dumps(settings[dialect], allow_nan=False)


@pytest.mark.parametrize(
    ("dialect", "field", "value", "words"),
    [
        ("paddle", "is_decoder", True, "is_decoder = True is written, but PaddleNLP will compute with False"),
        ("tf", "is_decoder", True, "transformers' TF classes will compute with False"),
        ("tf1", "is_decoder", True, "bert4keras will compute with False"),
        ("tf1", "rotary_value", True, "bert4keras will compute with False"),
        ("tf1", "layer_norm_eps", 1e-5, "bert4keras will compute with 1e-12"),
        ("tf1", "pad_token_id", 3, "bert4keras will compute with 0"),
        ("paddle", "layer_norm_eps", 0.01, "PaddlePaddle refuses more than 1e-3"),
        ("paddle", "hidden_act", "gelu_tanh", "there is no such function in PaddleNLP"),
        ("paddle", "hidden_act", "quick_gelu", "there is no such function in PaddleNLP"),
        ("tf1", "hidden_act", "mish", "there is no such function in bert4keras"),
        ("torch", "hidden_act", "strange", "the table does not know this function"),
    ],
)
def test_what_a_dialect_cannot_express_is_reported(dialect: Dialect, field: str, value: Any, words: str) -> None:
    usual = replace(CONFIG, initializer_range=0.02, layer_norm_eps=1e-12, pad_token_id=0)
    assert written(usual, dialect)[1] == []
    settings, notes = written(replace(usual, **{field: value}), dialect)
    assert len(notes) == 1
    assert words in notes[0]
    assert value in settings.values()


@pytest.mark.parametrize(
    ("source", "spelled", "target", "want"),
    [
        ("torch", "gelu", "tf1", "gelu"),
        ("torch", "gelu_new", "tf1", "gelu_tanh"),
        ("torch", "gelu_new", "tf", "gelu_new"),
        ("torch", "gelu_pytorch_tanh", "tf", "gelu_new"),
        ("torch", "gelu_pytorch_tanh", "torch", "gelu_pytorch_tanh"),
        ("torch", "gelu_fast", "tf", "gelu_fast"),
        ("torch", "gelu_python", "paddle", "gelu"),
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
    there = config_fields.write(found, target, architecture="RoFormerModel", dtype="float32")[0]
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
    extra = {"my_note": {"a": [1, 2]}, "use_cache": False, "id2label": {"0": "x"}}
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
    there, notes = config_fields.write(found, target, architecture="RoFormerForMaskedLM", dtype="float32")
    assert ("use_cache" in there) == (target != "paddle")
    assert any("use_cache = True is left out" in note for note in notes) == (target == "paddle")


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("value", [False, None, 0])
def test_weights_that_are_tied_are_said_to_be(tmp_path: Path, target: Dialect, value: Any) -> None:
    """transformers 5 makes a random head of false; that the two are one tensor was checked when they were read."""
    settings, _ = written(CONFIG, "torch")
    found = read(tmp_path, "torch", {**settings, "tie_word_embeddings": value})
    there, notes = config_fields.write(found, target, architecture="RoFormerForMaskedLM", dtype="float32")
    assert there["tie_word_embeddings"] is True
    assert [note for note in notes if f"tie_word_embeddings = {value} is written as True" in note]
    found = read(tmp_path, "torch", {**settings, "tie_word_embeddings": True})
    there, notes = config_fields.write(found, target, architecture="RoFormerForMaskedLM", dtype="float32")
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
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, DIALECTS),
    ],
)
def test_what_changes_a_loaders_answer_is_left_out_and_reported(
    tmp_path: Path, key: str, value: Any, out_of: tuple[Dialect, ...], target: Dialect
) -> None:
    settings, _ = written(CONFIG, "torch")
    found = read(tmp_path, "torch", {**settings, key: value})
    there, notes = config_fields.write(found, target, architecture="RoFormerForMaskedLM", dtype="float32")
    assert (key in there) == (target not in out_of)
    assert len([note for note in notes if note.startswith(f"{key} = ") and "is left out" in note]) == (target in out_of)


@pytest.mark.parametrize("target", DIALECTS)
def test_another_class_than_the_sources_is_reported(tmp_path: Path, target: Dialect) -> None:
    settings, _ = written(CONFIG, "torch")
    for said, told in ((["RoFormerForCausalLM"], 1), (["RoFormerForMaskedLM"], 0), (None, 0), ([], 0)):
        found = read(tmp_path, "torch", {**settings, "architectures": said})
        there, notes = config_fields.write(found, target, architecture="RoFormerForMaskedLM", dtype="float32")
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
