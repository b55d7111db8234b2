"""fill-mask: the model card's line from each framework, its ranking, its processes and what it refuses."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from answering import run_command
from peer_folders import TRAINED

from roformer_convert.cmd_fill_mask import fill_mask_command
from roformer_convert.converters import ConvertError, RoFormerConfig, save_checkpoint
from roformer_convert.converters.table.mapping import MASKED_LM, Dialect, Table
from roformer_convert.models.answers import framework_processes
from roformer_convert.models.answers.fill_mask import Filled, fill_mask
from roformer_convert.models.answers.guesses import Guess, bracketed, spelled
from roformer_convert.models.answers.ranking import best, best_there
from roformer_convert.models.processes import frameworks
from roformer_convert.models.processes.frameworks import (
    FRAMEWORKS,
    MissingPackageError,
    choose_frameworks,
    is_installed,
)
from roformer_convert.models.processes.process import DeathError, Process
from roformer_convert.models.text import text_windows
from roformer_convert.models.text.tokenizer import Tokenizer

CARD = "今天[MASK]很好，我[MASK]去公园玩。"
ROWS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天很好，我去公园玩。气阳雨abcdefg", "##b", "##c", "##ing"]
#: Every size different, two rows more in the embedding than in the vocabulary.
CONFIG = RoFormerConfig(
    vocab_size=len(ROWS) + 2,
    embedding_size=12,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=18,
    type_vocab_size=2,
)


def runnable(name: str) -> bool:
    """Say whether a framework and our model in it are here."""
    model = importlib.util.find_spec(f"roformer_convert.models.{FRAMEWORKS[name].model}")
    return is_installed(FRAMEWORKS[name].package) and model is not None


#: What PaddleNLP said of each sentence, and what each framework gives.
Trained = tuple[list[dict[str, Any]], dict[str, list[Filled]]]
here = [pytest.param(name, marks=pytest.mark.skipif(not runnable(name), reason=f"no {name}")) for name in FRAMEWORKS]
needs_torch = pytest.mark.skipif(not runnable("torch"), reason="no torch")


def write_checkpoint(directory: Path, dialect: Dialect = "torch", **changed: Any) -> Path:
    """Write a fully random checkpoint with its vocabulary."""
    rng = np.random.default_rng(5)
    tensors = {
        tensor.canonical: rng.normal(0, 0.5, tensor.shape(CONFIG.sizes)).astype("float32")
        for tensor in Table.of(CONFIG, MASKED_LM).tensors
        if not tensor.canonical.startswith("pooler")
    }
    tensors.update(changed)
    save_checkpoint(directory, tensors, CONFIG, dialect=dialect)
    (directory / "vocab.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fill") / "ckpt")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(checkpoint)


def sentences(count: int, seed: int = 3) -> list[str]:
    """Texts of 1 to 16 tokens with at least one mask each."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = rng.choices([*"今天很好我去园ab", "[MASK]"], k=rng.randint(1, 15))
        parts[rng.randrange(len(parts))] = "[MASK]"
        texts.append("".join(parts))
    return texts


# What it computes ----------------------------------------------------------------------------------------------------


def on_every_framework(directory: Path, texts: list[str], **options: Any) -> dict[str, list[Filled]]:
    """Run all that are here at once, for their processes spend seconds on imports: framework → its results."""
    names = [name for name in FRAMEWORKS if runnable(name)]
    found = list(fill_mask(directory, iter(texts), frameworks=names, **options))
    assert [one.framework for one in found] == names * len(texts)
    return {name: found[i :: len(names)] for i, name in enumerate(names)}


@pytest.fixture(scope="module")
def trained() -> Trained:
    sentences = json.loads((TRAINED / "expected.json").read_text("utf-8"))["sentences"]
    return sentences, on_every_framework(TRAINED, [sentence["text"] for sentence in sentences])


