"""From files of any dialect to a model of any class, and back: what fits, what starts at random, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import MODELS, FamilyModel
from model_runner import FRAMEWORKS, Arrays, ModelFailedError, Runners, assert_agree, runners
from random_checkpoints import CONFIG, UNPROJECTED, read_all, same_bits

from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.table.mapping import CLASSES

__all__ = ["runners"]  # a fixture

SEQUENCE, TOKENS = "RoFormerForSequenceClassification", "RoFormerForTokenClassification"
ANSWERS, CHOICES = "RoFormerForQuestionAnswering", "RoFormerForMultipleChoice"
CLASSIFIERS = (SEQUENCE, TOKENS, ANSWERS, CHOICES)


def ids(name: str) -> Arrays:
    """A batch for a class."""
    shape = (2, 3, 6) if name == CHOICES else (2, 6)
    return {"input_ids": np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape)}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", MODELS)
def test_saved_and_read_again_it_is_the_same_model(runners: Runners, framework: str, name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    model.write(tmp_path / "checkpoint", "paddle" if framework == "torch" else "torch")
    runners[framework].ask(
        "save",
        directory=str(tmp_path / "checkpoint"),
        output=str(tmp_path / "saved"),
        saving={"allow_different": True},
        **{"class": model.kind.class_name},
    )
    assert same_bits(read_all(tmp_path / "checkpoint"), read_all(tmp_path / "saved")) == []
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.dialect == framework
        assert checkpoint.config == model.config
        # PaddleNLP has no causal class in RoFormerV2
        assert checkpoint.kind.name == (
            "masked-lm" if (name, framework) == ("causal LM V2", "paddle") else model.kind.name
        )


@pytest.mark.parametrize(("framework", "software"), [("paddle", "PaddleNLP"), ("tf", "transformers")])
def test_a_mask_that_the_frameworks_software_forgets_is_not_saved(
    runners: Runners, framework: str, software: str, tmp_path: Path
) -> None:
    MODELS["causal LM"].write(tmp_path / "checkpoint")
    request: Arrays = {"directory": str(tmp_path / "checkpoint"), "output": str(tmp_path / "saved")}
    with pytest.raises(ModelFailedError, match=f"attention: causal(?s:.)*{software}") as refused:
        runners[framework].ask("save", **request, **{"class": "RoFormerForCausalLM"})
    assert refused.value.kind == "InexpressibleError"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "wanted", "lacks"),
    [
        ("masked LM", TOKENS, r"token classifier \(classifier\.weight\)"),
        ("causal LM with a pooler", CHOICES, r"multiple-choice head \(classifier\.weight\)"),
        ("token labels", SEQUENCE, r"classifier's dense layer \(pooler\.weight\)"),
        ("token labels, unused pooler", SEQUENCE, r"sequence classifier \(classifier\.weight\)"),
        ("answers", TOKENS, r"token classifier \(classifier\.weight\)"),
        ("choices, first", ANSWERS, r"question-answering head \(classifier\.weight\)"),
        ("labels", "RoFormerForMaskedLM", r"masked-LM head"),
        ("labels V2", "RoFormerForCausalLM", r"masked-LM head"),
        ("masked LM", "RoFormerForPretraining", r"pooler \(pooler\.weight\)"),
    ],
)
def test_a_checkpoint_of_another_class_is_refused_by_both_names(
    runners: Runners, framework: str, name: str, wanted: str, lacks: str, tmp_path: Path
) -> None:
    model = MODELS[name]
    model.write(tmp_path / "checkpoint")
    there = model.kind.class_name
    said = rf"is a {there} and has no {lacks}, which {wanted} needs\n.*Load it with {there}, or .*fresh_heads=True"
    with pytest.raises(ModelFailedError, match=said) as refused:
        runners[framework].forward(tmp_path / "checkpoint", ids(wanted), **{"class": wanted})
    assert refused.value.kind == "ModelError"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["labels", "token labels", "answers", "choices, first", "pretraining", "causal LM V2"])
def test_the_encoder_of_every_class_is_there(runners: Runners, framework: str, name: str, tmp_path: Path) -> None:
    MODELS[name].write(tmp_path / "checkpoint")
    MODELS[name].write(tmp_path / "again")
    (tmp_path / "again" / "config.json").write_text(without_class(tmp_path / "again"))
    one, other = (
        runners[framework].forward(tmp_path / each, ids(""), **{"class": "RoFormerModel"})
        for each in ("checkpoint", "again")
    )
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


def without_class(directory: Path) -> str:
    """Return a directory's configuration without the class that it names."""
    settings = json.loads((directory / "config.json").read_text())
    del settings["architectures"]
    return json.dumps(settings)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_where_no_file_names_a_class_it_is_the_one_that_loads(runners: Runners, framework: str, tmp_path: Path) -> None:
    model = MODELS["token labels"]
    model.write(tmp_path / "checkpoint", "paddle")
    want = runners[framework].forward(tmp_path / "checkpoint", ids(TOKENS), **{"class": TOKENS})["out0"]
    (tmp_path / "checkpoint" / "config.json").write_text(without_class(tmp_path / "checkpoint"))
    got = runners[framework].forward(tmp_path / "checkpoint", ids(TOKENS), **{"class": TOKENS})["out0"]
    assert np.array_equal(got, want)
    with pytest.raises(
        ModelFailedError, match=r"does not fit RoFormerForQuestionAnswering(?s:.)*classifier\.weight"
    ) as refused:
        runners[framework].forward(tmp_path / "checkpoint", ids(ANSWERS), **{"class": ANSWERS})
    assert refused.value.kind == "MisfitError"


