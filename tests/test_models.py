"""The three models compute one function: the peers' own, an independent one in numpy, and each other's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_checkpoints
from model_runner import FLOAT64, FRAMEWORKS, Arrays, Runners, assert_agree, assert_close, batch, runners, write
from numpy_roformer import Forward
from peer_folders import BFLOAT16, FOLDERS, PEERS, TOLERANCE, TRAINED, inputs_of
from random_checkpoints import CONFIG, UNPROJECTED

from roformer_convert.converters.table.activations import ACTIVATIONS
from roformer_convert.converters.table.mapping import MLM
from roformer_convert.models.config import tap_names

__all__ = ["runners"]  # a fixture


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_peers_logits_are_reproduced(runners: Runners, framework: str, folder: str) -> None:
    inputs, want = inputs_of(folder), np.load(PEERS / folder / "logits.npy")
    # bfloat16: weights of 8 bits, and a writer whose rotary table is rounded to them too (1.8e-3 by itself)
    tolerance = 6e-2 if folder == BFLOAT16 else TOLERANCE
    for packed in (False, True):
        got = runners[framework].forward(PEERS / folder, inputs, options={"packed": packed})["out0"]
        real = inputs["attention_mask"] != 0
        assert abs(got - want)[real].max() <= tolerance


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_bfloat16_weights_computed_in_float32_differ_by_the_writers_table_alone(
    runners: Runners, framework: str
) -> None:
    inputs, want = inputs_of(BFLOAT16), np.load(PEERS / BFLOAT16 / "logits.npy")
    got = runners[framework].forward(PEERS / BFLOAT16, inputs, loading={"dtype": "float32"})["out0"]
    assert abs(got - want)[inputs["attention_mask"] != 0].max() <= 4e-3


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_trained_checkpoint_predicts_what_its_writer_predicted(runners: Runners, framework: str) -> None:
    for sentence in json.loads((TRAINED / "expected.json").read_text())["sentences"]:
        ids = np.array([sentence["input_ids"]])
        positions = np.array([mask["position"] for mask in sentence["masks"]])
        got = runners[framework].forward(TRAINED, {"input_ids": ids, "positions": positions})["out0"]
        for logits, mask in zip(got, sentence["masks"], strict=True):
            assert np.argsort(-logits)[:5].tolist() == mask["ids"]
            assert abs(logits[mask["ids"]] - mask["logits"]).max() <= 2e-5  # five decimals, float32


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["everything", "no-projection"])
def test_function_is_that_of_the_paper(runners: Runners, framework: str, name: str, tmp_path: Path) -> None:
    config = replace(random_checkpoints.SHAPES[name][0], rotary_value=name == "everything")
    tensors = write(tmp_path / "checkpoint", config)
    inputs = batch(config, (11, 7, 1), 11)
    got = runners[framework].forward(tmp_path / "checkpoint", inputs, **{"class": "RoFormerForPretraining"})
    judge = Forward(tensors, config)
    hidden = judge.hidden(**inputs)
    real = inputs["attention_mask"] != 0
    assert_close(got["out0"][real], judge.logits(hidden)[real], FLOAT64, "logits")
    order = np.exp(got["out1"]) / np.exp(got["out1"]).sum(-1, keepdims=True)
    assert_close(order, judge.pair(hidden), FLOAT64, "sentence order")


def test_agreement_of_one_framework_is_skipped_and_a_difference_fails() -> None:
    one = {"out0": np.array([1.0, 2.0])}
    with pytest.raises(pytest.skip.Exception, match="nothing to compare torch with"):
        assert_agree({"torch": one})
    assert_agree({"torch": one, "paddle": one})
    for other in ([1.0, 2.1], [1.0, np.nan], [1.0]):
        with pytest.raises(AssertionError, match="tf against torch: out0"):
            assert_agree({"torch": one, "paddle": one, "tf": {"out0": np.array(other)}})


@pytest.mark.parametrize("framework", FRAMEWORKS[1:])  # against the first
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_are_exact_in_float64(runners: Runners, framework: str, activation: str, tmp_path: Path) -> None:
    config = replace(UNPROJECTED, hidden_act=activation, num_hidden_layers=1)
    write(tmp_path / "checkpoint", config)
    inputs = batch(config, (9, 9), 9)
    found = {name: runners[name].forward(tmp_path / "checkpoint", inputs) for name in (FRAMEWORKS[0], framework)}
    assert_agree(found, tolerance=1e-14)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_taps_have_the_names_and_the_order_of_the_configuration(
    runners: Runners, framework: str, tmp_path: Path
) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    request: Arrays = {"class": "RoFormerForPretraining", "taps": True}
    inputs = batch(CONFIG, (5, 9), 9)
    found = runners[framework].forward(tmp_path / "checkpoint", inputs, **request)
    taps = runners[framework].answer["taps"]
    assert sorted(taps) == sorted(tap_names(CONFIG, pooler=True, mlm=True, sop=True))
    heads, size = CONFIG.num_attention_heads, CONFIG.head_size
    assert found["embeddings"].shape == (2, 9, CONFIG.hidden_size)
    assert found["layers.2.attention.key"].shape == (2, 9, heads, size)
    assert found["mlm.norm"].shape == (2, 9, CONFIG.embedding_size)
    assert np.array_equal(found["logits"], found["out0"])
    packed = runners[framework].forward(tmp_path / "checkpoint", inputs, options={"packed": True}, **request)
    for name in taps:
        real = inputs["attention_mask"] != 0
        one, other = (a[name] if name in ("pooler", "sop") else a[name][real] for a in (packed, found))
        assert_close(one, other, FLOAT64, name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_rotation_is_the_papers(runners: Runners, framework: str) -> None:
    # equation 34 at D = 4: angles m and m / 100; a pair is (2i, 2i + 1)
    got = runners[framework].rotate(np.array([[[1.0, 0.0, 1.0, 0.0]], [[0.0, 1.0, 3.0, 4.0]]] * 2), "float64")
    assert np.array_equal(got[0], [[1.0, 0.0, 1.0, 0.0]])  # position 0 stays
    want = [-0.8414709848078965, 0.5403023058681398, 2.959850667913329, 4.029799501669161]
    assert abs(got[1, 0] - want).max() < 2e-15
    want = [-0.4161468365471424, 0.9092974268256817, 0.9998000066665778, 0.01999866669333308]
    assert abs(got[2, 0] - want).max() < 2e-15


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rotation_is_that_of_transformers(runners: Runners, framework: str, dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(300, 2, 64)).astype(dtype)
    want = runners["torch"].rotate(x, dtype, do="rotate_in_transformers")
    # transformers rounds its angles' sines to float32 in either type
    assert_close(runners[framework].rotate(x, dtype), want, 1.5e-7, "rotation")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_saved_checkpoint_computes_the_same_in_transformers(runners: Runners, framework: str, tmp_path: Path) -> None:
    tensors = random_checkpoints.random_tensors(UNPROJECTED, (MLM,))
    random_checkpoints.save(tmp_path / "checkpoint", "paddle", tensors, UNPROJECTED)
    inputs = batch(UNPROJECTED, (9, 4), 9)
    runners["torch"].ask("save", directory=str(tmp_path / "checkpoint"), output=str(tmp_path / "saved"))
    want = runners["torch"].forward(tmp_path / "saved", inputs, do="forward_in_transformers")["out0"]
    got = runners[framework].forward(tmp_path / "saved", inputs)["out0"]
    assert_close(got, want, 1e-5, "logits")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_float32_is_float64_rounded(runners: Runners, framework: str, activation: str, tmp_path: Path) -> None:
    # the kernels that float32 alone takes (oneDNN with the activation inside, fused norms) are held to float64 here
    config = replace(CONFIG, hidden_act=activation, pooler_activation=activation)
    write(tmp_path / "checkpoint", config)
    inputs = batch(config, (9, 2, 5), 9)
    exact, rough, packed = (
        runners[framework].forward(
            tmp_path / "checkpoint",
            inputs,
            options={"packed": packed},
            loading={"dtype": dtype},
            **{"class": "RoFormerForPretraining"},
        )
        for dtype, packed in (("float64", True), ("float32", False), ("float32", True))
    )
    real = inputs["attention_mask"] != 0
    for got in (rough, packed):
        assert_close(got["out0"][real], exact["out0"][real], 1e-5, "logits")
        assert_close(got["out1"], exact["out1"], 1e-5, "sentence order")
