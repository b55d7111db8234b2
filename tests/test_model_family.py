"""Every class and trait of the family in the three models: against numpy in float64, and against each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from family_models import MODELS, FamilyModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_runner import (
    FLOAT64,
    FRAMEWORKS,
    Arrays,
    ModelFailedError,
    Runners,
    assert_agree,
    assert_close,
    family_results,
    runners,
)
from numpy_roformer import Array
from random_checkpoints import CONFIG, UNPROJECTED

from roformer_convert.converters import RoFormerConfig
from roformer_convert.converters.table.activations import ACTIVATIONS
from roformer_convert.converters.table.config import Attention, SummaryType
from roformer_convert.converters.table.mapping import CLASSES, DIALECTS, PRETRAINING, Table
from roformer_convert.models.config import tap_names

__all__ = ["runners"]  # a fixture

SEQUENCE, CHOICE = CLASSES["sequence-classification"], CLASSES["multiple-choice"]
ATTENTIONS = get_args(Attention)
MASKED = [attention for attention in ATTENTIONS if attention != "bidirectional"]
CHOICES = 3


def write(model: FamilyModel, path: Path, dialect: Any = "torch") -> Arrays:
    """Write a model's checkpoint in float64; return its tensors."""
    return model.write(path, dialect, {name: array.astype(np.float64) for name, array in model.tensors().items()})


def batch(model: FamilyModel, rows: int = 4, columns: int = 11, seed: int = 0, *, empty: bool = False) -> Arrays:
    """Random ids, types and masks of (B, T), or (B, A, T) for multiple choice.

    The first token of each row is real, but for the last row where one shall be empty.
    """
    generator = np.random.default_rng(seed)
    shape = (rows, CHOICES, columns) if model.kind is CHOICE else (rows, columns)
    mask = (generator.random(shape) < 0.75).astype(np.int64)
    mask[..., 0] = 1
    mask[0] = 1
    if empty:
        mask[-1] = 0
    types = generator.integers(0, min(2, model.config.type_vocab_size), shape)
    return {
        "input_ids": generator.integers(0, model.config.vocab_size, shape),
        "token_type_ids": types,
        "attention_mask": mask,
    }


def request_of(model: FamilyModel, **options: Any) -> Arrays:
    return {"class": model.kind.class_name, "options": options}


def packs(model: FamilyModel) -> bool:
    return model.kind is not CHOICE or model.config.summary_type == "first"


def assert_judged(found: Arrays, want: list[Array], inputs: Arrays, what: str) -> None:
    """Hold results to what numpy computes: of tokens those that are real, of rows and choices those that have some."""
    real = inputs["attention_mask"] != 0
    for number, array in enumerate(want):
        got = found[f"out{number}"]
        assert got.shape == array.shape, what
        chosen = real if array.ndim == 3 else real.reshape(len(real), -1).any(1)
        assert_close(got[chosen], array[chosen], FLOAT64, f"{what}: result {number}")


@st.composite
def models(draw: st.DrawFn) -> FamilyModel:
    """Any small model of the family."""
    kind = draw(st.sampled_from(sorted(CLASSES)).map(CLASSES.__getitem__))
    v2 = draw(st.booleans())
    heads, pairs = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    hidden = heads * pairs * 2
    embedding = hidden if v2 and kind.scores_words else draw(st.sampled_from((hidden, hidden + 3)))
    activation = st.sampled_from(sorted(ACTIVATIONS))
    config = RoFormerConfig(
        vocab_size=draw(st.integers(3, 40)),
        embedding_size=embedding,
        hidden_size=hidden,
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 30)),
        hidden_act=draw(activation),
        max_position_embeddings=draw(st.integers(12, 40)),
        type_vocab_size=draw(st.integers(1, 4)),
        layer_norm_eps=draw(st.sampled_from((1e-12, 1e-7, 1e-3, 0.02))),
        rotary_value=draw(st.booleans()),
        pooler_activation=draw(activation),
        norm_type="rms_norm" if v2 else "layer_norm",
        use_bias=draw(st.booleans()),
        attention=draw(st.sampled_from(ATTENTIONS)),
        summary_type=draw(st.sampled_from(get_args(SummaryType))) if kind is CHOICE else "first",
        num_labels=draw(st.integers(1, 5)) if kind is not CLASSES["question-answering"] else 2,
    )
    pooler = kind is PRETRAINING or (kind is SEQUENCE and not v2) or draw(st.booleans())
    return FamilyModel(kind, config, pooler, not v2 or draw(st.booleans()))


