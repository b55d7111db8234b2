"""Configuration files as they are read: what a missing key means, what a head's keys say, what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from config_files import MEASURED, read, written
from random_checkpoints import CONFIG, read_all, same_bits, write_random

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.errors import FormatError, MisfitError
from roformer_convert.converters.table import config_reading, config_writing
from roformer_convert.converters.table.config_fields import SourceConfig
from roformer_convert.converters.table.mapping import CLASSES, DIALECTS, Dialect


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
        config_reading.read(path, "torch", MEASURED, where=tmp_path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    settings, _ = written(CONFIG, "torch")
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(settings).encode())
    assert config_reading.read(path, "torch", {}, where=tmp_path).config == CONFIG


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises((FormatError, MisfitError)):
        read(tmp_path, "torch", '{"hidden_size": ' + "9" * 5000 + "}")


@pytest.mark.parametrize("key", ["hidden_act", "pooler_activation"])
def test_an_activation_that_no_software_has_is_refused(tmp_path: Path, key: str) -> None:
    settings, _ = written(CONFIG, "torch")
    with pytest.raises(MisfitError, match=f"{key} .*got 'geluu' in config.json, want an activation's name: gelu, "):
        read(tmp_path, "torch", {**settings, key: "geluu"})
    assert getattr(read(tmp_path, "torch", {**settings, key: "linear"}).config, key) == "linear"


def of_class(tmp_path: Path, kind: str, more: dict[str, Any], dialect: Dialect = "torch") -> SourceConfig:
    settings, _ = written(CONFIG, dialect)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, **more}))
    return config_reading.read(path, dialect, MEASURED, where=tmp_path, kind=CLASSES[kind], pooler=True)


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
    _, notes = config_writing.write(found, target, kind=CLASSES[kind], dtype="float32")
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
    settings, _ = config_writing.write(
        SourceConfig(CONFIG), dialect, kind=CLASSES["multiple-choice"], dtype="float32", pooler=pooler
    )
    path = tmp_path / "config.json"
    for said in (pooler, not pooler):
        path.write_text(json.dumps({**settings, "summary_use_proj": said}))
        reading = config_reading.examine(
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
    reading = config_reading.examine(
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
