"""What predict makes of a model's numbers: labels, spans, cosines, continuations; and how rows are sent."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_folders import ROOT

from roformer_convert.models.answers.answer_spans import QuestionAnswering, best_spans
from roformer_convert.models.answers.classification import Labels, SequenceClassification, TokenClassification, sigmoid
from roformer_convert.models.answers.continuation import CausalLM, Continued, joined
from roformer_convert.models.answers.framework_processes import Groups, Row, ask
from roformer_convert.models.answers.multiple_choice import MultipleChoice
from roformer_convert.models.answers.ranking import finite, ranked, softmax
from roformer_convert.models.answers.sentence_vectors import SentenceVectors, cosine
from roformer_convert.models.answers.task import Task
from roformer_convert.models.config import ModelError, RoFormerConfig
from roformer_convert.models.text.text_windows import Item, TextsError, read_window
from roformer_convert.models.text.tokenizer import Tokenizer

TRANSFORMERS_4 = ROOT / ".peers" / "transformers4" / "bin" / "python"
ROWS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天很好，我去公园。abcdefg", "##b", "##ing"]
CONFIG = RoFormerConfig(
    vocab_size=len(ROWS),
    embedding_size=12,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=18,
    num_labels=3,
    labels=("坏", "中", "好"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("vocabulary")
    (directory / "vocab.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return Tokenizer.from_pretrained(directory)


def item(task: Task[Any], text: str) -> Item:
    """Read a text that is as it should be."""
    encodings, problems = task.read(text)
    assert not problems
    return Item(1, text, tuple(encodings))


# Numbers -------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(1, 15))
def test_the_highest_come_first_and_of_equals_the_first(scores: list[int], k: int) -> None:
    wanted = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k]
    assert ranked(np.array(scores, np.float64), k).tolist() == wanted


def test_probabilities_are_those_of_their_formulas() -> None:
    scores = np.array([-800.0, -1.5, 0.0, 2.0, 800.0])
    assert np.allclose(sigmoid(scores)[1:4], [1 / (1 + math.exp(-x)) for x in scores[1:4]], rtol=1e-15)
    assert (sigmoid(scores)[0], sigmoid(scores)[4]) == (0.0, 1.0)
    total = sum(map(math.exp, (1.0, 2.0, 4.0)))
    assert np.allclose(softmax(np.array([1.0, 2.0, 4.0])), [math.exp(x) / total for x in (1.0, 2.0, 4.0)], rtol=1e-15)
    assert softmax(np.array([[800.0, 800.0], [0.0, -800.0]])).tolist() == [[0.5, 0.5], [1.0, 0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_named_with_its_place(bad: float) -> None:
    numbers = np.zeros((2, 3, 4), "float32")
    assert finite(numbers, "the score", "row", "token", "label").dtype == np.float64
    numbers[1, 2, 3] = bad
    with pytest.raises(ModelError, match=r"the score at row 1, token 2, label 3 is -?(nan|inf)\n  The weights"):
        finite(numbers, "the score", "row", "token", "label")


def test_the_cosine_is_that_of_the_angle() -> None:
    assert cosine((3.0, 0.0), (5.0, 5.0)) == pytest.approx(math.sqrt(0.5), abs=1e-15)
    assert cosine((1.0, 2.0), (-2.0, -4.0)) == pytest.approx(-1, abs=1e-15)
    assert cosine((0.0, 0.0), (1.0, 0.0)) == 0.0


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem_type", "count", "kind"),
    [
        (None, 3, "softmax"),
        ("single_label_classification", 3, "softmax"),
        ("multi_label_classification", 3, "sigmoid"),
        ("multi_label_classification", 1, "sigmoid"),
        ("regression", 3, "number"),
        ("regression", 1, "number"),
        (None, 1, "number"),
    ],
)
def test_what_a_score_means_follows_from_the_problem_type(problem_type: str | None, count: int, kind: str) -> None:
    config = replace(CONFIG, problem_type=problem_type, num_labels=count, labels=())
    logits = [0.5, -1.0, 2.0][:count]
    found = Labels(config).all(logits)
    assert [label.logit for label in found] == logits
    assert [label.label for label in found] == [f"LABEL_{i}" for i in range(count)]
    wanted = {
        "softmax": [math.exp(x) / sum(map(math.exp, logits)) for x in logits],
        "sigmoid": [1 / (1 + math.exp(-x)) for x in logits],
        "number": [None] * count,
    }[kind]
    assert [label.probability for label in found] == pytest.approx(wanted)


def test_labels_are_named_by_the_configuration_and_the_best_come_first(tokenizer: Tokenizer) -> None:
    task = SequenceClassification(tokenizer, CONFIG, top_k=2)
    found = task.result("tf", item(task, "今天\t很好"), [[0.0, 3.0, 1.0]])
    assert [(label.id, label.label) for label in found.labels] == [(1, "中"), (2, "好")]
    assert found.line == "tf: 中 0.8438, 好 0.1142"  # e³ and e of 1 + e³ + e
    best, second = found.labels
    assert found.as_dict() == {
        "framework": "tf",
        "class": "sequence-classification",
        "text": "今天\t很好",
        "labels": [
            {"id": 1, "label": "中", "logit": 3.0, "probability": best.probability},
            {"id": 2, "label": "好", "logit": 1.0, "probability": second.probability},
        ],
    }
    numbers = SequenceClassification(tokenizer, replace(CONFIG, problem_type="regression"), top_k=1)
    assert (
        numbers.result("torch", item(task, "今"), [[0.0, 3.0, -1.0]]).line
        == "pytorch: 坏 0.0000, 中 3.0000, 好 -1.0000"
    )


def test_tokens_get_their_labels_and_places(tokenizer: Tokenizer) -> None:
    task = TokenClassification(tokenizer, CONFIG)
    one = item(task, "ab 今天X")
    assert one.encodings[0].tokens == ["[CLS]", "a", "##b", "今", "天", "[UNK]", "[SEP]"]
    scores = [[9.0, 0, 0], [1, 0, 2], [0, 4, 0], [0, 0, 5], [1, 1, 0], [0, 1, 1], [9, 0, 0]]
    found = task.result("torch", one, [scores])
    assert [(token.token, token.start, token.end, token.label.label) for token in found.tokens] == [
        ("a", 0, 1, "好"), ("##b", 1, 2, "中"), ("今", 3, 4, "好"), ("天", 4, 5, "坏"), ("[UNK]", 5, 6, "中")
    ]  # fmt: skip
    assert found.line == "pytorch: a/好 b/中 今/好 天/坏 X/中"
    said = found.as_dict()
    tokens = said.pop("tokens")
    assert said == {"framework": "torch", "class": "token-classification", "text": "ab 今天X"}
    assert [[*token] for token in tokens] == [["token", "start", "end", "id", "label", "logit", "probability"]] * 5
    assert [*tokens[1].values()][:6] == ["##b", 1, 2, 1, "中", 4.0]


def test_the_best_option_is_chosen_and_of_equals_the_first(tokenizer: Tokenizer) -> None:
    task = MultipleChoice(tokenizer)
    one = item(task, "今天\t很好\t去公园\tab")
    assert [encoding.tokens for encoding in one.encodings][1] == ["[CLS]", *"今天", "[SEP]", *"去公园", "[SEP]"]
    assert one.encodings[1].token_type_ids == [0, 0, 0, 0, 1, 1, 1, 1]
    found = task.result("paddle", one, [1.0, 3.0, 3.0])
    assert (found.best, found.question) == (1, "今天")
    assert [option.option for option in found.options] == ["很好", "去公园", "ab"]
    assert sum(option.probability for option in found.options) == pytest.approx(1)
    assert found.line == "paddle: 去公园 0.4683"  # e³ of e + 2 e³
    assert found.as_dict()["chosen"] == 1


# Answers -------------------------------------------------------------------------------------------------------------


def spans_one_by_one(scores: Sequence[Sequence[float]], inside: range, longest: int) -> list[tuple[int, int, float]]:
    """Every span of the context with its probability, the best first, by the formula and nothing clever."""
    sums = [sum(math.exp(scores[column][side]) for column in (0, *inside)) for side in (0, 1)]
    chances = {
        (first, last): math.exp(scores[first][0]) / sums[0] * math.exp(scores[last][1]) / sums[1]
        for first in inside
        for last in inside
        if first <= last < first + longest
    }
    return [
        (first, last, chances[first, last]) for first, last in sorted(chances, key=lambda one: (-chances[one], one))
    ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 60))
def test_spans_are_the_best_of_all_that_lie_in_the_context(
    seed: int, question: int, context: int, longest: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (question + context + 3, 2))
    inside = range(question + 2, question + 2 + context)
    found, no_answer = best_spans(scores.tolist(), inside, longest, k)
    wanted = spans_one_by_one(scores.tolist(), inside, longest)
    assert [span[:2] for span in found] == [span[:2] for span in wanted[:k]]
    assert [span[2] for span in found] == pytest.approx([span[2] for span in wanted[:k]], rel=1e-12)
    exp = np.exp(scores[[0, *inside]])
    assert no_answer == pytest.approx(float(np.prod(exp[0] / exp.sum(axis=0))), rel=1e-12)


def test_spans_that_are_as_good_as_impossible_are_answers_still() -> None:
    scores = [[2000.0, 2000.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]  # exp(-2000) is 0 in float64
    assert best_spans(scores, range(2, 4), 2, 9) == ([(2, 2, 0.0), (2, 3, 0.0), (3, 3, 0.0)], 1.0)


def test_of_equal_spans_the_one_that_starts_first_and_then_the_shorter_is_the_answer() -> None:
    found, _ = best_spans([[0.0, 0.0]] * 6, range(2, 5), 2, 9)
    assert [span[:2] for span in found] == [(2, 2), (2, 3), (3, 3), (3, 4), (4, 4)]


@pytest.mark.skipif(not TRANSFORMERS_4.exists(), reason="no .peers/transformers4: run make peers")
def test_spans_are_those_of_the_pipeline_of_transformers(tmp_path: Path) -> None:
    """Its own functions, on random scores; it keeps [CLS] among the candidates and drops it afterwards."""
    rng = np.random.default_rng(8)
    cases = {f"{i}": rng.normal(0, 3, (23, 2)).astype("float32") for i in range(6)}
    np.savez(tmp_path / "scores.npz", **cases)  # type: ignore[arg-type]
    script = """
