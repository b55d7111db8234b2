"""Fields that no file says are told as assumed, and any field can be set that the tensors do not show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from config_files import MEASURED, UNUSUAL
from random_checkpoints import CONFIG, SHAPES, write_random

from roformer_convert.converters import ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.errors import ConvertError, MisfitError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table.config_fields import FIELDS
from roformer_convert.converters.table.field_values import parse_settings
from roformer_convert.converters.table.mapping import DIALECTS, Dialect


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vocab_size": 60}, "V is vocab_size from --set"),
        ({"hidden_size": 40}, "hidden_size +40 from --set, the tensors show 24"),
        ({"num_hidden_layers": 2}, "num_hidden_layers +2 from --set, the tensors show 3 layers"),
    ],
)
def test_against_the_tensors_a_size_is_held_as_a_files_value_is(
    tmp_path: Path, given: dict[str, int], words: str
) -> None:
    write_random(tmp_path / "ckpt", "torch")
    with pytest.raises(MisfitError, match=words) as caught:
        open_checkpoint(tmp_path / "ckpt", set=given)
    assert caught.value.next_step == "The tensors decide their sizes: leave that out of --set."


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
