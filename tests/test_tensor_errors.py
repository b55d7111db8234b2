"""Tensors that do not fit the table: all of them are named at once, layers folded, and nothing is written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_names import stored_in
from peer_folders import PEERS
from random_checkpoints import add_rotary_table, read_all, rotary_table, same_bits, write_random
from refusals import Arrays, drop, edit, misfit, refused
from safetensors.numpy import save_file

from roformer_convert.converters import ConvertOptions, MisfitError, Problem, convert
from roformer_convert.converters.table.mapping import Dialect


@pytest.fixture(params=["paddle", "torch"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return "paddle" if request.param == "paddle" else "torch"


@pytest.fixture
def ckpt(tmp_path: Path, dialect: Dialect) -> Path:
    """A checkpoint in safetensors, which the tests can edit with the format's own library."""
    write_random(tmp_path / "ckpt", dialect, container="safetensors")
    return tmp_path / "ckpt"


@pytest.mark.parametrize(
    "canonical",
    [
        "layers.1.feed_forward_norm.bias",
        "embeddings.project.weight",
        "mlm.norm.weight",
        "pooler.bias",
        "sop.weight",
        "embeddings.word.weight",
    ],
)
def test_a_missing_tensor_is_named(ckpt: Path, dialect: Dialect, canonical: str) -> None:
    name = stored_in(canonical, dialect).name
    edit(ckpt, lambda arrays: drop(arrays, name))
    assert ("missing", name) in misfit(ckpt)


def test_missing_layers_are_folded_and_counted(ckpt: Path, dialect: Dialect) -> None:
    names = [stored_in(f"layers.{layer}.attention_norm.bias", dialect).name for layer in range(3)]
    edit(ckpt, lambda arrays: drop(arrays, *names))
    error = refused(ckpt)
    folded = names[0].replace("layers.0.", "layers.{0...2}.").replace("layer.0.", "layer.{0...2}.")
    assert re.search(rf"missing +{re.escape(folded)} +3 tensors", str(error))
    assert "(3 problems, nothing written)" in str(error)


def test_a_missing_layer_between_is_missing(ckpt: Path, dialect: Dialect) -> None:
    edit(ckpt, lambda arrays: drop(arrays, *(name for name in arrays if re.search(r"layers?\.1\.", name))))
    problems = misfit(ckpt)
    assert len(problems) == 16
    assert {kind for kind, _ in problems} == {"missing"}


def test_an_unknown_tensor_is_named_with_what_it_looks_like(ckpt: Path) -> None:
    extra = {"classifier.weight": np.ones((3, 24), np.float32), "my.own.thing": np.ones(5, np.float32)}
    edit(ckpt, lambda arrays: arrays.update(extra))
    error = refused(ckpt)
    assert isinstance(error, MisfitError)
    assert {(problem.kind, problem.name) for problem in error.problems} == {("unknown", name) for name in extra}
    assert "classifier.weight" in str(error)
    assert "looks like a fine-tuned head" in str(error)
    assert "shape (5,)" in str(error)


@pytest.mark.parametrize("said", [2, 4, 9])
def test_another_number_of_layers_is_one_line(ckpt: Path, said: int) -> None:
    path = ckpt / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": said}))
    error = refused(ckpt)
    assert isinstance(error, MisfitError)
    assert error.problems == (
        Problem("configuration", "num_hidden_layers", f"{said} in config.json, the tensors show 3 layers"),
    )


def test_a_stray_tensor_of_one_more_layer_is_unknown(ckpt: Path, dialect: Dialect) -> None:
    name = stored_in("layers.0.attention_norm.bias", dialect).name.replace("r.0.", "r.3.").replace("s.0.", "s.3.")
    edit(ckpt, lambda arrays: arrays.update({name: np.ones(24, np.float32)}))
    assert misfit(ckpt) == [("unknown", name)]


def test_configuration_tensors_and_vocabulary_are_told_together(ckpt: Path, dialect: Dialect) -> None:
    path = ckpt / "config.json"
    wrong = {"num_attention_heads": 5, "intermediate_size": "34", "num_hidden_layers": 4}
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    (ckpt / "vocab.txt").write_text("x\n" * 9)
    name = stored_in("pooler.bias", dialect).name
    edit(ckpt, lambda arrays: drop(arrays, name))
    told = [
        ("configuration", "intermediate_size"),
        ("configuration", "num_attention_heads"),
        ("configuration", "num_hidden_layers"),
        ("missing", name),
    ]
    assert sorted(misfit(ckpt)) == sorted([*told, ("vocabulary", "vocab.txt")])
    assert sorted(misfit(ckpt, any_vocab=True)) == sorted(told)