import json, sys
import numpy
from transformers.pipelines.question_answering import select_starts_ends
scores, found = numpy.load(sys.argv[1]), {}
for name in scores:
    p_mask = numpy.ones(23, int)
    p_mask[[0, *range(6, 22)]] = 0
    start, end = scores[name][None, :, 0], scores[name][None, :, 1]
    s, e, p, none = select_starts_ends(start, end, p_mask, numpy.ones((1, 23), int), 1e6, 40, True, 5)
    spans = [(int(a), int(b), float(c)) for a, b, c in zip(s, e, p) if a]
    found[name] = spans, float(none)
print(json.dumps(found))
"""
    done = subprocess.run([TRANSFORMERS_4, "-c", script, tmp_path / "scores.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, (spans, no_answer) in json.loads(done.stdout).items():
        ours, none = best_spans(cases[name].tolist(), range(6, 22), 5, 20)
        assert [span[:2] for span in ours] == [tuple(span[:2]) for span in spans[:20]]
        # theirs are float32 sums of 17 terms
        assert [span[2] for span in ours] == pytest.approx([span[2] for span in spans[:20]], rel=1e-5)
        assert none == pytest.approx(no_answer, rel=1e-5)


def test_an_answer_is_cut_out_of_the_context(tokenizer: Tokenizer) -> None:
    task = QuestionAnswering(tokenizer, top_k=2, longest=3)
    one = item(task, "今天\t我 去公园")
    assert one.encodings[0].tokens == ["[CLS]", *"今天", "[SEP]", *"我去公园", "[SEP]"]
    scores = np.zeros((9, 2))
    scores[6, 0] = scores[7, 1] = 5
    scores[2] = scores[8] = 50  # neither the question nor [SEP] may answer
    found = task.result("torch", one, [scores.tolist()])
    assert found.answers[0].answer == "公园"
    assert (found.answers[0].start, found.answers[0].end) == (3, 5)
    assert found.context[found.answers[1].start : found.answers[1].end] == found.answers[1].answer
    assert found.line == f"pytorch: 公园 {found.answers[0].probability:.4f}"
    said = found.as_dict()
    first, _ = said.pop("answers")
    assert first == {"answer": "公园", "start": 3, "end": 5, "probability": found.answers[0].probability}
    assert said == {
        "framework": "torch",
        "class": "question-answering",
        "text": "今天\t我 去公园",
        "question": "今天",
        "context": "我 去公园",
        "no_answer": found.no_answer,
    }


# Vectors -------------------------------------------------------------------------------------------------------------


def test_a_pair_is_compared_and_a_text_is_shown(tokenizer: Tokenizer) -> None:
    task = SentenceVectors(tokenizer, pooler=False)
    pair = task.result("torch", item(task, "今天\t很好"), [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert pair.line == "pytorch: cosine 0.7071"
    assert pair.as_dict()["texts"] == ["今天", "很好"]
    assert pair.as_dict()["from"] == "first token"
    one = task.result("torch", item(task, "今天"), [[1.0, -0.25, 0.0, 3.0, 9.0]])
    assert one.line == "pytorch: 1.0000 -0.2500 0.0000 3.0000 … (5 numbers)"
    assert one.as_dict() == {
        "framework": "torch",
        "class": "base",
        "text": "今天",
        "texts": ["今天"],
        "from": "first token",
        "vectors": [[1.0, -0.25, 0.0, 3.0, 9.0]],
        "cosine": None,
    }
    pooled = SentenceVectors(tokenizer, pooler=True)
    assert pooled.result("torch", item(pooled, "今天"), [[1.0]]).as_dict()["from"] == "pooler"


# Continuations -------------------------------------------------------------------------------------------------------


class NextInAList:
    """A model of which the word after a text depends on the text's length alone; notes the rows it was given."""

    def __init__(self, words: Mapping[int, str], otherwise: str = "a") -> None:
        self.words, self.otherwise, self.rows = words, otherwise, list[Row]()

    def __call__(self, work: Sequence[Groups]) -> list[list[list[Any]]]:
        self.rows += [Row([*row.ids], [*row.types]) for groups in work for group in groups for row in group]
        return [[[self.answer(row) for row in group] for group in groups] for groups in work]

    def answer(self, row: Row) -> list[Any]:
        (column,) = row.columns
        assert column == len(row.ids) - 1
        first = ROWS.index(self.words.get(len(row.ids), self.otherwise))
        return [[[first, 7], [3.0, 1.0], [0.8, 0.1]]]


