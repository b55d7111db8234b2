"""Official participants are understood, looked for and refused before anything runs; their answers are checked."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import Runs
from official_bench import failed
from safetensors.numpy import load_file
from test_parity_runs import FIXTURE, needs_torch, parity

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.table.mapping import Dialect
from roformer_convert.parity import gate, official
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.serving import jobs as official_jobs
from roformer_convert.parity.serving.asking import checked
from roformer_convert.parity.serving.software import (
    SOFTWARE,
    Package,
    Software,
    Wanted,
    find_python,
    read_export,
    require_official,
    require_versions,
    start,
    wanted,
)

needs_transformers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")),
    reason="torch or transformers is not installed",
)
WORKERS = Path(official.__path__[0])


def python_file(path: Path, content: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_a_name_alone_is_asked_in_this_environment() -> None:
    one = wanted("transformers")
    assert (one.software.name, one.python, one.export) == ("transformers", Path(sys.executable), None)


def test_an_interpreter_is_a_file_an_environment_or_a_name_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = python_file(tmp_path / "env" / "bin" / "python")
    assert wanted(f"transformers={tmp_path / 'env'}").python == inside
    assert find_python(str(inside), "") == inside
    assert find_python(str(tmp_path / "env"), "") == inside
    monkeypatch.chdir(tmp_path)
    assert find_python("./env", "") == inside
    monkeypatch.setenv("PATH", str(inside.parent))
    assert find_python("python", "") == inside


def test_a_bare_name_is_never_taken_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_file(tmp_path / "snake")
    monkeypatch.chdir(tmp_path)
    for places in (os.pathsep, ".", f".{os.pathsep}", ""):
        monkeypatch.setenv("PATH", places)
        with pytest.raises(ConvertError, match="no snake is on the path") as error:
            find_python("snake", "transformers=snake")
        assert "./snake" in str(error.value)


@pytest.mark.parametrize(
    ("said", "what", "step"),
    [
        ("transformer", "no such software, and no directory of an export", "Did you mean 'transformers'?"),
        ("transformers=/no/such/python", "is no interpreter, and no environment's directory", "Name the Python"),
        ("transformers=", "no interpreter is on the path", "Name the file"),
        ("\x1b[2J", "no such software", "Known: transformers"),
    ],
)
def test_what_is_not_known_is_refused_with_the_next_step(said: str, what: str, step: str) -> None:
    with pytest.raises(ConvertError) as error:
        wanted(said)
    assert what in str(error.value)
    assert step in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_directory_without_a_manifest_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="is no export"):
        wanted(str(tmp_path))


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"format": "onnx", "class": "masked-lm", "open": {"file": "model.onnx"}, "outputs": [], "max_length": 5},
        {"format": "onnx", "class": "masked-lm", "open": {"file": 3}, "outputs": {"logits": []}, "max_length": 5},
        {"format": "onnx", "class": "x", "open": {"file": "model.onnx"}, "outputs": {"logits": []}, "max_length": 5},
        {"format": "onnx", "class": [], "open": {"file": "model.onnx"}, "outputs": {"logits": []}, "max_length": 5},
        {"format": "x", "class": "masked-lm", "open": {"file": "m.onnx"}, "outputs": {"logits": []}, "max_length": 5},
        {"format": "onnx", "class": "masked-lm", "open": {"file": "../m"}, "outputs": {"logits": []}, "max_length": 5},
        {"format": "onnx", "class": "masked-lm", "open": {"file": "/m"}, "outputs": {"logits": []}, "max_length": 5},
    ],
)
def test_a_manifest_that_is_none_or_leads_elsewhere_is_refused(tmp_path: Path, manifest: dict[str, Any]) -> None:
    from roformer_convert.converters.target.output import EXPORT_MANIFEST

    (tmp_path / EXPORT_MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FormatError):
        read_export(tmp_path)


# Versions ------------------------------------------------------------------------------------------------------------


def versions_of(*packages: Package) -> dict[str, str]:
    software = Software("it", worker="transformers", packages=packages)
    one = Wanted("it", software, Path(sys.executable))
    with start(one, Path("/"), {}) as process:
        return require_versions(one, process, words=False)


def test_versions_are_those_of_the_environment_that_is_asked() -> None:
    found = versions_of(Package("numpy"), Package("click", least="1", below="1000"))
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads a process's variables in /proc")
@pytest.mark.parametrize("name", SOFTWARE)
def test_it_sees_no_gpu_and_fetches_nothing(name: str) -> None:
    """A build for GPUs would take one unasked, and its numbers may be rounded to TF32."""
    one = Wanted(name, replace(SOFTWARE[name], worker="transformers"), Path(sys.executable))
    with start(one, Path("/"), {"CUDA_VISIBLE_DEVICES": "0"}) as process:
        process.ask({"versions": []})
        process.answer()
        variables = Path(f"/proc/{process._child.pid}/environ").read_bytes().split(b"\0")
    assert {b"CUDA_VISIBLE_DEVICES=-1", b"HF_HUB_OFFLINE=1"} <= set(variables)


@pytest.mark.parametrize(
    ("package", "what"),
    [
        (Package("no_such_package"), "no_such_package is not installed"),
        (Package("numpy", least="1000"), "wanted numpy>=1000"),
        (Package("numpy", below="1"), "wanted numpy<1"),
        (Package("numpy.no.such", ("numpy",)), "numpy.no.such is not installed"),
    ],
)
def test_what_is_missing_or_of_another_version_is_named_with_what_to_install(package: Package, what: str) -> None:
    with pytest.raises(ConvertError) as error:
        versions_of(package)
    assert what in str(error.value)
    assert "Install it there" in str(error.value)
    assert sys.executable in str(error.value)


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    silent = "#!/bin/sh\nread line\necho no answer\n"
    for content, what in (("not a program", "cannot be run"), (silent, "no JSON object")):
        python = python_file(tmp_path / "python", content)
        with pytest.raises(ConvertError, match=what):
            require_official([f"transformers={python}"])


def test_a_worker_sees_neither_the_current_directory_nor_pythonpath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "json", "no_such_package"):
        python_file(tmp_path / f"{name}.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = Wanted("it", Software("it", worker="transformers", packages=(Package("numpy"),)), Path(sys.executable))
    with start(one, tmp_path, {}) as process:
        assert require_versions(one, process, words=False)["numpy"] == np.__version__
        process.ask({"versions": [["no_such_package", []]]})
        assert process.answer()["packages"] == {"no_such_package": None}
    assert not (tmp_path / "ran").exists()


def test_one_that_is_absent_stops_the_command_before_anything_is_converted(tmp_path: Path) -> None:
    done = parity(tmp_path / "no-checkpoint", "--with", f"transformers={tmp_path / 'no-python'}")
    assert (done.returncode, done.stdout) == (2, "")
    done = parity(FIXTURE, "--with", "pytorch", "--json-file", tmp_path / "p.json")
    assert done.returncode == 2
    assert "no such software" in done.stderr
    assert not (tmp_path / "p.json").exists()


# Answers -------------------------------------------------------------------------------------------------------------


def answer(**more: Any) -> dict[str, Any]:
    names: dict[str, Any] = {kind: [] for kind in ("missing", "unexpected", "mismatched", "warned")}
    facts = {"class": "Model", "parameters": {}, "types": ["float32"], "ids": [[1]], "seconds": {"load": 1}}
    return {**names, **facts, "peak_bytes": 5, **more}


def test_an_answer_is_made_printable() -> None:
    found = checked(answer(warned=["\x1b[1mred"], types=["float32", "object"], no_ids=None), "it")
    assert "\x1b" not in found["warned"][0]
    assert found["types"] == ["float32"]
    assert checked({"failed": "\x1b[1m" + "no"}, "it")["failed"].endswith("no")


@pytest.mark.parametrize(
    "change",
    [
        {"missing": "a"},
        {"missing": ["a"] * (1 << 17)},
        {"parameters": {"a": 1}},
        {"parameters": {"a": {"shape": ["x"], "sha256": ""}}},
        {"parameters": None},
        {"ids": 5},
        {"ids": [["x"]]},
        {"seconds": {"a": "x"}},
        {"types": 3},
        {"peak_bytes": "many"},
    ],
)
def test_an_answer_that_is_none_is_an_error_that_names_who_gave_it(change: dict[str, Any]) -> None:
    with pytest.raises(ConvertError, match="its worker's answer cannot be read"):
        checked(answer(**change), "its")


def test_an_answer_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    program = "#!/bin/sh\nread line\nyes '[' | tr -d '\\n'\n"
    with pytest.raises(ConvertError, match="its answer is longer than 67,108,864 bytes"):
        require_official([f"transformers={python_file(tmp_path / 'python', program)}"])


# The workers' files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(WORKERS.glob("*.py")), ids=lambda path: path.name)
def test_a_worker_can_be_read_by_older_pythons_and_needs_nothing_of_ours(path: Path) -> None:
    import ast

    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            assert not (node.module or "").startswith("roformer_convert")
        if isinstance(node, ast.Import):
            assert not any(each.name.startswith("roformer_convert") for each in node.names)


def test_every_software_has_its_worker() -> None:
    from roformer_convert.parity.serving.software import RUNTIMES

    named = {each.worker for each in (*SOFTWARE.values(), *RUNTIMES.values())}
    assert named == {path.stem.removeprefix("run_") for path in WORKERS.glob("run_*.py")}


# The whole gate ------------------------------------------------------------------------------------------------------


@needs_transformers
def test_the_command_shows_it_beside_ours(tmp_path: Path) -> None:
    done = parity(
        FIXTURE,
        *("--frameworks", "torch", "--no-gradients", "--with", "transformers"),
        *("--json-file", tmp_path / "p.json", "--junit", tmp_path / "p.xml", "--report", tmp_path / "p.html"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "p.json").read_text())
    (official,) = data["official"]
    label = f"transformers {official['versions']['transformers']}"
    assert official["label"] == label
    assert official["class"] == "RoFormerForMaskedLM"
    assert official["peak_bytes"] > 0
    assert official["failed"] is None
    checks = [verdict for verdict in data["verdicts"] if label in verdict["about"]]
    assert len(checks) == 6
    assert f"{label}: torch " in done.stdout
    assert "official: float64 logits" in done.stdout
    assert label in done.stdout.splitlines()[-1]
    cases = [case.get("name") or "" for case in ElementTree.parse(tmp_path / "p.xml").getroot().iter("testcase")]
    assert len([name for name in cases if name.startswith("official: ")]) == 6
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    shown = set(re.findall(r"official: [^<\"]+", page))
    assert shown >= {verdict["check"] for verdict in checks}
    assert f"{official['versions']['torch']}" in page


@needs_transformers
def test_a_fault_in_what_it_loads_fails_the_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def faulty(convert: Callable[..., Any]) -> Callable[..., Path]:
        def directory_for(*arguments: Any) -> Path:
            directory: Path = convert(*arguments)
            path = directory / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 1e-5}))
            return directory

        return directory_for

    # it gets a directory of its own: of the other names ours would load the same files
    monkeypatch.setattr(official_jobs, "directory_for", faulty(official_jobs.directory_for))
    with gate.run([FIXTURE], GateOptions(frameworks=["paddle"], gradients=False, official=["transformers"])) as result:
        assert not result.passed
        assert all(verdict.passed for verdict in result.verdicts if not verdict.check.startswith("official: "))
        (official,) = result.official
        assert failed(official) == ["float64 logits", "float32 logits"]
        assert {cause.kind for cause in result.causes} == {"configuration", "epsilon"}


@needs_transformers
@needs_torch
def test_one_that_dies_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without_cases(*arguments: Any) -> tuple[Any, dict[str, Any]]:
        known, job = job_for(*arguments)
        return known, {**job, "cases_file": str(tmp_path / "none.npz"), "out": str(tmp_path)}

    job_for = official_jobs.job_for
    monkeypatch.setattr(gate, "job_for", without_cases)
    with gate.run([FIXTURE], GateOptions(frameworks=["torch"], gradients=False, official=["transformers"])) as result:
        (official,) = result.official
        assert failed(official) == ["loaded whole"]
        assert "FileNotFoundError" in result.causes[0].what


@pytest.mark.parametrize("container", ["pdparams", "bin", "safetensors"])
def test_it_is_shown_what_was_read_and_no_pickle_of_a_stranger(tmp_path: Path, container: str) -> None:
    """A loader would run what a pickle says, and choose among the files by its own rules."""
    folder, mark = tmp_path / "theirs", tmp_path / "mark"
    dialect: Dialect = "paddle" if container == "pdparams" else "torch"
    convert(FIXTURE, folder, to=dialect)
    evil = Runs(os.system, f"touch {mark}")
    if container == "pdparams":
        state = pickle.loads((folder / "model_state.pdparams").read_bytes())
        (folder / "model_state.pdparams").write_bytes(pickle.dumps({**state, "hook": evil}))
    else:
        state = load_file(folder / "model.safetensors")
    if container == "bin":
        torch = pytest.importorskip("torch")
        (folder / "model.safetensors").unlink()
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        torch.save({**tensors, "hook": evil}, folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(pickle.dumps(evil))
    software = SOFTWARE["paddlenlp" if container == "pdparams" else "transformers"]
    shown = official_jobs.directory_for(software, [folder], [dialect], tmp_path)
    assert "training_args.bin" not in os.listdir(shown)
    assert (shown / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    for path in shown.iterdir():
        assert b"touch" not in path.read_bytes()
    with open_checkpoint(shown) as checkpoint:
        assert {binding.stored.name for binding in checkpoint.bindings.values()} <= state.keys()
        assert len(checkpoint) > 20
    assert not mark.exists()
