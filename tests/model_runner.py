"""Ask ``run_model.py`` from a test: one process a framework, started together on first use."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_checkpoints
from family_models import FamilyModel
from numpy_roformer import Array, Forward

from roformer_convert.converters import RoFormerConfig
from roformer_convert.converters.table.mapping import BASE, CLASSES, MLM, POOLER, PRETRAINING, SOP

FRAMEWORKS = ("torch", "paddle", "tf")
PACKAGES = {"torch": "torch", "paddle": "paddle", "tf": "tensorflow"}
Arrays = dict[str, Any]
#: Of the largest value, for float64: a few thousand roundings of 1.1e-16.
FLOAT64 = 1e-11


class ModelFailedError(Exception):
    """The framework's process raised: ``kind`` is the exception's name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Runner:
    """One framework's process and a directory for the arrays that go to and fro."""

    def __init__(self, framework: str, scratch: Path) -> None:
        self.framework = framework
        self.scratch = scratch
        self.count = 0
        scratch.mkdir()
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "3"}
        environment.pop("PYTEST_CURRENT_TEST", None)
        self.log = (scratch / "stderr.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("run_model.py")), framework],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )

    def ask(self, do: str, **request: Any) -> Arrays:
        """Send one request and wait for its answer.

        Raises:
            ModelFailedError: The framework's process raised.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.log.flush()
            log = (self.scratch / "stderr.txt").read_text()[-2000:]
            raise AssertionError(f"{self.framework}'s process ended with {self.process.wait()}:\n{log}")
        answer: Arrays = json.loads(line)
        if "error" in answer:
            raise ModelFailedError(*answer["error"])
        return answer

    def file(self) -> Path:
        """A fresh path for an .npz file."""
        self.count += 1
        return self.scratch / f"{self.count}.npz"

    def inputs(self, arrays: Arrays) -> str:
        """Write a call's arrays."""
        path = self.file()
        np.savez(path, **arrays)
        return str(path)

    def forward(self, directory: Path, arrays: Arrays, do: str = "forward", **request: Any) -> Arrays:
        """Run a model once: ``out0``, ``out1`` and taps, as float arrays."""
        output = self.file()
        self.answer = self.ask(do, directory=str(directory), inputs=self.inputs(arrays), output=str(output), **request)
        with np.load(output) as found:
            return {name: found[name] for name in found.files}

    def gradients(self, directory: Path, arrays: Arrays, **request: Any) -> Arrays:
        """Return every parameter's gradient; ``answer`` counts the layers that were computed on the way."""
        output = self.file()
        self.answer = self.ask(
            "gradients", directory=str(directory), inputs=self.inputs(arrays), output=str(output), **request
        )
        with np.load(output) as found:
            return {name: found[name] for name in found.files}

    def rotate(self, x: Any, dtype: str, do: str = "rotate") -> Any:
        """Rotate x (P, N, D), its tokens at positions 0 to P - 1."""
        output = self.file()
        self.ask(do, inputs=self.inputs({"x": x.astype(dtype)}), dtype=dtype, output=str(output))
        with np.load(output) as found:
            return found["out0"]

    def compiled(self, directory: Path, batches: list[Arrays], **request: Any) -> tuple[list[Arrays], int]:
        """Run batches through one compiled forward; return their outputs and how often it was traced."""
        inputs, outputs = [self.inputs(batch) for batch in batches], [self.file() for _ in batches]
        answer = self.ask(
            "compiled", directory=str(directory), inputs=inputs, outputs=[str(path) for path in outputs], **request
        )
        found = []
        for path in outputs:
            with np.load(path) as arrays:
                found.append({name: arrays[name] for name in arrays.files})
        return found, int(answer["traces"])

    def stop(self) -> None:
        """End the process."""
        self.process.kill()  # TensorFlow takes seconds to leave by itself
        self.process.wait()
        self.log.close()


class Runners(dict[str, Runner]):
    """Framework → its process; a framework that is not installed is missing, and asking for it skips the test."""

    def __missing__(self, framework: str) -> Runner:
        pytest.skip(f"{PACKAGES[framework]} is not installed")


def start(scratch: Path) -> Runners:
    """Start every framework that is installed."""
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec(PACKAGES[name]) is not None]
    return Runners({name: Runner(name, scratch / name) for name in installed})


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runners]:
    """Every framework's process, for the tests of one file."""
    started = start(tmp_path_factory.mktemp("runners"))
    yield started
    for runner in started.values():
        runner.stop()


def batch(config: RoFormerConfig, lengths: tuple[int, ...], columns: int, seed: int = 0) -> Arrays:
    """Random ids and types, and a mask of ``lengths`` real tokens a row. Padding holds random ids too."""
    generator = np.random.default_rng(seed)
    shape = (len(lengths), columns)
    return {
        "input_ids": generator.integers(0, config.vocab_size, shape),
        "token_type_ids": generator.integers(0, config.type_vocab_size, shape),
        "attention_mask": (np.arange(columns) < np.array(lengths)[:, None]).astype(np.int64),
    }


def write(path: Path, config: RoFormerConfig, dialect: str = "torch", groups: Any = (POOLER, MLM, SOP)) -> Arrays:
    """Write a random float64 checkpoint; return its tensors."""
    tensors = random_checkpoints.random_tensors(config, groups, dtype="float64")
    random_checkpoints.save(path, dialect, tensors, config, dtype="float64")  # type: ignore[arg-type]
    return tensors


def assert_close(got: Any, want: Any, tolerance: float, what: str) -> None:
    """Hold ``got`` to ``tolerance`` times the largest value of ``want``, element-wise."""
    assert got.shape == want.shape, what
    assert np.isfinite(got).all(), what
    error = float(abs(got - want).max())
    assert error <= tolerance * float(abs(want).max()), f"{what}: {error:.3g} off, largest {float(abs(want).max()):.3g}"


def assert_agree(found: dict[str, Arrays], names: list[str] | None = None, tolerance: float = FLOAT64) -> None:
    """Hold every framework to the first, output by output; skip the test where there is no second one."""
    reference, *others = found
    if not others:
        pytest.skip(f"nothing to compare {reference} with: no other framework is installed")
    for other in others:
        assert found[other].keys() == found[reference].keys()
        for name in names or found[reference]:
            assert_close(found[other][name], found[reference][name], tolerance, f"{other} against {reference}: {name}")


def family_results(
    model: FamilyModel, tensors: Arrays, input_ids: Array, token_type_ids: Array, attention_mask: Array
) -> list[Array]:
    """Compute what a model of the family returns in numpy."""
    judge, inputs = Forward(tensors, model.config), (input_ids, token_type_ids, attention_mask)
    if model.kind is CLASSES["multiple-choice"]:
        return [judge.choices(*inputs)]
    hidden = judge.hidden(*inputs)
    pooled = [judge.pooled(hidden[:, 0])] if "pooler.weight" in tensors else []
    if model.kind is BASE:
        return [hidden, *pooled]
    if model.kind is PRETRAINING:
        return [judge.logits(hidden), judge.linear("sop", pooled[0])]
    if model.kind.scores_words:
        return [judge.logits(hidden)]
    rows = model.kind is CLASSES["sequence-classification"]
    return [judge.row_labels(hidden) if rows else judge.token_labels(hidden)]