def grow(tokenizer: Tokenizer, model: NextInAList, texts: list[str], words: int, **config: Any) -> list[Continued]:
    task = CausalLM(tokenizer, replace(CONFIG, **{"attention": "causal", **config}), 2, words)
    items = [Item(i, text, tuple(task.read(text)[0])) for i, text in enumerate(texts, 1)]
    return list(task.results(["torch"], items, model))


def test_the_next_words_of_a_causal_model_follow_a_text_without_its_end(tokenizer: Tokenizer) -> None:
    model = NextInAList({3: "很"})
    (found,) = grow(tokenizer, model, ["今天"], words=0)
    assert [(row.ids, row.types) for row in model.rows] == [([2, 5, 6], [0, 0, 0])]
    assert [guess.token for guess in found.top] == ["很", "很"]
    assert found.line == "pytorch: 今天[很||很]"
    assert found.continuation is None
    said = found.as_dict()
    first, second = said.pop("top")
    assert (first["token"], second["id"]) == ("很", 7)
    assert said == {"framework": "torch", "class": "causal-lm", "text": "今天", "input_ids": [2, 5, 6]}


def test_each_text_grows_until_its_own_end(tokenizer: Tokenizer) -> None:
    """With [CLS] they have 5, 2 and 7 tokens: the first ends at once, the second after three words, the third never."""
    model = NextInAList({5: "。", 4: "。", 3: "好"}, otherwise="去")
    first, second, third = grow(tokenizer, model, ["今天很好", "今", "今天很好今天"], words=4)
    assert [one.line for one in (first, second, third)] == [
        "pytorch: 今天很好。",
        "pytorch: 今去好。",
        "pytorch: 今天很好今天去去去去",
    ]
    found = [one.continuation for one in (first, second, third)]
    assert [one.ended_by for one in found if one] == ["end", "end", "words"]
    assert found[1] is not None
    assert found[1].ids == tuple(map(ROWS.index, "去好。"))
    assert [guess.token for guess in second.top] == ["去", "很"]  # after the text itself, not after its continuation
    assert first.as_dict()["continuation"] == {"ids": [ROWS.index("。")], "text": "。", "ended_by": "end"}
    assert all(row.types == [0] * len(row.ids) for row in model.rows)
    # a text that has ended is asked for no more
    assert sorted(len(row.ids) for row in model.rows) == sorted([5, *(2, 3, 4), *(7, 8, 9, 10)])


