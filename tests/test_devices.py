"""The device that a person names: how it is read, what each framework makes of it, and what is said without one.

No GPU is needed: what a framework would do with one is seen on a framework that is told it has some.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import random_checkpoints

from roformer_convert.converters import ConvertError
from roformer_convert.models.answers import framework_processes
from roformer_convert.models.answers.fill_mask import fill_mask
from roformer_convert.models.processes.devices import CPU, ENVIRONMENT, DeviceError, DeviceName, require_gpu
from roformer_convert.models.processes.frameworks import FRAMEWORKS, is_installed
from roformer_convert.models.processes.process import Process

here = [name for name, one in FRAMEWORKS.items() if is_installed(one.package)]
needs_torch = pytest.mark.skipif(not is_installed("torch"), reason="needs torch")


@pytest.mark.parametrize(
    ("name", "kind", "number", "said"),
    [
        ("cpu", "cpu", 0, "cpu"),
        ("CPU", "cpu", 0, "cpu"),
        ("cpu:0", "cpu", 0, "cpu"),
        ("gpu", "gpu", 0, "gpu:0"),
        ("gpu:2", "gpu", 2, "gpu:2"),
        ("cuda", "gpu", 0, "gpu:0"),
        (" CUDA:11 ", "gpu", 11, "gpu:11"),
    ],
)
def test_names_are_taken_as_people_type_them(name: str, kind: str, number: int, said: str) -> None:
    found = DeviceName.of(name)
    assert (found.kind, found.number, str(found)) == (kind, number, said)
    assert DeviceName.of(str(found)) == found


@pytest.mark.parametrize(
    "name", ["", "gpus", "gpu:", "gpu:-1", "gpu:x", "cpu:1", "0", "tpu", "gpu:1:2", "gpu:²", "gpu:9999"]
)
def test_other_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(DeviceError, match=r"is no device(?s:.)*gpu:1"):
        DeviceName.of(name)


@pytest.mark.parametrize(
    ("number", "count", "computes", "said"),
    [
        (0, 0, False, r"there is no gpu:0: it 1 is built for CPUs alone\n  The build for GPUs: pip install"),
        (1, 0, True, r"there is no gpu:1: it 1 sees no GPU here\n  nvidia-smi .* The build for GPUs: pip install"),
        (2, 2, True, r"there is no gpu:2: it 1 sees 2 here\n  Choose --device gpu:0, gpu:1\.$"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_what_brings_it(
    number: int, count: int, computes: bool, said: str
) -> None:
    device = DeviceName("gpu", number)
    with pytest.raises(DeviceError, match=said):
        require_gpu(device, FRAMEWORKS["tf"], build="it 1", computes=computes, count=count)
    require_gpu(device, FRAMEWORKS["tf"], build="it 1", computes=True, count=number + 1)


def test_each_framework_has_a_build_of_its_own() -> None:
    builds = {name: one.gpu_build for name, one in FRAMEWORKS.items()}
    assert "paddlepaddle-gpu" in builds["paddle"]
    assert "download.pytorch.org/whl/cu" in builds["torch"]
    assert "tensorflow[and-cuda]" in builds["tf"]


# In the frameworks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ops() -> Iterator[Any]:
    """PyTorch's operations, put back on the CPU afterwards."""
    module = importlib.import_module("roformer_convert.models.ops_torch")
    yield module
    module.compute_on(CPU)


