"""What the gate is given, what it refuses, how it reports a death, and how its report looks."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.source.renaming import ALL, Parts
from roformer_convert.converters.source.stated import Stated
from roformer_convert.models.config import with_limit
from roformer_convert.models.processes.frameworks import FRAMEWORKS
from roformer_convert.models.processes.process import DeathError
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.parity import command_line, gate
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.participants import participants, side_by_side
from roformer_convert.parity.questions.cases import KINDS, make_cases
from roformer_convert.parity.questions.tasks import TASKS
from roformer_convert.parity.serving import software

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def parity(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "roformer_convert", "parity", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**{name: value for name, value in os.environ.items() if name != "CI"}, **environment},
        cwd=FIXTURE.parent,
        timeout=400,
    )


def test_every_option_of_the_command_reaches_the_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("今天\n", encoding="utf-8")
    asked = GateOptions(
        frameworks=("torch", "tf"),
        stated=Stated(set={"attention": "causal"}, model_class="causal-lm", parts=Parts("a.", ("b", "c"), True)),
        sentences=["今天"],
        top_k=3,
        gradients=False,
        max_length=9,
        half_types=("float16",),
        devices={"torch": "gpu:1"},
        official=("onnx", "junnyu"),
        golden=tmp_path / "golden",
        update_golden=True,
        yes=True,
        report=tmp_path / "report",
        json_file=tmp_path / "json-file",
        junit=tmp_path / "junit",
        as_json=True,
        verbose=True,
        quiet=True,
    )
    words = (
        "--frameworks torch,tf --set attention=causal --class causal-lm --prefix a. --drop b --drop c --encoder-only "
        f"--sentences {tmp_path}/texts --top-k 3 --no-gradients --max-length 9 --half-types float16 "
        f"--device torch=gpu:1 --with onnx --with junnyu --golden {tmp_path}/golden --update-golden --yes "
        f"--report {tmp_path}/report --json-file {tmp_path}/json-file --junit {tmp_path}/junit --json -v -q"
    )
    reached: list[GateOptions] = []

    def run_gate(_: object, options: GateOptions, **__: object) -> int:
        reached.append(options)
        return 0

    monkeypatch.setattr(participants, "require_gate", lambda *_: None)
    monkeypatch.setattr(software, "require_official", lambda *_: None)
    monkeypatch.setattr(command_line, "run_gate", run_gate)
    for given in ([], words.split()):
        done = CliRunner().invoke(command_line.parity_command, [str(FIXTURE), *given])
        assert done.exit_code == 0, done.output
    nothing = Stated(set={}, model_class=None, parts=ALL)
    assert reached == [GateOptions(stated=nothing, devices=dict.fromkeys(FRAMEWORKS, "cpu")), asked]
    for option in fields(GateOptions):  # one that is new stands above too
        assert getattr(asked, option.name) != getattr(GateOptions(), option.name), option.name


def test_framework_that_is_not_installed_is_an_error_and_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    from roformer_convert.models.processes import frameworks

    monkeypatch.setattr(frameworks, "is_installed", lambda package: package != "tensorflow")
    with pytest.raises(ConvertError, match="needs tensorflow, which is not installed") as caught:
        gate.run([FIXTURE], GateOptions(frameworks=["torch", "tf"])).__enter__()
    assert caught.value.exit_status == 2
    with pytest.raises(ConvertError, match="tensorflow"):
        gate.run([FIXTURE]).__enter__()


def test_unknown_framework_is_a_usage_error() -> None:
    done = parity(FIXTURE, "--frameworks", "jax")
    assert done.returncode == 2
    assert "paddle, torch, tf" in done.stderr


def test_directory_that_is_no_checkpoint_exits_with_2(tmp_path: Path) -> None:
    done = parity(tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_checkpoints_of_other_sizes_are_not_compared(tmp_path: Path) -> None:
    from random_checkpoints import write_random

    write_random(tmp_path / "other", "torch")
    with pytest.raises(ConvertError, match="vocab_size"):
        gate.run([FIXTURE, tmp_path / "other"]).__enter__()


# Sentences -----------------------------------------------------------------------------------------------------------


def test_built_in_sentences_are_of_every_kind() -> None:
    with open_checkpoint(FIXTURE) as checkpoint:
        config = checkpoint.config
    cases = {
        case.name: case
        for case in make_cases(config, TASKS["RoFormerForPretraining"], Tokenizer.from_pretrained(FIXTURE))
    }
    assert [*cases] == [*KINDS, "ids", "ids with padding"]
    assert cases["full-length"].input_ids.shape[1] == config.max_position_embeddings
    assert cases["pairs"].token_type_ids is not None
    assert set(np.unique(cases["pairs"].token_type_ids)) == {0, 1}
    assert cases["everyday"].attention_mask is not None
    assert len(cases["masks"].ranked) > 8
    assert cases["one-token"].input_ids.shape[1] == 3  # with [CLS] and [SEP]
    padded = cases["ids with padding"]
    assert padded.token_type_ids is not None
    assert set(np.unique(padded.token_type_ids)) == set(range(config.type_vocab_size))
    assert (cases["ids"].input_ids == 0).any()
    assert cases["ids"].attention_mask is None


def test_the_longest_sentences_reach_past_the_trained_limit_where_that_is_asked_for() -> None:
    with open_checkpoint(FIXTURE) as checkpoint:
        config = checkpoint.config
    tokenizer, task = Tokenizer.from_pretrained(FIXTURE), TASKS["RoFormerForPretraining"]
    more = config.max_position_embeddings + 20
    cases = make_cases(with_limit(config, more), task, tokenizer, longest=more)
    assert next(case for case in cases if case.name == "full-length").input_ids.shape[1] == more
    fewer = make_cases(config, task, tokenizer, longest=19)
    assert next(case for case in fewer if case.name == "full-length").input_ids.shape[1] == 19


def test_sentences_are_package_data() -> None:
    setup = (FIXTURE.parent.parent / "setup.cfg").read_text()
    for kind in KINDS:
        assert (Path(gate.__file__).parent / "data" / "sentences" / f"{kind}.txt").is_file()
    assert re.search(r"roformer_convert\.parity\s*=[^\[]*data/sentences/\*\.txt", setup)
    assert re.search(r"roformer_convert\.parity\s*=[^\[]*data/\*\.css", setup)


HOSTILE_FILES = {
    "not UTF-8": (b"\xff\xfe\x00\x01\n", "not UTF-8"),
    "a byte of Latin-1": ("caf\u00e9 [MASK]\n".encode("latin-1"), "not UTF-8"),
    "two tabs": (b"a\tb\tc\n", "text 1: 2 tabs"),
    "nothing": (b"\n\n  \n", "there is no sentence"),
    "too long for the model": (("今天" * 400 + "\n").encode(), "the limit is 96"),
    "a very long line": (b"a" * 100_000 + b"\n", "100,000 characters"),
    "too many lines": (b"a\n" * 2001, "2,001 sentences"),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_hostile_sentence_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE_FILES[name]
    (tmp_path / "s.txt").write_bytes(content)
    done = parity(FIXTURE, "--frameworks", "torch", "--sentences", tmp_path / "s.txt")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@needs_torch
def test_own_sentences_take_the_place_of_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("今天[MASK]。\n一\t二[MASK]\x00\u200b\n", encoding="utf-8")
    done = parity(
        FIXTURE, "--frameworks", "torch", "--sentences", tmp_path / "s.txt", "--json-file", tmp_path / "p.json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "p.json").read_text())
    assert [case["name"] for case in data["cases"]] == [
        "sentences 1 to 2",
        "ids",
        "ids with padding",
        "ids at full length",
    ]
    assert data["cases"][0]["masks"] == 2
    assert data["cases"][-1]["shape"] == [1, 96]  # the model's limit


# Deaths --------------------------------------------------------------------------------------------------------------

DYING = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "a segmentation fault": ("faulthandler._sigsegv()", "SIGSEGV"),
    "out of memory": ("raise MemoryError('no room for 9 TiB')", "no room for 9 TiB"),
    "an exit": ("os._exit(7)", "ended with status 7"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", DYING)
def test_process_that_dies_is_reported_with_its_last_words(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, words = DYING[how]
    (tmp_path / "dying.py").write_text(
        "import faulthandler, os, signal, sys\n"
        f"def main(framework):\n    print('last words of ' + framework, file=sys.stderr, flush=True)\n    {code}\n"
    )
    monkeypatch.setattr(side_by_side, "WORKER", "dying")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DeathError) as caught:
        gate.run([FIXTURE], GateOptions(frameworks=["torch"])).__enter__()
    assert caught.value.exit_status == 2
    assert words in str(caught.value)
    assert "the torch process" in str(caught.value)
    assert "last words of torch" in str(caught.value)


@needs_torch
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child in /proc")
def test_killing_a_framework_ends_the_command_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roformer_convert", "parity", str(FIXTURE), "--frameworks", "torch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while running.poll() is None:
            found = [int(word) for word in children.read_text().split()]
            worker = [pid for pid in found if b"parity.participants.dump" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            if worker:
                os.kill(worker[0], signal.SIGKILL)
                break
            time.sleep(0.02)
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 2
    assert "the torch process was ended by SIGKILL" in errors
    assert "Traceback" not in errors


def test_comparison_imports_no_framework() -> None:
    code = (
        "import sys\n"
        "import roformer_convert.parity.gate, roformer_convert.parity.golden, roformer_convert.parity.report\n"
        "import roformer_convert.parity.junit, roformer_convert.parity.screen, roformer_convert.cmd_parity\n"
        "print([name for name in ('torch', 'paddle', 'tensorflow') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_base_model_without_heads_is_compared_by_its_hidden_states(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from parity_faults import Bench

    result = Bench(tmp_path, "base-pooler").judge({})
    assert result.passed
    checks = {verdict.check for verdict in result.verdicts}
    assert {"float64 last hidden states", "float64 pooler"} <= checks
    assert "float64 logits" not in checks


def test_pooler_beside_a_masked_lm_head_is_compared_too(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from parity_faults import Bench

    result = Bench(tmp_path, "masked-lm-pooler", gradients=True).judge({})
    assert result.passed
    assert {"float64 logits", "float64 pooler", "float64 gradients"} <= {verdict.check for verdict in result.verdicts}


@needs_torch
@pytest.mark.parametrize(
    ("name", "title", "said"),
    [
        ("causal LM V2", "The best 5 next words", "norm_type rms_norm, use_bias False, attention causal"),
        ("labels", "Labels, best first", "pooler_activation gelu"),
        ("token labels", "Token labels, best first", "RoFormerForTokenClassification"),
        ("answers", "Starts and ends, best first", "RoFormerForQuestionAnswering"),
        ("choices, first", "Options, best first", "summary_type first"),
    ],
)
def test_reports_show_the_class_its_traits_and_its_answers(tmp_path: Path, name: str, title: str, said: str) -> None:
    from parity_faults import Bench

    from roformer_convert.parity.junit import write_junit
    from roformer_convert.parity.report import render
    from roformer_convert.parity.screen import screen

    bench = Bench(tmp_path, name)
    result = bench.judge({})
    page = render(result)
    assert title in page
    assert said in page
    assert said in screen(result)
    assert len(result.rankings) > 5
    assert all(len(answers) > 1 for one in result.rankings for answers in one.answers.values())
    write_junit(tmp_path / "p.xml", result)
    written = ElementTree.parse(tmp_path / "p.xml").getroot().findall("properties/property")
    properties = {one.get("name"): one.get("value") for one in written}
    data = result.as_dict()
    assert properties["model_class"] == data["model_class"] == bench.model.class_name
    assert data["traits"]["attention"] == properties["attention"] == bench.config.attention
    assert ("summary_type" in data["traits"]) == (name == "choices, first")
    assert any("next_words" in case for case in data["cases"]) == (name == "causal LM V2")


# The browser ---------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_shows_in_a_browser(tmp_path_factory: pytest.TempPathFactory, width: int, scheme: str) -> None:
    pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")  # Paddle brings it
    folder = tmp_path_factory.getbasetemp() / "browser"
    page = folder / "report.html"
    if not page.exists():
        from parity_faults import Bench

        from roformer_convert.parity.report import write_report

        folder.mkdir()
        write_report(page, Bench(folder).judge({}))
    # a window is 500 pixels wide at least, a frame as wide as it says
    frame = folder / f"{width}.html"
    frame.write_text(
        f"<body style='margin:0'><iframe src='report.html' width='{width}' height='1600' style='border:0'>"
    )
    shot = folder / f"{width}-{scheme}.png"
    assert CHROMIUM is not None
    subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"--window-size={width},1600",
            f"--screenshot={shot}",
            frame.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with image.open(shot) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    page_colour = {"light": (246, 247, 249), "dark": (18, 21, 27)}[scheme]
    assert np.abs(pixels[4, 2].astype(int) - page_colour).max() <= 2
    # the verdict, the chart's three colours and its bound are there, and nothing stands outside the window
    colours = {tuple(map(int, colour)) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
    marks = {"light": [(0x24, 0x57, 0xD6), (0xB3, 0x26, 0x1E)], "dark": [(0x7E, 0xA6, 0xFF), (0xFF, 0x8F, 0x86)]}[
        scheme
    ]
    for mark in marks:
        assert any(max(abs(a - b) for a, b in zip(mark, colour, strict=True)) <= 40 for colour in colours), mark
    assert (np.abs(pixels[:, -3:].astype(int) - page_colour).max(axis=(1, 2)) <= 2).all()