def test_a_unilm_writes_a_second_text_of_its_own_type(tokenizer: Tokenizer) -> None:
    model = NextInAList({6: "[SEP]"}, otherwise="。")
    (found,) = grow(tokenizer, model, ["今天"], words=9, attention="unilm")
    assert [(row.ids[4:], row.types) for row in model.rows] == [
        ([], [0, 0, 0, 0]),
        ([ROWS.index("。")], [0, 0, 0, 0, 1]),
        ([ROWS.index("。")] * 2, [0, 0, 0, 0, 1, 1]),
    ]
    assert model.rows[0].ids == [2, 5, 6, 3]
    assert found.continuation is not None
    assert (found.continuation.text, found.continuation.ended_by) == ("。。", "end")
    assert found.line == "pytorch: 。。"
    (shown,) = grow(tokenizer, NextInAList({}), ["今天"], words=0, attention="unilm")
    assert shown.line == "pytorch: [a||很]"


def test_the_configuration_may_name_another_end(tokenizer: Tokenizer) -> None:
    model = NextInAList({4: "好"}, otherwise="去")
    (found,) = grow(tokenizer, model, ["今"], words=9, eos_token_id=ROWS.index("好"))
    assert found.line == "pytorch: 今去去好"
    assert found.continuation is not None
    assert found.continuation.ended_by == "end"


