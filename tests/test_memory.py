"""Memory that runs out: batches are cut until they fit and that is said once, or one line says what does not fit.

Each framework's own errors are real ones of its CPU allocator; those of a GPU are made by hand.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_checkpoints

from roformer_convert.converters import ConvertError
from roformer_convert.converters.source.stated import to_json
from roformer_convert.models.answers import framework_processes
from roformer_convert.models.answers.framework_processes import Row, ask
from roformer_convert.models.answers.worker import Batch, Worker
from roformer_convert.models.processes.devices import CPU, DeviceName
from roformer_convert.models.processes.frameworks import FRAMEWORKS, is_installed
from roformer_convert.models.processes.memory import FittingBatches, OutOfMemoryError, Rows, needing_memory

needs_torch = pytest.mark.skipif(not is_installed("torch"), reason="needs torch")
GPU = DeviceName("gpu", 1)


class SpentError(Exception):
    """A framework's error."""


def spent(error: BaseException) -> bool:
    return isinstance(error, SpentError)


class Memory:
    """Computes a row's first id, on a device that takes so many tokens at once.

    Attributes:
        tried: Rows and columns of each batch.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.tried: list[tuple[int, int]] = []

    def __call__(self, rows: Rows) -> list[Any]:
        longest = max(len(row["ids"]) for row in rows)
        self.tried.append((len(rows), longest))
        if len(rows) * longest > self.tokens:
            raise SpentError
        return [row["ids"][0] for row in rows]


def rows(*lengths: int) -> list[dict[str, Any]]:
    return [{"ids": [number] * length} for number, length in enumerate(lengths)]


# Batches -------------------------------------------------------------------------------------------------------------


def test_what_fits_is_computed_at_once() -> None:
    memory, batches = Memory(40), FittingBatches(GPU, spent)
    assert batches.run(memory, rows(10, 10, 9, 1)) == ([0, 1, 2, 3], [])
    assert memory.tried == [(4, 10)]


def test_a_batch_is_halved_until_it_fits_and_no_larger_one_is_tried_again() -> None:
    memory, batches = Memory(25), FittingBatches(GPU, spent)
    found, notes = batches.run(memory, rows(10, 10, 10, 10, 10, 10, 4, 4, 4, 4, 4, 4))
    assert found == list(range(12))
    assert notes == [
        "out of memory on gpu:1 with a batch of 12 × 10 tokens; 1 × 10 fits, and no larger one is tried again"
    ]
    assert memory.tried == [(12, 10), (6, 10), (3, 10), *[(1, 10)] * 6, *[(2, 4)] * 3]
    memory.tried.clear()
    assert batches.run(memory, rows(5, 5, 5)) == ([0, 1, 2], [])
    assert memory.tried == [(2, 5), (1, 5)]


def test_one_row_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(OutOfMemoryError) as raised:
        FittingBatches(GPU, spent).run(Memory(99), rows(100, 5))
    assert raised.value.what == "out of memory on gpu:1: a batch of 1 × 100 tokens does not fit and cannot be divided"
    assert "or leave --device out" in str(raised.value.next_step)


def test_rows_that_belong_together_are_not_divided() -> None:
    memory = Memory(39)
    with pytest.raises(OutOfMemoryError, match="a batch of 4 × 10 tokens does not fit"):
        FittingBatches(GPU, spent).run(memory, rows(10, 3, 10, 4), divisible=False)
    assert memory.tried == [(4, 10)]


def test_any_other_error_passes() -> None:
    def broken(_: Rows) -> list[Any]:
        raise KeyError("x")

    with pytest.raises(KeyError):
        FittingBatches(GPU, spent).run(broken, rows(1, 1))
    with pytest.raises(KeyError), needing_memory(GPU, spent, "it does not fit"):
        raise KeyError


def test_what_has_no_batch_is_named() -> None:
    said = r"^out of memory on cpu: it does not fit\n  Free memory on this"
    with pytest.raises(OutOfMemoryError, match=said), needing_memory(CPU, spent, "it does not fit"):
        raise SpentError


# The frameworks' errors ----------------------------------------------------------------------------------------------

#: More than any address space has.
TOO_MUCH = {
    "paddle": "ops.paddle.zeros([1 << 46])",
    "torch": "ops.torch.empty(1 << 46)",
    "tf": "ops.tf.zeros([1 << 26, 1 << 20])",
}
#: As a GPU build says it, from its sources: constructors that a CPU build has too.
ON_A_GPU = {
    "paddle": [
        "MemoryError('(ResourceExhausted) \\n\\nOut of memory error on GPU 0. Cannot allocate 4GB memory')",
        "OSError('(External) CUBLAS error(3). [Hint: CUBLAS_STATUS_ALLOC_FAILED]')",
    ],
    "torch": [
        "ops.torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')",
        "RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')",
        "RuntimeError('CUDA error: out of memory')",
        "RuntimeError('Triton Error [CUDA]: out of memory')",
        "MemoryError()",
    ],
    "tf": ["ops.tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')", "MemoryError()"],
}
PROBE = """
import importlib, sys
ops = importlib.import_module("roformer_convert.models." + sys.argv[1])
ops.compute_on(importlib.import_module("roformer_convert.models.processes.devices").CPU)
try: eval(sys.argv[2])
except Exception as error: print(ops.ran_out(error))
for other in sys.argv[3:]: print(ops.ran_out(eval(other)))
print(ops.ran_out(RuntimeError("CUDA error: invalid argument")), ops.ran_out(ValueError("1")))
"""


@pytest.mark.parametrize("framework", [name for name, one in FRAMEWORKS.items() if is_installed(one.package)])
def test_each_framework_knows_its_own_error(framework: str) -> None:
    arguments = [FRAMEWORKS[framework].operations, TOO_MUCH[framework], *ON_A_GPU[framework]]
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * (1 + len(ON_A_GPU[framework])) + ["False", "False"], done.stderr


# In the worker -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("memory") / "ckpt"
    random_checkpoints.write_random(directory, "torch", "masked-lm")
    return directory


def load(directory: Path) -> dict[str, Any]:
    return {
        "load": {
            "model_class": "RoFormerForMaskedLM",
            "directory": str(directory),
            "extend_to": 2048,
            "stated": to_json({}),
            "device": "cpu",
        }
    }


def some_rows() -> list[Row]:
    random = np.random.default_rng(5)
    lengths = sorted(random.integers(2, 17, 30).tolist(), reverse=True)
    return [Row(random.integers(0, 40, length).tolist(), [0] * length, [length - 1]) for length in lengths]


def request(some: list[Row]) -> dict[str, Any]:
    return {"words": {"rows": [dict(row.__dict__) for row in some], "pad_id": 0, "top_k": 3}}


class Small(Worker):
    """A worker on a device that takes 70 tokens at once."""

    def run(self, batch: Batch, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        import torch

        if batch.ids.size > 70:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().run(batch, *arguments, **options)


@needs_torch
def test_a_small_device_gives_what_a_large_one_does(checkpoint: Path) -> None:
    answers = []
    for kind in (Worker, Small):
        worker = kind("torch")
        worker.answer(load(checkpoint))
        answers.append(worker.answer(request(some_rows())))
    large, small = answers
    assert large["notes"] == []
    (note,) = small["notes"]
    assert note.startswith("out of memory on cpu with a batch of 30 × 16 tokens; 3 × 16 fits")
    for one, other in zip(large["rows"], small["rows"], strict=True):
        assert one[0][0] == other[0][0]
        assert one[0][1] == pytest.approx(other[0][1], abs=1e-6)


@needs_torch
def test_the_person_is_told_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """Runs the worker in this process."""

        name = "torch"

        def __init__(self) -> None:
            self.worker, self.requests = Small("torch"), list[Any]()
            self.worker.answer(load(checkpoint))

        def ask(self, request: Any) -> None:
            self.requests.append(request)

        def answer(self) -> Any:
            return self.worker.answer(self.requests.pop())

    monkeypatch.setattr(framework_processes, "_BATCH_TOKENS", 160)
    notes: list[str] = []
    some, process = some_rows(), Here()
    options = {"pad_id": 0, "top_k": 3}
    (found,) = ask([process], "words", [[[row] for row in some]], options, together=False, note=notes.append)  # type: ignore[list-item]
    assert len(found) == 30
    assert notes == [
        "torch: out of memory on cpu with a batch of 10 × 16 tokens; 2 × 16 fits, and no larger one is tried again"
    ]


def test_the_options_of_a_question_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("torch")
    worker.batches = FittingBatches(GPU, spent)
    monkeypatch.setattr(worker, "choices", lambda rows, pad_id: Memory(10)(rows))
    with pytest.raises(OutOfMemoryError, match="a batch of 2 × 8 tokens"):
        worker.answer({"choices": {"rows": rows(8, 8), "pad_id": 0}})


@needs_torch
def test_weights_that_do_not_fit_are_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def too_much(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    roformer = importlib.import_module("roformer_convert.models.roformer_torch")
    monkeypatch.setattr(roformer.RoFormerForMaskedLM, "from_pretrained", too_much)
    with pytest.raises(ConvertError, match=r"^out of memory on cpu: the weights do not fit\n"):
        Worker("torch").answer(load(checkpoint))


@pytest.mark.parametrize(
    ("module", "package"), [("onnx", "torch"), ("savedmodel", "tf"), ("paddle_inference", "paddle")]
)
def test_an_export_that_does_not_fit_is_one_line(module: str, package: str) -> None:
    if not is_installed(FRAMEWORKS[package].package):
        pytest.skip(f"needs {package}")
    probe = f"""
from roformer_convert.models.export import {module} as export, making
def too_much(*_): raise MemoryError
export.make = too_much
making.main("{package}", "{module}")
"""
    asked = json.dumps({"device": "gpu"})
    done = subprocess.run([sys.executable, "-c", probe], input=asked, capture_output=True, text=True)
    said = "out of memory on gpu:0: the model and its export do not fit"
    assert json.loads(done.stdout)["error"] == said, done.stderr
