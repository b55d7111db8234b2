"""What each class answers is ranked where it answers, and ties aside the order decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import MODELS

from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.parity.judging.rankings import Ranking, answer_name, rank
from roformer_convert.parity.participants.dumps import Dump
from roformer_convert.parity.questions.cases import Case, make_cases
from roformer_convert.parity.questions.tasks import TASKS

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"
REAL = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
LOGITS = np.array([[[0, 5, 3], [1, 2, 9], [4, 0, 1], [7, 8, 9]], [[3, 2, 1], [0, 4, 2], [5, 5, 5], [6, 6, 6]]], float)


def ranked(folder: Path, class_name: str, scores: Any, other: Any, **of_the_case: Any) -> list[Ranking]:
    """Rank two participants' scores."""
    task = TASKS[class_name]
    dumps = []
    for label, array in (("one", scores), ("other", other)):
        (folder / label).mkdir()
        for dtype in ("float64", "float32"):
            np.savez(folder / label / f"{dtype}.x.npz", **{"logits" if task.mlm else "classifier": array.astype(dtype)})
        dumps.append(Dump(label, "torch", folder, folder / label))
    case = Case("x", **{"input_ids": REAL, "attention_mask": REAL, **of_the_case})
    return rank(dumps, [case], task, 1e-3, np.ones(scores.shape[-1]), 2)


def test_next_words_are_ranked_at_the_last_token_of_each_row(tmp_path: Path) -> None:
    found = ranked(tmp_path, "RoFormerForCausalLM", LOGITS, LOGITS, ranked=(3, 5))
    assert [(one.row, one.place, one.answers["other"]) for one in found] == [
        (0, "token 3", (2, 1)),
        (1, "token 1", (1, 2)),
    ]


def test_labels_of_real_tokens_are_ranked(tmp_path: Path) -> None:
    found = ranked(tmp_path, "RoFormerForTokenClassification", LOGITS, LOGITS)
    assert [(one.row, one.place) for one in found] == [
        *((0, f"token {place}") for place in range(4)),
        (1, "token 0"),
        (1, "token 1"),
    ]
    assert found[1].answers == {"one": (2, 1), "other": (2, 1)}
    assert all(one.agree for one in found)


def test_tokens_are_ranked_as_starts_and_as_ends(tmp_path: Path) -> None:
    found = ranked(tmp_path, "RoFormerForQuestionAnswering", LOGITS[..., :2], LOGITS[..., :2])
    assert [(one.row, one.place, one.answers["one"]) for one in found] == [
        (0, "start", (3, 2)),
        (0, "end", (3, 0)),
        (1, "start", (3, 2)),
        (1, "end", (3, 2)),
    ]


@pytest.mark.parametrize("class_name", ["RoFormerForSequenceClassification", "RoFormerForMultipleChoice"])
def test_another_order_is_no_agreement_and_a_tie_is_one(tmp_path: Path, class_name: str) -> None:
    scores = np.array([[1.0, 2.0, 9.0], [4.0, 4.0001, 1.0]])
    found = ranked(tmp_path, class_name, scores, scores[:, [1, 0, 2]])
    assert [one.agree for one in found] == [False, True]
    assert [one.row for one in found] == [0, 3 if class_name.endswith("Choice") else 1]
    assert found[0].answers == {"one": (2, 1), "other": (2, 0)}


def test_one_score_has_no_order(tmp_path: Path) -> None:
    assert ranked(tmp_path, "RoFormerForSequenceClassification", LOGITS[:, :1, 0], LOGITS[:, :1, 0]) == []


def test_answers_are_named_as_the_configuration_names_them() -> None:
    config = replace(MODELS["labels"].config, labels=("无", "PER"), num_labels=2)
    tokenizer = Tokenizer.from_pretrained(FIXTURE)
    labels, words, spans = (MODELS[name].kind.class_name for name in ("labels", "masked LM", "answers"))
    assert answer_name(1, TASKS[labels], config, tokenizer) == "PER"
    assert answer_name(4, TASKS[labels], config, tokenizer) == "4"
    assert answer_name(tokenizer.mask_id, TASKS[words], config, tokenizer) == "[MASK]"
    assert answer_name(7, TASKS[words], config, None) == "7"
    assert answer_name(7, TASKS[spans], config, tokenizer) == "token 7"


# Cases ---------------------------------------------------------------------------------------------------------------


def test_choices_are_pairs_of_a_question_and_each_option() -> None:
    tokenizer = Tokenizer.from_pretrained(FIXTURE)
    model = MODELS["choices, first"]
    config = replace(model.config, vocab_size=1000, max_position_embeddings=96, type_vocab_size=2)
    own = ["今天\t明天", "一二三\t昨天", "什么"]
    case = make_cases(config, TASKS[model.kind.class_name], tokenizer, own)[0]
    assert case.input_ids.shape[:2] == (3, 3)
    assert case.texts[:3] == ("今天 ‖ 明天", "今天 ‖ 昨天", "今天 ‖ 什么")
    assert case.texts[6:] == ("什么 ‖ 明天", "什么 ‖ 昨天", "什么 ‖ 什么")
    assert case.token_type_ids is not None
    assert case.attention_mask is not None
    for row, text in enumerate(case.texts):
        length = int(case.attention_mask.reshape(9, -1)[row].sum())
        question, option = text.split(" ‖ ")
        want = tokenizer.encode(question, option)
        assert case.input_ids.reshape(9, -1)[row][:length].tolist() == want.ids
        assert case.token_type_ids.reshape(9, -1)[row][:length].tolist() == want.token_type_ids


@pytest.mark.parametrize("name", ["causal LM", "causal LM, UniLM", "masked LM"])
def test_every_token_sees_a_key_and_padding_stands_on_both_sides(name: str) -> None:
    model = MODELS[name]
    case = make_cases(model.config, TASKS[model.kind.class_name], None)[1]
    assert case.attention_mask is not None
    assert case.token_type_ids is not None
    order = {"causal": np.arange(29)[None], "unilm": case.token_type_ids.cumsum(1), "bidirectional": np.zeros((1, 29))}
    place = order[model.config.attention]
    sees = (place[:, None, :] <= place[:, :, None]) & (case.attention_mask[:, None, :] != 0)
    assert sees.any(-1).all()
    assert not case.attention_mask[1, 1:5].any()
    assert not case.attention_mask[3, -5:].any()


def test_last_real_token_of_each_row_is_where_the_next_word_is_asked() -> None:
    model = MODELS["causal LM"]
    for case in make_cases(model.config, TASKS[model.kind.class_name], None):
        mask = np.ones_like(case.input_ids) if case.attention_mask is None else case.attention_mask
        rows, places = np.divmod(np.array(case.ranked), mask.shape[1])
        assert rows.tolist() == list(range(len(mask)))
        for row, place in zip(rows, places, strict=True):
            assert mask[row, place] == 1
            assert not mask[row, place + 1 :].any()