@pytest.mark.parametrize("framework", here)
def test_trained_model_gives_the_words_paddlenlp_gave(trained: Trained, framework: str) -> None:
    expected, found = trained[0], trained[1][framework]
    assert [one.text for one in found] == [sentence["text"] for sentence in expected]
    for one, sentence in zip(found, expected, strict=True):
        assert one.ids == sentence["input_ids"]
        for mask, wanted in zip(one.masks, sentence["masks"], strict=True):
            assert mask.position == wanted["position"]
            assert [guess.token for guess in mask.guesses] == wanted["top5"]
            assert [guess.id for guess in mask.guesses] == wanted["ids"]
            # float32 logits; expected.json rounds to 5 digits
            assert np.abs(np.subtract([guess.logit for guess in mask.guesses], wanted["logits"])).max() < 2e-5
            assert one.text[mask.start : mask.end] == "[MASK]"
    label = FRAMEWORKS[framework].label
    assert found[0].line == f"{label}: 今天[也||都||就||还||，]很好，我[就||是||说||再||在]去公园玩。"


@pytest.fixture(scope="module")
def batched(checkpoint: Path) -> dict[str, list[Filled]]:
    """Texts of all lengths, in batches and windows of a few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framework_processes, "_BATCH_TOKENS", 40)
        patch.setattr(text_windows, "_WINDOW", 10)
        return on_every_framework(checkpoint, sentences(24), top_k=7)


@pytest.mark.parametrize("framework", here)
def test_batches_give_every_text_its_own_masks(
    checkpoint: Path, tokenizer: Tokenizer, batched: dict[str, list[Filled]], framework: str
) -> None:
    """Against the torch model run on one text after another."""
    torch = pytest.importorskip("torch")
    from roformer_convert.models.roformer_torch import RoFormerForMaskedLM

    found = batched[framework]
    assert [(one.number, one.text) for one in found] == list(enumerate(sentences(24), 1))
    model = RoFormerForMaskedLM.from_pretrained(checkpoint)
    for one in found:
        with torch.no_grad():
            logits = model(torch.tensor([one.ids]))[0].double()
        assert [mask.position for mask in one.masks] == tokenizer.mask_positions(one.ids)
        for mask in one.masks:
            wanted = logits[mask.position].topk(7)
            assert [guess.id for guess in mask.guesses] == wanted.indices.tolist()
            # float32 sums in another order: 1e-6 of logits of about 5
            assert np.abs(np.subtract([guess.logit for guess in mask.guesses], wanted.values.tolist())).max() < 1e-5
            chances = logits[mask.position].softmax(0)[wanted.indices]
            assert np.allclose([guess.probability for guess in mask.guesses], chances, rtol=1e-5, atol=0)


@needs_torch
def test_padding_that_is_the_mask_token_is_not_filled(tmp_path: Path, in_process: None) -> None:
    directory = write_checkpoint(tmp_path / "ckpt")
    (directory / "tokenizer_config.json").write_text('{"pad_token": "[MASK]"}')
    short, long = fill_mask(directory, ["今[MASK]", "今天很好[MASK]，我"])
    assert [len(short.masks), len(long.masks)] == [1, 1]
    assert [len(mask.guesses) for mask in short.masks + long.masks] == [5, 5]


@needs_torch
@pytest.mark.parametrize("dialect", ["paddle", "tf", "tf1"])
def test_any_dialect_gives_the_same(tmp_path: Path, checkpoint: Path, dialect: Dialect, in_process: None) -> None:
    texts = sentences(4, seed=9)
    other = write_checkpoint(tmp_path / dialect, dialect)
    assert [one.line for one in fill_mask(other, texts)] == [one.line for one in fill_mask(checkpoint, texts)]


# The line ------------------------------------------------------------------------------------------------------------


def test_line_is_what_the_model_card_prints(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """JunnYu's snippet (examples/test_mlm.py), with transformers' tokenizer and invented winners."""
    theirs = pytest.importorskip("transformers").BertTokenizer.from_pretrained(checkpoint)
    rng = random.Random(4)
    for text in [CARD, "abc气[MASK]未知x[SEP]雨[MASK]aing [UNK]", *sentences(30)]:
        ids = theirs.encode(text)
        winners = {i: rng.sample(range(len(ROWS)), 5) for i, one in enumerate(ids) if one == theirs.mask_token_id}
        wanted = ""
        for i, one in enumerate(ids):
            if one == theirs.mask_token_id:
                wanted += "[" + "||".join(theirs.convert_ids_to_tokens(winners[i])) + "]"
            else:
                wanted += "".join(theirs.convert_ids_to_tokens([one], skip_special_tokens=True))
        words = {
            position: bracketed(Guess(one, tokenizer.token(one), 0.0, 0.0) for one in best_ids)
            for position, best_ids in winners.items()
        }
        assert spelled(ids, words, tokenizer) == wanted


def test_a_word_past_the_vocabulary_is_shown_by_its_id(tokenizer: Tokenizer) -> None:
    words = bracketed([Guess(len(ROWS), None, 1.0, 0.5), Guess(5, "今", 0.5, 0.3)])
    assert spelled([2, 4, 3], {1: words}, tokenizer) == f"[<{len(ROWS)}>||今]"


# Ranking -------------------------------------------------------------------------------------------------------------


def test_ties_go_to_the_lower_id() -> None:
    rng = np.random.default_rng(2)
    logits = rng.integers(0, 4, (60, 23)).astype("float32")
    for k in (1, 2, 5, 22, 23):
        ids, scores, chances = best(logits, k)
        for row in range(len(logits)):
            wanted = sorted(range(23), key=lambda word: (-logits[row, word], word))[:k]
            assert ids[row].tolist() == wanted
            assert scores[row].tolist() == logits[row, wanted].tolist()
        assert (np.diff(chances, axis=1) <= 0).all()
    assert np.allclose(best(logits, 23)[2].sum(axis=1), 1, atol=1e-12)


class CountingOps:
    """PyTorch's operations, and how many numbers they brought to the host."""

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch")
        self.plain = importlib.import_module("roformer_convert.models.ops_torch")
        self.highest = self.plain.highest
        self.brought = 0

    def as_numpy(self, tensor: Any) -> Any:
        self.brought += tensor.numel()
        return self.plain.as_numpy(tensor)


