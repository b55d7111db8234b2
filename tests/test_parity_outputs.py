"""What the gate writes: tried before the run, none lost for another's sake, and what a terminal shows meanwhile."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from terminals import drawn_by

from roformer_convert.converters import ConvertError
from roformer_convert.parity import command_line, gate
from roformer_convert.parity import report as report_module
from roformer_convert.parity.participants import participants

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(command_line.parity_command, [str(word) for word in words])


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no framework be asked for or run."""

    def ran(*_: Any, **__: Any) -> Any:
        raise AssertionError("it ran")

    monkeypatch.setattr(gate, "run", ran)
    monkeypatch.setattr(participants, "require_gate", lambda *_, **__: None)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("option", ["--report", "--json-file", "--junit", "--golden"])
def test_an_output_that_cannot_be_written_is_told_before_the_run(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("x")
    more = ["--update-golden"] * (option == "--golden")
    for wrong in (tmp_path, tmp_path / "file" / "out"):
        done = run(FIXTURE, option, wrong, *more)
        assert isinstance(done.exception, ConvertError), done.output
        assert str(done.exception).startswith(f"{wrong}: cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--report", "x", "--junit", "./x"], "--report and --junit name one file, x."),
        (
            ["--conversions", "only", "--junit", "x"],
            "--junit is written by a run, and --conversions only runs nothing.",
        ),
        (["--json", "parity.json"], "a file is named with --json-file parity.json"),
        (["--update-golden"], "--update-golden needs --golden FILE"),
    ],
)
def test_outputs_that_contradict_are_told_before_the_run(words: list[str], said: str) -> None:
    done = run(FIXTURE, *words)
    assert done.exit_code == 2
    assert said in done.output


def test_json_is_all_that_stdout_holds(tmp_path: Path) -> None:
    done = run(FIXTURE, "--conversions", "only", "--json")
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert data["schema"] == 1
    assert data["passed"]
    assert len(data["conversions"][str(FIXTURE)]) == 12


@needs_torch
def test_a_report_that_cannot_be_written_loses_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, result: Any) -> None:
        raise ConvertError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(report_module, "write_report", full)
    monkeypatch.delenv("CI", raising=False)
    files = {name: tmp_path / "new" / name for name in ("p.html", "p.json", "p.xml", "p.npz")}
    words: list[str | Path] = [
        FIXTURE,
        "--frameworks",
        "pytorch",
        "--no-gradients",
        "--report",
        files["p.html"],
        "--json",
    ]
    words += ["--json-file", files["p.json"], "--junit", files["p.xml"], "--golden", files["p.npz"], "--update-golden"]
    done = run(*words)
    assert isinstance(done.exception, ConvertError)
    assert done.exception.exit_status == 2
    said = f"{files['p.html']}: cannot be written: No space left on device"
    assert str(done.exception) == f"{said}\n  Everything else that was asked for is written."
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["p.json", "p.npz", "p.xml"]
    data = json.loads(done.stdout)
    assert data == json.loads(files["p.json"].read_text(encoding="utf-8"))
    assert data["passed"]


@needs_torch
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_shows_what_is_done_meanwhile_and_then_nothing_of_it(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path / "ckpt")
    words = ("parity", str(tmp_path / "ckpt"), "--frameworks", "torch", "--no-gradients")
    shown = {more: drawn_by(*words, *more) for more in ((), ("-q",), ("-v",))}
    lines = shown[()].split(b"\r\x1b[K")
    said = [line.split(b" s  ")[1] for line in lines if line]
    assert said == [b"converting", b"choosing inputs", b"computing: torch (0 of 1 done)", b"comparing"]
    assert lines[-1] == b""  # the line is gone
    assert shown["-q",] == b""
    assert b"\x1b" not in shown["-v",]
