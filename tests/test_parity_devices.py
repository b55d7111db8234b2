"""Each participant computes where it was told to, with float32 in full; no GPU is needed to see that it is told."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity_faults import Bench

from roformer_convert.converters.errors import ConvertError
from roformer_convert.models.processes.devices import DeviceError, DeviceName
from roformer_convert.models.processes.frameworks import FRAMEWORKS, is_installed
from roformer_convert.models.processes.memory import OutOfMemoryError
from roformer_convert.parity.participants.computing import (
    read_devices,
    require_full_float32,
    require_participants,
    tell_devices,
)
from roformer_convert.parity.participants.dumps import Dump

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"
needs_torch = pytest.mark.skipif(not is_installed("torch"), reason="PyTorch is not installed")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cpu", {"paddle": "cpu", "torch": "cpu", "tf": "cpu"}),
        ("gpu", {"paddle": "gpu:0", "torch": "gpu:0", "tf": "gpu:0"}),
        ("paddle=gpu", {"paddle": "gpu:0"}),
        ("pytorch=cuda:1, tf=cpu", {"torch": "gpu:1", "tf": "cpu"}),
        ("gpu,torch=cpu", {"paddle": "gpu:0", "torch": "cpu", "tf": "gpu:0"}),
    ],
)
def test_a_device_is_for_all_or_for_one(text: str, wanted: dict[str, str]) -> None:
    assert read_devices(text) == wanted


@pytest.mark.parametrize(("text", "said"), [("jax=gpu", "no framework"), ("torch=tpu", "no device"), ("", "no device")])
def test_what_is_neither_is_refused(text: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        read_devices(text)


def test_a_framework_that_computes_nothing_needs_no_device() -> None:
    require_participants(read_devices("gpu"), ["torch"])
    require_participants(read_devices("torch=gpu"), ["torch"])
    with pytest.raises(ConvertError, match=r"paddle=gpu:0, and paddle takes no part"):
        require_participants(read_devices("paddle=gpu"), ["torch", "tf"])


def operations(kept: int) -> Any:
    """Products whose factors keep so many bits after the first."""

    def project(x: Any, weight: Any, bias: Any) -> Any:
        cut = (1 << (23 - kept)) - 1
        return (x.view(np.uint32) & np.uint32(~cut & 0xFFFFFFFF)).view(np.float32) @ weight

    return SimpleNamespace(project=project, to_tensor=lambda x: x, as_numpy=lambda x: x)


def test_products_that_lose_digits_are_refused() -> None:
    require_full_float32(operations(23), "gpu:0")
    for kept in (7, 10):  # bfloat16 and TF32
        with pytest.raises(ConvertError, match=r"float32 products on gpu:0 lose digits(?s:.)*NVIDIA_TF32_OVERRIDE=0"):
            require_full_float32(operations(kept), "gpu:0")


@needs_torch
def test_the_process_computes_where_it_is_told_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    ops = importlib.import_module("roformer_convert.models.ops_torch")
    model = importlib.import_module("roformer_convert.models.roformer_torch")
    told: list[Any] = []
    load = model.RoFormerForPretraining.from_pretrained

    def noted(*given: Any, **named: Any) -> Any:
        told.append("loaded")
        return load(*given, **named)

    monkeypatch.setattr(ops, "compute_on", told.append)
    monkeypatch.setattr(model.RoFormerForPretraining, "from_pretrained", noted)
    bench.device = "gpu:1"
    dump = bench.dump(None)
    assert told[:2] == [DeviceName("gpu", 1), "loaded"]
    assert dump.facts["device"] == "gpu:1"
    assert tell_devices([bench.good, dump]) == [" computed on gpu:1, float32 in full (TF32 off)"]


@needs_torch
def test_a_device_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    ops = importlib.import_module("roformer_convert.models.ops_torch")
    model = importlib.import_module("roformer_convert.models.roformer_torch")

    def too_large(*given: Any, **named: Any) -> Any:
        raise ops.torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(ops, "compute_on", lambda device: None)
    monkeypatch.setattr(model.RoFormerForPretraining, "from_pretrained", too_large)
    bench.device = "gpu:1"
    said = r"^out of memory on gpu:1: the model and the gate's cases do not fit\n  Free memory there"
    with pytest.raises(OutOfMemoryError, match=said):
        bench.dump(None)


@needs_torch
def test_a_gpu_that_is_not_there_is_status_2(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "roformer_convert", "parity", str(FIXTURE), "--frameworks", "torch"]
    done = subprocess.run([*command, "--device", "gpu"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "there is no gpu:0" in done.stderr
    assert FRAMEWORKS["torch"].gpu_build in done.stderr
    assert not done.stdout


def test_what_a_dump_says_is_told() -> None:
    dumps = [Dump(label, label, Path(), Path(), {"device": device}) for label, device in (("a", "cpu"), ("b", "gpu:0"))]
    assert tell_devices(dumps) == ["b computed on gpu:0, float32 in full (TF32 off)"]
