"""What the three models can be asked for: masks, packing, positions, types, compilation, gradients, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_checkpoints
from model_runner import (
    FLOAT64,
    FRAMEWORKS,
    Arrays,
    ModelFailedError,
    Runners,
    assert_agree,
    assert_close,
    batch,
    runners,
    write,
)
from numpy_roformer import Forward
from random_checkpoints import CONFIG

from roformer_convert.converters import RoFormerConfig, open_checkpoint
from roformer_convert.converters.table.mapping import MLM, POOLER, PRETRAINING, SOP, Table

__all__ = ["runners"]  # a fixture


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_padding_changes_nothing(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (4, 13), 13)
    padded = runners[framework].forward(tmp_path / "checkpoint", inputs)["out0"]
    alone = {name: array[:1, :4] for name, array in inputs.items()}
    short = runners[framework].forward(tmp_path / "checkpoint", alone)["out0"]
    assert_close(padded[:1, :4], short, FLOAT64, "padded")
    del alone["attention_mask"]
    unmasked = runners[framework].forward(tmp_path / "checkpoint", alone)["out0"]
    assert np.array_equal(unmasked, short)
    del inputs["attention_mask"]
    attended = runners[framework].forward(tmp_path / "checkpoint", inputs)["out0"]
    assert abs(attended[0, :4] - padded[0, :4]).max() > 1e-3  # without a mask nothing is masked


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_tokens_may_be_masked_anywhere(runners: Runners, framework: str, tmp_path: Path) -> None:
    tensors = write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (10, 10, 10), 10)
    inputs["attention_mask"] = np.array([[0, 0, 1, 1, 0, 1, 1, 1, 0, 1], [1] * 10, [1, 0] * 5])
    judge = Forward(tensors, CONFIG)
    want = judge.logits(judge.hidden(**inputs))
    real = inputs["attention_mask"] != 0
    for packed in (False, True):
        for kind in (np.int64, np.bool_, np.int32, np.float32):
            arrays = {**inputs, "attention_mask": inputs["attention_mask"].astype(kind)}
            got = runners[framework].forward(tmp_path / "checkpoint", arrays, options={"packed": packed})["out0"]
            assert_close(got[real], want[real], FLOAT64, f"packed {packed}, {kind}")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_padding_token_is_masked_when_asked(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (8, 8), 8)
    inputs["input_ids"][0, 5:] = CONFIG.pad_token_id
    inputs["input_ids"][1] = 1
    masked = {**inputs, "attention_mask": (inputs["input_ids"] != CONFIG.pad_token_id).astype(np.int64)}
    del inputs["attention_mask"]
    runner, path = runners[framework], tmp_path / "checkpoint"
    asked = runner.forward(path, inputs, options={"mask_pad_token": True})["out0"]
    assert np.array_equal(asked, runner.forward(path, masked)["out0"])
    assert abs(asked - runner.forward(path, inputs)["out0"]).max() > 1e-3


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_row_without_a_real_token_is_finite(runners: Runners, framework: str, dtype: str, tmp_path: Path) -> None:
    if framework == "paddle" and dtype != "float32":
        pytest.skip("Paddle computes half types on GPUs alone")
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (0, 9, 0), 9)
    for options in ({}, {"packed": True}):
        request: Arrays = {"class": "RoFormerForPretraining", "loading": {"dtype": dtype}, "options": options}
        found = runners[framework].forward(tmp_path / "checkpoint", inputs, **request)
        assert all(np.isfinite(array).all() for array in found.values())
    alone = {name: array[1:2] for name, array in inputs.items()}
    want = runners[framework].forward(tmp_path / "checkpoint", alone, loading={"dtype": dtype})["out0"]
    tolerance = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}[dtype]
    assert_close(found["out0"][1:2], want, tolerance, "the real row")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_batch_without_a_real_token_is_computed_padded(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (0, 0), 3)
    got = runners[framework].forward(tmp_path / "checkpoint", inputs, options={"packed": True})["out0"]
    assert np.isfinite(got).all()
    assert np.array_equal(got, runners[framework].forward(tmp_path / "checkpoint", inputs)["out0"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("packed", [False, True])
def test_positions_choose_tokens_of_the_padded_batch(
    runners: Runners, framework: str, packed: bool, tmp_path: Path
) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (3, 10, 6), 10)
    whole = runners[framework].forward(tmp_path / "checkpoint", inputs)["out0"].reshape(30, -1)
    positions = np.array([25, 2, 0, 19, 19])
    chosen = {**inputs, "positions": positions}
    for name in ("RoFormerForMaskedLM", "RoFormerForPretraining"):
        request: Arrays = {"class": name, "options": {"packed": packed}}
        got = runners[framework].forward(tmp_path / "checkpoint", chosen, **request)
        assert_close(got["out0"], whole[positions], FLOAT64, name)
    request = {"class": "RoFormerModel", "options": {"packed": packed}}
    hidden = runners[framework].forward(tmp_path / "checkpoint", inputs, **request)["out0"].reshape(30, -1)
    got = runners[framework].forward(tmp_path / "checkpoint", chosen, **request)
    assert_close(got["out0"], hidden[positions], FLOAT64, "hidden")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_position_on_padding_is_refused_when_packed(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = {**batch(CONFIG, (3, 10), 10), "positions": np.array([1, 7])}
    with pytest.raises(ModelFailedError, match="positions holds 7, which attention_mask masks") as refused:
        runners[framework].forward(tmp_path / "checkpoint", inputs, options={"packed": True})
    assert refused.value.kind == "ModelError"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("wrong", [-1, 20])
def test_position_outside_the_batch_is_refused(
    runners: Runners, framework: str, packed: bool, wrong: int, tmp_path: Path
) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = {**batch(CONFIG, (3, 10), 10), "positions": np.array([1, wrong])}
    with pytest.raises(ModelFailedError, match=f"positions holds {wrong}; the batch has 20 tokens") as refused:
        runners[framework].forward(tmp_path / "checkpoint", inputs, options={"packed": packed})
    assert refused.value.kind == "ModelError"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_length_past_the_limit_is_refused_and_the_limit_can_be_raised(
    runners: Runners, framework: str, tmp_path: Path
) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    limit = CONFIG.max_position_embeddings
    runner, path = runners[framework], tmp_path / "checkpoint"
    runner.forward(path, batch(CONFIG, (limit,), limit))
    inputs = batch(CONFIG, (limit + 5,), limit + 5)
    with pytest.raises(ModelFailedError, match=f"{limit + 5} tokens; the limit is {limit}") as refused:
        runner.forward(path, inputs)
    assert refused.value.kind == "LengthError"
    assert "max_position_embeddings" in refused.value.message
    assert "extend_to" in refused.value.message
    runner.forward(path, inputs, loading={"extend_to": limit + 5})


def test_models_with_a_raised_limit_agree(runners: Runners, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    columns = CONFIG.max_position_embeddings + 5
    inputs, loading = batch(CONFIG, (columns,), columns), {"extend_to": columns}
    assert_agree({n: r.forward(tmp_path / "checkpoint", inputs, loading=loading) for n, r in runners.items()})


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "mish"])
def test_compiled_forward_computes_the_same_and_is_traced_once_a_bucket(
    runners: Runners, framework: str, activation: str, tmp_path: Path
) -> None:
    write(tmp_path / "checkpoint", replace(CONFIG, hidden_act=activation, num_hidden_layers=1, rotary_value=True))
    batches = [batch(CONFIG, lengths, 12, seed) for seed, lengths in enumerate([(12, 3), (7, 8), (1, 12), (12, 12)])]
    found, traces = runners[framework].compiled(tmp_path / "checkpoint", batches)
    assert traces == 1
    for inputs, got in zip(batches, found, strict=True):
        want = runners[framework].forward(tmp_path / "checkpoint", inputs)
        assert_close(got["out0"], want["out0"], FLOAT64, "compiled")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_compiled_forward_names_the_limit(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    limit = CONFIG.max_position_embeddings
    with pytest.raises(ModelFailedError, match=f"{limit}.*max_position_embeddings"):
        runners[framework].compiled(tmp_path / "checkpoint", [batch(CONFIG, (limit + 1,), limit + 1)])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_gradients_agree_with_and_without_checkpointing(runners: Runners, framework: str, tmp_path: Path) -> None:
    config = replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write(tmp_path / "checkpoint", config)
    inputs = batch(config, (9, 4), 9)
    generator = np.random.default_rng(1)
    weights = {"weights0": generator.normal(size=(2, 9, config.vocab_size)), "weights1": generator.normal(size=(2, 2))}
    found = {}
    for name, checkpointing in (("torch", False), (framework, False), (framework, True)):
        request: Arrays = {"class": "RoFormerForPretraining", "checkpointing": checkpointing}
        found[f"{name} {checkpointing}"] = runners[name].gradients(
            tmp_path / "checkpoint", {**inputs, **weights}, **request
        )
    reference, table = found["torch False"], Table(config.num_hidden_layers, PRETRAINING).by_canonical
    for which, gradients in found.items():
        assert gradients.keys() == table.keys()
        for name, gradient in gradients.items():
            transposed = which.startswith(("paddle", "tf")) and table[name].transposed("paddle")
            scale = abs(reference[name]).max()
            got = gradient.T if transposed else gradient
            assert abs(got - reference[name]).max() <= 1e-9 * max(scale, 1e-3), f"{which}: {name}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_dropout_drops_the_same_again_when_checkpointing(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)  # with dropout
    weights = {"weights0": np.random.default_rng(1).normal(size=(2, 9, CONFIG.vocab_size))}
    arrays = {**batch(CONFIG, (9, 4), 9), **weights}
    runner, path = runners[framework], tmp_path / "checkpoint"
    plain = runner.gradients(path, arrays, checkpointing=False)
    if framework == "tf":
        with pytest.raises(ModelFailedError, match="cannot checkpoint gradients through dropout"):
            runner.gradients(path, arrays, checkpointing=True)
        return
    checkpointed = runner.gradients(path, arrays, checkpointing=True)
    assert checkpointed.keys() == plain.keys() > {"embeddings.word.weight", "layers.0.attention.query.weight"}
    for name in plain:
        assert_close(checkpointed[name], plain[name], 1e-9, name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_saved_checkpoint_is_the_same_model_everywhere(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG, "tf1" if framework == "torch" else "torch")
    saved = tmp_path / "saved"
    request: Arrays = {"class": "RoFormerForPretraining"}
    runners[framework].ask("save", directory=str(tmp_path / "checkpoint"), output=str(saved), **request)
    one, other = (random_checkpoints.read_all(tmp_path / name) for name in ("checkpoint", "saved"))
    assert random_checkpoints.same_bits(one, other) == []
    with open_checkpoint(saved) as checkpoint:
        assert checkpoint.dialect == framework
        assert checkpoint.config.hidden_act == CONFIG.hidden_act


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_missing_head_is_refused_unless_asked_for(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG, groups=(MLM,))
    request: Arrays = {"class": "RoFormerForPretraining"}
    inputs = batch(CONFIG, (4,), 4)
    with pytest.raises(ModelFailedError, match=r"no pooler [^\n]*\n.*fresh_heads") as refused:
        runners[framework].forward(tmp_path / "checkpoint", inputs, **request)
    assert refused.value.kind == "ModelError"
    found = runners[framework].forward(tmp_path / "checkpoint", inputs, loading={"fresh_heads": True}, **request)
    assert found["out1"].any()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fresh_model_is_initialised_as_the_configuration_says(runners: Runners, framework: str) -> None:
    config: dict[str, Any] = {"vocab_size": 500, "embedding_size": 48, "hidden_size": 64, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 4, "intermediate_size": 128}
    found = runners[framework].ask("fresh", config=config, **{"class": "RoFormerForPretraining"})
    names = random_checkpoints.random_tensors(RoFormerConfig(**config), (POOLER, MLM, SOP))
    assert set(found) == set(names)
    for name, (_, mean, deviation) in found.items():
        if "norm.weight" in name:
            assert (mean, deviation) == (1.0, 0.0)
        elif name.endswith("bias"):
            assert (mean, deviation) == (0.0, 0.0)
        elif not name.startswith(("sop", "embeddings.segment")):  # too few values to tell
            assert abs(deviation - 0.02) < 0.002, name


def test_half_types_keep_the_rotary_table_in_float32(runners: Runners, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (9,), 9)
    for framework, loading, want in (
        ("torch", {"dtype": "bfloat16"}, "float32"),
        ("torch", {"dtype": "float16"}, "float32"),
        ("torch", {}, "float64"),
        ("tf", {"dtype": "bfloat16"}, "float32"),
        ("tf", {}, "float64"),
        ("paddle", {}, "float64"),
        ("paddle", {"dtype": "float32"}, "float32"),
    ):
        runners[framework].forward(tmp_path / "checkpoint", inputs, loading=loading)
        assert want in runners[framework].answer["turns"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_casting_a_module_computes_its_table_anew(runners: Runners, framework: str, tmp_path: Path) -> None:
    random_checkpoints.save(tmp_path / "checkpoint", "tf", random_checkpoints.random_tensors(CONFIG, (MLM,)), CONFIG)
    inputs = batch(CONFIG, (9,), 9)
    runner = runners[framework]
    cast = runner.forward(tmp_path / "checkpoint", inputs, cast="float64")
    assert "float64" in runner.answer["turns"]
    loaded = runner.forward(tmp_path / "checkpoint", inputs, loading={"dtype": "float64"})
    assert_close(cast["out0"], loaded["out0"], 1e-14, "cast")
    if framework == "torch":
        runner.forward(tmp_path / "checkpoint", inputs, cast="bfloat16")
        assert "float32" in runner.answer["turns"]
        assert "bfloat16" in runner.answer["dtype"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_loading_imports_no_other_framework(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG, "tf" if framework != "tf" else "paddle")
    runners[framework].forward(tmp_path / "checkpoint", batch(CONFIG, (4,), 4))
    own = {"tf": {"tensorflow", "keras"}}.get(framework, {framework})
    assert set(runners[framework].ask("modules")["modules"]) <= own


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_type_that_is_not_computed_here_is_named(runners: Runners, framework: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", CONFIG)
    inputs = batch(CONFIG, (4,), 4)
    with pytest.raises(ModelFailedError, match="'int8' is not one of"):
        runners[framework].forward(tmp_path / "checkpoint", inputs, loading={"dtype": "int8"})
    if framework == "paddle":
        with pytest.raises(ModelFailedError, match=r"does not compute in bfloat16.*\n.*float32"):
            runners[framework].forward(tmp_path / "checkpoint", inputs, loading={"dtype": "bfloat16"})