def assert_computed(runners: Runners, model: FamilyModel, path: Path, dialect: Any, inputs: Arrays) -> None:
    """Hold a model in every framework, padded and packed, to numpy, and the frameworks' taps to one another."""
    tensors = write(model, path, dialect)
    want = family_results(model, tensors, **inputs)
    found = {name: one.forward(path, inputs, taps=True, **request_of(model)) for name, one in runners.items()}
    for name, results in found.items():
        assert_judged(results, want, inputs, name)
        if packs(model):
            packed = runners[name].forward(path, inputs, **request_of(model, packed=True))
            assert_judged(packed, want, inputs, f"{name}, packed")
            assert want[0].ndim < 3 or not packed["out0"][inputs["attention_mask"] == 0].any()
    assert_agree(found)


@pytest.mark.parametrize("name", MODELS)
def test_every_class_and_trait_computes_what_numpy_does(runners: Runners, name: str, tmp_path: Path) -> None:
    assert_computed(runners, MODELS[name], tmp_path / "checkpoint", "torch", batch(MODELS[name]))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(model=models(), source=st.integers(0, 3), seed=st.integers(0, 9), empty=st.booleans())
def test_any_model_computes_what_numpy_does(
    runners: Runners, tmp_path_factory: pytest.TempPathFactory, model: FamilyModel, source: int, seed: int, empty: bool
) -> None:
    rows = Table.of(model.config, model.kind).tensors
    dialects = [dialect for dialect in DIALECTS if all(row.name(dialect) is not None for row in rows)]
    path = tmp_path_factory.mktemp("family") / "checkpoint"
    assert_computed(runners, model, path, dialects[source % len(dialects)], batch(model, seed=seed, empty=empty))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", MODELS)