@pytest.mark.parametrize("wanted", CLASSIFIERS)
@pytest.mark.parametrize(
    ("framework", "v2", "pooler"),
    [
        *((framework, False, pooler) for framework in FRAMEWORKS for pooler in (False, True)),
        # transformers' TF has no RoFormerV2, and PaddleNLP's has no pooler
        *(("torch", True, pooler) for pooler in (False, True)),
        ("paddle", True, False),
    ],
)
def test_a_fresh_head_is_what_the_frameworks_own_software_computes(
    runners: Runners, framework: str, wanted: str, v2: bool, pooler: bool, tmp_path: Path
) -> None:
    config = replace(UNPROJECTED, norm_type="rms_norm", use_bias=False) if v2 else CONFIG
    config = replace(config, layer_norm_eps=1e-12, num_labels=6)
    FamilyModel(CLASSES["masked-lm"], config, pooler).write(tmp_path / "words")
    loading: dict[str, Any] = {"fresh_heads": True} | ({"num_labels": 7} if wanted in (SEQUENCE, TOKENS) else {})
    got = runners[framework].forward(tmp_path / "words", ids(wanted), loading=loading, **{"class": wanted})["out0"]
    assert got.shape == {SEQUENCE: (2, 7), TOKENS: (2, 6, 7), ANSWERS: (2, 6, 2), CHOICES: (2, 3)}[wanted]
    request: Arrays = {"directory": str(tmp_path / "words"), "output": str(tmp_path / "saved"), "loading": loading}
    runners[framework].ask("save", **request, **{"class": wanted})  # without a difference that must be allowed
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.model_class == wanted
        assert checkpoint.config.num_labels == {SEQUENCE: 7, TOKENS: 7, ANSWERS: 2, CHOICES: 6}[wanted]
        assert "classifier.weight" in checkpoint
    found = {
        name: runner.forward(tmp_path / "saved", ids(wanted), **{"class": wanted}) for name, runner in runners.items()
    }
    assert_agree(found, tolerance=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "wanted", "said"),
    [
        ("labels", SEQUENCE, "has 6 labels"),
        ("answers", ANSWERS, "has no number of labels to choose"),
        ("masked LM", ANSWERS, "has no number of labels to choose"),
        ("masked LM", "RoFormerForMaskedLM", "has no number of labels to choose"),
    ],
)
def test_the_number_of_labels_is_a_fresh_classifiers(
    runners: Runners, framework: str, name: str, wanted: str, said: str, tmp_path: Path
) -> None:
    MODELS[name].write(tmp_path / "checkpoint")
    loading = {"fresh_heads": True, "num_labels": 9}
    with pytest.raises(ModelFailedError, match=rf"num_labels = 9: .*{said}\n.*fresh_heads=True") as refused:
        runners[framework].forward(tmp_path / "checkpoint", ids(wanted), loading=loading, **{"class": wanted})
    assert refused.value.kind == "ModelError"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_no_file_says_is_asked_for_and_can_be_set(runners: Runners, framework: str, tmp_path: Path) -> None:
    model = replace(MODELS["causal LM"], config=replace(MODELS["causal LM"].config, layer_norm_eps=1e-12))
    model.write(tmp_path / "torch")
    model.write(tmp_path / "tf1", "tf1")
    settings = json.loads((tmp_path / "tf1" / "bert_config.json").read_text())
    del settings["roformer_convert"]  # bert4keras writes no such key
    (tmp_path / "tf1" / "bert_config.json").write_text(json.dumps(settings))
    runner, request = runners[framework], {"class": "RoFormerForCausalLM"}
    want = runner.forward(tmp_path / "torch", ids(""), **request)["out0"]
    told = runner.scratch / "stderr.txt"
    before = told.stat().st_size
    assert abs(runner.forward(tmp_path / "tf1", ids(""), **request)["out0"] - want).max() > 1e-3
    assert "--set attention=causal" in told.read_text()[before:]
    before = told.stat().st_size
    got = runner.forward(tmp_path / "tf1", ids(""), loading={"set": {"attention": "causal"}}, **request)["out0"]
    assert np.array_equal(got, want)
    assert "attention" not in told.read_text()[before:]
