"""predict: what each class is for, held against transformers; every framework and dialect; the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from answering import run_command
from peer_folders import PEERS

from roformer_convert.cmd_predict import predict_command
from roformer_convert.converters import ConvertError, ConvertOptions, convert
from roformer_convert.converters.source.stated import to_json
from roformer_convert.models.answers import framework_processes
from roformer_convert.models.answers.answer_spans import Answered, best_spans
from roformer_convert.models.answers.classification import ClassifiedSequence, LabelledTokens
from roformer_convert.models.answers.continuation import Continued
from roformer_convert.models.answers.fill_mask import fill_mask
from roformer_convert.models.answers.multiple_choice import Chosen
from roformer_convert.models.answers.predict import Wanted, predict
from roformer_convert.models.answers.sentence_vectors import Vectors
from roformer_convert.models.answers.task import Prediction
from roformer_convert.models.answers.worker import Worker
from roformer_convert.models.processes.frameworks import FRAMEWORKS, is_installed
from roformer_convert.models.processes.process import Process

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

ROWS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天很好，我去公园。气候不错吗abcdefg", "##b", "##ing"]
SIZES = {
    "vocab_size": len(ROWS),
    "embedding_size": 16,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
}
LABELS = {"id2label": {0: "坏", 1: "中", 2: "好"}, "label2id": {"坏": 0, "中": 1, "好": 2}}
#: Folder → transformers' class and what its configuration says.
FOLDERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sequence": ("RoFormerForSequenceClassification", LABELS),
    "several": ("RoFormerForSequenceClassification", {**LABELS, "problem_type": "multi_label_classification"}),
    "number": ("RoFormerForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "tokens": ("RoFormerForTokenClassification", LABELS),
    "answers": ("RoFormerForQuestionAnswering", {}),
    "choices": ("RoFormerForMultipleChoice", {}),
    "choices-first": (
        "RoFormerForMultipleChoice",
        {
            "summary_type": "first",
            "summary_use_proj": True,
            "summary_activation": "tanh",
            "summary_proj_to_labels": False,
        },
    ),
    "causal": ("RoFormerForCausalLM", {"is_decoder": True}),
    "masked": ("RoFormerForMaskedLM", {}),
    "base": ("RoFormerModel", {}),
}  # fmt: skip
#: Texts that each folder understands.
TEXTS: Mapping[str, list[str]] = {
    "sequence": ["今天很好", "我去公园，气候不错。", "今天\t我去公园吗", "abc abing x"],
    "tokens": ["今天很好", "abc  abing,今x。", "我"],
    "answers": ["今天\t我去公园，气候不错。", "气候 好吗\tabing 今天 很好"],
    "choices": ["今天\t我去\t很好吗。", "气候不错\t今\t好\tabing 公园", "我\t去\t园"],
    "causal": ["今天很好", "我", "ab 气候不错吗"],
    "base": ["今天很好", "我去公园\t公园我去"],
}
TEXTS = {**TEXTS, **dict.fromkeys(("several", "number"), TEXTS["sequence"]), "choices-first": TEXTS["choices"]}
WANTED = Wanted(top_k=3, words=6, max_answer=4)
#: float32 sums in another order: 1e-6 of scores of about 5.
CLOSE = 1e-5


def runnable(name: str) -> bool:
    return is_installed(FRAMEWORKS[name].package)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that transformers made, with every tensor random, as it writes them, and a vocabulary beside each."""
    root = tmp_path_factory.mktemp("folders")
    for number, (name, (kind, more)) in enumerate(FOLDERS.items()):
        torch.manual_seed(number)
        model = getattr(transformers, kind)(transformers.RoFormerConfig(**SIZES, **more))
        for path, parameter in model.named_parameters():
            if parameter.requires_grad:  # the rotary table asks for none
                torch.nn.init.normal_(parameter, float(path.endswith("LayerNorm.weight")), 0.4)
        model.save_pretrained(root / name)
        (root / name / "vocab.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return root


def theirs(directory: Path) -> Any:
    """Load a folder as transformers does, with its tokenizer: (model, tokenizer)."""
    kind = FOLDERS[directory.name][0]
    model = getattr(transformers, kind).from_pretrained(directory)
    return model.eval(), transformers.BertTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def pool() -> Iterator[dict[str, Process]]:
    """A process for each framework that is here, which loads one model after another: its import takes seconds."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Process(name, f"{framework_processes.__package__}.worker", [name]))
            for name in FRAMEWORKS
            if runnable(name)
        }


@pytest.fixture
def pooled(pool: dict[str, Process], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have predict take the processes of the pool; their names."""

    class FromPool:
        def __init__(self, name: str, *_: Any) -> None:
            self.name, self.ask, self.answer, self.words = name, pool[name].ask, pool[name].answer, pool[name].words

        def __enter__(self) -> FromPool:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(framework_processes, "Process", FromPool)
    return list(pool)


def answers(directory: Path, texts: list[str], *wanted: Wanted) -> list[Prediction]:
    """One for each text, so that whoever goes through them has gone through all."""
    found = list(predict(directory, texts, *wanted))
    assert len(found) == len(texts)
    return found


# Against transformers' pipelines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sequence", "several", "number"])
def test_labels_are_those_of_the_text_classification_pipeline(folders: Path, in_process: None, name: str) -> None:
    model, tokenizer = theirs(folders / name)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    for one in answers(folders / name, TEXTS[name]):
        assert isinstance(one, ClassifiedSequence)
        text, *pair = one.text.split("\t")
        wanted = pipeline({"text": text, **({"text_pair": pair[0]} if pair else {})}, top_k=None)
        assert [label.label for label in one.labels] == [each["label"] for each in wanted]
        found = [label.logit if label.probability is None else label.probability for label in one.labels]
        assert found == pytest.approx([each["score"] for each in wanted], rel=CLOSE, abs=CLOSE)


def test_tokens_are_labelled_as_by_the_token_classification_pipeline(folders: Path, in_process: None) -> None:
    model, tokenizer = theirs(folders / "tokens")
    pipeline = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    found = answers(folders / "tokens", TEXTS["tokens"])
    for one in found:
        assert isinstance(one, LabelledTokens)
        wanted = pipeline(one.text)
        # theirs spells an unknown token as the text does
        words = [one.text[token.start : token.end] if token.token == "[UNK]" else token.token for token in one.tokens]
        assert [
            (word, token.start, token.end, token.label.label) for word, token in zip(words, one.tokens, strict=True)
        ] == [(each["word"], each["start"], each["end"], each["entity"]) for each in wanted]
        chances = [token.label.probability for token in one.tokens]
        assert chances == pytest.approx([each["score"] for each in wanted], rel=CLOSE, abs=CLOSE)
    assert len({token.label.label for one in found if isinstance(one, LabelledTokens) for token in one.tokens}) > 1


def test_answers_are_the_best_spans_of_their_model(folders: Path, in_process: None) -> None:
    """transformers 5 has no pipeline for them; ``test_predict_answers.py`` holds spans against that of 4.57."""
    model, tokenizer = theirs(folders / "answers")
    for one in answers(folders / "answers", TEXTS["answers"], WANTED):
        assert isinstance(one, Answered)
        encoded = tokenizer(one.question, one.context, return_offsets_mapping=True, return_tensors="pt")
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            output = model(**encoded)
        scores = torch.stack([output.start_logits[0], output.end_logits[0]], -1).double().tolist()
        second = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        spans, no_answer = best_spans(scores, range(second[0], second[-1] + 1), 4, 3)
        assert [(answer.start, answer.end) for answer in one.answers] == [
            (offsets[first][0], offsets[last][1]) for first, last, _ in spans
        ]
        assert [answer.probability for answer in one.answers] == pytest.approx(
            [each[2] for each in spans], rel=CLOSE, abs=CLOSE
        )
        assert one.no_answer == pytest.approx(no_answer, rel=CLOSE, abs=CLOSE)
        assert all(one.context[answer.start : answer.end] == answer.answer for answer in one.answers)


@pytest.mark.parametrize("name", ["choices", "choices-first"])
def test_options_are_scored_as_by_their_model(folders: Path, in_process: None, name: str) -> None:
    """One question at a time: by default their model reads the last column, padding or not."""
    model, tokenizer = theirs(folders / name)
    for one in answers(folders / name, TEXTS[name]):
        assert isinstance(one, Chosen)
        options = [option.option for option in one.options]
        encoded = tokenizer([one.question] * len(options), options, padding=True, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**{key: array[None] for key, array in encoded.items()}).logits[0].double()
        assert [option.logit for option in one.options] == pytest.approx(wanted.tolist(), rel=CLOSE, abs=CLOSE)
        assert [option.probability for option in one.options] == pytest.approx(
            wanted.softmax(0).tolist(), rel=CLOSE, abs=CLOSE
        )
        assert one.best == int(wanted.argmax())


@pytest.mark.parametrize("end", [None, "ends"])
def test_words_are_those_that_their_greedy_search_generates(folders: Path, in_process: None, end: str | None) -> None:
    model, tokenizer = theirs(folders / "causal")
    plain = [one for one in predict(folders / "causal", TEXTS["causal"], WANTED) if isinstance(one, Continued)]
    assert len(plain) == 3
    assert plain[0].continuation is not None
    eos = plain[0].continuation.ids[2] if end else None
    settings = {"eos_token_id": eos} if end else {}
    found = list(predict(folders / "causal", TEXTS["causal"], WANTED, set=settings)) if end else plain
    for one in found:
        assert isinstance(one, Continued)
        assert one.continuation is not None
        ids = tokenizer(one.text, add_special_tokens=False)["input_ids"]
        prompt = torch.tensor([[tokenizer.cls_token_id, *ids]])
        ends = [tokenizer.convert_tokens_to_ids("。"), *([eos] if eos is not None else [])]
        wanted = model.generate(
            prompt, max_new_tokens=6, do_sample=False, eos_token_id=ends, pad_token_id=0, use_cache=False
        )[0]
        assert one.ids == prompt[0].tolist()
        assert list(one.continuation.ids) == wanted[len(one.ids) :].tolist()
        assert one.continuation.ended_by == ("end" if one.continuation.ids[-1] in ends else "words")
        with torch.no_grad():
            logits = model(prompt).logits[0, -1].double()
        assert [guess.id for guess in one.top] == logits.topk(3).indices.tolist()
        assert [guess.logit for guess in one.top] == pytest.approx(logits.topk(3).values.tolist(), rel=CLOSE, abs=CLOSE)
    if end:
        assert isinstance(found[0], Continued)
        assert found[0].continuation is not None
        assert found[0].continuation.ended_by == "end"


def test_vectors_without_a_pooler_are_the_first_tokens_of_their_model(folders: Path, in_process: None) -> None:
    model, tokenizer = theirs(folders / "base")
    notes: list[str] = []
    for one in predict(folders / "base", TEXTS["base"], note=notes.append):
        assert isinstance(one, Vectors)
        assert one.source == "first token"
        wanted = []
        for text in one.texts:
            with torch.no_grad():
                wanted.append(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0].double())
        assert np.abs(np.array(one.vectors) - torch.stack(wanted).numpy()).max() < 1e-5
        if len(wanted) == 2:
            assert one.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(*wanted, dim=0)), abs=1e-6)
        else:
            assert one.cosine is None
    assert "there is no pooler: the vector is the hidden state of the first token" in notes


