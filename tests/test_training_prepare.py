"""Preparing a corpus: the same bytes however it was made, and what is wrong is named."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chinese_text import as_text, documents, write_vocabulary
from click.testing import CliRunner

from roformer_convert.converters.errors import ConvertError
from roformer_convert.pretrain import cli
from roformer_convert.training.corpus import make_shard as make_shard_module
from roformer_convert.training.corpus import work_units
from roformer_convert.training.corpus.prepare import prepare
from roformer_convert.training.corpus.reading import Corpus
from roformer_convert.training.text.files import TextFormat

SMALL: dict[str, Any] = {"processes": 1, "shard_bytes": 4000}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs of several kinds, and a vocabulary."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "in").mkdir()
    (folder / "in" / "large.txt").write_text(as_text(documents(150, 1)), encoding="utf-8")
    for number in range(5):
        (folder / "in" / f"small{number}.txt").write_text(as_text(documents(3, 2 + number)), encoding="utf-8")
    lines = "".join(json.dumps({"text": "\n".join(one)}) + "\n" for one in documents(40, 9))
    (folder / "in" / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    write_vocabulary(folder / "vocab.txt")
    return folder


@pytest.fixture(scope="module")
def expected(text: Path) -> dict[str, bytes]:
    """What an uninterrupted run of one process makes."""
    prepare([text / "in"], text / "expected", text / "vocab.txt", **SMALL)
    return contents(text / "expected")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def decoded(directory: Path) -> list[str]:
    """Spell each document of a corpus."""
    corpus = Corpus.open(directory, full=True)
    tokenizer = corpus.tokenizer()
    found = []
    for shard in corpus.shards:
        ends = shard.sentence_ends[shard.document_ends]
        for start, end in pairwise(ends):
            found.append("".join(str(tokenizer.token(int(one))) for one in shard.tokens[start:end]))
    return found


# The same bytes ------------------------------------------------------------------------------------------------------


def test_every_document_is_there_once_and_in_order(text: Path, expected: dict[str, bytes]) -> None:
    prepare([text / "in" / "large.txt"], text / "whole", text / "vocab.txt", processes=1)
    prepare([text / "in" / "large.txt"], text / "cut", text / "vocab.txt", processes=1, shard_bytes=700)
    assert len(decoded(text / "whole")) == 150
    assert decoded(text / "cut") == decoded(text / "whole")
    assert len(Corpus.open(text / "cut").shards) > 20
    assert len(decoded(text / "expected")) == 150 + 15 + 40


@pytest.mark.parametrize("processes", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    text: Path, expected: dict[str, bytes], tmp_path: Path, processes: int
) -> None:
    seen: list[int] = []
    report = prepare(
        [text / "in"], tmp_path / "c", text / "vocab.txt", processes=processes, shard_bytes=4000,
        progress=seen.append, started=lambda total: seen.append(-total),
    )  # fmt: skip
    assert contents(tmp_path / "c") == expected
    assert report.processes == processes
    assert sum(seen) == 0, "the bar ends where it is full"


def test_batches_leave_no_trace(
    text: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_shard_module, "_BATCH_CHARACTERS", 50)
    prepare([text / "in"], tmp_path / "c", text / "vocab.txt", **SMALL)
    assert contents(tmp_path / "c") == expected


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    text: Path, expected: dict[str, bytes], tmp_path: Path, processes: int
) -> None:
    directory = tmp_path / "c"
    command = [
        sys.executable, "-m", "roformer_convert.pretrain", "prepare", str(text / "in"), "-q", "-o", str(directory),
        "--vocab", str(text / "vocab.txt"), "--shard-size", "4000", "--processes", str(processes),
    ]  # fmt: skip
    total = sum(name.startswith("shard") for name in expected)
    for wanted in (0, 2, 5) if processes == 1 else (3,):
        # slow enough to be caught between two shards, and while one is being written
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": slowed(tmp_path)})
        deadline = time.monotonic() + 60
        while not (directory / "plan.json").exists() or made(directory) < wanted:
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "workers go on without their parent"
            time.sleep(0.01)
        before = made(directory)
        assert before < total
        with pytest.raises(ConvertError, match="is not finished"):
            Corpus.open(directory)
    report = prepare([text / "in"], directory, text / "vocab.txt", **SMALL)
    assert 0 < report.made < total
    assert contents(directory) == expected


def children(parent: int) -> list[int]:
    """Find the processes that a process started (on Linux; elsewhere none)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def made(directory: Path) -> int:
    return len(list(directory.glob("shard-*.tokens")))


