"""The operator audit: its types are those that Paddle itself confirms, and an operator without a kernel fails it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

# not importorskip: Paddle is to be imported by start_paddle
if importlib.util.find_spec("paddle") is None:
    pytest.skip("could not import 'paddle'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audit import __main__ as command  # noqa: E402
from audit.dispatch_log import Operator, Recording, read_log  # noqa: E402
from audit.kernel_list import KernelList, read_kernel_list, write_kernel_list  # noqa: E402
from audit.verdicts import capability_of, judge  # noqa: E402


@pytest.fixture(scope="module")
def kernels() -> KernelList:
    return read_kernel_list(command.KERNEL_LIST)


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    """Everything, recorded with the Paddle that is installed: about ten seconds of a processor."""
    return command.record(command.KERNEL_LIST)


def recording(recordings: list[Recording], scenario: str) -> Recording:
    return next(each for each in recordings if each.scenario == scenario)


def types_of(recording: Recording, name: str) -> set[str]:
    return {operator.dtype for operator in recording.callers if operator.name == name}


def recorded(script: str) -> list[Recording]:
    """Record a few lines of Python."""
    head = (
        "from audit.half_types import as_on_a_gpu, paddle\nfrom audit.marks import mark\n"
        "from pathlib import Path\nfrom audit.kernel_list import read_kernel_list\n"
        f"kernels = read_kernel_list(Path({str(command.KERNEL_LIST)!r})).types\nF = paddle.nn.functional\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + script],
        stderr=subprocess.PIPE,
        env={**os.environ, "GLOG_v": "6"},
        cwd=ROOT,
        text=True,
        errors="replace",
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return read_log(done.stderr.splitlines())


# --- the audit itself


def test_every_operator_has_a_kernel_in_its_type(recordings: list[Recording], kernels: KernelList) -> None:
    assert [str(fault) for fault in judge(recordings, kernels)] == []


def test_every_kind_of_work_was_recorded(recordings: list[Recording]) -> None:
    names = [each.scenario for each in recordings]
    assert len(set(names)) == len(names)
    for wanted in (
        "fp32",
        "fp16-o1",
        "fp16-o2",
        "bf16-o2",
        "2 ranks sharded, micro-batches, recompute",
        "fill-mask",
        "next words, causal",
        "next words, unilm",
        "gate",
        "trials",
    ):
        assert any(wanted in name for name in names), wanted
    assert {capability_of(name) for name in names} == {(6, 1), (7, 0), (7, 5), (8, 0), (9, 0)}
    assert all(len(each.callers) > 20 for each in recordings)


def test_forward_backward_and_optimiser_are_seen(recordings: list[Recording]) -> None:
    found = recording(recordings, "train fp16-o2, plain, 7.0")
    for name in ("matmul", "matmul_grad", "layer_norm_grad", "dropout_grad", "embedding_grad", "softmax_grad"):
        assert types_of(found, name) == {"float16"}, name
    assert types_of(found, "adamw") == {"float32"}  # on the masters
    assert any("ops_paddle.py" in caller for caller in found.callers[Operator("matmul", "float16")])


def test_o2_keeps_the_residual_stream_half(recordings: list[Recording]) -> None:
    for scenario in ("train fp16-o2, plain, 7.0", "train fp16-o2, fast, 7.0"):
        found = recording(recordings, scenario)
        for name in ("embedding", "dropout", "layer_norm", "gelu", "matmul"):
            assert types_of(found, name) == {"float16"}, (scenario, name)
        in_model = {
            caller.rpartition(":")[2]
            for operator, callers in found.callers.items()
            for caller in callers
            if operator.dtype == "float32" and caller.startswith("models/")
        }
        # the last two make the masters; without a kernel a batch that is nearly all real is not packed
        padded = {"turns_of_rows"} if "plain" in scenario else set()
        assert in_model == {"rotate", "turns_of_tokens", "normal", "constant"} | padded, scenario


def test_full_precision_has_no_half_type(recordings: list[Recording]) -> None:
    for name in ("train fp32, plain, 7.0", "fill-mask, fast, 7.0", "gate, fast, 7.0"):
        assert not {o for o in recording(recordings, name).callers if o.dtype in ("float16", "bfloat16")}


def test_attention_is_chosen_by_capability_and_type(recordings: list[Recording]) -> None:
    flash, efficient = "flash_attn_unpadded", "memory_efficient_attention"
    for scenario, name, want in [
        ("train fp16-o2, fast, 7.0", efficient, {"float16"}),
        ("train fp16-o2, fast, 7.5", efficient, {"float16"}),
        ("train fp16-o2, fast, 9.0", flash, {"float16"}),
        ("train bf16-o2, fast, 8.0", flash, {"bfloat16"}),
        ("train fp32, fast, 6.1", efficient, {"float32"}),
        ("next words, causal, fast, 7.0", efficient, {"float32"}),
        ("next words, unilm, fast, 7.0", efficient, set()),
    ]:
        found = recording(recordings, scenario)
        assert types_of(found, name) == types_of(found, f"{name}_grad") == want, scenario
    for each in recordings:
        if capability_of(each.scenario) < (8, 0):
            assert not types_of(each, flash) | types_of(each, "flash_attn"), each.scenario
        if ", plain," in each.scenario:
            assert not types_of(each, efficient), each.scenario


# --- what would go wrong fails it


def test_an_operator_without_a_kernel_fails_the_audit(kernels: KernelList) -> None:
    # its GPU kernels are for float32 and float64: a half matrix has none
    assert kernels.types["cholesky"] == {"float32", "float64"}
    (found,) = recorded(
        "with as_on_a_gpu((7, 0), kernels):\n"
        "    mark('scenario', 'planted, plain, 7.0')\n"
        "    x = paddle.eye(4).astype('float16')\n"
        "    x.stop_gradient = False\n"
        "    paddle.linalg.cholesky(x).sum().backward()\n"
    )
    faults = [str(fault) for fault in judge([found], kernels)]
    assert len(faults) == 2
    for name, fault in zip(("cholesky", "cholesky_grad"), faults, strict=True):
        assert fault.startswith(f"{name} in float16: paddlepaddle-gpu 2.6.2, CUDA 11.8 has GPU kernels for float32")
        assert "in planted, plain, 7.0" in fault


def test_a_list_without_a_kernel_fails_the_audit(
    recordings: list[Recording],
    kernels: KernelList,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    types = dict(kernels.types)
    types["gelu_grad"] -= {"float16"}
    del types["fused_gemm_epilogue"]
    write_kernel_list(tmp_path / "planted.txt", replace(kernels, types=types))
    monkeypatch.setattr(command, "record", lambda path: recordings)
    assert command.main(["--list", str(tmp_path / "planted.txt")]) == 1
    said = capsys.readouterr().err
    assert "2 of these would go wrong on a GPU" not in said  # one fault for each type of the missing operator
    assert "gelu_grad in float16: " in said
    assert "fused_gemm_epilogue in float16: paddlepaddle-gpu 2.6.2, CUDA 11.8 has no GPU kernel of this name" in said
    assert "models/ops_paddle.py:" in said.partition("gelu_grad in float16")[2]  # where its operator was called
    assert command.main([]) == 0


@pytest.mark.parametrize(
    ("operator", "capability", "wants"),
    [
        (Operator("flash_attn_unpadded_grad", "float16"), "7.0", "8.0"),
        (Operator("flash_attn", "float16"), "7.5", "8.0"),
        (Operator("matmul", "bfloat16"), "7.5", "8.0"),
        (Operator("matmul", "float16"), "6.1", "7.0"),
    ],
)
def test_a_kernel_for_newer_gpus_fails_the_audit(
    operator: Operator, capability: str, wants: str, kernels: KernelList
) -> None:
    found = Recording(f"planted, fast, {capability}")
    found.callers[operator].add("models/ops_paddle.py:200:attend")
    (fault,) = judge([found], kernels)
    assert str(fault).splitlines() == [
        f"{operator.name} in {operator.dtype}: wants compute capability {wants}; the GPU has {capability}",
        "    called from models/ops_paddle.py:200:attend",
        f"    in planted, fast, {capability}",
    ]


def test_scenarios_that_cannot_be_run_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "paddle.py").write_text("raise SystemError('planted')\n")
    assert command.main([]) == 2
    said = capfd.readouterr().err
    assert "the scenarios could not be run" in said
    assert "SystemError: planted" in said


def test_what_is_no_list_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("matmul float32\n")
    assert command.main(["--list", str(tmp_path / "other.txt")]) == 2
    assert command.main(["--list", str(tmp_path / "missing.txt")]) == 2
    assert capsys.readouterr().err.count("is not a list of kernels") == 2


# --- the recording


def test_what_goes_past_the_recording_is_found_in_paddles_log() -> None:
    (found,) = recorded(
        "past = paddle._C_ops.matmul\n"
        "with as_on_a_gpu((7, 0), kernels):\n"
        "    mark('scenario', 'planted')\n"
        "    x = paddle.ones([4, 4])\n"
        "    with paddle.amp.auto_cast(level='O1'):\n"
        "        past(x, x, False, False)\n"
    )
    assert found.doubts == ["matmul_v2, called from paddle, would be half; it was recorded in float32"]


def test_what_a_list_halves_against_paddle_is_found() -> None:
    (found,) = recorded(
        "from audit.half_types import _Dispatcher\n"
        "cast = _Dispatcher._cast\n"
        "_Dispatcher._cast = lambda self, name, args, tracer: (cast(self, 'matmul', args, tracer)[0], True)\n"
        "with as_on_a_gpu((7, 0), kernels):\n"
        "    mark('scenario', 'planted')\n"
        "    x = paddle.ones([4, 4])\n"
        "    with paddle.amp.auto_cast(level='O1'):\n"
        "        F.softmax(x)\n"
    )
    assert found.doubts == ["softmax was halved by a list; Paddle's mixed precision would not"]


def test_mixed_precision_follows_paddles_lists_and_types() -> None:
    (found,) = recorded(
        "with as_on_a_gpu((7, 0), kernels):\n"
        "    mark('scenario', 'rule')\n"
        "    x, scale = paddle.ones([4, 4]), paddle.ones([4])\n"
        "    with paddle.amp.auto_cast(level='O1'):\n"
        "        half = paddle.matmul(x, x)\n"  # allowed
        "        assert half.dtype == paddle.float16\n"
        "        assert F.gelu(half).dtype == paddle.float16\n"  # in no list: by its input
        "        assert (half + x).dtype == paddle.float32\n"  # the widest of them
        "        assert F.softmax(half).dtype == paddle.float32\n"  # blocked
        "    assert F.layer_norm(half, 4, scale, scale).dtype == paddle.float16\n"  # the scale stays float32
        "with as_on_a_gpu((6, 1), kernels), paddle.amp.auto_cast(level='O1'):\n"
        "    assert paddle.matmul(x, x).dtype == paddle.float32\n"  # Paddle switches itself off
    )
    assert found.doubts == []
    assert types_of(found, "layer_norm") == {"float16"}
    assert types_of(found, "softmax") == {"float32"}


def test_half_gradients_are_those_of_float32() -> None:
    (found,) = recorded(
        "import numpy\n"
        "def gradients(dtype):\n"
        "    paddle.seed(1)\n"
        "    x, w, b = (paddle.randn(shape).astype(dtype).astype('float32') for shape in ([6, 8], [8, 5], [5]))\n"
        "    x, w, b = (each.astype(dtype) for each in (x, w, b))\n"
        "    for each in (x, w, b):\n"
        "        each.stop_gradient = False\n"
        "    y = F.gelu(F.linear(x, w, b)).reshape([2, 15])\n"
        "    F.softmax(y * 2.0)[0].astype('float32').square().sum().backward()\n"
        "    assert all(each.grad.dtype == each.dtype for each in (x, w, b))\n"
        "    return [each.grad.astype('float32').numpy() for each in (x, w, b)]\n"
        "with as_on_a_gpu((7, 0), kernels):\n"
        "    mark('scenario', 'gradients')\n"
        "    half, single = gradients('float16'), gradients('float32')\n"
        "for a, b in zip(half, single):\n"
        "    assert abs(a - b).max() < 2e-2 * abs(b).max(), (a, b)\n"  # some roundings of 2⁻¹¹ in a row
        "    assert abs(b).max() > 1e-3\n"
    )
    assert {"float16", "float32"} <= types_of(found, "matmul_grad")


LOG = """\
I1127 08:29:08.563290  7539 api.cc:88787] matmul API kernel key: [CPU, NCHW, float32]
@audit scenario one, plain, 7.0
@audit call matmul models/ops_paddle.py:1:project
I1127 08:29:08.563290  7539 api.cc:88787] matmul API kernel key: [CPU, NCHW, float32]
I1127 08:29:08.563299  7539 api.cc:88794] matmul kernel: {"input":["CPU, NCHW, float32"]}
@audit aside
I1127 08:29:08.563290  7539 api.cc:1] cast API kernel key: [CPU, NCHW, float16]
I1127 08:29:08.563299  7539 api.cc:2] cast kernel: {"input":["CPU, NCHW, float16"]}
@audit end
@audit half bfloat16
I1127 08:29:08.563290  7539 backward_api.cc:1] embedding_grad API kernel key: [CPU, Undefined(AnyLayout), float32]
I1127 08:29:08.563299  7539 backward_api.cc:2] embedding_grad kernel: {"input":[
I1127 08:29:08.563290  7539 api.cc:1] full API kernel key: [CPU, Undefined(AnyLayout), int64]
I1127 08:29:08.563299  7539 api.cc:2] full kernel: {"input":[]
@audit end
I1127 08:29:08.563290  7539 nodes.cc:1] Running C++ API: embedding_grad
I1127 08:29:08.563290  7539 api_custom_impl.cc:235] embedding_grad API kernel key: [CPU, NCHW, float64]
I1127 08:29:08.563299  7539 api_custom_impl.cc:247] embedding_grad API kernel: {"input":["CPU, NCHW, float64"]}
I1127 08:29:08.563290  7539 nodes.cc:1] Finish AD API GRAD: embedding_grad
@audit stands-for flash_attn float16
@audit scenario two, plain, 7.0
"""


def test_a_log_is_read_as_it_is_written() -> None:
    first, second = read_log(LOG.splitlines())
    assert dict(first.callers) == {
        Operator(name, dtype): {"models/ops_paddle.py:1:project"}
        for name, dtype in [
            ("matmul", "float32"), ("embedding_grad", "bfloat16"), ("full", "int64"), ("embedding_grad", "float64"),
            ("flash_attn", "float16"),
        ]
    }  # fmt: skip
    assert first.doubts == []
    assert (second.scenario, dict(second.callers)) == ("two, plain, 7.0", {})


def test_an_operator_that_logs_no_kernel_is_doubted() -> None:
    lines = [line for line in LOG.splitlines() if "embedding_grad API kernel: " not in line]
    (doubt,) = read_log(lines)[0].doubts
    assert doubt.startswith("embedding_grad, called from models/ops_paddle.py:1:project, ran, and Paddle logged no")


# --- the committed list


def test_the_list_is_that_of_the_build_for_v100s(kernels: KernelList, tmp_path: Path) -> None:
    assert kernels.build == "paddlepaddle-gpu 2.6.2, CUDA 11.8"
    assert kernels.types["flash_attn"] == {"float16", "bfloat16"}
    assert kernels.types["memory_efficient_attention"] == {"float16", "bfloat16", "float32"}
    assert {"float16", "float32", "float64"} <= kernels.types["matmul"] & kernels.types["adamw"]
    assert len(kernels.types) > 1000
    write_kernel_list(tmp_path / "again.txt", kernels)
    assert (tmp_path / "again.txt").read_bytes() == command.KERNEL_LIST.read_bytes()
    assert command.KERNEL_LIST.stat().st_size < 200_000