def test_words_are_ranked_where_they_are_by_the_same_rule() -> None:
    ops = CountingOps()
    rng = np.random.default_rng(2)
    distinct = rng.permutation(60 * 23).reshape(60, 23).astype("float32") / 100
    tied = rng.integers(0, 4, (60, 23)).astype("float32")
    first = distinct.copy()
    first[:, 7] = first[:, 3] = 99  # tied, and not for the last place
    for logits in (distinct, tied, first, distinct[:0]):
        for k in (1, 2, 5, 22, 23):
            for there, here in zip(best_there(ops.torch.from_numpy(logits), k, ops), best(logits, k), strict=True):
                assert there.dtype == here.dtype
                np.testing.assert_allclose(there, here, rtol=1e-14)


def test_few_numbers_come_to_the_host_where_no_last_place_is_shared() -> None:
    ops = CountingOps()
    logits = ops.torch.randn(64, 5000)
    best_there(logits, 5, ops)
    assert ops.brought == 64 * (6 + 6 + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_numbers_are_refused(bad: float) -> None:
    logits = np.zeros((3, 4), "float32")
    logits[1, 2] = bad
    with pytest.raises(ConvertError, match="the logit at place 1, word 2 is"):
        best(logits, 1)
    ops = CountingOps()
    with pytest.raises(ConvertError, match="the logit at place 1, word 2 is"):
        best_there(ops.torch.from_numpy(logits + np.arange(4, dtype="float32")), 1, ops)


def test_huge_logits_have_probabilities() -> None:
    assert best(np.array([[3e4, -3e4, 3e4]], "float32"), 2)[2].tolist() == [[0.5, 0.5]]


# What is refused -----------------------------------------------------------------------------------------------------


def run(*arguments: object, **options: Any) -> tuple[int, str, str]:
    return run_command(fill_mask_command, *arguments, **options)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["今天很好"], r"text 1: no \[MASK\] in '今天很好'\n  Write \[MASK\]"),
        (["[MASK]", "今天[mask]好", ""], r"(?s)2 texts.*text 2: no \[MASK\].*text 3: no \[MASK\]"),
        (["a[MASK]", "[MASK]" * 17], r"text 2: 19 tokens; the limit is 18 \(max_position_.*(?s:.)*--max-length 19"),
        (["[MASK]\udcff"], r"text 1: half of a surrogate pair \(U\+DCFF\) at character 6"),
        (["[MASK]" + "x" * (1 << 20)], "1,048,582 characters; wanted at most 1,048,576"),
    ],
)
def test_texts_that_cannot_be_filled_are_all_named(checkpoint: Path, texts: list[str], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        next(fill_mask(checkpoint, texts))


def test_no_process_is_started_for_texts_that_cannot_be_filled(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework_processes, "Process", None)
    with pytest.raises(ConvertError, match=r"no \[MASK\] in"):
        next(fill_mask(checkpoint, ["今天"]))
    assert list(fill_mask(checkpoint, [])) == []


def test_more_words_than_there_are_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConvertError, match=f"vocab_size is {CONFIG.vocab_size}"):
        next(fill_mask(checkpoint, [CARD], top_k=CONFIG.vocab_size + 1))


