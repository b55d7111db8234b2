"""One launch for a rotation, one for a sum and its norm, one product for query, key and value: on a GPU alone.

No GPU is here. The choice is made on devices that are pretended and with kernels that are planted, right ones and wrong
ones; the kernels in Triton run in its interpreter, and are compiled for GPUs, where triton is installed.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from small_model import SMALL

from roformer_convert.models import ops_torch
from roformer_convert.models.kernels import attention_torch as kernels
from roformer_convert.models.kernels import choice_torch as choice
from roformer_convert.models.kernels.attention_torch import KERNELS, Device, Kernel, candidates, pretending
from roformer_convert.models.kernels.trials_torch import Need, attempt, rotate_runs
from roformer_convert.models.processes.frameworks import is_installed
from roformer_convert.models.roformer_torch import Linear, ParameterMaker, RoFormerForMaskedLM

CPU = Device("cpu", "cpu")
V100 = Device("cuda", "V100", (7, 0))
H200 = Device("cuda", "H200", (9, 0))
HERE = torch.device("cpu")
NEEDS = {"rotation": (3, 10), "add_norm": (48,)}
CONFIG = replace(SMALL, initializer_range=0.5)


@pytest.fixture(autouse=True)
def _nothing_settled() -> Iterator[None]:
    choice._settled.cache_clear()
    choice.verdicts.clear()
    yield
    choice._settled.cache_clear()


@pytest.mark.parametrize(
    ("place", "device", "dtype", "sizes", "want"),
    [
        ("rotation", H200, "bfloat16", (12, 64), True),
        ("rotation", H200, "float64", (3, 10), True),
        ("rotation", H200, "float32", (64, 128), True),
        ("rotation", H200, "float32", (65, 128), False),
        ("rotation", V100, "float16", (12, 64), False),
        ("rotation", CPU, "float32", (12, 64), False),
        ("add_norm", H200, "bfloat16", (768,), True),
        ("add_norm", H200, "float32", (8193,), False),
        ("add_norm", H200, "float64", (768,), False),
        ("add_norm", V100, "float16", (768,), False),
    ],
)
def test_a_kernel_is_tried_where_triton_compiles(
    place: Any, device: Device, dtype: str, sizes: tuple[int, ...], want: bool
) -> None:
    assert [one.name for one in candidates(device, place, dtype, sizes, (2, 4))] == ["a kernel in Triton"] * want
    assert not candidates(device, place, dtype, sizes, (2, 3))


# --- the trial --------------------------------------------------------------------------------------------------------

Run = Callable[..., Any]


def turned(turns: Any, *runs: Any) -> Any:
    """By the model's own operators, which the trial does not use."""
    return [ops_torch.rotate(x, turns) for x in runs]


def backwards(turns: Any, *runs: Any) -> Any:
    return turned(turns * torch.tensor([1.0, -1.0]).to(turns), *runs)


def halves(turns: Any, *runs: Any) -> Any:
    cosine, sine = turns.unbind(-1)
    pairs = [x.to(turns.dtype).chunk(2, dim=-1) for x in runs]
    return [torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1).to(runs[0].dtype) for a, b in pairs]


def value_left(turns: Any, *runs: Any) -> Any:
    return [*turned(turns, *runs[:2]), *runs[2:]]


def side_by_side(turns: Any, *runs: Any) -> Any:
    """Reads memory as if tokens lay next to one another."""
    return turned(turns, *(x.as_strided(x.shape, (x[0].numel(), x.shape[2], 1), x.storage_offset()) for x in runs))


def rounded_angles(turns: Any, *runs: Any) -> Any:
    return turned(turns.bfloat16().to(turns), *runs)


def no_way_back(turns: Any, *runs: Any) -> Any:
    return [x.detach() + 0 * runs[0] for x in turned(turns, *runs)]