def test_a_pooler_gives_the_vector_bert4keras_computed() -> None:
    """roformer-sim's: linear, which no file of a TF1 checkpoint says."""
    directory = PEERS / "b4k-MaskedLM_poollin"
    inputs, pooled = dict(np.load(directory / "inputs.npz")), np.load(directory / "out0.npy")
    worker = Worker("torch")
    stated = to_json({"set": {"pooler_activation": "linear"}})
    worker.load("RoFormerModel", str(directory), extend_to=None, stated=stated, device="cpu")
    lengths = inputs["attention_mask"].sum(1)
    rows = [
        {"ids": ids[:length].tolist(), "types": types[:length].tolist(), "columns": []}
        for ids, types, length in zip(inputs["input_ids"], inputs["token_type_ids"], lengths, strict=True)
    ]
    assert len({len(row["ids"]) for row in rows}) == 3  # so that some are padded
    assert np.abs(np.array(worker.vectors(rows, 0)) - pooled).max() < 1e-5


# Every framework, every dialect --------------------------------------------------------------------------------------


def numbers(data: Any) -> list[float]:
    """Every number of a result, in its order."""
    if isinstance(data, dict):
        return [number for value in data.values() for number in numbers(value)]
    if isinstance(data, list | tuple):
        return [number for value in data for number in numbers(value)]
    return [data] if isinstance(data, float) else []


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Require equal words, and numbers as equal as float32 is."""
    assert numbers(one) == pytest.approx(numbers(other), rel=CLOSE, abs=CLOSE)
    rounded = [json.loads(json.dumps({**each, "framework": ""}), parse_float=lambda _: 0.0) for each in (one, other)]
    assert rounded[0] == rounded[1]


@pytest.mark.parametrize("name", [*TEXTS])
def test_every_framework_gives_the_same(folders: Path, pooled: list[str], name: str) -> None:
    found = list(predict(folders / name, TEXTS[name], WANTED, frameworks=pooled))
    assert [(one.framework, one.number) for one in found] == [
        (framework, number) for number in range(1, len(TEXTS[name]) + 1) for framework in pooled
    ]
    for start in range(0, len(found), len(pooled)):
        for other in found[start + 1 : start + len(pooled)]:
            same(found[start].as_dict(), other.as_dict())


#: Folder of a peer → the texts of which of :data:`TEXTS` it is asked, what no file of it says, and its class.
PEERS_FOLDERS: Mapping[str, tuple[str, dict[str, Any], str | None]] = {
    "b4k-LM_default": ("causal", {"attention": "causal"}, "causal-lm"),
    "b4k-UniLM_sim": ("causal", {"attention": "unilm", "pooler_activation": "linear"}, "causal-lm"),
    "junn-SequenceClassification_v2_st": ("sequence", {}, None),
    "junn-MultipleChoice_v2_bin": ("choices", {}, None),
    "pd-QuestionAnswering_v2_st": ("answers", {}, None),
    "pd-TokenClassification_v2bias_pd": ("tokens", {}, None),
}


@pytest.mark.parametrize("name", PEERS_FOLDERS)
def test_every_framework_gives_the_same_of_what_peers_wrote(tmp_path: Path, pooled: list[str], name: str) -> None:
    """RoFormerV2, and masks that no file of a TF1 checkpoint says."""
    texts, settings, kind = PEERS_FOLDERS[name]
    shutil.copytree(PEERS / name, tmp_path / name)
    (tmp_path / name / "vocab.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    found = list(predict(tmp_path / name, TEXTS[texts], WANTED, frameworks=pooled, set=settings, model_class=kind))
    assert len(found) == len(pooled) * len(TEXTS[texts])
    for start in range(0, len(found), len(pooled)):
        for other in found[start + 1 : start + len(pooled)]:
            same(found[start].as_dict(), other.as_dict())


@pytest.mark.parametrize("dialect", ["paddle", "tf"])
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "choices"])
def test_every_dialect_gives_the_same(folders: Path, tmp_path: Path, in_process: None, name: str, dialect: Any) -> None:
    options = ConvertOptions(allow_different=name == "causal")
    convert(folders / name, tmp_path / "other", to=dialect, options=options)
    set = {"attention": "causal"} if name == "causal" else None
    wanted = predict(folders / name, TEXTS[name], WANTED)
    for one, other in zip(wanted, predict(tmp_path / "other", TEXTS[name], WANTED, set=set), strict=True):
        same(one.as_dict(), other.as_dict())


def test_texts_are_answered_in_windows_and_batches(
    folders: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TEXTS["sequence"] * 9
    wanted = list(predict(folders / "sequence", texts))
    monkeypatch.setattr(framework_processes, "_BATCH_TOKENS", 20)
    monkeypatch.setattr("roformer_convert.models.text.text_windows._WINDOW", 5)
    found = list(predict(folders / "sequence", iter(texts)))
    assert [one.number for one in found] == [*range(1, 37)]
    for one, other in zip(wanted, found, strict=True):
        same(one.as_dict(), other.as_dict())


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_masked_lm_is_sent_to_fill_mask(folders: Path, in_process: None) -> None:
    with pytest.raises(ConvertError, match=r"RoFormerForMaskedLM, which fills masks\n.*fill-mask, or add --vector"):
        next(predict(folders / "masked", ["今天"]))
    (found,) = predict(folders / "masked", ["今天"], Wanted(vector=True))
    assert isinstance(found, Vectors)


def test_a_classifier_gives_no_vector(folders: Path) -> None:
    with pytest.raises(ConvertError, match=r"a RoFormerForTokenClassification gives no sentence vector\n.*--vector"):
        next(predict(folders / "tokens", ["今天"], Wanted(vector=True)))


@pytest.mark.parametrize(
    ("name", "set", "kind", "message"),
    [
        ("causal", None, None, r"is a RoFormerForCausalLM; fill-mask wants a masked LM\n.*predict does"),
        ("tokens", None, None, r"is a RoFormerForTokenClassification; fill-mask wants(?s:.)*predict does"),
        ("base", None, None, r"is a RoFormerModel; fill-mask wants"),
        ("masked", {"attention": "causal"}, None, r"causal attention: at a \[MASK\] it sees(?s:.)*--class causal-lm"),
        ("masked", None, "causal-lm", r"is a RoFormerForCausalLM; fill-mask wants"),
    ],
)
def test_what_fills_no_mask_is_sent_to_predict(
    folders: Path, name: str, set: dict[str, Any] | None, kind: str | None, message: str
) -> None:
    with pytest.raises(ConvertError, match=message):
        next(fill_mask(folders / name, ["今[MASK]"], set=set, model_class=kind))


def test_more_words_than_there_are_is_refused(folders: Path) -> None:
    with pytest.raises(ConvertError, match=f"the 99 best words are asked for; vocab_size is {len(ROWS)}"):
        next(predict(folders / "causal", ["今"], Wanted(top_k=99)))


def test_no_process_is_started_for_texts_of_another_form(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_processes, "Process", None)
    with pytest.raises(ConvertError, match=r"text 2: 0 tabs in '今天'(?s:.)*Write on one line the question"):
        next(predict(folders / "answers", ["今\t天", "今天"]))
    assert list(predict(folders / "answers", [])) == []


def test_weights_that_are_not_numbers_are_named(folders: Path, tmp_path: Path, in_process: None) -> None:
    model, _ = theirs(folders / "tokens")
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(tmp_path / "tokens")
    (tmp_path / "tokens" / "vocab.txt").write_bytes((folders / "tokens" / "vocab.txt").read_bytes())
    with pytest.raises(ConvertError, match=r"the score at row 0, token 0, label 0 is nan"):
        next(predict(tmp_path / "tokens", ["今天"]))


def test_attention_both_ways_in_a_causal_lm_is_told(folders: Path, tmp_path: Path, in_process: None) -> None:
    notes: list[str] = []
    list(predict(folders / "causal", ["今天"], note=notes.append))
    assert not [note for note in notes if "attention is bidirectional" in note]
    list(predict(folders / "causal", ["今天"], set={"attention": "bidirectional"}, note=notes.append))
    assert [note for note in notes if "attention is bidirectional" in note]


# The command ---------------------------------------------------------------------------------------------------------


def run(*arguments: object, **options: Any) -> tuple[int, str, str]:
    return run_command(predict_command, *arguments, **options)


#: Folder, arguments, and the keys of a JSON object beside framework, class and text.
SHOWN: Mapping[str, tuple[list[str], set[str]]] = {
    "sequence": (["今天很好"], {"labels"}),
    "tokens": (["今天很好"], {"tokens"}),
    "answers": (["今天\t我去公园"], {"question", "context", "answers", "no_answer"}),
    "choices": (["今天\t我去\t公园"], {"question", "options", "chosen"}),
    "causal": (["今天很好", "--words", "3"], {"input_ids", "top", "continuation"}),
    "base": (["今天很好"], {"texts", "from", "vectors", "cosine"}),
}


@pytest.mark.parametrize("name", SHOWN)
def test_each_class_has_a_line_and_a_json_object(folders: Path, in_process: None, name: str) -> None:
    words, keys = SHOWN[name]
    status, out, _ = run(folders / name, *words)
    assert status == 0
    assert out.startswith("pytorch: ")
    assert out.count("\n") == 1
    status, out, _ = run(folders / name, *words, "--json")
    found = json.loads(out)
    assert [*found][:4] == ["schema", "framework", "class", "text"]
    assert found["text"] == words[0]
    assert found.keys() - {"schema", "framework", "class", "text"} == keys


def test_texts_come_from_arguments_a_file_or_stdin(folders: Path, tmp_path: Path, in_process: None) -> None:
    texts = TEXTS["sequence"]
    status, wanted, err = run(folders / "sequence", *texts)
    assert (status, len(wanted.splitlines())) == (0, 4)
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    assert run(folders / "sequence", "--file", tmp_path / "texts.txt") == (0, wanted, err)
    assert run(folders / "sequence", input="\n".join(texts)) == (0, wanted, err)
    with pytest.raises(click.UsageError, match="not both"):
        predict_command.main([str(folders / "sequence"), "今", "--file", "-"], standalone_mode=False)


def test_two_texts_in_arguments_are_compared(folders: Path, in_process: None) -> None:
    _, one_line, _ = run(folders / "base", "今天\t很好")
    assert one_line.startswith("pytorch: cosine ")
    assert run(folders / "base", "今天", "很好")[1] == one_line
    assert run(folders / "base", input="今天\n很好")[1].count("numbers") == 2  # a file of two lines has two answers
    assert run(folders / "base", "今天", "很好\t我")[1].count("\n") == 2
    assert run(folders / "sequence", "今天", "很好")[1].count("\n") == 2


def test_what_no_file_says_can_be_set(folders: Path, in_process: None) -> None:
    words = ["今天很好", "--json", "--framework", "torch"]
    causal = run(folders / "causal", *words)[1]
    assert run(folders / "masked", *words)[0] == 2
    assert run(folders / "causal", *words, "--set", "attention=causal", "--class", "causal-lm")[1] == causal
    assert run(folders / "causal", *words, "--set", "attention=bidirectional")[1] != causal
    found = json.loads(run(folders / "masked", *words, "--class", "causal-lm", "--set", "attention=causal")[1])
    assert found["class"] == "causal-lm"
    status, _, err = run(folders / "causal", *words, "--set", "nothing=1")
    assert status == 2
    assert "--set 'nothing': no field of this name" in err


def test_the_class_can_be_stated_where_the_files_name_another(folders: Path, tmp_path: Path, in_process: None) -> None:
    """PaddleNLP calls the tensors of several heads alike, so that the class alone tells them apart."""
    convert(folders / "tokens", tmp_path / "paddle", to="paddle", options=ConvertOptions(allow_different=True))
    wanted = run(tmp_path / "paddle", *TEXTS["tokens"])
    assert wanted[0] == 0
    settings = json.loads((tmp_path / "paddle" / "config.json").read_text("utf-8"))
    settings["architectures"] = ["RoFormerForSequenceClassification"]
    (tmp_path / "paddle" / "config.json").write_text(json.dumps(settings), "utf-8")
    assert run(tmp_path / "paddle", *TEXTS["tokens"])[1] != wanted[1]
    assert run(tmp_path / "paddle", *TEXTS["tokens"], "--class", "token-classification")[:2] == wanted[:2]


def test_top_k_words_and_the_longest_answer_are_chosen(folders: Path, in_process: None) -> None:
    found = json.loads(run(folders / "answers", "今天\t我去公园吗", "--json", "--max-answer", 1, "--top-k", 99)[1])
    assert [len(answer["answer"]) for answer in found["answers"]] == [1] * 5
    found = json.loads(run(folders / "causal", "今天", "--json", "--top-k", 2)[1])
    assert len(found["top"]) == 2
    assert "continuation" not in found
    assert len(json.loads(run(folders / "sequence", "今天", "--json", "--top-k", 1)[1])["labels"]) == 1


def test_max_length_raises_the_limit(folders: Path, in_process: None) -> None:
    long = "今" * 50
    status, _, err = run(folders / "sequence", long)
    assert status == 2
    assert "text 1: 52 tokens; the limit is 40" in err
    assert run(folders / "sequence", long, "--max-length", 52)[0] == 0
