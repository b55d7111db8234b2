"""The command runs the frameworks, says whether they agree, and its exit status says it too."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from roformer_convert.__main__ import cli
from roformer_convert.converters import ConvertOptions, convert, open_checkpoint, save_checkpoint
from roformer_convert.converters.source.stated import Stated
from roformer_convert.parity import gate
from roformer_convert.parity.command_line import NotProvenError
from roformer_convert.parity.golden import compare_golden, read_golden
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.questions.cases import KINDS
from roformer_convert.parity.serving import jobs

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"
#: Written by bert4keras with application="lm", which no file says.
CAUSAL = FIXTURE.parent / "peers" / "b4k-LM_default"
GOLDEN = FIXTURE.parent / "random.golden.npz"

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
needs_all = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "paddle", "tensorflow")),
    reason="not all three frameworks are installed",
)


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


def corrupted(folder: Path) -> Path:
    """The fixture with one value of one kernel changed."""
    with open_checkpoint(FIXTURE) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint}
        tensors["layers.1.attention.key.weight"][5, 7] += np.float32(0.01)
        save_checkpoint(
            folder / "corrupted", tensors, checkpoint.config, dialect="torch", companions=checkpoint.companions
        )
    return folder / "corrupted"


@needs_all
def test_three_frameworks_agree_on_the_fixture_and_with_its_golden(tmp_path: Path) -> None:
    done = parity(
        FIXTURE,
        "--golden",
        GOLDEN,
        "--json-file",
        tmp_path / "p.json",
        "--junit",
        tmp_path / "p.xml",
        "--report",
        tmp_path / "p.html",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AGREE" in done.stdout
    assert len(done.stdout.splitlines()) <= 30  # one screen
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["passed"]
    checks = {verdict["check"] for verdict in data["verdicts"]}
    assert checks >= {
        "float64 logits",
        "float64 pooler",
        "float64 sop",
        "float32 logits",
        "top 5 in order",
        "float64 gradients",
        "float64 after one AdamW step",
        "golden float64",
        "golden float32",
        "parameters as loaded",
    }
    worst = max(verdict["value"] for verdict in data["verdicts"] if verdict["check"].startswith("float64 "))
    assert 0.0 < worst <= 1e-11
    assert [case["name"] for case in data["cases"]] == [*KINDS, "ids", "ids with padding"]
    suite = ElementTree.parse(tmp_path / "p.xml").getroot()
    assert suite.get("failures") == "0"
    assert int(suite.get("tests") or 0) == len(data["verdicts"])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "They agree" in page
    assert page.count('<svg class="chart"') == 2


@needs_torch
def test_three_directories_that_differ_in_one_value_exit_with_1(tmp_path: Path) -> None:
    convert(FIXTURE, tmp_path / "tf1", to="tf1")
    bad = corrupted(tmp_path)
    done = parity(
        FIXTURE,
        tmp_path / "tf1",
        bad,
        "--frameworks",
        "torch",
        "--json-file",
        tmp_path / "p.json",
        "--junit",
        tmp_path / "p.xml",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "first difference: layers.1.attention.key (float64), in torch:corrupted" in done.stdout
    assert "1 of 5,184 values differ, most at [5, 7]" in done.stdout
    assert "layers.1.attention.key.weight" in done.stdout
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["first_divergence"]["odd_one_out"] == "torch:corrupted"
    assert [(cause["kind"], cause["where"]) for cause in data["causes"]] == [
        ("corrupted", "layers.1.attention.key.weight")
    ]
    suite = ElementTree.parse(tmp_path / "p.xml").getroot()
    assert int(suite.get("failures") or 0) == sum(not verdict["passed"] for verdict in data["verdicts"]) > 0


@needs_torch
def test_drift_from_a_golden_exits_with_1_and_recording_makes_it_good(tmp_path: Path) -> None:
    bad = corrupted(tmp_path)
    golden = tmp_path / "golden.npz"
    common = ("--frameworks", "torch", "--golden", golden)
    recorded = parity(FIXTURE, *common, "--update-golden")
    assert recorded.returncode == 0, recorded.stderr
    assert 10_000 < golden.stat().st_size < 1_000_000
    before = golden.read_bytes()
    refused = parity(FIXTURE, *common, "--update-golden", CI="true")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert golden.read_bytes() == before
    drifted = parity(bad, *common)
    assert drifted.returncode == 1, drifted.stdout + drifted.stderr
    assert "first drift in layers.1.attention.key" in drifted.stdout


@needs_torch
def test_configuration_that_differs_is_said_and_its_effect_is_named(tmp_path: Path) -> None:
    with open_checkpoint(FIXTURE) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint}
        config = replace(checkpoint.config, layer_norm_eps=1e-5)
    save_checkpoint(tmp_path / "other", tensors, config, dialect="torch")
    with gate.run([FIXTURE, tmp_path / "other"], GateOptions(frameworks=["torch"], gradients=False)) as result:
        assert not result.passed
        assert any("layer_norm_eps is 1e-12" in note for note in result.model.notes)
        assert {cause.label for cause in result.causes} == {"torch:other"}
        assert {cause.what for cause in result.causes} == {"epsilon 1e-05 instead of 1e-12 in the norm"}
        where = [cause.where for cause in result.causes]
        assert where == [name for name in result.order if "norm" in name or name == "embeddings"]


@needs_all
def test_a_conversion_is_proven_by_source_and_target_each_in_its_own_framework_and_in_what_serves_it(
    tmp_path: Path,
) -> None:
    pytest.importorskip("transformers")
    words = ["convert", FIXTURE, "--to", "torch", "-o", tmp_path / "out", "--parity", "--with", "transformers"]
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code == 0, done.output
    first, *_, last = done.output.splitlines()
    assert first == f"{FIXTURE}, {tmp_path / 'out'}"
    assert "(paddle:random, torch:out, transformers " in done.output
    assert last.startswith("  read back and equal bit for bit")
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.dialect == "torch"


@needs_torch
def test_of_a_conversion_the_result_is_what_the_software_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source and result speak one dialect: a fault in the result alone is found, and nothing is kept."""
    pytest.importorskip("transformers")
    source = tmp_path / "ckpt"
    convert(FIXTURE, source, to="torch")
    loaded: list[Path] = []
    load = jobs.directory_for

    def faulty(*arguments: Any) -> Path:
        directory = load(*arguments)
        loaded.extend(path.resolve().parent for path in directory.glob("*.safetensors"))
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        (directory / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-5}), encoding="utf-8")
        return directory

    monkeypatch.setattr(jobs, "directory_for", faulty)
    words = ["convert", source, "--to", "torch", "--dtype", "bfloat16", "--parity", "--with", "transformers"]
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(done.exception, NotProvenError), done.output
    assert done.exception.exit_status == 1
    assert "layer_norm_eps is 1e-05 there, 1e-12 here" in done.output
    assert loaded == [tmp_path / ".ckpt-torch.partial-roformer_convert" / "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@needs_torch
def test_what_is_stated_of_a_checkpoint_reaches_whoever_opens_it(tmp_path: Path) -> None:
    stated = Stated(set={"attention": "causal"}, model_class="causal-lm")
    options = GateOptions(frameworks=["torch"], gradients=False)
    with gate.run([CAUSAL], options) as result:
        assert result.model.class_name == "RoFormerForMaskedLM"  # no file says it
        assert any("attention in both directions is assumed" in note for note in result.model.notes)
    with gate.run([CAUSAL], replace(options, stated=stated)) as result:
        assert result.passed
        assert result.model.called == "RoFormerForCausalLM (attention causal)"
        with open_checkpoint(result.dumps[0].checkpoint) as loaded:
            assert loaded.config.attention == "causal"
    convert(CAUSAL, tmp_path / "out", to="torch", options=ConvertOptions(**stated))
    with gate.run([CAUSAL, tmp_path / "out"], replace(options, stated=stated)) as result:
        assert result.passed
        assert [dump.label for dump in result.dumps] == [f"torch:{CAUSAL.name}", "torch:out"]
        assert "attention = causal, as it was set" in result.model.notes
        assert not any("assumed" in note for note in result.model.notes)
    with gate.run([CAUSAL, tmp_path / "out"], options) as result:
        assert not result.passed
        assert any("attention is bidirectional" in note for note in result.model.notes)
        assert any(f"RoFormerForCausalLM in {tmp_path / 'out'}" in note for note in result.model.notes)
        assert {cause.kind for cause in result.causes} == {"mask"}
    other = replace(options, stated=Stated(set={"eos_token_id": 3}))
    with gate.run([CAUSAL, tmp_path / "out"], other) as result:
        assert any(f"attention is bidirectional in {CAUSAL}, causal in" in note for note in result.model.notes)


def test_stated_fields_and_class_are_options_of_the_command() -> None:
    given = ("--set", "attention=causal", "--class", "causal-lm", "--conversions", "only")
    done = parity(CAUSAL, *given)
    assert done.returncode == 0, done.stderr
    assert "12 directions, every tensor equal bit for bit" in done.stdout
    wrong = parity(CAUSAL, "--set", "attention=sideways", "--conversions", "only")
    assert wrong.returncode == 2
    assert "attention" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    head = parity(CAUSAL, "--class", "token-classification", "--frameworks", "torch")
    assert head.returncode == 2
    assert "Traceback" not in head.stderr


@needs_torch
def test_golden_holds_with_the_kernels_of_another_processor() -> None:
    older = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    with gate.run([FIXTURE], GateOptions(frameworks=["torch"]), environment=older) as result:
        verdicts = compare_golden(read_golden(GOLDEN), result)
    assert all(verdict.passed for verdict in verdicts), verdicts
    (single,) = (verdict for verdict in verdicts if verdict.check == "golden float32")
    assert single.value > 0.0