def added(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    total = x + residual
    wide = total.double()
    apart = wide - wide.mean(-1, keepdim=True)
    return (apart / (apart.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight + bias).to(x.dtype)


def no_residual(x: Any, residual: Any, *rest: Any) -> Any:
    return added(x, x, *rest)


def no_epsilon(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    return added(x, residual, weight, bias, 0.0)


def no_bias(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    return added(x, residual, weight, 0 * bias, epsilon)


def crash(*_: Any) -> Any:
    raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid\nmore")


def planted(run: Run, place: Any) -> Kernel:
    return replace(next(one for one in KERNELS if one.place == place), name="planted", run=run)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize(("run", "place"), [(turned, "rotation"), (added, "add_norm")])
def test_a_right_kernel_agrees(run: Run, place: Any, dtype: str) -> None:
    with torch.inference_mode():  # where a batch is first met
        verdict = attempt(planted(run, place), Need(place, dtype, NEEDS[place]), HERE)
    assert verdict.agrees, verdict.why


@pytest.mark.parametrize(
    ("run", "place", "why"),
    [
        (backwards, "rotation", "the result is off by"),
        (halves, "rotation", "the result is off by"),
        (value_left, "rotation", "the result is off by"),
        (side_by_side, "rotation", "the result is off by"),
        (rounded_angles, "rotation", "the result is off by"),
        (no_way_back, "rotation", "gradient of runs is off by"),
        (crash, "rotation", "RuntimeError: Triton Error [CUDA]: device kernel image is invalid"),
        (no_residual, "add_norm", "the result is off by"),
        (no_epsilon, "add_norm", "the result is off by"),
        (no_bias, "add_norm", "the result is off by"),
        (crash, "add_norm", "RuntimeError: Triton Error"),
    ],
)
def test_a_kernel_that_lies_is_refused(run: Run, place: Any, why: str) -> None:
    verdict = attempt(planted(run, place), Need(place, "float32", NEEDS[place]), HERE)
    assert not verdict.agrees
    assert verdict.why.startswith(why)
    assert "\n" not in verdict.why


def test_the_plain_rotation_of_a_trial_is_the_models() -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(7, 3, 10, dtype=torch.float64), torch.randn(7, 1, 5, dtype=torch.float64)
    turns = torch.stack([angles.cos(), angles.sin()], -1)
    assert abs(rotate_runs(turns, x, 2 * x)[1] - 2 * ops_torch.rotate(x, turns)).max() < 1e-14


def test_a_compiled_rotation_is_the_models_on_either_device() -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(7, 3, 10, dtype=torch.float64), torch.randn(7, 1, 5, dtype=torch.float64)
    turns = torch.stack([angles.cos(), angles.sin()], -1)
    for turn in (ops_torch._turn_apart, ops_torch._turn_swapped):
        turned = turn(x.reshape(7, 3, 5, 2), turns)
        assert abs(turned.reshape(x.shape) - ops_torch.rotate(x, turns)).max() < 1e-14
    meta = [one.to("meta", torch.bfloat16) for one in (x, turns)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops_torch, "traced", lambda: True)
        patch.setattr(ops_torch, "_turn_apart", crash)
        assert ops_torch.rotate(*meta).shape == x.shape


# --- what the model calls ---------------------------------------------------------------------------------------------


def model(dtype: str = "float32", **more: Any) -> Any:
    torch.manual_seed(0)
    return RoFormerForMaskedLM(replace(CONFIG, **more), dtype=dtype).eval()


def logits(made: Any) -> Any:
    ids = torch.randint(0, 60, (3, 20), generator=torch.Generator().manual_seed(1))
    return made(ids)


def recorder(run: Run, calls: list[int]) -> Run:
    def record(*arguments: Any) -> Any:
        calls.append(len(arguments))
        return run(*arguments)

    return record


@pytest.mark.parametrize("rotary_value", [False, True])
def test_query_and_key_are_turned_in_one_call(rotary_value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = model(rotary_value=rotary_value), list[int]()
    want = logits(made)
    monkeypatch.setattr(kernels, "KERNELS", (planted(recorder(turned, calls), "rotation"),))
    with pretending(H200):
        got = logits(made)
    assert [one.agrees for one in choice.verdicts] == [True]
    assert calls[-2:] == [4 if rotary_value else 3] * 2  # the turns are one of them
    assert abs(got - want).max() < 1e-4


def test_gradients_pass_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("float64")
    parameters = list(made.parameters())
    want = torch.autograd.grad(logits(made).square().sum(), parameters)
    calls = list[int]()
    monkeypatch.setattr(kernels, "KERNELS", (planted(recorder(turned, calls), "rotation"),))
    with pretending(H200):
        got = torch.autograd.grad(logits(made).square().sum(), parameters)
    assert calls
    for one, other in zip(got, want, strict=True):
        assert abs(one - other).max() <= 1e-9 * abs(other).max()


def test_a_sum_is_normalized_in_one_call_where_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = model(), list[int]()
    want = logits(made)
    monkeypatch.setattr(kernels, "KERNELS", (planted(recorder(added, calls), "add_norm"),))
    with pretending(H200):
        logits(made)
        with torch.inference_mode(), torch.autocast("cpu"):
            logits(made)
        assert not calls  # training, and a type that autocast would choose
        with torch.inference_mode():
            got = logits(made)
    assert [one.agrees for one in choice.verdicts] == [True]
    assert calls[-4:] == [5] * 4
    assert len(calls) == 5  # tried once
    assert abs(got - want).max() < 1e-4


def test_autocast_chooses_the_type_of_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "KERNELS", (planted(added, "add_norm"),))
    x, ones = torch.randn(3, 8, dtype=torch.bfloat16), torch.ones(8, dtype=torch.bfloat16)
    with pretending(H200), torch.inference_mode():
        with torch.autocast("cpu"):
            ops_torch.add_norm(x, x, ones, ones, 1e-5, 0.0, False)
        assert not choice.verdicts
        ops_torch.add_norm(x, x, ones, ones, 1e-5, 0.0, False)
    assert [one.agrees for one in choice.verdicts] == [True]


@pytest.mark.parametrize(("run", "place"), [(backwards, "rotation"), (crash, "rotation"), (no_epsilon, "add_norm")])
def test_a_model_does_without_a_kernel_that_lies(
    run: Run, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = model()
    with torch.inference_mode():
        want = logits(made)
        monkeypatch.setattr(kernels, "KERNELS", (planted(run, place),))
        with pretending(H200):
            assert torch.equal(logits(made), want)
            logits(made)
    (said,) = caplog.messages
    assert said.startswith(f"planted for {place} in float32 on H200 is left out: ")


def test_a_kernel_that_there_was_no_room_to_try_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()

    def once_too_large(turns: Any, *runs: Any) -> Any:
        calls.append(len(runs))
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return turned(turns, *runs)

    monkeypatch.setattr(kernels, "KERNELS", (planted(once_too_large, "rotation"),))
    with pretending(H200), torch.inference_mode():
        with pytest.raises(torch.cuda.OutOfMemoryError):
            logits(model())
        logits(model())
    assert [one.agrees for one in choice.verdicts] == [True]


def test_a_compiled_model_is_one_graph_and_asks_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made, graphs = model(), list[Any]()
    ids = torch.randint(0, 60, (3, 20), generator=torch.Generator().manual_seed(1))
    given = {"attention_mask": (torch.arange(20) < torch.tensor([[20], [7], [1]])).long(), "positions": ids[0, :5]}
    want = made(ids, **given)

    def keep(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for each in (ops_torch, choice):
        monkeypatch.setattr(each, "device_of", crash)
    monkeypatch.setattr(ops_torch, "_JOINED_TOKENS", 1)
    torch._dynamo.reset()
    with torch.inference_mode():
        got = torch.compile(made, backend=keep, fullgraph=True)(ids, **given, packed=False)
    assert len(graphs) == 1
    assert abs(got - want).max() < 1e-4


def test_a_batch_too_long_for_a_graph_is_an_error_that_dynamo_can_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert ops_torch.measure(torch.zeros(2, 64), CONFIG) == (2, 64)
    with pytest.raises(ValueError, match="longer than 64 tokens") as caught:
        ops_torch.measure(torch.zeros(2, 65), CONFIG)
    assert (
        type(caught.value) is ValueError
    )  # in PyTorch 2.11 torch._check ends the graph where its message says a number


@pytest.mark.parametrize("device", [CPU, H200])
def test_a_graph_that_is_traced_has_the_plain_operators(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "KERNELS", (planted(crash, "rotation"), planted(crash, "add_norm")))
    monkeypatch.setattr(ops_torch, "traced", lambda: True)
    with pretending(device), torch.inference_mode():
        logits(model())
    assert not choice.verdicts


# --- one product for query, key and value -----------------------------------------------------------------------------


def three(bias: bool = True, outputs: int = 32) -> list[Any]:
    torch.manual_seed(0)
    return [Linear(24, outputs, ParameterMaker(CONFIG, "float32"), bias) for _ in range(3)]


def products(layers: list[Any], tokens: int, monkeypatch: pytest.MonkeyPatch, device: Device = H200) -> int:
    """Count the products, and see that the results are those of each layer."""
    x = torch.randn(tokens, 24)
    with torch.no_grad():
        want = [layer(x) for layer in layers]
    calls, linear = list[int](), torch.nn.functional.linear
    with monkeypatch.context() as patch, pretending(device):
        patch.setattr(ops_torch, "_onednn_takes", lambda *_: False)
        patch.setattr(torch.nn.functional, "linear", recorder(linear, calls))
        got = ops_torch.project_together(x, layers)
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert abs(one - other).max() < 1e-5
    return len(calls)


@pytest.mark.parametrize("bias", [True, False])
def test_a_large_batch_has_one_product_on_a_gpu(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = three(bias)
    with torch.inference_mode():
        assert products(layers, 2048, monkeypatch) == 1
        assert products(layers, 2047, monkeypatch) == 3
        assert products(layers, 2048, monkeypatch, CPU) == 3
    assert products(layers, 2048, monkeypatch) == 3  # in training


def test_it_reads_weights_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = three()
    with torch.inference_mode():
        products(layers, 2048, monkeypatch)
        layers[1].weight.data *= 2  # as an optimizer does, in place
        layers[2].weight.data = torch.ones(32, 24)
        assert products(layers, 2048, monkeypatch) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers[0].register_forward_hook(lambda *_: None),
        lambda layers: layers[1].register_forward_pre_hook(lambda *_: None),
        lambda layers: vars(layers[2]).update(forward=layers[2].forward),
        lambda layers: layers.__setitem__(2, torch.nn.Linear(24, 32)),
        lambda layers: layers.__setitem__(0, three(bias=False)[0]),
        lambda layers: torch.nn.utils.parametrize.register_parametrization(layers[1], "weight", torch.nn.Tanh()),
    ],
    ids=["hook", "hook before", "forward replaced", "layer replaced", "bias of some", "weight made anew"],
)
def test_layers_that_were_changed_are_called(
    change: Callable[[list[Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = three()
    change(layers)
    with torch.inference_mode():
        assert products(layers, 2048, monkeypatch) == 3


def test_results_that_would_not_be_aligned_are_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        assert products(three(outputs=36), 2048, monkeypatch) == 1
        assert products(three(outputs=34), 2048, monkeypatch) == 3


def test_a_joined_model_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("float64", rotary_value=True)
    with torch.inference_mode():
        want = logits(made)
        monkeypatch.setattr(ops_torch, "_JOINED_TOKENS", 1)
        with pretending(H200):
            got = logits(made)
    assert abs(got - want).max() < 1e-11 * abs(want).max()


# --- Triton itself ----------------------------------------------------------------------------------------------------

needs_triton = pytest.mark.skipif(not is_installed("triton"), reason="needs triton")

INTERPRETED = """
import torch
from roformer_convert.models.kernels import fused_triton as kernels_triton
from roformer_convert.models.kernels.trials_torch import Need, attempt, rotate_runs
from roformer_convert.models.kernels.attention_torch import KERNELS
for kernel in KERNELS:
    sizes = {"rotation": (3, 10), "add_norm": (48,)}.get(kernel.place)
    for dtype in kernel.types if sizes else ():
        print(attempt(kernel, Need(kernel.place, dtype, sizes), torch.device("cpu")))
across, angles = torch.randn(3, 7, 10).transpose(0, 1), torch.randn(7, 1, 5)
turns = torch.stack([angles.cos(), angles.sin()], -1)
runs = across, across[:, :, :1].expand(7, 3, 10)
pairs = zip(kernels_triton.rotate(turns, *runs), rotate_runs(turns, *runs))
print([bool(abs(one - other).max() < 1e-6) for one, other in pairs])
none = torch.empty(0, 3, 10)
print([x.shape for x in kernels_triton.rotate(torch.empty(0, 1, 5, 2), none, none)])
print(kernels_triton.add_norm(none[:, 0], none[:, 0], torch.ones(10), torch.ones(10), 1e-5).shape)
"""


@needs_triton
def test_the_kernels_compute_the_same_in_tritons_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    *verdicts, others, rotated, normalized = done.stdout.splitlines() or [done.stderr] * 3
    assert len(verdicts) == 4 + 3, done.stderr
    assert not [line for line in verdicts if "agrees=True" not in line]
    assert others == "[True, True]"  # runs that lie in memory in another way
    assert (rotated, normalized) == (str([torch.Size([0, 3, 10])] * 2), "torch.Size([0, 10])")


COMPILED = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from roformer_convert.models.kernels import fused_triton as kernels_triton
for capability in (80, 90):
    for dtype, wide in {"bf16": "fp32", "fp16": "fp32", "fp32": "fp32", "fp64": "fp64"}.items():
        runs = dict.fromkeys(("x", "y", "z", "x_out", "y_out", "z_out"), "*" + dtype)
        strides = dict.fromkeys(("x_stride", "y_stride", "z_stride"), "i32")
        kernels = {
            kernels_triton._rotate_kernel: (
                {**runs, "turns": "*" + wide, **strides, "sign": "fp32"},
                {"COUNT": 3, "HEADS": 12, "SIZE": 64, "HB": 16, "SB": 64},
            ),
            kernels_triton._add_norm_kernel: (
                {**dict.fromkeys(("x", "residual", "weight", "bias", "out"), "*" + dtype), "epsilon": "fp32"},
                {"WIDTH": 768, "BLOCK": 1024},
            ),
        }
        for kernel, (arguments, constants) in kernels.items():
            # as at base size: addresses and strides are multiples of 16
            aligned = {(n,): [["tt.divisibility", 16]] for n, one in enumerate(arguments.values()) if one != "fp32"}
            source = ASTSource(kernel, {**arguments, **dict.fromkeys(constants, "constexpr")}, constants, aligned)
            made = triton.compile(source, GPUTarget("cuda", capability, 32), options={"num_warps": 4})
            accesses = re.findall(r"(ld|st)\\.global(\\S*)", made.asm["ptx"])
            order = "".join(kind for kind, _ in accesses)
            print(len(made.asm["cubin"]) > 1000, all(".v" in how for _, how in accesses), "stld" in order)
"""


@needs_triton
def test_the_kernels_compile_for_gpus_and_ask_for_everything_before_they_wait() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True True False"] * 16, done.stderr