def test_a_misshapen_tensor_is_told_with_symbol_and_field(ckpt: Path, dialect: Dialect) -> None:
    name, transposed = stored_in("layers.2.feed_forward.up.weight", dialect)
    edit(ckpt, lambda arrays: arrays.update({name: np.ones((33, 24), np.float32)}))
    error = refused(ckpt)
    want = "want (H, F) = (24, 34)" if transposed else "want (F, H) = (34, 24)"
    assert f"got (33, 24), {want}" in str(error)
    assert "F is intermediate_size in config.json" in str(error)


@pytest.mark.parametrize(
    "canonical",
    ["layers.0.feed_forward.down.weight", "embeddings.word.weight", "mlm.transform.weight", "sop.weight"],
)
def test_a_transposed_tensor_is_misshapen(ckpt: Path, dialect: Dialect, canonical: str) -> None:
    """Nothing is transposed to make it fit."""
    name = stored_in(canonical, dialect).name
    edit(ckpt, lambda arrays: arrays.update({name: np.ascontiguousarray(arrays[name].T)}))
    assert ("shape", name) in misfit(ckpt)


def test_a_tensor_of_integers_is_of_the_wrong_type(ckpt: Path, dialect: Dialect) -> None:
    name = stored_in("layers.0.attention.query.bias", dialect).name
    edit(ckpt, lambda arrays: arrays.update({name: np.arange(24, dtype=np.int64)}))
    error = refused(ckpt)
    assert "got int64, want float32 or float16 or bfloat16 or float64" in str(error)


def test_tied_tensors_that_differ_are_told_with_the_element(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")

    def untie(arrays: Arrays) -> None:
        decoder = arrays["roformer.embeddings.word_embeddings.weight"].copy()
        decoder[17, 9] = np.nextafter(decoder[17, 9], np.float32(9))
        arrays["cls.predictions.decoder.weight"] = decoder

    edit(tmp_path / "ckpt", untie)
    error = refused(tmp_path / "ckpt")
    assert "tied" in str(error)
    assert "cls.predictions.decoder.weight" in str(error)
    assert "first at element (17, 9)" in str(error)


def test_tied_tensors_that_are_equal_are_one(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    words = "roformer.embeddings.word_embeddings.weight"
    edit(tmp_path / "ckpt", lambda arrays: arrays.update({"cls.predictions.decoder.weight": arrays[words].copy()}))
    report = convert(tmp_path / "ckpt", to="tf1")
    assert set(report.duplicates) == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert same_bits(read_all(report.target), tensors) == []


def test_a_bias_under_its_second_name_alone_is_the_bias(tmp_path: Path) -> None:
    """Releases of transformers have written cls.predictions.decoder.bias and no cls.predictions.bias."""
    tensors = write_random(tmp_path / "ckpt", "torch")
    edit(tmp_path / "ckpt", lambda arrays: drop(arrays, "cls.predictions.bias"))
    report = convert(tmp_path / "ckpt", to="tf1")
    assert same_bits(read_all(report.target), tensors) == []
    assert any("cls.predictions.decoder.bias is taken for cls.predictions.bias" in note for note in report.notes)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.ones((61, 13), np.float32), "(61, 13)"), (np.ones((61, 14), np.float16), "float16")],
)
def test_tied_tensors_of_other_shapes_or_types_differ(tmp_path: Path, value: Any, words: str) -> None:
    write_random(tmp_path / "ckpt", "paddle", container="safetensors")
    edit(tmp_path / "ckpt", lambda arrays: arrays.update({"cls.predictions.decoder_weight": value}))
    assert words in str(refused(tmp_path / "ckpt"))