def test_no_continuation_is_longer_than_the_model_takes(tokenizer: Tokenizer) -> None:
    model = NextInAList({}, otherwise="去")
    (found,) = grow(tokenizer, model, ["今" * 15], words=99)
    assert max(len(row.ids) for row in model.rows) == CONFIG.max_position_embeddings
    assert found.continuation is not None
    assert found.continuation.ended_by == "length"
    assert len(found.continuation.ids) == 3  # [CLS], 15 and two more were fed; the last word needs no place


@pytest.mark.parametrize(
    ("text", "pieces", "wanted"),
    [
        ("今天", ["很", "好"], "今天很好"),
        ("a", ["##b", "##ing"], "abing"),
        ("ab", ["c", "12", "。", "d"], "ab c 12。d"),
        ("今", ["a", "天"], "今a天"),
        ("", ["a", "b"], "a b"),
        ("x", ["##"], "x##"),
    ],
)
def test_pieces_are_joined_as_they_are_read(text: str, pieces: list[str], wanted: str) -> None:
    assert joined(text, pieces) == wanted


# What texts must be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "problem", "form"),
    [
        ("sequence", "a\tb\tc", "3 texts with tabs between them; wanted one or two", "a pair of texts"),
        ("vectors", "a\tb\tc", "3 texts with tabs between them; wanted one or two", "to compare them"),
        ("answer", "今天", "0 tabs in '今天'; wanted 1", "the question, a tab, and the context"),
        ("answer", "今\t天\ta", "2 tabs in", "the question, a tab, and the context"),
        ("answer", "今天\t ", "no token in the context ' '", "the context that holds"),
        ("choice", "今天\t好", "1 option in", "two options or more"),
        ("choice", "今天", "0 options in", "two options or more"),
    ],
)
def test_a_text_of_another_form_is_named_with_the_form(
    tokenizer: Tokenizer, kind: str, text: str, problem: str, form: str
) -> None:
    tasks: dict[str, Task[Any]] = {
        "sequence": SequenceClassification(tokenizer, CONFIG, 5),
        "vectors": SentenceVectors(tokenizer, True),
        "answer": QuestionAnswering(tokenizer, 5, 5),
        "choice": MultipleChoice(tokenizer),
    }
    task = tasks[kind]
    good = {"answer": "今\t天", "choice": "今\t天\t好"}.get(kind, "今天")
    with pytest.raises(TextsError) as caught:
        read_window(enumerate([good, text], 1), task.read, CONFIG, task.form)
    assert str(caught.value).startswith(f"a text cannot be used\n  text 2: {problem}")
    assert form in str(caught.value)


