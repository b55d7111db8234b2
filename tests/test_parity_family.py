"""Paddle, PyTorch and TensorFlow agree on every class and trait of the family, converted into each one's dialect.

Each framework's process serves all models: to start one takes longer than to run them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from family_models import MODELS

from roformer_convert.models.config import supported
from roformer_convert.models.processes.process import Process
from roformer_convert.parity.gate import Clock, compare
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.participants.conversions import every_direction, report
from roformer_convert.parity.participants.dumps import Dump
from roformer_convert.parity.participants.participants import choose_participants, look_at
from roformer_convert.parity.participants.side_by_side import WORKER
from roformer_convert.parity.questions.case_file import write_cases
from roformer_convert.parity.questions.cases import make_cases
from roformer_convert.parity.questions.targets import make_training

FRAMEWORKS = ("paddle", "torch", "tf")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "paddle", "tensorflow")),
    reason="not all three frameworks are installed",
)


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, Process]]:
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    with ExitStack() as stack:
        yield {name: stack.enter_context(Process(name, WORKER, [name], quiet)) for name in FRAMEWORKS}


@pytest.mark.parametrize("name", MODELS)
def test_all_three_frameworks_agree(processes: dict[str, Process], tmp_path: Path, name: str) -> None:
    source = tmp_path / "ckpt"
    MODELS[name].write(source)
    model, dialects = look_at([source])
    assert model.class_name == MODELS[name].kind.class_name
    assert model.config == MODELS[name].config
    cases = make_cases(supported(model.config), model.task, None)
    listed = write_cases(tmp_path / "cases.npz", cases, make_training(model.config, model.task))
    dumps = []
    participants = choose_participants([source], [source], dialects, None, tmp_path)
    for one in participants:
        out = tmp_path / f"out-{one.framework}"
        out.mkdir()
        processes[one.framework].ask(
            {
                "dump": {
                    "directory": str(one.directory),
                    "class_name": model.class_name,
                    "out": str(out),
                    "cases_file": str(tmp_path / "cases.npz"),
                    "cases": listed,
                    "dialect": None,
                }
            }
        )
    for one in participants:
        facts = processes[one.framework].answer()
        dumps.append(Dump(one.label, one.framework, one.directory, tmp_path / f"out-{one.framework}", facts))
    result = compare([source], source, model, participants, dumps, cases, None, GateOptions(), Clock())
    assert result.passed, [verdict for verdict in result.verdicts if not verdict.passed] + result.causes
    checks = {verdict.check for verdict in result.verdicts}
    head = "logits" if model.task.mlm else "last hidden states" if model.task.head is None else "classifier"
    assert {f"float64 {head}", f"float32 {head}", "float64 gradients", "float64 after one AdamW step"} <= checks
    ranks = {"labels": "labels in order", "options": "options in order", "spans": "starts and ends in order"}
    if model.task.head in ranks and model.config.num_labels > 1:
        assert ranks[model.task.head] in checks


@pytest.mark.parametrize("name", MODELS)
def test_every_conversion_keeps_every_bit_and_every_trait(tmp_path: Path, name: str) -> None:
    MODELS[name].write(tmp_path / "ckpt")
    directions = list(every_direction(tmp_path / "ckpt"))
    nameless = MODELS[name].kind.name in ("token-classification", "multiple-choice")
    assert [one.target for one in directions if one.impossible] == ["tf1"] * nameless
    assert len(directions) == (7 if nameless else 12)
    assert not [one for one in directions if one.different]
    said = report(tmp_path / "ckpt", directions)
    assert ("note: not converted to tf1: bert4keras builds no" in said) == nameless
    assert said.endswith(f"{6 if nameless else 12} directions, every tensor equal bit for bit")
