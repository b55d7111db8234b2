"""``inspect`` and ``diff`` in Python: what a directory is, and whether two hold the same model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_folders import PEERS
from random_checkpoints import CONFIG, CONTAINERS, SHAPES, random_tensors, save, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.compare import Comparison, compare
from roformer_convert.converters.errors import InexpressibleError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.converters.tensors import blocks


def difference(one: Path, other: Path) -> Comparison:
    with open_checkpoint(one) as first, open_checkpoint(other) as second:
        comparison = compare(first, second)
    json.dumps(comparison.as_dict())
    return comparison


@pytest.mark.parametrize(("dialect", "container"), [*CONTAINERS, ("tf", "h5"), ("tf1", "ckpt")])
def test_inspection_says_what_a_directory_is(tmp_path: Path, dialect: Dialect, container: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, container=container)
    (tmp_path / "ckpt" / "vocab.txt").write_text("x\n")
    found = inspect(tmp_path / "ckpt")
    assert (found.dialect, found.container, found.model_class) == (dialect, container, "RoFormerForPretraining")
    assert [(problem.kind, problem.name) for problem in found.problems] == [("vocabulary", "vocab.txt")]
    assert found.parameters == sum(array.size for array in tensors.values())
    assert found.dtypes == {"float32": found.tensors}
    assert found.config["hidden_size"] == 24
    assert found.companions == ("vocab.txt",)
    weights = {path.name: path.stat().st_size for path in (tmp_path / "ckpt").iterdir() if path.name != "checkpoint"}
    assert found.files == {name: size for name, size in weights.items() if "config" not in name and name != "vocab.txt"}
    assert found.groups == (
        "embeddings",
        "embeddings_project",
        "encoder layers",
        "pooler",
        "masked-LM head",
        "sentence-order head",
    )
    json.dumps(found.as_dict())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_heads_decide_the_class(tmp_path: Path, shape: str) -> None:
    write_random(tmp_path / "ckpt", "paddle", shape)
    want = {"everything": "RoFormerForPretraining", "no-projection": "RoFormerForPretraining"}
    want |= {"masked-lm": "RoFormerForMaskedLM", "masked-lm-pooler": "RoFormerForMaskedLM"}
    want |= {"no-pooler": "RoFormerForPretraining", "base": "RoFormerModel", "base-pooler": "RoFormerModel"}
    assert inspect(tmp_path / "ckpt").model_class == want.get(shape, "RoFormerModel")


def test_a_checkpoint_that_fits_is_given_no_advice(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    found = inspect(tmp_path / "ckpt")
    assert found.converts
    assert found.notes == ()


def test_inspection_counts_shards_and_ties(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle", max_shard_size=3000, dtype="bfloat16")
    found = inspect(tmp_path / "ckpt")
    assert len(found.files) > 3
    assert found.tied == ("cls.predictions.decoder_weight",)
    assert set(found.dtypes) == {"bfloat16"}


def test_inspection_describes_a_misfit(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    path = tmp_path / "ckpt" / "model.safetensors"
    arrays = load_file(path)
    for layer in range(3):
        del arrays[f"roformer.encoder.layer.{layer}.output.dense.bias"]
    arrays["classifier.weight"] = np.ones((3, 24), np.float32)
    save_file(arrays, path)
    found = inspect(tmp_path / "ckpt")
    assert [(problem.kind, problem.name, count) for problem, count in found.folded_problems()] == [
        ("missing", "roformer.encoder.layer.{0...2}.output.dense.bias", 3),
        ("unknown", "classifier.weight", 1),
    ]
    assert found.parameters == sum(array.size for array in tensors.values()) - 3 * 24
    assert found.config["hidden_size"] == 24
    assert "cls.predictions.decoder.bias" in found.tied
    assert found.as_dict()["converts"] is False
    json.dumps(found.as_dict())


def test_inspection_says_sizes_beside_a_wrong_configuration(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    path = tmp_path / "ckpt" / "config.json"
    wrong = {"hidden_size": "24", "num_attention_heads": 5}
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    found = inspect(tmp_path / "ckpt")
    assert [problem.name for problem in found.problems] == ["hidden_size"]
    assert found.config["hidden_size"] == 24
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 24}))
    found = inspect(tmp_path / "ckpt")
    assert [problem.name for problem in found.problems] == ["num_attention_heads"]
    assert "num_attention_heads" not in found.config
    assert found.parameters


@pytest.mark.parametrize("dialect", DIALECTS)
def test_conversions_are_equal_to_their_source(tmp_path: Path, dialect: Dialect) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", any_bits=True, max_shard_size=5000)
    convert(tmp_path / "ckpt", tmp_path / "out", to=dialect)
    comparison = difference(tmp_path / "ckpt", tmp_path / "out")
    assert comparison.equal
    assert [tensor.name for tensor in comparison.tensors] == list(tensors)


@pytest.mark.parametrize("dialect", ["paddle", "torch"])
@pytest.mark.parametrize(("most", "less"), [((30, 20), (3, 7)), ((0, 0), (30, 20)), ((33, 23), (0, 0))])
def test_the_largest_difference_is_found_where_it_is(
    tmp_path: Path, dialect: Dialect, most: tuple[int, int], less: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In canonical orientation, whichever way the files hold it, and in whichever part of the tensor."""
    monkeypatch.setattr(blocks, "_PART", 64)
    tensors = random_tensors()
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    name = "layers.1.feed_forward.up.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][less] += 0.5
    tensors[name][most] -= 2.0
    save(tmp_path / "two", dialect, tensors, CONFIG)
    comparison = difference(tmp_path / "one", tmp_path / "two")
    assert not comparison.equal
    assert not comparison.agree
    (found,) = (tensor for tensor in comparison.tensors if tensor.verdict != "equal")
    assert (found.name, found.verdict, found.index, found.count) == (name, "differs", most, 2)
    assert found.second == float(tensors[name][most])
    assert found.first is not None
    assert found.largest == abs(found.first - float(tensors[name][most]))