def slowed(folder: Path) -> str:
    """Make a folder that slows each shard of a process that has it on its path."""
    where = folder / "slow"
    where.mkdir(exist_ok=True)
    (where / "sitecustomize.py").write_text(
        "import os, time\nreplace = os.replace\n"
        "def slow(a, b, **options):\n    if 'shard-' in str(b): time.sleep(0.05)\n    replace(a, b, **options)\n"
        "os.replace = slow\n"
    )
    return os.pathsep.join(filter(None, [str(where), os.environ.get("PYTHONPATH")]))


def test_workers_that_share_the_output_make_the_same_bytes(
    text: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    total = sum(name.startswith("shard") for name in expected)
    for part in (2, 3, 1):
        report = prepare([text / "in"], tmp_path / "c", text / "vocab.txt", only=(part, 3), **SMALL)
        assert not report.finished
        assert report.made == len(range(part - 1, total, 3))
    report = prepare([text / "in"], tmp_path / "c", text / "vocab.txt", **SMALL)
    assert report.finished
    assert report.made == 0
    assert contents(tmp_path / "c") == expected


def test_a_damaged_shard_is_made_again(text: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    prepare([text / "in"], tmp_path / "c", text / "vocab.txt", **SMALL)
    (tmp_path / "c" / "shard-00001.tokens").write_bytes(expected["shard-00001.tokens"][:-1])
    (tmp_path / "c" / "shard-00003.tokens").write_bytes(expected["shard-00002.tokens"])
    assert prepare([text / "in"], tmp_path / "c", text / "vocab.txt", **SMALL).made == 2
    assert contents(tmp_path / "c") == expected


# Cutting -------------------------------------------------------------------------------------------------------------


def cut(path: Path, shard_bytes: int) -> list[bytes]:
    units = work_units.plan_units([work_units.describe(path)], TextFormat(), shard_bytes)
    data = path.read_bytes()
    return [b"".join(data[piece.start : piece.stop] for piece in unit) for unit in units]


def test_large_files_are_cut_behind_blank_lines_only(text: Path) -> None:
    path = text / "in" / "large.txt"
    for shard_bytes in (1, 50, 700, 4000):
        parts = cut(path, shard_bytes)
        assert b"".join(parts) == path.read_bytes()
        assert all(part.endswith(b"\n\n") for part in parts[:-1]), shard_bytes
        assert len(parts) > 3


def test_json_lines_are_cut_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "好" * 20, "number": number}) + "\n" for number in range(50)))
    parts = cut(path, 300)
    assert len(parts) > 10
    assert [json.loads(line)["number"] for part in parts for line in part.splitlines()] == list(range(50))


def test_a_text_without_blank_lines_is_cut_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_units, "LONGEST_LINE", 1000)
    path = tmp_path / "a.txt"
    path.write_text("一行。\n" * 4000, encoding="utf-8")
    parts = cut(path, 5000)
    assert len(parts) > 4
    assert all(part.decode().endswith("一行。\n") for part in parts)
    path.write_text("一行。\n" * 400 + "字" * 9000, encoding="utf-8")
    with pytest.raises(ConvertError, match="no line ends within 1,000 bytes"):
        cut(path, 5000)