def test_every_sequence_of_a_text_must_fit(tokenizer: Tokenizer) -> None:
    task = MultipleChoice(tokenizer)
    texts = ["今\t天\t" + "好" * 15, "今\t天\t" + "好" * 14]
    with pytest.raises(TextsError, match=r"text 1: 19 tokens; the limit is 18 (?s:.)*--max-length 19"):
        read_window(enumerate(texts, 1), task.read, CONFIG, task.form)
    assert len(read_window(enumerate(texts[1:], 1), task.read, CONFIG, task.form)) == 1


# Batches -------------------------------------------------------------------------------------------------------------


class Echo:
    """A process that answers each row with its ids; notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.waiting: list[Any] = []

    def ask(self, request: Mapping[str, Any]) -> None:
        ((name, arguments),) = json.loads(json.dumps(request)).items()
        assert name == "scores"
        assert arguments["pad_id"] == 0
        self.waiting.append(arguments["rows"])

    def answer(self) -> dict[str, Any]:
        rows = self.waiting.pop(0)
        assert not self.waiting
        self.batches.append([row["ids"] for row in rows])
        return {"rows": [row["ids"] for row in rows], "notes": []}


def groups(rng: random.Random, count: int) -> list[list[Row]]:
    return [[Row([rng.randrange(99)] * rng.randint(1, 30), []) for _ in range(rng.randint(1, 3))] for _ in range(count)]


@pytest.mark.parametrize("together", [False, True])
def test_every_row_gets_its_own_answer(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    monkeypatch.setattr("roformer_convert.models.answers.framework_processes._BATCH_TOKENS", 64)
    rng = random.Random(2)
    work = [groups(rng, count) for count in (7, 0, 12)]
    processes: Any = [Echo() for _ in work]
    found = ask(processes, "scores", work, {"pad_id": 0}, together=together, note=pytest.fail)
    assert found == [[[row.ids for row in group] for group in each] for each in work]
    for each, process in zip(work, processes, strict=True):
        if together:
            assert process.batches == [[row.ids for row in group] for group in each]
        else:
            assert all(len(batch) * max(map(len, batch)) <= 64 for batch in process.batches)
            assert len(process.batches) < sum(map(len, each)) or not each