def test_a_first_element_alone_may_be_what_differs(tmp_path: Path) -> None:
    tensors = random_tensors()
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    tensors["mlm.bias"] = tensors["mlm.bias"].copy()
    tensors["mlm.bias"][0] += 1
    save(tmp_path / "two", "torch", tensors, CONFIG)
    (found,) = (one for one in difference(tmp_path / "one", tmp_path / "two").tensors if one.verdict != "equal")
    assert (found.index, found.count, found.detail) == ((0,), 1, "")
    assert found.largest > 0.9


def test_bits_that_differ_at_equal_values_differ(tmp_path: Path) -> None:
    tensors = random_tensors()
    tensors["mlm.bias"][5] = 0.0
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    tensors["mlm.bias"][5] = -0.0
    save(tmp_path / "two", "torch", tensors, CONFIG)
    comparison = difference(tmp_path / "one", tmp_path / "two")
    assert not comparison.equal
    (found,) = (tensor for tensor in comparison.tensors if tensor.verdict != "equal")
    assert (found.name, found.verdict, found.count) == ("mlm.bias", "differs", 0)
    assert "signed zero" in found.detail


def test_a_nan_on_one_side_is_the_largest_difference(tmp_path: Path) -> None:
    tensors = random_tensors()
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    tensors["mlm.norm.bias"] = tensors["mlm.norm.bias"].copy()
    tensors["mlm.norm.bias"][2] = 1e30
    tensors["mlm.norm.bias"][9] = np.nan
    save(tmp_path / "two", "torch", tensors, CONFIG)
    (found,) = (one for one in difference(tmp_path / "one", tmp_path / "two").tensors if one.verdict != "equal")
    assert math.isnan(found.largest)
    assert found.index == (9,)
    assert found.count == 2


def test_other_types_of_equal_values_are_called_so(tmp_path: Path) -> None:
    write_random(tmp_path / "one", "paddle", dtype="bfloat16")
    convert(tmp_path / "one", tmp_path / "two", to="tf", options=ConvertOptions(dtype="float32"))
    comparison = difference(tmp_path / "one", tmp_path / "two")
    assert not comparison.equal
    assert {(tensor.verdict, tensor.detail) for tensor in comparison.tensors} == {("dtype", "bfloat16 and float32")}
    convert(tmp_path / "two", tmp_path / "three", to="torch", options=ConvertOptions(dtype="float16"))
    rounded = difference(tmp_path / "two", tmp_path / "three").tensors
    assert {tensor.verdict for tensor in rounded} <= {"dtype", "differs"}
    assert all(tensor.largest < 2e-3 for tensor in rounded)


def test_tensors_of_one_side_and_other_shapes_are_told(tmp_path: Path) -> None:
    write_random(tmp_path / "one", "paddle", "masked-lm")
    write_random(tmp_path / "two", "torch", "base-sop")
    verdicts = {tensor.name: tensor.verdict for tensor in difference(tmp_path / "one", tmp_path / "two").tensors}
    assert verdicts["mlm.bias"] == "only in the first"
    assert verdicts["pooler.weight"] == "only in the second"
    assert verdicts["layers.2.attention.key.weight"] == "equal"
    wider = replace(CONFIG, intermediate_size=35)
    save(tmp_path / "three", "torch", random_tensors(wider), wider)
    comparison = difference(tmp_path / "one", tmp_path / "three")
    shapes = {tensor.name: tensor.detail for tensor in comparison.tensors if tensor.verdict == "shape"}
    assert shapes["layers.0.feed_forward.up.weight"] == "(34, 24) and (35, 24)"
    assert comparison.config == {"intermediate_size": (34, 35)}


def test_configurations_that_differ_are_a_difference(tmp_path: Path) -> None:
    tensors = random_tensors()
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    save(tmp_path / "two", "paddle", tensors, replace(CONFIG, num_attention_heads=2, layer_norm_eps=1e-6))
    comparison = difference(tmp_path / "one", tmp_path / "two")
    assert not comparison.equal
    assert not comparison.agree
    assert all(tensor.verdict == "equal" for tensor in comparison.tensors)
    assert comparison.config == {"num_attention_heads": (4, 2), "layer_norm_eps": (1e-12, 1e-6)}


def test_lazily_read_arrays_come_in_any_float_type(tmp_path: Path) -> None:
    tensors: dict[str, Any] = write_random(tmp_path / "ckpt", "tf1", dtype="bfloat16")
    with open_checkpoint(tmp_path / "ckpt") as opened:
        assert len(opened) == len(tensors)
        assert opened.dtypes() == {"bfloat16": len(tensors)}
        name = "layers.0.feed_forward.down.weight"
        assert opened.shape(name) == (24, 34)
        assert opened.dtype(name) == "bfloat16"
        wide = (tensors[name].astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(opened.read(name, "float32"), wide)
        assert np.array_equal(opened[name], tensors[name])


def test_targets_that_would_compute_something_else_are_named(tmp_path: Path) -> None:
    found = inspect(PEERS / "pd-SequenceClassification_default_pd")
    assert found.converts
    assert set(found.different) == {"torch", "tf"}
    for listed in found.different.values():
        assert [each.partition(":")[0] for each in listed] == ["pooler_activation"]
    for target in found.different:
        with pytest.raises(InexpressibleError, match="pooler_activation"):
            convert(PEERS / "pd-SequenceClassification_default_pd", tmp_path / "out", to=target)
