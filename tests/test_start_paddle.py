"""Paddle is started with what its CPU wheel needs, and refused where its import would crash."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PADDLE = importlib.util.find_spec("paddle") is not None
TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, without what the caller's environment says of MKL and malloc."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("MKL_", "MALLOC_"))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env={**mine, **environment}
    )


@pytest.mark.skipif(not (PADDLE and TENSORFLOW), reason="needs paddle and tensorflow")
def test_paddle_after_tensorflow_is_refused_and_no_crash() -> None:
    code = "import tensorflow\ntry:\n    import roformer_convert.models.roformer_paddle\nexcept Exception as e:\n    "
    done = run(code + "print(type(e).__name__, e)")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("StartError TensorFlow is imported in this process")
    assert "one process a framework" in done.stdout


@pytest.mark.skipif(not PADDLE, reason="needs paddle")
def test_starting_sets_the_environment_before_paddle_and_says_so() -> None:
    code = """
import json, os
import roformer_convert.models.processes.start_paddle as start
print(json.dumps([os.environ.get("MKL_DEBUG_CPU_TYPE"), start.processor().vendor, list(start.NOTES)]))
"""
    found, vendor, notes = json.loads(run(code).stdout)
    assert found == ("5" if vendor == "AuthenticAMD" else None)
    assert any("MKL_DEBUG_CPU_TYPE=5" in note for note in notes) == (vendor == "AuthenticAMD")
    if sys.platform == "linux":
        assert any("glibc" in note for note in notes) or not Path("/lib/x86_64-linux-gnu/libc.so.6").exists()
    assert json.loads(run(code, MKL_DEBUG_CPU_TYPE="4").stdout)[0] == "4"
    assert not any("glibc" in note for note in json.loads(run(code, MALLOC_TRIM_THRESHOLD_="1").stdout)[2])


@pytest.mark.skipif(not PADDLE, reason="needs paddle")
def test_processor_type_is_chosen_for_amd_alone_and_never_overruled() -> None:
    code = """
import json
from roformer_convert.models.processes.start_paddle import choose_kernels
found = []
for vendor, environment, imported in (
    ("AuthenticAMD", {}, False),
    ("GenuineIntel", {}, False),
    ("", {}, False),
    ("AuthenticAMD", {"MKL_DEBUG_CPU_TYPE": "4"}, False),
    ("AuthenticAMD", {}, True),
):
    note = choose_kernels(environment, vendor, imported=imported)
    found.append([environment.get("MKL_DEBUG_CPU_TYPE"), note or ""])
print(json.dumps(found))
"""
    amd, intel, unknown, set_already, late = json.loads(run(code).stdout)
    assert amd[0] == "5"
    assert "MKL_DEBUG_CPU_TYPE=5" in amd[1]
    assert intel == unknown == [None, ""]
    assert set_already == ["4", ""]
    assert late[0] is None
    assert "imported before" in late[1]
