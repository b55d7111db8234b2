"""What the three models leave undone, or do twice: results alone would not show it, so calls and shapes are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_checkpoints
from model_runner import FRAMEWORKS, Arrays, Runners, batch, runners, write
from random_checkpoints import CONFIG

from roformer_convert.converters.tensors.stored import FLOATS

__all__ = ["runners"]  # a fixture

HIDDEN, LAYERS = CONFIG.hidden_size, CONFIG.num_hidden_layers
#: Rows of a batch of ten columns, and how many tokens of it are real.
LENGTHS, COLUMNS, REAL = (3, 10, 6), 10, 19


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_mask_is_made_where_nothing_is_padded(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    runner, inputs = runners[framework], batch(CONFIG, (9, 9), 9)
    for kind in (np.int64, np.bool_, np.int32, np.float32):
        made = []
        for mask in (np.ones((2, 9)), np.arange(9) < np.array([[9], [8]])):
            arrays = runner.inputs({**inputs, "attention_mask": mask.astype(kind)})
            made.append(runner.ask("lay_out", directory=str(tmp_path / "checkpoint"), inputs=arrays)["mask"])
        assert made == [None, [2, 1, 1, 9]], kind


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_checkpointing_computes_every_layer_again_on_the_way_back(
    runners: Runners, framework: str, tmp_path: Path
) -> None:
    config = replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write(tmp_path / "checkpoint", config)
    weights = {"weights0": np.random.default_rng(1).normal(size=(2, 9, config.vocab_size))}
    runner, arrays = runners[framework], {**batch(config, (9, 4), 9), **weights}
    for checkpointing, again in ((False, 0), (True, LAYERS)):
        runner.gradients(tmp_path / "checkpoint", arrays, checkpointing=checkpointing)
        assert (runner.answer["forward"], runner.answer["backward"]) == (LAYERS, again)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["RoFormerForMaskedLM", "RoFormerForPretraining"])
def test_head_scores_chosen_positions_alone(runners: Runners, framework: str, name: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs, runner = batch(CONFIG, LENGTHS, COLUMNS), runners[framework]
    positions = {"positions": np.array([25, 2, 0, 19])}
    for arrays, packed, scored in ((inputs, False, 30), (inputs | positions, False, 4), (inputs | positions, True, 4)):
        request: Arrays = {"class": name, "options": {"packed": packed}}
        found = runner.ask("shapes", directory=str(tmp_path / "checkpoint"), inputs=runner.inputs(arrays), **request)
        assert found["mlm"] == [[scored, HIDDEN]]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["RoFormerModel", "RoFormerForMaskedLM", "RoFormerForPretraining"])
def test_packed_layers_compute_the_real_tokens_alone(
    runners: Runners, framework: str, name: str, tmp_path: Path
) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    runner = runners[framework]
    arrays = runner.inputs(batch(CONFIG, LENGTHS, COLUMNS))
    for packed, tokens in ((False, len(LENGTHS) * COLUMNS), (True, REAL)):
        request: Arrays = {"class": name, "options": {"packed": packed}}
        found = runner.ask("shapes", directory=str(tmp_path / "checkpoint"), inputs=arrays, **request)
        assert found["layers"] == [[tokens, HIDDEN]] * LAYERS
        assert found["mlm"] == ([] if name == "RoFormerModel" else [[tokens, HIDDEN]])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_masks_a_key_is_finite_in_every_type(runners: Runners, framework: str, dtype: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    runner, request = runners[framework], {"directory": str(tmp_path / "checkpoint"), "dtype": dtype}
    output, mask = runner.file(), np.array([[1, 0, 1], [0, 0, 1]])
    arrays = runner.inputs({"attention_mask": mask})
    answer = runner.ask("key_mask", inputs=arrays, output=str(output), **request)
    with np.load(output) as found:
        added = found["out0"]
    assert answer["dtype"] == dtype
    assert added.shape == (2, 1, 1, 3)
    assert np.isfinite(added).all()
    assert (added[mask[:, None, None] != 0] == 0).all()
    assert (added[mask[:, None, None] == 0] < -1e3).all()


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["RoFormerModel", "RoFormerForMaskedLM", "RoFormerForPretraining"])
@pytest.mark.parametrize("shape", ["everything", "no-projection"])
def test_state_dict_has_the_canonical_names(
    runners: Runners, framework: str, name: str, shape: str, tmp_path: Path
) -> None:
    config, groups = random_checkpoints.SHAPES[shape]
    tensors = write(tmp_path / "checkpoint", config, groups=groups)
    names = runners[framework].ask("state_dict", directory=str(tmp_path / "checkpoint"), **{"class": name})["names"]
    if names is None:
        pytest.skip(f"{framework}'s modules have no state_dict()")
    heads = {"RoFormerModel": ("mlm.", "sop."), "RoFormerForMaskedLM": ("sop.",), "RoFormerForPretraining": ()}[name]
    assert sorted(names) == sorted(canonical for canonical in tensors if not canonical.startswith(heads))
    assert {"embeddings.word.weight", "layers.0.attention.query.weight", "pooler.bias"} <= set(names)


def test_inference_on_a_cpu_takes_onednns_own_product(runners: Runners, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    runner = runners["torch"]
    arrays = runner.inputs(batch(CONFIG, (9, 4), 9))

    def calls(**request: object) -> int | None:
        found = runner.ask("onednn", directory=str(tmp_path / "checkpoint"), inputs=arrays, **request)["calls"]
        return None if found is None else int(found)

    found = calls(loading={"dtype": "float32"})
    if found is None:
        pytest.skip("this PyTorch has no oneDNN linear operator")
    assert found == 6 * LAYERS + 3  # a layer's six, the embeddings' projection, the head's transform and its decoder
    assert calls(loading={"dtype": "float32"}, grad=True) == 0  # the operator has no gradient
    assert calls(loading={"dtype": "float64"}) == 0
