"""What ``docs/ci-gate.md`` says of each CI system, followed literally in a repository of its own."""

from __future__ import annotations

import configparser
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ci_systems import Action, bare_environment, blocks, checkout, offline, repository, shell, wheel, yaml

from roformer_convert.converters import open_checkpoint, save_checkpoint

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "paddle", "tensorflow", "setuptools", "wheel")),
    reason="not all three frameworks, or nothing that builds a wheel, are installed",
)


class Theirs:
    """Somebody's repository with a checkpoint, and an environment in which the gate is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = checkout(folder / "source")
        self.root = folder / "theirs"
        shutil.copytree(FIXTURES / "random", self.root / "ckpt")
        wheel(self.source, self.root)
        self.environment = offline(folder)
        # at their own desk: no CI, the wheel installed
        bin_ = bare_environment(folder / "desk")
        self.desk = {name: value for name, value in self.environment.items() if name != "CI"}
        self.desk["PATH"] = f"{bin_}:{self.desk['PATH']}"
        identity = {"NAME": "a", "EMAIL": "a@b"}
        self.desk |= {f"GIT_{who}_{name}": text for who in ("AUTHOR", "COMMITTER") for name, text in identity.items()}
        (made,) = self.root.glob("*.whl")
        done = shell(f"python -m pip install --quiet './{made.name}[parity]'", self.root, self.desk)
        assert done.returncode == 0, done.stderr
        subprocess.run(["git", "init", "-q"], cwd=self.root, check=True)
        record, self.again = blocks("Your gate in three steps", "sh")
        done = shell(record, self.root, self.desk)
        assert done.returncode == 0, done.stdout + done.stderr

    def change(self) -> None:
        """Let the model compute something else."""
        with open_checkpoint(FIXTURES / "random") as checkpoint:
            tensors = {name: checkpoint.read(name) for name in checkpoint}
            tensors["layers.0.feed_forward.up.bias"] += 0.125
            shutil.rmtree(self.root / "ckpt")
            save_checkpoint(
                self.root / "ckpt", tensors, checkpoint.config, dialect="torch", companions=checkpoint.companions
            )

    def restore(self) -> None:
        shutil.rmtree(self.root / "ckpt")
        shutil.copytree(FIXTURES / "random", self.root / "ckpt")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return Theirs(tmp_path_factory.mktemp("ci"))


def called(theirs: Theirs) -> dict[str, Any]:
    """The step of the document's workflow that calls the action."""
    (text,) = blocks("GitHub", "yaml")
    workflow = yaml.safe_load(text)
    (step,) = [one for one in workflow["jobs"]["gate"]["steps"] if one["uses"].startswith("OWNER/REPO@")]
    given: dict[str, Any] = step["with"]
    return given


def extras(theirs: Theirs) -> Mapping[str, str]:
    written = configparser.ConfigParser()
    written.read(theirs.source / "setup.cfg")
    return written["options.extras_require"]


def test_github_passes_with_the_golden_and_fails_after_a_change(theirs: Theirs, tmp_path: Path) -> None:
    for name, wanted in (("good", 0), ("changed", 1)):
        if wanted:
            theirs.change()
        action = Action(theirs.source, theirs.root, theirs.environment, tmp_path / name)
        status = action.run({**called(theirs), "frameworks": "torch"} if wanted else called(theirs))
        theirs.restore()
        assert status == wanted, action.said
        assert action.kept is not None
        for output in ("report", "junit", "json"):
            assert Path(action.outputs[output]).parent == action.kept
            assert Path(action.outputs[output]).stat().st_size > 1000
        summary = (tmp_path / name / "GITHUB_STEP_SUMMARY").read_text(encoding="utf-8")
        assert ("AGREE" if not wanted else "DIFFER") in summary
        python = tmp_path / name / "parity-gate" / "bin" / "python"
        where = shell(f"'{python}' -c 'import roformer_convert as r; print(r.__file__)'", tmp_path, theirs.environment)
        assert where.stdout.startswith(str(tmp_path / name)), where.stdout + where.stderr
    assert [name.partition("@")[0] for name, _ in action.used] == [
        "actions/setup-python",
        "actions/cache",
        "actions/upload-artifact",
    ]
    cache = action.used[1][1]
    assert cache["key"].startswith("roformer-convert-Linux-X64-")
    assert len(cache["key"]) > 40