def test_a_vocabulary_longer_than_the_embedding_is_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "ckpt")
    (directory / "vocab.txt").write_text("\n".join([*ROWS, "x", "y", "z"]) + "\n", encoding="utf-8")
    with pytest.raises(ConvertError, match=rf"token {len(ROWS) + 2} is past the embedding's {CONFIG.vocab_size} rows"):
        next(fill_mask(directory, ["xyz[MASK] z"]))


def test_a_checkpoint_without_its_vocabulary_is_named(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "ckpt")
    (directory / "vocab.txt").unlink()
    with pytest.raises(ConvertError, match=r"vocab\.txt"):
        next(fill_mask(directory, [CARD]))


@needs_torch
def test_weights_that_are_not_numbers_are_named(tmp_path: Path, in_process: None) -> None:
    bias = np.full(CONFIG.vocab_size, np.nan, "float32")
    with pytest.raises(ConvertError, match=r"the logit at place 0, word 0 is nan"):
        next(fill_mask(write_checkpoint(tmp_path / "ckpt", "torch", **{"mlm.bias": bias}), ["今天[MASK]"]))


@pytest.mark.parametrize(
    ("name", "absent", "message"),
    [
        ("torch", {"torch"}, r"--framework torch needs torch, which is not installed\n.*\.\[torch\]'"),
        ("tf", {"tensorflow"}, r"needs tensorflow(?s:.)*\.\[tensorflow\]'"),
        ("paddle", {"paddle"}, r"needs paddle(?s:.)*\.\[paddle\]'"),
        ("all", {"paddle", "tensorflow"}, r"needs paddle and tensorflow, which are(?s:.)*\[paddle,tensorflow\]'"),
        (None, {"paddle", "torch", "tensorflow"}, r"fill-mask needs torch(?s:.)*\[torch\]'"),
    ],
)
def test_a_framework_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str | None, absent: set[str], message: str
) -> None:
    monkeypatch.setattr(frameworks, "is_installed", lambda package: package not in absent)
    with pytest.raises(MissingPackageError, match=message):
        choose_frameworks(name, "fill-mask")


def test_without_a_name_the_first_installed_framework_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "is_installed", lambda package: package != "torch")
    assert choose_frameworks(None, "fill-mask") == ("paddle",)
    assert choose_frameworks("tf", "fill-mask") == ("tf",)


# The command ---------------------------------------------------------------------------------------------------------