def test_small_files_are_put_together(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:03}.txt" for number in range(100)]
    for path in paths:
        path.write_text("好。\n", encoding="utf-8")
    units = work_units.plan_units([work_units.describe(path) for path in paths], TextFormat(), 70)
    assert [len(unit) for unit in units] == [10] * 10
    assert [piece.input for unit in units for piece in unit] == list(range(100))


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Sixteen times the text, plain and as one compressed file: the peak of the process stays where it was."""
    block = as_text(documents(600, 3)).encode() + b"\n"
    vocabulary = write_vocabulary(tmp_path / "vocab.txt")
    peaks = {}
    for times in (4, 64):
        for name, data in (("a.txt", block * times), ("a.txt.gz", gzip.compress(block * times, 1))):
            path = tmp_path / f"{times}{name}"
            path.write_bytes(data)
            line = [
                sys.executable, "-m", "roformer_convert.pretrain", "prepare", str(path), "--vocab", str(vocabulary),
                "-o", str(tmp_path / f"c{times}{name}"), "--processes", "1", "--shard-size", "1GB", "--json",
            ]  # fmt: skip
            done = subprocess.run(line, capture_output=True, check=True, text=True)
            peaks[times, name] = json.loads(done.stdout)["peak_bytes"]
    assert len(block) * 60 > 6 << 20
    for name in ("a.txt", "a.txt.gz"):
        assert peaks[64, name] - peaks[4, name] < 4 << 20, peaks


# What is wrong -------------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "roformer_convert.pretrain", "prepare", *map(str, words)], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_bytes_that_are_no_text_end_the_run_with_file_and_byte(text: Path, tmp_path: Path, processes: str) -> None:
    data = (text / "in" / "large.txt").read_bytes()
    place = data.index(b"\n", 6000) + 1
    (tmp_path / "bad.txt").write_bytes(data[:place] + b"\xfe" + data[place:])
    status, said = run(
        tmp_path / "bad.txt", "--vocab", text / "vocab.txt", "-o", tmp_path / "c", "--shard-size", "1500",
        "--processes", processes,
    )  # fmt: skip
    assert status == 2
    assert f"prepare: {tmp_path / 'bad.txt'} at byte {place:,}: not UTF-8 text" in said
    assert "Traceback" not in said


def test_changed_settings_and_inputs_are_refused_and_all_named(text: Path, tmp_path: Path) -> None:
    small = tmp_path / "in.txt"
    small.write_text("我们。\n", encoding="utf-8")
    prepare([small], tmp_path / "c", text / "vocab.txt", **SMALL)
    before = contents(tmp_path / "c")
    small.write_text("他们。\n", encoding="utf-8")
    (tmp_path / "v2.txt").write_text((text / "vocab.txt").read_text("utf-8") + "新\n", encoding="utf-8")
    with pytest.raises(ConvertError) as caught:
        prepare(
            [small, text / "in" / "large.txt"], tmp_path / "c", tmp_path / "v2.txt", processes=1, shard_bytes=500,
            segmenter="none", fields=["body"],
        )  # fmt: skip
    message = str(caught.value)
    for part in ("vocabulary: was", "segmenter: was 'rjieba", "shard_bytes: was 4000, now 500", "fields: was ['text']",
                 f"input {small}, contents: was", "order of inputs"):  # fmt: skip
        assert part in message, message
    assert contents(tmp_path / "c") == before


def test_an_input_that_changes_during_the_run_is_named(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text(as_text(documents(30)), encoding="utf-8")

    def change(_: int) -> None:
        path.write_text(path.read_text("utf-8") + "又。\n", encoding="utf-8")

    with pytest.raises(ConvertError, match=r"in\.txt: changed since the corpus was begun"):
        prepare([path], tmp_path / "c", text / "vocab.txt", started=change, **SMALL)


def test_a_directory_that_holds_something_else_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ConvertError, match=r"holds thesis\.doc and is not a corpus"):
        prepare([text / "in"], tmp_path, text / "vocab.txt", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_inputs_inside_of_the_output_are_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("我。", encoding="utf-8")
    with pytest.raises(ConvertError, match="the output holds the input"):
        prepare([tmp_path / "a.txt"], tmp_path, text / "vocab.txt", **SMALL)


def test_inputs_without_text_are_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n\u3000\n")
    (tmp_path / "b.txt").touch()
    for name in ("a.txt", "b.txt"):
        with pytest.raises(ConvertError, match="no text in 1 input"):
            prepare([tmp_path / name], tmp_path / f"c-{name}", text / "vocab.txt", **SMALL)


def test_a_vocabulary_without_special_tokens_is_named(text: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("我\n们\n", encoding="utf-8")
    with pytest.raises(ConvertError, match=r"words\.txt does not fit .*(?s:.*)\[MASK\]"):
        prepare([text / "in"], tmp_path / "c", tmp_path / "words.txt", **SMALL)
    assert not (tmp_path / "c").exists()


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_speed_and_memory_and_verifies(text: Path, tmp_path: Path) -> None:
    words = ["prepare", str(text / "in" / "*.txt"), "--vocab", str(text / "vocab.txt"), "-o", str(tmp_path / "c")]
    result = CliRunner().invoke(cli, [*words, "--processes", "1", "--verify"])
    assert result.exit_code == 0, result.output
    assert " characters/s with 1 process, at most " in result.output
    assert "every checksum matches" in result.output
    result = CliRunner().invoke(cli, [*words, "--processes", "1"])
    assert "1 of the shards had been made before" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --vocab FILE, which `roformer-pretrain vocab` makes, or --tokenizer DIRECTORY"),
        (
            ["--vocab", "v.txt", "--tokenizer", "ckpt"],
            "give either --vocab FILE, which `roformer-pretrain vocab` makes, or --tokenizer DIRECTORY",
        ),
        (["--vocab", "v.txt", "--only-shards", "0/4"], "wanted I/N with I from 1 to N"),
        (["--vocab", "v.txt", "--only-shards", "5/4"], "wanted I/N with I from 1 to N"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["prepare", "a.txt", "-o", "c", *words])
    assert result.exit_code == 2
    assert message in result.output


def test_text_that_is_not_there_is_named_with_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    result = CliRunner().invoke(cli, ["prepare", "news.txt", "--vocab", "vocab.txt", "-o", "c"])
    assert isinstance(result.exception, ConvertError)
    assert result.exception.what.startswith("news.txt: no such file")
    assert "a pattern in quotes" in (result.exception.next_step or "")
