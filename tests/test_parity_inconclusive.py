"""A verdict whose bound proves nothing is no pass: a status of its own on the screen, in files and on exit."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parity_faults import Bench

from roformer_convert.converters.errors import ConvertError
from roformer_convert.parity import command_line, gate
from roformer_convert.parity.golden import record
from roformer_convert.parity.judging.bounds import Status
from roformer_convert.parity.judging.verdicts import Verdict, exit_status, worst_of
from roformer_convert.parity.junit import write_junit
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.report import render
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import screen

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return Bench(tmp_path_factory.mktemp("inconclusive"), "masked-lm").judge({})


def with_statuses(result: Result, *statuses: Status) -> Result:
    """Give the first verdicts other statuses."""
    changed = [replace(verdict, status=status) for verdict, status in zip(result.verdicts, statuses, strict=False)]
    return replace(result, verdicts=[*changed, *result.verdicts[len(changed) :]])


@pytest.mark.parametrize(
    ("statuses", "status"),
    [((), 0), (("good",), 0), (("good", "inconclusive"), 3), (("inconclusive", "differs", "good"), 1)],
)
def test_exit_status_is_the_worst_that_was_found(statuses: tuple[Status, ...], status: int) -> None:
    assert exit_status([Verdict("a", (), 0.0, 1.0, one) for one in statuses]) == status


def test_a_difference_stands_before_what_proves_nothing_and_the_farthest_past_its_bound_first() -> None:
    near, far = Verdict("a", ("near",), 4e-6, 2e-6, "differs"), Verdict("a", ("far",), 3e-6, 1e-6, "differs")
    vague = Verdict("a", ("vague",), 1.0, 0.1, "inconclusive")
    assert worst_of([Verdict("a", (), 9.0, 10.0, "good"), vague, near, far]) is far
    assert worst_of([Verdict("a", (), 9.0, 10.0, "good"), vague]) is vague


def test_screen_report_and_data_say_that_it_proves_nothing(good: Result) -> None:
    result = with_statuses(good, "inconclusive")
    assert not result.passed
    assert result.as_dict()["exit_status"] == 3
    assert result.as_dict()["verdicts"][0]["status"] == "inconclusive"
    said = screen(result).splitlines()
    many = len(result.verdicts)
    assert said[-1].startswith(f"INCONCLUSIVE: 1 of {many} proves nothing: its bound is too wide (")
    assert any("1 of 3 PROVE NOTHING" in line for line in said)
    assert not any("likely cause" in line for line in said)
    assert '<header class="inconclusive">' in render(result)


def test_junit_counts_it_as_an_error_and_a_difference_as_a_failure(good: Result, tmp_path: Path) -> None:
    write_junit(tmp_path / "p.xml", with_statuses(good, "inconclusive", "inconclusive", "differs"))
    suite = ElementTree.parse(tmp_path / "p.xml").getroot()
    assert (suite.get("errors"), suite.get("failures")) == ("2", "1")
    assert len(suite.findall("testcase/error")) == 2
    assert len(suite.findall("testcase/failure")) == 1


@pytest.mark.parametrize(("statuses", "status"), [((), 0), (("inconclusive",), 3), (("inconclusive", "differs"), 1)])
def test_the_command_exits_with_it_and_records_no_golden(
    good: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statuses: tuple[Status, ...],
    status: int,
) -> None:
    @contextmanager
    def run(*_: Any, **__: Any) -> Iterator[Result]:
        yield with_statuses(good, *statuses)

    monkeypatch.setattr(gate, "run", run)
    monkeypatch.delenv("CI", raising=False)
    golden, data = tmp_path / "golden.npz", tmp_path / "p.json"
    options = GateOptions(golden=golden, update_golden=True, json_file=data, quiet=True)
    assert command_line.run_gate([tmp_path], options) == status
    assert golden.exists() == (status == 0)
    assert json.loads(data.read_text(encoding="utf-8"))["exit_status"] == status
    capsys.readouterr()
    for as_json in (False, True):
        asked = GateOptions(as_json=as_json, quiet=True)
        with nullcontext() if status == 0 else pytest.raises(command_line.NotProvenError) as error:
            command_line.prove_conversion(tmp_path, tmp_path / "out", None, asked)
        assert error is None or error.value.exit_status == status
        printed = capsys.readouterr().out
        assert bool(printed) == (as_json and status != 0)  # what passes prints the conversion's data
        assert not printed or json.loads(printed)["exit_status"] == status


def test_golden_says_why_it_is_not_recorded(good: Result, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="a verdict proves nothing"):
        record(tmp_path / "golden.npz", with_statuses(good, "inconclusive"))