@needs_torch
def test_all_prints_a_line_from_each_framework_for_each_text(
    checkpoint: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "is_installed", lambda package: True)
    status, out, _ = run(checkpoint, "今[MASK]", "[MASK]天", "--framework", "all")
    assert status == 0
    labels, lines = zip(*(line.split(": ", 1) for line in out.splitlines()), strict=True)
    assert list(labels) == ["paddle", "pytorch", "tf"] * 2
    assert len(set(lines)) == 2


@needs_torch
def test_texts_come_from_arguments_a_file_or_stdin(checkpoint: Path, tmp_path: Path, in_process: None) -> None:
    texts = sentences(6)
    status, wanted, _ = run(checkpoint, *texts)
    assert status == 0
    assert len(wanted.splitlines()) == 6
    file = tmp_path / "texts.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(texts).encode())
    assert run(checkpoint, "--file", file) == (0, wanted, "")
    assert run(checkpoint, input="\n".join(texts)) == (0, wanted, "")
    assert run(checkpoint, "--file", "-", input="\n".join(texts) + "\n") == (0, wanted, "")


@needs_torch
def test_json_has_ids_offsets_and_scores(checkpoint: Path, in_process: None) -> None:
    status, out, err = run(checkpoint, CARD, "abc[MASK]", "--json", "--top-k", 3, "--verbose")
    assert status == 0
    first, second = map(json.loads, out.splitlines())
    assert first["text"] == CARD
    assert first["framework"] == "torch"
    assert first["line"].startswith("pytorch: 今天[")
    assert [(mask["position"], mask["start"], mask["end"]) for mask in first["masks"]] == [(3, 2, 8), (8, 12, 18)]
    for mask in first["masks"] + second["masks"]:
        assert [set(guess) for guess in mask["top"]] == [{"id", "token", "logit", "probability"}] * 3
        assert mask["top"][0]["logit"] >= mask["top"][1]["logit"] >= mask["top"][2]["logit"]
    assert "tokenizer: BERT's rules" in err
    assert "torch: torch 2" in err


@needs_torch
def test_max_length_raises_the_limit(checkpoint: Path, in_process: None) -> None:
    long = "[MASK]" + "今" * 30
    assert run(checkpoint, long)[0] == 2
    status, out, _ = run(checkpoint, long, "--max-length", 33)
    assert status == 0
    assert out.endswith("今" * 30 + "\n")
    assert run(checkpoint, long, "--max-length", 32)[0] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[MASK]\n\n\xe4\xbb\n", r"line 3 is not UTF-8, at its byte 0"),
        (b"[MASK]\n" + b"x" * (5 << 20), r"line 2 is longer than 4,194,304 bytes"),
    ],
)
def test_files_that_are_not_text_are_refused(checkpoint: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(ConvertError, match=message):
        fill_mask_command.main([str(checkpoint), "--file", str(tmp_path / "texts")], standalone_mode=False)


def test_a_file_that_is_not_there_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"nowhere.*No such file"):
        fill_mask_command.main([str(checkpoint), "--file", str(tmp_path / "nowhere")], standalone_mode=False)


def test_texts_and_a_file_at_once_are_refused(checkpoint: Path) -> None:
    with pytest.raises(click.UsageError, match="not both"):
        fill_mask_command.main([str(checkpoint), CARD, "--file", "-"], standalone_mode=False)


