"""The gate's workflow in another repository: its steps, one by one, beside a wheel, a checkpoint and a golden."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ci_systems import ROOT, bare_environment, checkout, offline, shell, wheel, yaml

WORKFLOW = ROOT / ".github" / "workflows" / "parity.yml"

needs_all = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "paddle", "tensorflow", "setuptools", "wheel")),
    reason="not all three frameworks, or nothing that builds a wheel, are installed",
)


def read() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return found


def steps() -> list[str]:
    """What the workflow's job runs in a shell, in order."""
    return [step["run"] for step in read()["jobs"]["gate"]["steps"] if "run" in step]


def test_no_step_names_a_file_that_only_this_repository_has() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    after = text[text.index("jobs:") :]
    assert "fixtures" not in after
    assert "cache-dependency-path" not in after


@pytest.mark.parametrize(
    ("given", "files", "wanted"),
    [
        ("", ["roformer_convert-0.1.0-py3-none-any.whl"], "./roformer_convert-0.1.0-py3-none-any.whl[parity]"),
        ("", ["setup.cfg"], "./.[parity]"),
        ("tools/a.whl", ["roformer_convert-0.1.0-py3-none-any.whl"], "./tools/a.whl[parity]"),
        ("git+https://host/x@v1", [], "roformer-convert[parity] @ git+https://host/x@v1"),
    ],
)
def test_what_is_installed_is_what_the_variable_says(tmp_path: Path, given: str, files: list[str], wanted: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    environment = {**os.environ, "ROFORMER_CONVERT": given, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", steps()[0]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["-m", "pip", "install", wanted]


@needs_all
def test_the_steps_work_in_another_repository(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(ROOT / "fixtures" / "random", theirs / "model")
    shutil.copyfile(ROOT / "fixtures" / "random.golden.npz", theirs / "golden.npz")
    wheel(checkout(tmp_path / "source"), theirs)
    environment = offline(tmp_path) | {name: str(value) for name, value in read()["env"].items()}
    environment |= {"CHECKPOINT": "model", "GOLDEN": "golden.npz"}
    environment["PATH"] = f"{bare_environment(tmp_path / 'env')}:{environment['PATH']}"
    for step in steps():
        done = shell(step, theirs, environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "AGREE" in done.stdout
    said = shell("python -c 'import roformer_convert; print(roformer_convert.__file__)'", tmp_path, environment)
    assert said.stdout.startswith(str(tmp_path / "env"))
    uploaded = read()["jobs"]["gate"]["steps"][-1]["with"]["path"].split()
    assert len(uploaded) == 3
    for name in uploaded:
        assert (theirs / name).stat().st_size > 0
