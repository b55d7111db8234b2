"""Completion by the tab key, as the README says to switch it on, in bash itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
LINES = re.findall(r"^eval .*_source roformer-.*$", README.read_text(encoding="utf-8"), re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")


def complete(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last of some words."""
    for program, module in (
        ("roformer-convert", "roformer_convert"),
        ("roformer-pretrain", "roformer_convert.pretrain"),
    ):
        (tmp_path / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (tmp_path / program).chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in words)
    function = f"_{words[0].replace('-', '_')}_completion"
    script = "\n".join(
        [
            "compopt() { :; }",  # works inside a completion alone
            *LINES,
            f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}",
            f"{function} {words[0]}",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def test_the_readme_switches_completion_on_for_both_programs() -> None:
    assert len(LINES) == 2


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("roformer-convert", "paddle2"), ["paddle2torch", "paddle2tf"]),
        (("roformer-convert", "convert", "x", "--to", "t"), ["torch", "tf", "tf1"]),
        (("roformer-convert", "paddle2torch", "--dry"), ["--dry-run"]),
        (("roformer-pretrain", "tr"), ["train"]),
    ],
)
def test_bash_completes_commands_options_and_names(tmp_path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(tmp_path, *words) == offered