@pytest.mark.parametrize("fault", ["value", "shape", "nan"])
@pytest.mark.parametrize("kind", ["torch", "tf"])
def test_a_rotary_table_of_another_configuration_is_told(tmp_path: Path, kind: Dialect, fault: str) -> None:
    write_random(tmp_path / "ckpt", kind)
    table = rotary_table(53) if fault == "shape" else rotary_table()
    if fault != "shape":
        table[20, 4] += 1e-5 if fault == "value" else np.nan
    add_rotary_table(tmp_path / "ckpt", kind, table=table)
    error = refused(tmp_path / "ckpt")
    assert "embed_positions" in str(error)
    if fault == "shape":
        assert "got (53, 6), want (max_position_embeddings, head size) = (47, 6)" in str(error)
        assert "correct max_position_embeddings or the number of heads" in str(error)
    else:
        assert "differs from the rotary table" in str(error)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vocab_size", 60, "V is vocab_size in config.json"),
        ("type_vocab_size", 2, "S is type_vocab_size in config.json"),
        ("intermediate_size", 35, "35 in config.json, the tensors show 34"),
        ("hidden_size", 32, "32 in config.json, the tensors show 24"),
        ("embedding_size", 16, "16 in config.json, the tensors show 14"),
        ("embedding_size", 24, "24 in config.json, the tensors show 14"),
        ("num_hidden_layers", 4, "4 in config.json, the tensors show 3 layers"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_told(ckpt: Path, key: str, value: int, words: str) -> None:
    path = ckpt / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert words in str(refused(ckpt))


def test_a_projection_where_the_configuration_has_none_is_told(tmp_path: Path, dialect: Dialect) -> None:
    write_random(tmp_path / "ckpt", dialect, "no-projection", container="safetensors")
    name = stored_in("embeddings.project.weight", dialect).name
    edit(tmp_path / "ckpt", lambda arrays: arrays.update({name: np.ones((24, 24), np.float32)}))
    assert ("unwanted", name) in misfit(tmp_path / "ckpt")


def test_learned_positions_are_not_called_a_head(ckpt: Path) -> None:
    positions = "roformer.embeddings.position_embeddings.weight"
    edit(ckpt, lambda arrays: arrays.update({positions: np.ones((47, 24), np.float32)}))
    assert "This looks like BERT" in str(refused(ckpt))


def test_every_problem_is_told_at_once(ckpt: Path, dialect: Dialect) -> None:
    def spoil(arrays: Arrays) -> None:
        for layer in range(3):
            del arrays[stored_in(f"layers.{layer}.feed_forward_norm.bias", dialect).name]
        arrays["classifier.bias"] = np.ones(3, np.float32)
        arrays[stored_in("mlm.transform.bias", dialect).name] = np.ones(15, np.float32)
        arrays[stored_in("pooler.bias", dialect).name] = np.ones(24, np.int32)
        tie = "cls.predictions.decoder_weight" if dialect == "paddle" else "cls.predictions.decoder.weight"
        arrays[tie] = np.ones((61, 14), np.float32)

    edit(ckpt, spoil)
    problems = misfit(ckpt)
    assert sorted({kind for kind, _ in problems}) == ["dtype", "missing", "shape", "tied", "unknown"]
    assert len(problems) == 7


def test_a_file_of_another_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    save_file(
        {f"bert.encoder.layer.{i}.x.{j}": np.ones(3, np.float32) for i in range(4) for j in range(4)},
        tmp_path / "ckpt" / "model.safetensors",
    )
    write_random(tmp_path / "v1", "torch")
    shutil.copy(tmp_path / "v1" / "config.json", tmp_path / "ckpt" / "config.json")
    error = refused(tmp_path / "ckpt")
    assert "names  16 tensors   BERT's" in str(error)


def test_the_wrong_direction_is_told(ckpt: Path, dialect: Dialect) -> None:
    """paddle2torch on a torch directory: the names decide what it is."""
    other: Dialect = "torch" if dialect == "paddle" else "paddle"
    error = refused(ckpt, "tf", dialect=other)
    assert dialect in str(error)


@pytest.mark.parametrize("to", ["torch", "paddle", "tf"])
def test_a_head_that_no_file_names_is_asked_for(tmp_path: Path, to: Dialect) -> None:
    """Its tensors may be a token classifier's, and somebody's own as well."""
    shutil.copytree(PEERS / "hf4-TokenClassification_default_st", tmp_path / "ckpt")
    path = tmp_path / "ckpt" / "config.json"
    settings = json.loads(path.read_text())
    del settings["architectures"]
    path.write_text(json.dumps(settings))
    error = refused(tmp_path / "ckpt", to)
    assert isinstance(error, MisfitError)
    assert [(problem.kind, problem.name) for problem in error.problems] == [("class", "the model's class")]
    assert "token-classification (a label for each token)" in str(error)
    assert "--class token-classification" in str(error)
    options = ConvertOptions(model_class="token-classification")
    report = convert(tmp_path / "ckpt", tmp_path / "said", to=to, options=options)
    assert report.plan.kind.name == "token-classification"
