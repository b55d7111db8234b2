"""The gate's workflow in another repository: its steps, one by one, beside a wheel, a checkpoint and a golden."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
yaml = pytest.importorskip("yaml")
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
    repository = tmp_path / "theirs"
    shutil.copytree(ROOT / "fixtures" / "random", repository / "model")
    shutil.copyfile(ROOT / "fixtures" / "random.golden.npz", repository / "golden.npz")
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "fixtures"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(repository), str(copy)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    # an environment of its own, into which the wheel is installed; the frameworks are those that are here
    venv.create(tmp_path / "env", with_pip=True)
    (here,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for old in here.glob("setuptools*"):  # which pip brings along and torch finds too old
        shutil.rmtree(old)
    (here / "frameworks.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {name: str(value) for name, value in read()["env"].items()}
    environment |= {"CHECKPOINT": "model", "GOLDEN": "golden.npz", "CI": "true", "PIP_NO_INDEX": "1"}
    environment["PATH"] = f"{tmp_path}/env/bin:{environment['PATH']}"
    for step in steps():
        done = subprocess.run(
            ["bash", "-e", "-c", step], cwd=repository, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "AGREE" in done.stdout
    program = "import roformer_convert; print(roformer_convert.__file__)"
    said = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert said.stdout.startswith(str(here))
    uploaded = read()["jobs"]["gate"]["steps"][-1]["with"]["path"].split()
    assert len(uploaded) == 3
    for name in uploaded:
        assert (repository / name).stat().st_size > 0
