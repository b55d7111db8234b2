"""A golden holds a run still, and a hostile one gives one clear error."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from parity_faults import LABELS, Bench, altered

from roformer_convert.converters.errors import ConvertError
from roformer_convert.parity.explaining.causes import fold
from roformer_convert.parity.golden import Golden, compare_golden, explain_drift, read_golden, record, refuse_in_ci
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import explanation

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def golden(bench: Bench) -> Path:
    path = bench.folder / "golden.npz"
    record(path, bench.judge({}))
    return path


def test_the_same_run_holds(bench: Bench, golden: Path) -> None:
    verdicts = compare_golden(read_golden(golden), bench.judge({}))
    assert len(verdicts) == 1 + 2 * len(LABELS)
    assert all(verdict.passed and verdict.value == 0.0 for verdict in verdicts)


def test_golden_says_what_it_was_recorded_on(golden: Path) -> None:
    about = read_golden(golden).about
    assert {"processor", "python", "numpy", "torch"} <= set(about["environment"])
    assert set(about["bounds"]) == {"float64", "float32"}
    assert "another processor" in about["bounds_cover"]
    assert len(about["weights_sha256"]) == len(about["inputs_sha256"]) == 64


def test_trait_that_was_lost_is_drift_and_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "causal LM")
    path = tmp_path / "golden.npz"
    record(path, bench.judge({}))
    held = read_golden(path)
    assert held.about["traits"]["attention"] == "causal"

    def plant(module: ModuleType, model: Any) -> None:
        model.config = replace(model.config, attention="bidirectional")

    drifted = bench.judge(dict.fromkeys(LABELS, bench.dump(plant)))
    drifted.model = replace(drifted.model, config=replace(bench.config, attention="bidirectional"))
    drifted.verdicts += compare_golden(held, drifted)
    wrong = {verdict.check: verdict.where for verdict in drifted.verdicts if not verdict.passed}
    assert wrong["golden traits"] == "attention is 'bidirectional', recorded 'causal'"
    assert "golden: recorded with another configuration, in attention" in fold(explain_drift(held, drifted))
    assert "first drift in layers.0.attention.out" in wrong["golden float64"]


def test_golden_of_an_older_version_says_nothing_of_traits(bench: Bench, golden: Path) -> None:
    held = read_golden(golden)
    about = {name: value for name, value in held.about.items() if name != "traits"}
    verdicts = compare_golden(replace(held, about=about), bench.judge({}))
    assert {verdict.check for verdict in verdicts} == {"golden float64", "golden float32"}
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize("size", [1e-9, 1e-3])
def test_drift_in_all_frameworks_is_found_and_located(bench: Bench, golden: Path, size: float) -> None:
    def plant(module: ModuleType, model: Any) -> None:
        model.layers[1].feed_forward.up.weight.data += size

    drifted = bench.judge(dict.fromkeys(LABELS, bench.dump(plant)))
    verdicts = compare_golden(read_golden(golden), drifted)
    assert not any(verdict.passed for verdict in verdicts if verdict.check == "golden float64")
    assert all("first drift in layers.1.feed_forward " in v.where for v in verdicts if v.check == "golden float64")
    assert all(verdict.passed == (size < 1e-6) for verdict in verdicts if verdict.check == "golden float32")


def test_weights_that_were_changed_are_named_as_the_cause_of_a_drift(bench: Bench, golden: Path) -> None:
    def plant(module: ModuleType, model: Any) -> None:
        model.layers[1].feed_forward.up.weight.data += 1e-3

    held = read_golden(golden)
    drifted = bench.judge(dict.fromkeys(LABELS, bench.dump(plant)))
    drifted.verdicts = compare_golden(held, drifted)
    assert explain_drift(held, drifted) == []  # the checkpoint is the one that was recorded: the code is to blame
    assert "next step: where the change is meant" in explanation(drifted)[-1]
    drifted.weights, digests = "0" * 64, drifted.digests
    up = "layers.1.feed_forward.up.weight"
    drifted.digests = {**digests, up: "0" * 64}
    assert fold(explain_drift(held, drifted)) == [f"golden: recorded with other weights, in {up}"]
    drifted.digests = dict.fromkeys(digests, "0" * 64)
    (many,) = fold(explain_drift(held, drifted))
    assert many == f"golden: recorded with other weights, in {len(digests)} of {len(digests)} tensors"
    tables: tuple[Any, ...] = ({}, "no table")  # an older golden, a damaged one
    for told in tables:
        older = replace(held, about={**held.about, "tensors_sha256": told})
        assert fold(explain_drift(older, drifted)) == ["golden: recorded with other weights, in the checkpoint"]
    drifted.verdicts = compare_golden(held, bench.judge({}))
    assert explain_drift(held, drifted) == []  # other weights without a drift are no cause of anything


def test_words_masked_by_a_huge_bias_hide_no_drift(tmp_path: Path) -> None:
    def masked(tensors: dict[str, Any]) -> None:
        tensors["mlm.bias"][10:15] = -1e6

    def plant(module: ModuleType, model: Any) -> None:
        model.layers[1].feed_forward.up.weight.data += 1e-6

    bench = Bench(tmp_path, "masked-lm", change=masked)
    record(tmp_path / "golden.npz", bench.judge({}))
    drifted = compare_golden(
        read_golden(tmp_path / "golden.npz"), bench.judge(dict.fromkeys(LABELS, bench.dump(plant)))
    )
    worst = [verdict.where for verdict in drifted if verdict.check == "golden float64"]
    assert len(worst) == len(LABELS)
    assert all("first drift in layers.1.feed_forward " in where for where in worst)
    logits = [v for v in compare_golden(read_golden(tmp_path / "golden.npz"), logits_moved(bench)) if not v.passed]
    assert {verdict.about for verdict in logits} == {("tf",)}
    assert all("first drift in logits" in verdict.where for verdict in logits)


def logits_moved(bench: Bench) -> Result:
    """Move one float64 score by 1e-9."""
    name = bench.cases[0].name

    def change(scores: Any) -> None:
        scores.reshape(-1)[0] += 1e-9

    return bench.judge({"tf": altered(bench, f"float64.{name}", "logits", change)})


def test_rounding_of_another_processor_holds(bench: Bench, golden: Path, tmp_path: Path) -> None:
    held = read_golden(golden)
    double, single = held.numbers["float64"] * (1 + 1e-13), held.numbers["float32"] * np.float32(1 + 2e-7)
    other = rewritten(held, tmp_path / "other.npz", float64=double, float32=single)
    assert all(verdict.passed for verdict in compare_golden(read_golden(other), bench.judge({})))


def rewritten(golden: Golden, path: Path, **numbers: Any) -> Path:
    """Write a golden again with other numbers."""
    members = {**golden.numbers, **{f"{dtype}_scale": scale for dtype, scale in golden.scales.items()}, **numbers}
    np.savez(path, allow_pickle=False, about=np.frombuffer(json.dumps(golden.about).encode(), np.uint8), **members)
    return path


def test_other_inputs_cannot_be_compared(bench: Bench, golden: Path) -> None:
    result = bench.judge({})
    result.cases = result.cases[:1]
    with pytest.raises(ConvertError, match="recorded with other inputs"):
        compare_golden(read_golden(golden), result)


def test_run_that_differs_is_not_recorded(bench: Bench, tmp_path: Path) -> None:
    def plant(module: ModuleType, model: Any) -> None:
        model.mlm.bias.data += 0.5

    with pytest.raises(ConvertError, match="not recorded"):
        record(tmp_path / "golden.npz", bench.compare(plant))
    assert not list(tmp_path.iterdir())


def test_recording_is_refused_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ConvertError, match="refused where the environment variable CI is set"):
        refuse_in_ci(yes=False)
    refuse_in_ci(yes=True)
    monkeypatch.setenv("CI", "false")
    refuse_in_ci(yes=False)


def test_absent_golden_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no such file"):
        read_golden(tmp_path / "golden.npz")


# Hostile ones --------------------------------------------------------------------------------------------------------

Arrays = dict[str, Any]


def _npy(descr: str, shape: str, data: bytes) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _about(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        about = json.loads(np.load(io.BytesIO(members["about.npy"])).tobytes())
        changed = change(about)
        text = json.dumps(about if changed is None else changed).encode()
        members["about.npy"] = _npy("'|u1'", f"({len(text)},)", text)

    return apply


def _set(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.__setitem__(name, data)


HOSTILE_TRAITS: dict[str, Any] = {
    "a list": ["attention"],
    "a number": 3,
    "nested": {"attention": {"a": [1, {}]}},
    "control characters": {"attention": "\x1b[2J\n" * 1000},
}


def _last(members: dict[str, bytes], scale: float) -> bytes:
    """Put another number in the place of the last scale."""
    return members["float64_scale.npy"][:-4] + bytes(np.float32(scale).tobytes())


@pytest.mark.parametrize("name", HOSTILE_TRAITS)
def test_hostile_traits_of_a_golden_are_no_crash(bench: Bench, golden: Path, name: str) -> None:
    held = read_golden(golden)
    about = {**held.about, "traits": HOSTILE_TRAITS[name]}
    verdicts = compare_golden(replace(held, about=about), bench.judge({}))
    (one,) = [verdict for verdict in verdicts if verdict.check == "golden traits"]
    assert not one.passed
    assert len(one.where) <= 500
    assert one.where.isprintable()


HOSTILE: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "pickled objects": _set(
        "float64.npy", _npy("'|O'", "(1,)", b"\x80\x04cposix\nsystem\nX\x04\x00\x00\x00exit\x85R.")
    ),
    "a huge shape": _set("float64.npy", _npy("'<f8'", f"({1 << 50},)", b"\0" * 64)),
    "a negative shape": _set("float64.npy", _npy("'<f8'", "(-1,)", b"")),
    "two axes": _set("float64.npy", _npy("'<f8'", "(2, 2)", b"\0" * 32)),
    "another type": _set("float64.npy", _npy("'<f4'", "(2,)", b"\0" * 8)),
    "a deep header": _set("float64.npy", _npy("(" * 5000 + ")" * 5000, "(1,)", b"")),
    "a header of nothing": _set("float64.npy", _npy("'<f8'", "(1,)" + "\\0" * 9000, b"")),
    "thousands of axes": _set("float64.npy", _npy("'<f8'", f"({'1, ' * 3000})", b"\0" * 8)),
    "a type of hundreds of fields": _set("float64.npy", _npy(str([(f"f{i}", "<f8") for i in range(400)]), "(0,)", b"")),
    "no array": _set("float64.npy", b"not an array"),
    "an empty member": _set("float32.npy", b""),
    "a member missing": lambda members: members.pop("float32.npy"),
    "NaN": _set("float64.npy", _npy("'<f8'", "(1,)", np.float64("nan").tobytes())),
    "a zip bomb": _set("float64.npy", b"\0" * (64 << 20)),
    "no JSON": _set("about.npy", _npy("'|u1'", "(3,)", b"{{{")),
    "deep JSON": _set("about.npy", _npy("'|u1'", "(100000,)", b"[" * 100_000)),
    "a list": _about(lambda about: []),
    "a format of tomorrow": _about(lambda about: about.__setitem__("format", 99)),
    "a format of a page": _about(lambda about: about.__setitem__("format", "x" * 20_000)),
    "no list of samples": _about(lambda about: about.__setitem__("float64", "all")),
    "a sample of text": _about(lambda about: about["float64"].__setitem__(0, ["ids", 3, "x", 1])),
    "a negative count": _about(lambda about: about["float64"].__setitem__(0, ["ids", "logits", 5, -5])),
    "a count past the array": _about(lambda about: about["float64"].__setitem__(0, ["ids", "logits", 5, 1 << 60])),
    "no scales": lambda members: members.pop("float64_scale.npy"),
    "a scale too few": _set("float32_scale.npy", _npy("'<f4'", "(1,)", b"\0" * 4)),
    "an infinite scale": lambda members: members.__setitem__("float64_scale.npy", _last(members, float("inf"))),
    "a scale below nothing": lambda members: members.__setitem__("float64_scale.npy", _last(members, -1.0)),
    "a bool for a number": _about(lambda about: about["float64"][0].__setitem__(3, True)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_golden_is_one_clear_error(golden: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(golden) as held:
        members = {entry: held.read(entry) for entry in held.namelist()}
    HOSTILE[name](members)
    bad = tmp_path / "bad.npz"
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as out:
        for entry, data in members.items():
            out.writestr(entry, data)
    with pytest.raises(ConvertError) as caught:
        read_golden(bad)
    assert str(bad) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert caught.value.exit_status == 2


def test_every_truncation_of_a_golden_is_refused(golden: Path, tmp_path: Path) -> None:
    whole = golden.read_bytes()
    bad = tmp_path / "bad.npz"
    for end in [*range(0, 200, 7), *range(200, len(whole), max(1, len(whole) // 60))]:
        bad.write_bytes(whole[:end])
        with pytest.raises(ConvertError, match=r"bad\.npz"):
            read_golden(bad)


def test_directory_is_no_golden(tmp_path: Path) -> None:
    with pytest.raises(ConvertError):
        read_golden(tmp_path)


def test_golden_with_extreme_numbers_is_drift_and_no_crash(bench: Bench, golden: Path, tmp_path: Path) -> None:
    held = read_golden(golden)
    other = rewritten(held, tmp_path / "other.npz", float64=held.numbers["float64"] * 0 + 1e308)
    verdicts = compare_golden(read_golden(other), bench.judge({}))
    assert not all(verdict.passed for verdict in verdicts)
