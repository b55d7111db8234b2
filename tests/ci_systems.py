"""Steps of the CI systems of ``docs/ci-gate.md``, run one by one as those systems run them.

GitHub's runner is not to be had here without a container, so what it does with a step is done here: expressions are
replaced, ``GITHUB_OUTPUT`` and ``GITHUB_ENV`` are read back, a failed step ends the job but for those that always run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
yaml = pytest.importorskip("yaml")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section of the gate's document, in their order."""
    text = (ROOT / "docs" / "ci-gate.md").read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(section)}$(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, section
    listed = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", found[1], re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in listed]


def checkout(folder: Path) -> Path:
    """This project's files as a clone would have them, without fixtures."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "fixtures"))
    shutil.copyfile(ROOT / ".pre-commit-hooks.yaml", folder / ".pre-commit-hooks.yaml")
    return folder


def wheel(source: Path, folder: Path) -> None:
    """Build a wheel."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)


def offline(folder: Path) -> dict[str, str]:
    """An environment for commands that install: the packages are those that are here, and nothing is fetched."""
    here = folder / "packages"
    here.mkdir()
    for path in map(Path, sys.path):
        if path.name == "site-packages":
            for package in path.iterdir():
                # an environment's pip is its own, and this project is what is installed there
                unwanted = package.name.startswith(("pip", "roformer_convert", "__editable__"))
                if not unwanted and not (here / package.name).exists():
                    (here / package.name).symlink_to(package)
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PIP_CONSTRAINT")}
    return kept | {"PYTHONPATH": str(here), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "CI": "true"}


def repository(folder: Path, environment: Mapping[str, str]) -> None:
    """Make a folder a repository with one commit."""
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"], ["tag", "v1"]):
        subprocess.run([*run, *words], cwd=folder, env=dict(environment), check=True, capture_output=True)


def shell(step: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub's ``shell: bash`` does, and as GitLab's runner nearly does."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=500,
    )


class Action:
    """A composite action, run in a workspace.

    Attributes:
        outputs: What the action gives back, after :meth:`run`.
        said: Everything its steps printed.
        kept: The folder that was uploaded, or None.
        used: The other actions that were called, with what they were given.
    """

    def __init__(self, source: Path, workspace: Path, environment: Mapping[str, str], temp: Path) -> None:
        self.action = yaml.safe_load((source / "action.yml").read_text(encoding="utf-8"))
        self.source, self.workspace, self.temp = source, workspace, temp
        self.environment = dict(environment)
        self.outputs: dict[str, str] = {}
        self.said = ""
        self.kept: Path | None = None
        self.used: list[tuple[str, dict[str, str]]] = []
        self._steps: dict[str, dict[str, str]] = {}

    def run(self, given: Mapping[str, str]) -> int:
        """Run it with the inputs that a caller gives; return the status of the step that failed, or 0."""
        unknown = set(given) - set(self.action["inputs"])
        assert not unknown, unknown
        for name, one in self.action["inputs"].items():
            assert name in given or not one.get("required"), name
        inputs = {name: given.get(name, one.get("default", "")) for name, one in self.action["inputs"].items()}
        self.temp.mkdir()
        status = 0
        for step in self.action["runs"]["steps"]:
            condition = step.get("if", "")
            if status and not condition.startswith("always()"):
                continue
            if condition and not self._holds(condition.partition("&&")[2].strip(), inputs):
                continue
            if "uses" in step:
                self._use(step, inputs)
            else:
                status = self._run(step, inputs) or status
        self.outputs = {name: self._expand(one["value"], inputs) for name, one in self.action["outputs"].items()}
        return status

    def _run(self, step: Mapping[str, Any], inputs: Mapping[str, str]) -> int:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "a name from outside would be a command"
        files = {name: self.temp / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
        files["GITHUB_OUTPUT"].write_text("")
        environment = self.environment | {
            **{name: self._expand(value, inputs) for name, value in step.get("env", {}).items()},
            **{name: str(path) for name, path in files.items()},
            "GITHUB_ACTION_PATH": str(self.source),
            "GITHUB_JOB": "gate",
            "RUNNER_TEMP": str(self.temp),
        }
        done = shell(step["run"], self.workspace, environment)
        self.said += done.stdout + done.stderr
        if "id" in step:
            self._steps[step["id"]] = dict(
                line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines()
            )
        if files["GITHUB_ENV"].exists():
            self.environment |= dict(line.split("=", 1) for line in files["GITHUB_ENV"].read_text().splitlines())
        return done.returncode

    def _use(self, step: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        given = {name: self._expand(str(value), inputs) for name, value in step.get("with", {}).items()}
        self.used.append((step["uses"], given))
        if step["uses"].startswith("actions/setup-python@"):
            self._steps[step["id"]] = {"python-path": sys.executable}
        elif step["uses"].startswith("actions/upload-artifact@"):
            self.kept = Path(given["path"])

    def _holds(self, condition: str, inputs: Mapping[str, str]) -> bool:
        if not condition:
            return True
        left, _, right = condition.partition(" != ")
        return self._expand("${{ " + left + " }}", inputs) != right.strip("'")

    def _expand(self, text: str, inputs: Mapping[str, str]) -> str:
        fixed = {"runner.temp": str(self.temp), "runner.os": "Linux", "runner.arch": "X64"}

        def value(found: re.Match[str]) -> str:
            words = found[1].split(".")
            if words[0] == "inputs":
                return inputs[words[1]]
            if words[0] == "steps":
                return self._steps.get(words[1], {}).get(words[3], "")
            return fixed[found[1]]

        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", value, str(text))


def bare_environment(folder: Path) -> Path:
    """A Python environment with pip and nothing else; return its programs' folder."""
    venv.create(folder, with_pip=True)
    return folder / "bin"
