"""transformers is served in half types too, and so it is held to what rounding explains there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roformer_convert.converters.tensors.stored import HALF_TYPES
from roformer_convert.parity import gate
from roformer_convert.parity.judging.verdicts import Verdict
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import screen
from roformer_convert.parity.serving import asking
from roformer_convert.parity.serving.asking import Official, checked, tell_without
from roformer_convert.parity.serving.software import SOFTWARE

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
    pytest.skip("torch or transformers is not installed", allow_module_level=True)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def in_half_types(folder: Path, **asked: Any) -> Result:
    """Run the gate on a checkpoint in PyTorch and transformers."""
    asked = {"half_types": HALF_TYPES, **asked}
    options = GateOptions(frameworks=["torch"], gradients=False, official=["transformers"], **asked)
    with gate.run([folder], options) as result:
        return result


def of_type(result: Result, dtype: str) -> dict[str, Verdict]:
    return {one.check: one for one in result.verdicts if one.check.startswith(f"official: {dtype} ")}


@pytest.fixture(scope="module")
def good() -> Result:
    return in_half_types(FIXTURES / "tiny")


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_it_is_within_what_rounding_explains_and_does_round(good: Result, dtype: str) -> None:
    assert good.passed, screen(good)
    found = of_type(good, dtype)
    order = f"official: {dtype} top 5 in order"  # where a type leaves one
    assert {*found, order} == {f"official: {dtype} logits against float64", order}
    logits = found[f"official: {dtype} logits against float64"]
    assert 1 / 32 < logits.share <= 0.5  # it was not computed in float32


@pytest.mark.parametrize("folder", ["hf5-SequenceClassification_multilabel_st", "hf5-CausalLM_default_st"])
def test_each_class_is_by_its_own_results(folder: str) -> None:
    result = in_half_types(FIXTURES / "peers" / folder)
    assert result.passed, screen(result)
    assert any("classifier against" in check or "logits against" in check for check in of_type(result, "float16"))


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    """Change what it computed before it is compared."""
    answered = asking.answered

    def changed(worker: Any, asked: Official) -> Official:
        official = answered(worker, asked)
        change(official.dump.files)
        return official

    monkeypatch.setattr(gate, "answered", changed)


@pytest.mark.parametrize("share", [2.0, 0.5])
def test_twice_the_bound_is_found_and_half_of_it_is_not(
    good: Result, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    scale = good.measured.scales["logits"]
    checks = {dtype: f"official: {dtype} logits against float64" for dtype in HALF_TYPES}

    def change(files: Path) -> None:
        right = np.load(files / "float64.everyday.npz")["logits"]
        at = np.unravel_index(np.abs(right).argmin(), right.shape)  # where it has no last digits of its own
        for dtype, check in checks.items():
            arrays = dict(np.load(files / f"{dtype}.everyday.npz"))
            logits = arrays["logits"].astype(np.float64)
            logits[at] = right[at] + share * of_type(good, dtype)[check].bound * scale[at[-1]]
            np.savez(files / f"{dtype}.everyday.npz", **{**arrays, "logits": logits})

    plant(monkeypatch, change)
    result = in_half_types(FIXTURES / "tiny")
    wrong = [one.check for one in result.verdicts if one.status == "differs"]
    assert wrong == (list(checks.values()) if share > 1.0 else [])
    causes = [(cause.kind, cause.where) for cause in result.causes]
    assert causes == [("half type", "logits")] * len(wrong)


def test_the_first_hidden_states_that_lose_too_much_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(files: Path) -> None:
        for path in files.glob("float16.*.npz"):
            arrays = dict(np.load(path))
            for name in arrays:
                if name != "embeddings":
                    arrays[name] = arrays[name] * np.float16(1.5)
            np.savez(path, **arrays)

    plant(monkeypatch, change)
    result = in_half_types(FIXTURES / "tiny", half_types=["float16"])
    (cause,) = result.causes
    assert (cause.kind, cause.where) == ("half type", "layers.0.feed_forward_norm")
    assert result.exit_status == 1


def test_what_is_not_computed_in_a_half_type_is_said_with_the_reason(good: Result) -> None:
    official = good.official[0].official
    assert tell_without(official, HALF_TYPES) == []
    names: dict[str, Any] = {kind: [] for kind in ("missing", "unexpected", "mismatched", "warned")}
    answer = {**names, "class": "It", "parameters": {}, "types": ["float32", "bfloat16"], "ids": None, "seconds": {}}
    facts = checked({**answer, "without": {"float16": "RuntimeError: no kernel\x1b[2J"}}, "it")
    assert (facts["types"], facts["half_types"]) == (["float32"], ["bfloat16"])
    lacking = replace(official, dump=replace(official.dump, label="it", facts=facts))
    (note,) = tell_without(lacking, HALF_TYPES)
    assert note.startswith("it is not run in float16: RuntimeError: no kernel")
    assert "\x1b" not in note
    dump = replace(official.dump, label="bert4keras", facts={**facts, "half_types": [], "without": {}})
    (note,) = tell_without(replace(official, software=SOFTWARE["bert4keras"], dump=dump), ["float16"])
    assert note == "bert4keras is not run in float16: it builds its layers in float32"
    silent = {name for name, software in SOFTWARE.items() if not software.no_half_types}
    assert silent == {"transformers", "junnyu"}
    assert tell_without(replace(official, dump=replace(official.dump, facts={"failed": "no"})), HALF_TYPES) == []


def test_a_half_type_that_fails_takes_nothing_else_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build may lack a kernel; what it computes in wider types is judged all the same."""
    from roformer_convert.parity.official import serving

    class Worker(serving.Software):
        half_types = HALF_TYPES

        def load(self, job: dict[str, Any]) -> dict[str, Any]:
            return {"warned": []}

        def compute(self, given: dict[str, Any], dtype: str, hidden: bool) -> dict[str, Any]:
            if dtype == "float16":
                raise RuntimeError("no kernel")
            return {"scores": np.ones((1, 2))}

    written: list[str] = []
    monkeypatch.setattr(serving, "write", lambda folder, name, arrays: written.append(name))
    monkeypatch.setattr(np, "load", lambda *_, **__: _Cases())
    cases = [{"name": "small", "hidden": True}, {"name": "large", "hidden": False}]
    job = {"cases_file": "", "cases": cases, "out": "", "called": {"hidden": [], "scores": "logits"}}
    answer = serving.run(Worker(), {**job, "half_types": list(HALF_TYPES)})
    assert answer["types"] == ["float32", "bfloat16"]
    assert answer["without"] == {"float16": "RuntimeError: no kernel"}
    assert written == ["float32.small", "float32.large", "bfloat16.small"]


class _Cases(dict[str, Any]):
    """An empty file of cases."""

    def __enter__(self) -> _Cases:
        return self

    def __exit__(self, *error: object) -> None:
        pass