def test_taps_have_their_names_and_order(runners: Runners, framework: str, name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    write(model, tmp_path / "checkpoint")
    found = runners[framework].forward(tmp_path / "checkpoint", batch(model), taps=True, **request_of(model))
    suffix = model.kind.name
    pools = model.pooler and suffix in ("base", "pretraining", "sequence-classification", "multiple-choice")
    want = tap_names(
        model.config,
        pooler=pools,
        mlm=model.kind.scores_words,
        sop=model.kind is PRETRAINING,
        classifier=model.kind.stated,
    )
    assert runners[framework].answer["taps"] == want
    if model.kind.stated:
        assert np.array_equal(found["classifier"], found["out0"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_causal_model_does_not_see_what_follows(
    runners: Runners, framework: str, packed: bool, masked: bool, tmp_path: Path
) -> None:
    model = MODELS["causal LM"]
    write(model, tmp_path / "checkpoint")
    one = batch(model)
    if not masked:
        del one["attention_mask"]
    other = {name: array.copy() for name, array in one.items()}
    other["input_ids"][:, 7:] = (other["input_ids"][:, 7:] + 1) % model.config.vocab_size
    request = request_of(model, packed=packed)
    first, second = (
        runners[framework].forward(tmp_path / "checkpoint", each, **request)["out0"] for each in (one, other)
    )
    assert_close(second[:, :7], first[:, :7], FLOAT64, "before")
    changed = abs(second - first)[:, 7:].max(-1)
    assert (changed[one["attention_mask"][:, 7:] != 0] if masked else changed).min() > 1e-3


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_prefix_of_type_0_is_seen_from_both_sides_and_what_follows_from_behind(
    runners: Runners, framework: str, packed: bool, tmp_path: Path
) -> None:
    model = MODELS["causal LM, UniLM"]
    write(model, tmp_path / "checkpoint")
    inputs = batch(model, rows=1)
    inputs["attention_mask"][:, 10:] = 0  # so that packing has something to leave out
    inputs["token_type_ids"] = (np.arange(11) >= 5).astype(np.int64)[None]

    def changed(column: int) -> list[bool]:
        """Say which tokens notice another word in a column."""
        other = {**inputs, "input_ids": inputs["input_ids"].copy()}
        other["input_ids"][0, column] += 1 if other["input_ids"][0, column] + 1 < model.config.vocab_size else -1
        request = request_of(model, packed=packed)
        one, two = (
            runners[framework].forward(tmp_path / "checkpoint", each, **request)["out0"] for each in (inputs, other)
        )
        moved: list[bool] = (abs(one - two)[0, :10].max(-1) > 1e-6).tolist()
        return moved

    assert changed(3) == [True] * 10
    assert changed(7) == [False] * 7 + [True] * 3
    del inputs["token_type_ids"]  # type 0 throughout: every token sees every other
    assert changed(7) == [True] * 10


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("attention", MASKED)
def test_tokens_that_see_no_real_key_are_finite(
    runners: Runners, framework: str, dtype: str, attention: str, tmp_path: Path
) -> None:
    if framework == "paddle" and dtype != "float32":
        pytest.skip("Paddle computes half types on GPUs alone")
    model = FamilyModel(CLASSES["causal-lm"], replace(CONFIG, attention=attention), False)  # type: ignore[arg-type]
    tensors = write(model, tmp_path / "checkpoint")
    inputs = batch(model, rows=3)
    inputs["attention_mask"][:] = 1
    inputs["attention_mask"][1, :4] = 0  # padding on the left
    inputs["attention_mask"][2] = 0
    inputs["token_type_ids"][:, 0] = 1  # UniLM's first token sees itself alone then
    (want,) = family_results(model, tensors, **inputs)
    real = inputs["attention_mask"] != 0
    tolerance = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}[dtype]
    for packed in (False, True):
        request = request_of(model, packed=packed)
        got = runners[framework].forward(tmp_path / "checkpoint", inputs, loading={"dtype": dtype}, **request)["out0"]
        assert np.isfinite(got).all()
        assert_close(got[real], want[real], tolerance, "the real tokens")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("causal LM V2", "causal"),
        ("causal LM, UniLM", "unilm"),
        ("labels V2, first token alone", "bidirectional"),
        ("answers", "causal"),
        ("choices, last, no projection", "unilm"),
        ("choices, mean, activation", "bidirectional"),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_it_computes_the_same(
    runners: Runners, framework: str, name: str, attention: str, masked: bool, tmp_path: Path
) -> None:
    model = replace(MODELS[name], config=replace(MODELS[name].config, attention=attention, num_hidden_layers=1))  # type: ignore[arg-type]
    write(model, tmp_path / "checkpoint")
    batches = [batch(model, seed=seed) for seed in (0, 1)]
    for inputs in batches if not masked else ():
        del inputs["attention_mask"]
    runner = runners[framework]
    found, traces = runner.compiled(tmp_path / "checkpoint", batches, **request_of(model))
    assert traces == 1
    for inputs, got in zip(batches, found, strict=True):
        want = runner.forward(tmp_path / "checkpoint", inputs, **request_of(model))
        assert_close(got["out0"], want["out0"], FLOAT64, "compiled")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    "name",
    [
        "causal LM V2",
        "causal LM, UniLM",
        "labels",
        "labels V2, first token alone",
        "answers",
        "choices, mean, activation",
    ],
)
def test_gradients_agree_with_and_without_checkpointing(
    runners: Runners, framework: str, name: str, tmp_path: Path
) -> None:
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = replace(MODELS[name], config=replace(MODELS[name].config, **without))  # type: ignore[arg-type]
    tensors = write(model, tmp_path / "checkpoint")
    inputs = batch(model)
    (shape,) = (array.shape for array in family_results(model, tensors, **inputs))
    arrays = {**inputs, "weights0": np.random.default_rng(1).normal(size=shape)}
    found = {
        f"{which} {checkpointing}": runners[which].gradients(
            tmp_path / "checkpoint", arrays, checkpointing=checkpointing, **{"class": model.kind.class_name}
        )
        for which, checkpointing in (("torch", False), (framework, False), (framework, True))
    }
    reference, table = found["torch False"], Table.of(model.config, model.kind).by_canonical
    assert reference.keys() == tensors.keys()
    for which, gradients in found.items():
        assert gradients.keys() == reference.keys()
        for parameter, gradient in gradients.items():
            transposed = which.startswith(("paddle", "tf")) and table[parameter].transposed("paddle")
            got = gradient.T if transposed else gradient
            scale = max(abs(reference[parameter]).max(), 1e-3)
            assert abs(got - reference[parameter]).max() <= 1e-9 * scale, f"{which}: {parameter}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("attention", MASKED)
def test_a_kernel_is_told_of_causal_attention_where_nothing_else_is_masked(
    runners: Runners, framework: str, attention: str, tmp_path: Path
) -> None:
    model = FamilyModel(CLASSES["causal-lm"], replace(CONFIG, attention=attention), False)  # type: ignore[arg-type]
    write(model, tmp_path / "checkpoint")
    runner, inputs = runners[framework], batch(model, rows=2)
    inputs["attention_mask"][:] = 1
    whole = None if framework == "torch" else [1, 1, 11, 11]
    for real, mask, causal in ((1, whole, True), (0, [2, 1, 11, 11], False)):
        inputs["attention_mask"][1, 8:] = real
        answer = runner.ask("lay_out", directory=str(tmp_path / "checkpoint"), inputs=runner.inputs(inputs))
        want = (mask, causal) if attention == "causal" else ([2, 1, 11, 11], False)
        assert (answer["mask"], answer["causal"]) == want


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_dropout_before_a_classifier_is_its_own_where_it_has_one(
    runners: Runners, framework: str, tmp_path: Path
) -> None:
    model = MODELS["token labels"]
    config = replace(model.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    inputs, moved = batch(model), []
    for number, chosen in enumerate((None, 0.0, 0.5)):
        path = tmp_path / str(number)
        write(replace(model, config=replace(config, classifier_dropout=chosen)), path, "paddle")
        still, trained = (
            runners[framework].forward(path, inputs, train=train, **request_of(model))["out0"]
            for train in (False, True)
        )
        moved.append(bool(abs(still - trained).max() > 1e-3))
    assert moved == [False, False, True]
    config = replace(config, hidden_dropout_prob=0.5, classifier_dropout=0.0)
    write(replace(model, config=config), tmp_path / "own", "paddle")
    assert runners[framework].ask("dropouts", directory=str(tmp_path / "own"), **request_of(model))["classifier"] == 0.0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_no_multiple_choice_is_refused(runners: Runners, framework: str, tmp_path: Path) -> None:
    model = MODELS["choices, last, no projection"]
    write(model, tmp_path / "checkpoint")
    inputs = batch(model)
    flat = {name: array[0] for name, array in inputs.items()}
    with pytest.raises(ModelFailedError, match=r"takes input_ids \(B, choices, T\); got \(3, 11\)") as refused:
        runners[framework].forward(tmp_path / "checkpoint", flat, **request_of(model))
    assert refused.value.kind == "ModelError"
    with pytest.raises(ModelFailedError, match=r"summary_type = last looks at padding(?s:.)*Leave packed off"):
        runners[framework].forward(tmp_path / "checkpoint", inputs, **request_of(model, packed=True))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attention": "prefix"}, "attention = 'prefix' is not known(?s:.)*Known: bidirectional, causal, unilm"),
        ({"norm_type": "batch_norm"}, "norm_type = 'batch_norm' is not known(?s:.)*Known: layer_norm, rms_norm"),
        ({"summary_type": "cls_index"}, "summary_type = 'cls_index' is not known(?s:.)*Known: first, last, mean"),
        ({"norm_type": "rms_norm"}, "embedding_size = 14 must be hidden_size = 24"),
    ],
)
def test_what_no_model_computes_is_named(runners: Runners, framework: str, fields: Arrays, said: str) -> None:
    config = {name: getattr(CONFIG, name) for name in ("vocab_size", "embedding_size", "hidden_size")}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8, **fields}
    with pytest.raises(ModelFailedError, match=said) as refused:
        runners[framework].ask("fresh", config=config, **{"class": "RoFormerForMaskedLM"})
    assert refused.value.kind == "ModelError"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_longest_sequence_is_that_of_a_choice(runners: Runners, framework: str, tmp_path: Path) -> None:
    model = replace(MODELS["choices, first"], config=replace(UNPROJECTED, max_position_embeddings=10))
    write(model, tmp_path / "checkpoint")
    with pytest.raises(ModelFailedError, match="11 tokens; the limit is 10"):
        runners[framework].forward(tmp_path / "checkpoint", batch(model), **request_of(model))