def test_a_directory_that_is_no_checkpoint_is_refused_by_the_front_door(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roformer_convert", "fill-mask", str(tmp_path / "nowhere"), CARD]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


# Processes -----------------------------------------------------------------------------------------------------------

CHILD = """
import ctypes, os, signal, sys, time
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.table.mapping import Dialect
from roformer_convert.models.processes.process import serve

def answer(request):
    what = request["do"]
    if what == "echo":
        print("noise on stdout"); os.system("echo more noise")
        return {"said": request["say"], "path": sys.path, "set": os.environ.get("SET_BY_TEST")}
    if what == "refuse":
        raise ConvertError("not this", "but that")
    print("last words", file=sys.stderr, flush=True)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        ctypes.string_at(0)
    if what == "raise":
        raise RuntimeError("out of luck")
    if what == "exit":
        os._exit(7)
    if what == "sleep":
        time.sleep(60)

def main(*arguments):
    serve(answer)
"""


def start_child(directory: Path) -> Process:
    """Start a process that does as it is told, from a directory on its path."""
    directory.mkdir(exist_ok=True)
    (directory / "a_child.py").write_text(CHILD, encoding="utf-8")
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Process("testing", "a_child", environment={"PYTHONPATH": path, "SET_BY_TEST": "1"})


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Process]:
    with start_child(tmp_path) as process:
        yield process


def test_a_process_answers_whatever_its_libraries_print(child: Process) -> None:
    for said in ("一", "\udcff", "x" * 300_000):
        child.ask({"do": "echo", "say": said})
        found = child.answer()
        assert found["said"] == said
        assert found["set"] == "1"
        assert "" not in found["path"]
    assert "more noise" in child.words()


def test_an_error_of_the_input_comes_back_as_one_and_the_process_lives(child: Process) -> None:
    child.ask({"do": "refuse"})
    with pytest.raises(ConvertError, match="testing: not this\n  but that"):
        child.answer()
    child.ask({"do": "echo", "say": 1})
    assert child.answer()["said"] == 1


@pytest.mark.skipif(os.name == "nt", reason="no signals there")
@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("kill", -signal.SIGKILL, r"testing process was ended by SIGKILL \(.*if memory ran out\)(?s:.)*\| last words"),
        ("crash", -signal.SIGSEGV, r"SIGSEGV \(segmentation fault\)(?s:.)*Fatal Python error: Segmentation fault"),
        ("raise", 1, r"ended with status 1(?s:.)*\| RuntimeError: out of luck"),
        ("exit", 7, r"ended with status 7(?s:.)*\| last words"),
    ],
)
def test_a_process_that_dies_is_reported_with_its_last_words(
    child: Process, how: str, status: int, message: str
) -> None:
    child.ask({"do": how})
    with pytest.raises(DeathError, match=message) as caught:
        child.answer()
    assert caught.value.status == status
    with pytest.raises(DeathError):
        child.answer()  # and again
    with pytest.raises(DeathError):
        child.ask({"do": "echo", "say": "x" * 1_000_000})


def test_a_process_is_ended_when_the_work_fails(tmp_path: Path) -> None:
    process = start_child(tmp_path)
    process.ask({"do": "sleep"})
    with pytest.raises(ZeroDivisionError), process:
        _ = 1 / 0
    assert process._child.returncode is not None


def test_a_file_in_the_current_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json.py", "numpy.py", "ctypes.py", "faulthandler.py", "roformer_convert.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the current directory')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with start_child(tmp_path / "path") as process:
        process.ask({"do": "echo", "say": 5})
        assert process.answer()["said"] == 5


@needs_torch
@pytest.mark.skipif(os.name == "nt", reason="no signals there")
def test_a_framework_that_is_killed_ends_the_command_with_status_2(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doomed(Process):
        asked = 0

        def ask(self, request: Mapping[str, Any]) -> None:
            self.asked += 1
            if self.asked == 2:
                self._child.kill()
                self._child.wait()
            super().ask(request)

    monkeypatch.setattr(framework_processes, "Process", Doomed)
    status, out, message = run(checkpoint, CARD)
    assert (status, out) == (2, "")
    assert "the torch process was ended by SIGKILL" in message


@needs_torch
def test_a_reader_that_stops_early_leaves_no_process(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Noted(Process):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self._child)

    monkeypatch.setattr(framework_processes, "Process", Noted)
    results = fill_mask(checkpoint, sentences(3))
    next(results)
    assert isinstance(results, Generator)
    assert started[0].poll() is None
    results.close()
    assert started[0].poll() is not None