@needs_torch
def test_torch_makes_everything_on_the_device(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    ops.compute_on(DeviceName("gpu", 2))
    assert ops._device == torch.device("cuda:2")
    monkeypatch.setattr(ops, "_device", torch.device("meta"))  # one that is here
    made = (
        ops.normal((2, 3), "float32", 0.1, True),
        ops.normal((2, 3), "float32", 0.1, False),
        ops.constant((2,), "float16", 1.0),
        ops.FixedTable(np.zeros((4, 2)), "bfloat16").table,
        ops.to_tensor(np.zeros(3)),
    )
    assert [one.device.type for one in made] == ["meta"] * 5
    assert ops.to_tensor(np.zeros(3), torch.zeros(1)).device.type == "cpu"  # where the other is


@needs_torch
def test_torch_rounds_no_factors(ops: Any) -> None:
    import torch

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    ops.compute_on(CPU)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@needs_torch
def test_a_gpu_beyond_the_last_is_refused_by_its_number(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=r"no gpu:1: torch \S+ sees 1 here"):
        ops.compute_on(DeviceName("gpu", 1))
    assert ops._device == torch.device("cpu")


@needs_torch
def test_a_gpu_that_does_not_start_is_told_in_a_line(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    said = (
        r"^gpu:0 does not start: RuntimeError: The NVIDIA driver .* \(found version 11040\)\.\n  The driver that nvidia"
    )
    with pytest.raises(DeviceError, match=said):
        ops.compute_on(DeviceName("gpu"))
    assert ops._device == torch.device("cpu")


#: Run in a process of its own with the operations of Paddle or TensorFlow: prints what was said to the framework.
PROBES = {
    "paddle": """
import os, sys
from roformer_convert.models import ops_paddle as ops
from roformer_convert.models.processes.devices import DeviceName
paddle, said = ops.paddle, []
paddle.device.is_compiled_with_cuda = lambda: True
paddle.device.cuda.device_count = lambda: 2
paddle.device.set_device = said.append
ops.compute_on(DeviceName.of("gpu:1"))
ops.compute_on(DeviceName.of("cpu"))
print(said, os.environ["NVIDIA_TF32_OVERRIDE"])
""",
    "tf": """
import tensorflow as tf
from roformer_convert.models import ops_tf as ops
from roformer_convert.models.processes.devices import DeviceError, DeviceName
said = []
tf.config.list_physical_devices = lambda kind: ["first", "second"]
tf.config.set_visible_devices = lambda *what: said.append(what)
tf.config.experimental.set_memory_growth = lambda *what: said.append(what)
assert tf.config.experimental.tensor_float_32_execution_enabled()
ops.compute_on(DeviceName.of("gpu:1"))
ops.compute_on(DeviceName.of("cpu"))
print(said, tf.config.experimental.tensor_float_32_execution_enabled())
def late(*what): raise RuntimeError("too late")
tf.config.set_visible_devices = late
try: ops.compute_on(DeviceName.of("gpu"))
except DeviceError as error: print(error)
""",
}
SAID = {
    "paddle": "['gpu:1', 'cpu'] 0\n",
    "tf": "[(['second'], 'GPU'), ('second', True), ([], 'GPU')] False\n"
    "TensorFlow cannot change to gpu:0 any more: too late\n  Choose it first.\n",
}


@pytest.mark.parametrize("framework", [name for name in here if name in PROBES])
def test_paddle_and_tensorflow_are_told_the_device(framework: str) -> None:
    without = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    done = subprocess.run([sys.executable, "-c", PROBES[framework]], env=without, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, SAID[framework]), done.stderr


# In the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("devices") / "ckpt"
    random_checkpoints.write_random(directory, "torch", "masked-lm")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "今"]
    size = random_checkpoints.CONFIG.vocab_size
    rows = vocabulary + [f"[unused{number}]" for number in range(size - len(vocabulary))]
    (directory / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return directory


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    command = [sys.executable, "-m", "roformer_convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPUs of a machine that has some."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")


@pytest.mark.parametrize("framework", here)
@pytest.mark.parametrize("name", ["fill-mask", "predict"])
def test_a_command_without_a_gpu_names_the_build_that_has_one(
    checkpoint: Path, blind: None, name: str, framework: str
) -> None:
    more = ["--vector"] if name == "predict" else []
    done = run(name, checkpoint, "--framework", framework, "--device", "gpu:1", *more, "今[MASK]")
    said = [line for line in done.stderr.splitlines() if not line.startswith(f"{name}: note: ")]
    assert (done.returncode, done.stdout, len(said)) == (2, "", 2), done.stderr
    assert said[0].startswith(f"{name}: {framework}: there is no gpu:1: {FRAMEWORKS[framework].package} ")
    assert said[1].endswith(FRAMEWORKS[framework].gpu_build)


@pytest.mark.parametrize(("to", "framework"), [("onnx", "torch"), ("savedmodel", "tf"), ("paddle-inference", "paddle")])
def test_an_export_without_a_gpu_names_the_build_and_leaves_nothing(
    checkpoint: Path, blind: None, to: str, framework: str
) -> None:
    if framework not in here or (to == "onnx" and not (is_installed("onnx") and is_installed("onnxscript"))):
        pytest.skip(f"{to} needs packages")
    before = sorted(checkpoint.parent.iterdir())
    done = run("export", checkpoint, "--to", to, "--device", "gpu")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert f"{framework}: there is no gpu:0" in done.stderr
    assert FRAMEWORKS[framework].gpu_build in done.stderr
    assert sorted(checkpoint.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["fill-mask", "predict", "export"])
def test_what_is_no_device_is_said_before_anything_is_opened(name: str) -> None:
    more = ["--to", "onnx"] if name == "export" else ["今"]
    done = run(name, "nowhere", *more, "--device", "tpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'tpu' is no device. Known: cpu, gpu (the first one), gpu:1 and so on." in done.stderr


@needs_torch
def test_nothing_is_loaded_where_there_is_no_such_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from roformer_convert.models import roformer_torch
    from roformer_convert.models.answers.worker import Worker

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("it was loaded")

    monkeypatch.setattr(roformer_torch.RoFormerModel, "from_pretrained", load)
    nothing: dict[str, Any] = dict.fromkeys(("directory", "stated", "extend_to"))
    with pytest.raises(DeviceError):
        Worker("torch").answer({"load": {"model_class": "RoFormerModel", "device": "gpu:99", **nothing}})


def test_the_processes_round_no_factors_either(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Never(Process):
        def __init__(self, name: str, module: str, arguments: Any, environment: Any) -> None:
            given.append(environment)
            raise ConvertError("not here")

    monkeypatch.setattr(framework_processes, "Process", Never)
    with pytest.raises(ConvertError, match="not here"):
        list(fill_mask(checkpoint, ["今[MASK]"]))
    assert given == [ENVIRONMENT]
    assert ENVIRONMENT["NVIDIA_TF32_OVERRIDE"] == "0"
