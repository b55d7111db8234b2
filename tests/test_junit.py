"""The JUnit file is valid, whatever stands in a checkpoint's names, and says what the verdicts say.

``junit.xsd`` takes no more than Apache Ant's and Jenkins' schemas together; files of each kind made here were also held
against those two, which are other people's and not shipped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
xmlschema = pytest.importorskip("xmlschema")

from parity_faults import Bench  # noqa: E402

from roformer_convert.parity.judging.bounds import Status  # noqa: E402
from roformer_convert.parity.junit import write_junit  # noqa: E402
from roformer_convert.parity.result import Result  # noqa: E402

SCHEMA = Path(__file__).with_name("junit.xsd")
#: Control characters, markup, what ends markup, half a surrogate pair, what no encoding has, and a right-to-left mark.
HOSTILE = "a\x00\x1b[2J\x08\r\n\t<b>&amp;]]>\"'--> \ud800 \ufffe \uffff \u202e 𝕏"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def shift_bias(module: Any, model: Any) -> None:
    model.mlm.bias.data += 0.5


def judged(bench: Bench, *, good: bool) -> Result:
    return bench.judge({} if good else {"tf": bench.dump(shift_bias)})


def renamed(result: Result, name: str) -> Result:
    """The same result of a checkpoint in whose names a stranger put ``name``."""
    verdicts = [
        replace(one, check=f"{one.check} {name}", about=(name, *one.about), where=name, note=name)
        for one in result.verdicts
    ]
    dumps = [replace(dump, label=name + dump.label) for dump in result.dumps]
    model = replace(result.model, notes=(name,))
    return replace(result, verdicts=verdicts, dumps=dumps, model=model, directories=(Path(name.replace("\0", "")),))


@pytest.mark.parametrize("name", ["plain", HOSTILE, "", " ", "\x00", "词" * 3000])
@pytest.mark.parametrize("good", [True, False])
def test_the_file_is_valid_and_complete(bench: Bench, tmp_path: Path, good: bool, name: str) -> None:
    result = renamed(judged(bench, good=good), name)
    write_junit(tmp_path / "p.xml", result)
    xmlschema.XMLSchema(SCHEMA).validate(tmp_path / "p.xml")
    suite = ElementTree.parse(tmp_path / "p.xml").getroot()
    cases = suite.findall("testcase")
    failed = [case for case in cases if case.find("failure") is not None]
    assert len(cases) == int(suite.get("tests", "")) == len(result.verdicts)
    assert len(failed) == int(suite.get("failures", "")) == sum(not one.passed for one in result.verdicts)
    assert (not failed) == good
    assert ("AGREE" if good else "DIFFER") in (suite.findtext("system-out") or "")
    for case in failed:
        assert "likely cause" in (case.findtext("failure") or "")


@pytest.mark.parametrize("status", ["differs", "inconclusive"])
def test_a_number_that_is_none_and_an_hour_are_valid(bench: Bench, tmp_path: Path, status: Status) -> None:
    result = judged(bench, good=True)
    wrong = [replace(one, value=float(np.nan), bound=float("inf"), status=status) for one in result.verdicts]
    write_junit(tmp_path / "p.xml", replace(result, verdicts=wrong, seconds={"frameworks": 4e7}))
    xmlschema.XMLSchema(SCHEMA).validate(tmp_path / "p.xml")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (' type="parity"', ""),
        (' time="0.00"', ""),
        (' hostname="localhost"', ""),
        ("<system-err />", ""),
        ('tests="', 'tests="-'),
        ("</testcase>", "<system-out/></testcase>"),
    ],
)
def test_the_schema_refuses_what_a_reader_would(bench: Bench, tmp_path: Path, before: str, after: str) -> None:
    write_junit(tmp_path / "p.xml", judged(bench, good=False))
    text = (tmp_path / "p.xml").read_text(encoding="utf-8")
    assert before in text
    assert not xmlschema.XMLSchema(SCHEMA).is_valid(text.replace(before, after))