def test_github_with_an_evil_name_runs_nothing(theirs: Theirs, tmp_path: Path) -> None:
    evil = "ckpt$(touch owned)`touch owned`'; touch owned; '\" -- --update-golden"
    action = Action(theirs.source, theirs.root, theirs.environment, tmp_path / "temp")
    status = action.run({"checkpoint": evil, "golden": evil, "frameworks": "torch"})
    assert status == 2, action.said
    assert not (theirs.root / "owned").exists()
    assert "no such file" in action.said


@pytest.mark.parametrize("official", ["", "transformers"])
@pytest.mark.parametrize("frameworks", ["paddle,torch,tf", "tf", "torch, tf", "torch"])
def test_github_installs_what_is_named(theirs: Theirs, tmp_path: Path, frameworks: str, official: str) -> None:
    action = Action(theirs.source, theirs.root, theirs.environment, tmp_path / "temp")
    action.action["runs"]["steps"] = [one for one in action.action["runs"]["steps"] if one.get("id") == "wanted"]
    action.action["outputs"] = {"extras": {"value": "${{ steps.wanted.outputs.extras }}"}}
    assert action.run({"checkpoint": "ckpt", "frameworks": frameworks, "with": official}) == 0, action.said
    wanted = ["tensorflow" if name.strip() == "tf" else name.strip() for name in frameworks.split(",")]
    wanted += [official] * bool(official)
    assert action.outputs["extras"].split(",") == wanted
    assert set(wanted) <= set(extras(theirs))


def test_gitlab_passes_with_the_golden_and_fails_after_a_change(theirs: Theirs, tmp_path: Path) -> None:
    (text,) = blocks("GitLab", "yaml")
    job = yaml.safe_load(text)["parity"]
    bin_ = bare_environment(tmp_path / "image")
    environment = theirs.environment | {name: str(value) for name, value in job["variables"].items()}
    environment |= {"PATH": f"{bin_}:{environment['PATH']}", "PIP_CACHE_DIR": str(tmp_path / "cache")}
    for step in job["script"]:
        done = shell(step, theirs.root, environment)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    assert "AGREE" in done.stdout
    for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (theirs.root / path).stat().st_size > 1000, path
    theirs.change()
    done = shell(job["script"][-1], theirs.root, environment | {"FRAMEWORKS": "torch"})
    theirs.restore()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "golden" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pre_commit") is None, reason="pre-commit is not installed")
def test_pre_commit_lets_a_commit_pass_or_not(theirs: Theirs, tmp_path: Path) -> None:
    repository(theirs.source, theirs.desk)
    (text,) = blocks("pre-commit", "yaml")
    config = text.replace("https://github.com/OWNER/REPO", theirs.source.as_uri())
    assert config != text
    (theirs.root / ".pre-commit-config.yaml").write_text(config)
    environment = theirs.desk | {"PRE_COMMIT_HOME": str(tmp_path / "home"), "PRE_COMMIT_COLOR": "never"}
    subprocess.run(["git", "add", "-A", "ckpt", "parity-golden.npz"], cwd=theirs.root, check=True)
    command = f"'{sys.executable}' -m pre_commit run --all-files --verbose"
    done = shell(command, theirs.root, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 2, done.stdout
    assert "every tensor equal bit for bit" in done.stdout
    theirs.change()
    subprocess.run(["git", "add", "-A", "ckpt"], cwd=theirs.root, check=True)
    done = shell(command, theirs.root, environment)
    theirs.restore()
    subprocess.run(["git", "add", "-A", "ckpt"], cwd=theirs.root, check=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert (done.stdout.count("Passed"), done.stdout.count("Failed")) == (1, 1), done.stdout
    subprocess.run(["git", "rm", "-q", "--cached", ".pre-commit-config.yaml"], cwd=theirs.root, check=False)


def test_pre_commit_installs_what_the_extra_names(theirs: Theirs) -> None:
    extra = extras(theirs)["parity"].split()
    hooks = yaml.safe_load((theirs.source / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [one["additional_dependencies"] for one in hooks if "additional_dependencies" in one] == [extra]


def test_a_change_that_is_meant_is_recorded_as_the_document_says(theirs: Theirs) -> None:
    theirs.change()
    done = shell(theirs.again, theirs.root, theirs.desk)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it differs, as was meant" in done.stdout
    log = subprocess.run(["git", "log", "--format=%s"], cwd=theirs.root, capture_output=True, text=True, check=True)
    assert log.stdout.splitlines() == ["Change what the model computes", "Record what the model computes"]
    done = shell("roformer-convert parity ckpt --golden parity-golden.npz", theirs.root, theirs.desk)
    assert done.returncode == 0, done.stdout + done.stderr
