"""Tables of many rows fold those that differ in their layer alone, and ``diff --atol`` takes close values for equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from random_checkpoints import CONFIG, random_tensors, save

from roformer_convert.__main__ import cli
from roformer_convert.converters.errors import fold_names

LAYERS = 9
LARGE = replace(CONFIG, num_hidden_layers=LAYERS)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def large() -> dict[str, np.ndarray]:
    """Tensors of a model with more rows than a screen."""
    tensors = random_tensors()
    mine = {name: array for name, array in tensors.items() if name.startswith("layers.0.")}
    for layer in range(LAYERS):
        tensors |= {name.replace("layers.0.", f"layers.{layer}."): array.copy() for name, array in mine.items()}
    return tensors


def test_names_fold_where_keys_are_equal_and_only_the_layer_differs() -> None:
    keyed = [("a", "x.layers.0.w"), ("a", "other"), ("a", "x.layers.1.w"), ("b", "x.layers.2.w"), ("a", "other")]
    assert fold_names(keyed) == [("x.layers.{0...1}.w", [0, 2]), ("other", [1]), ("x.layers.2.w", [3]), ("other", [4])]


def test_a_long_diff_is_folded_and_names_the_farthest(tmp_path: Path) -> None:
    tensors = large()
    save(tmp_path / "one", "paddle", tensors, LARGE)
    for name, array in tensors.items():
        tensors[name] = array + np.float32(0.25)
    tensors["layers.5.attention.query.weight"][3, 4] += 8
    save(tmp_path / "two", "torch", tensors, LARGE)
    done = run("diff", tmp_path / "one", tmp_path / "two")
    assert done.exit_code == 1
    assert len(done.output.splitlines()) < 40
    line = next(line for line in done.output.splitlines() if ".attention.query.weight" in line)
    assert line.startswith(f"layers.{{0...{LAYERS - 1}}}.attention.query.weight")
    assert "8.25  [3, 4]" in line
    assert line.endswith(f"{LAYERS} tensors, the farthest layers.5.attention.query.weight")
    assert f"differ: {len(tensors)} of {len(tensors)} tensors" in done.output
    assert len(json.loads(run("diff", tmp_path / "one", tmp_path / "two", "--json").output)["tensors"]) == len(tensors)


def test_a_long_plan_is_folded_with_the_bytes_of_all(tmp_path: Path) -> None:
    tensors = large()
    save(tmp_path / "ckpt", "paddle", tensors, LARGE)
    out = run("paddle2torch", tmp_path / "ckpt", "--dry-run").output
    line = next(line for line in out.splitlines() if "intermediate.dense.weight" in line)
    for said in (f"layer.{{0...{LAYERS - 1}}}.", f"layers.{{0...{LAYERS - 1}}}.linear1.weight", "34 × 24"):
        assert said in line
    assert f"transposed, {LAYERS} tensors" in line
    nbytes = tensors["layers.0.feed_forward.in.weight"].nbytes if "layers.0.feed_forward.in.weight" in tensors else 3264
    assert line.split()[-1] == f"{LAYERS * nbytes:,}"
    data = json.loads(run("paddle2torch", tmp_path / "ckpt", "--dry-run", "--json").output)
    assert sum(step["bytes"] for step in data["plan"]) == sum(
        int(line.split()[-1].replace(",", "")) for line in out.split("\n")[2:] if line.startswith(("roformer.", "cls."))
    )


@pytest.mark.parametrize(
    ("atol", "status", "said"),
    [
        ("0.01", 0, "are close: "),
        ("0.5", 0, "are close: "),
        ("1e-9", 1, "differ: 1 of "),
        ("0", 1, "differ: 1 of "),
    ],
)
def test_values_within_the_tolerance_are_close(tmp_path: Path, atol: str, status: int, said: str) -> None:
    tensors = random_tensors()
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    tensors["sop.weight"] = tensors["sop.weight"].copy()
    tensors["sop.weight"][1, 20] += np.float32(0.005)
    save(tmp_path / "two", "torch", tensors, CONFIG)
    done = run("diff", tmp_path / "one", tmp_path / "two", "--atol", atol)
    assert done.exit_code == status
    assert said in done.output
    data = json.loads(run("diff", tmp_path / "one", tmp_path / "two", "--atol", atol, "--json").output)
    assert (data["equal"], data["agree"]) == (False, status == 0)


def test_a_rounded_copy_is_close_whatever_its_type_and_nan_is_not(tmp_path: Path) -> None:
    tensors = random_tensors()
    save(tmp_path / "ckpt", "paddle", tensors, CONFIG)
    run("paddle2torch", tmp_path / "ckpt", "--dtype", "fp16")
    assert run("diff", tmp_path / "ckpt", tmp_path / "ckpt-torch", "--atol", "0.01").exit_code == 0
    assert run("diff", tmp_path / "ckpt", tmp_path / "ckpt-torch").exit_code == 1
    tensors["sop.weight"] = tensors["sop.weight"].copy()
    tensors["sop.weight"][0, 0] = np.nan
    save(tmp_path / "nan", "torch", tensors, CONFIG)
    done = run("diff", tmp_path / "ckpt", tmp_path / "nan", "--atol", "inf")
    assert done.exit_code == 1
    assert "differ: 1 of " in done.output


@pytest.mark.parametrize("wrong", ["-1", "much", "nan"])
def test_what_is_no_tolerance_is_refused(tmp_path: Path, wrong: str) -> None:
    assert run("diff", tmp_path, tmp_path, "--atol", wrong).exit_code == 2
