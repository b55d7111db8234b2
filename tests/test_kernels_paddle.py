"""Fast kernels of Paddle: which may be tried where, and which stands in. No GPU is here: kernels are planted."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("paddle")

from planted_kernels import (
    CAUSAL,
    NEEDS,
    V100,
    attention_dropping,
    found,
    make_model,
    plant,
    projection,
    result_wrong,
    rotation,
)
from small_model import SMALL

from roformer_convert.models.kernels import attention_paddle as kernels
from roformer_convert.models.kernels.attention_paddle import KERNELS, Device, Kernel, candidates, find, pretending
from roformer_convert.models.ops_paddle import F
from roformer_convert.models.processes.process import DeathError
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import choice_paddle as choice
from roformer_convert.models.proving import trials_paddle as trials
from roformer_convert.models.proving.choice_paddle import settle
from roformer_convert.models.proving.trials_paddle import Need, Verdict, attempt


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen", {})


# --- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "dtype", "want"),
    [
        ((6, 1), "float16", ["memory-efficient attention"]),
        ((6, 1), "float32", ["memory-efficient attention"]),
        ((7, 0), "float16", ["memory-efficient attention"]),
        ((7, 0), "float32", ["memory-efficient attention"]),
        ((7, 5), "float16", ["memory-efficient attention"]),
        ((8, 0), "float16", ["FlashAttention", "memory-efficient attention"]),
        ((8, 0), "bfloat16", ["FlashAttention", "memory-efficient attention"]),
        ((8, 0), "float32", ["memory-efficient attention"]),
        ((9, 0), "bfloat16", ["FlashAttention", "memory-efficient attention"]),
        ((3, 7), "float16", []),
        ((8, 0), "float64", []),
        (None, "float32", []),
    ],
)
def test_attention_is_chosen_by_capability_and_type(
    capability: tuple[int, int] | None, dtype: str, want: list[str]
) -> None:
    assert [kernel.name for kernel in candidates(Device("faked", capability), "attention", dtype)] == want


def test_every_kernel_stands_in_somewhere() -> None:
    asked: set[str] = set()
    for device in (V100, Device("A100", (8, 0))):
        with pretending(device, heard=lambda kernel, dtype: asked.add(kernel.name)):
            for place in kernels.PLACES:
                for dtype in ("float16", "bfloat16", "float32"):
                    assert find(place, dtype, 1, 1) is None
    assert asked == {kernel.name for kernel in KERNELS}


# --- Paddle's own, with operators that compute on a CPU what their kernels do on a GPU --------------------------------


def _memory_efficient_operator(
    query: Any, key: Any, value: Any, bias: Any, starts: Any, key_starts: Any, diagonal: Any, lengths: Any,
    longest: Any, longest_key: Any, causal: Any, dropout: float, scale: float, is_test: bool,
) -> Any:  # fmt: skip
    """Source: kernel_forward.h of cutlass's 41_fused_multi_head_attention, of which Paddle's is a copy."""
    assert (bias, diagonal, lengths, is_test) == (None, None, None, False)
    assert starts is key_starts
    rows = np.diff(starts.numpy())
    assert longest == longest_key == rows.max()
    q, k, v = (x.squeeze(0) for x in (query, key, value))
    scale = scale * query.shape[3] ** 0.5
    context = attention_dropping(q, k, v, rows.tolist(), lambda w: F.dropout(w, dropout), scale, causal)
    return context.unsqueeze(0), None, None


def _flash_operator(
    query: Any, key: Any, value: Any, starts: Any, key_starts: Any, seed: Any, mask: Any, longest: Any,
    longest_key: Any, scale: float, dropout: float, causal: bool, with_softmax: bool, is_test: bool, name: str,
) -> Any:  # fmt: skip
    """Source: flash_fwd.h of FlashAttention 2, ``mha_varlen_fwd``."""
    assert (seed, mask, with_softmax, is_test, name) == (None, None, False, False, "")
    assert starts.dtype == paddle.int32
    rows = np.diff(starts.numpy())
    assert longest == longest_key == rows.max()
    scale = scale * query.shape[2] ** 0.5
    return attention_dropping(query, key, value, rows.tolist(), lambda w: F.dropout(w, dropout), scale, causal), None


def _rotary_operator(q: Any, k: Any, v: Any, sin: Any, cos: Any, positions: Any, neox: bool, *_: Any) -> Any:
    """Source: ``VectorizedFusedRopeWithRotateEveryTwoKernel`` in phi/kernels/fusion/gpu/fused_rope_utils.h."""
    assert (k, v, positions, neox) == (None, None, None, True)
    assert sin.shape == cos.shape == [1, q.shape[1], 1, q.shape[3]]
    assert sin.dtype == cos.dtype == q.dtype
    even, odd = q[..., 0::2], q[..., 1::2]
    first = cos[..., 0::2] * even - sin[..., 0::2] * odd
    second = sin[..., 1::2] * even + cos[..., 1::2] * odd
    return paddle.stack([first, second], axis=-1).reshape(q.shape), None, None


def _add_norm_operator(x: Any, residual: Any, bias: Any, weight: Any, shift: Any, *options: Any) -> Any:
    """Source: phi/kernels/fusion/gpu/fused_layernorm_residual_dropout_bias.h."""
    assert bias is None
    named = isinstance(options[0], str)  # 2.6 names its attributes
    given = dict(zip(options[::2], options[1::2], strict=True)) if named else {}
    dropout = given["dropout_rate"] if named else options[0]
    epsilon = given["ln_epsilon"] if named else next(each for each in options[1:] if isinstance(each, float))
    assert "upscale_in_train" in options
    assert weight.dtype == shift.dtype == paddle.float32
    out = F.layer_norm(residual + F.dropout(x, dropout), x.shape[-1], weight, shift, epsilon)
    return (None, None, None, None, out) if named else out


def _projection_operator(x: Any, weight: Any, bias: Any, *options: Any) -> Any:
    """Source: phi/kernels/funcs/fused_gemm_epilogue.h."""
    assert not any(each is True for each in options)  # nothing is transposed
    out = paddle.matmul(x, weight) + bias
    return out if "trans_x" in options else (out, None)


OPERATORS: dict[str, Callable[..., Any]] = {
    "flash_attn_unpadded": _flash_operator,
    "memory_efficient_attention": _memory_efficient_operator,
    "fused_rotary_position_embedding": _rotary_operator,
    "fused_bias_dropout_residual_layer_norm": _add_norm_operator,
    "fused_gemm_epilogue": _projection_operator,
}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.place}-{kernel.name}".replace(" ", "_"))
def test_paddles_functions_are_given_what_their_kernels_want(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def operator(*arguments: Any) -> Any:
        called.append(kernel.operators[0])
        return OPERATORS[kernel.operators[0]](*arguments)

    for module in (paddle._C_ops, paddle._legacy_C_ops):
        monkeypatch.setattr(module, kernel.operators[0], operator, raising=False)
    verdict = attempt(kernel, replace(NEEDS[kernel.place], dropout=0.1))
    assert verdict.agrees, verdict
    assert called


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_the_first_that_agrees_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = plant("projection", result_wrong(lambda x: -x, projection), "bad")
    good, other = plant("projection", projection, "good"), plant("projection", projection, "other")
    late = plant("projection", projection, "late", (8, 0))
    monkeypatch.setattr(kernels, "KERNELS", (late, bad, good, other))
    with pretending(V100):
        verdicts = settle([NEEDS["projection"]], attempt)
    assert [(verdict.kernel, verdict.agrees) for verdict in verdicts] == [("bad", False), ("good", True)]
    assert found(V100, "projection", "float32", *NEEDS["projection"].sizes) is projection
    assert found(V100, "projection", "float16", *NEEDS["projection"].sizes) is None
    assert found(V100, "projection", "float32", 7, 7) is None
    assert choice.lines(verdicts) == [
        f"projection: bad in float32 is left out: {verdicts[0].why}",
        f"projection: good in float32, {verdicts[1].why}",
    ]


def test_a_kernel_that_is_wrong_in_one_type_serves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(x: Any, weight: Any, bias: Any) -> Any:
        return projection(x, weight, bias) * (1.01 if x.dtype == paddle.float32 else 1.0)

    monkeypatch.setattr(kernels, "KERNELS", (plant("projection", run),))
    with pretending(V100):
        wide = replace(NEEDS["projection"], dtype="float64")
        verdicts = settle([NEEDS["projection"], wide], attempt)
    assert [verdict.agrees for verdict in verdicts] == [False, True]
    assert found(V100, "projection", "float32", *wide.sizes) is None
    assert found(V100, "projection", "float64", *wide.sizes) is run


def test_a_kernel_stands_in_on_its_device_alone() -> None:
    need = NEEDS["rotation"]
    with mock.patch.object(kernels, "current_device", return_value=V100):
        kernels.choose(plant("rotation", rotation), need.dtype, need.sizes, dropping=False)
    assert found(V100, "rotation", need.dtype, *need.sizes) is rotation
    assert found(Device("A100", (8, 0)), "rotation", need.dtype, *need.sizes) is None
    assert find("rotation", need.dtype, *need.sizes) is None  # on the CPU


def test_where_rows_begin_is_known_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels._rows_on.cache_clear()
    made = []
    for place in ("gpu:0", "gpu:1", "gpu:0"):
        monkeypatch.setattr(paddle.device, "get_device", lambda place=place: place)
        made.append(kernels._rows((3, 0, 2))[0])
    assert made[0] is made[2]
    assert made[0] is not made[1]
    assert made[1].tolist() == [0, 3, 5]


def test_a_kernel_that_is_wrong_where_it_drops_serves_where_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(query: Any, key: Any, value: Any, lengths: Any, dropout: float) -> Any:
        return attention_dropping(query, key, value, lengths, lambda weights: weights, causal=True)

    monkeypatch.setattr(kernels, "KERNELS", (plant("causal_attention", run),))
    need = NEEDS["causal_attention"]
    assert need.dropout
    with pretending(V100):
        verdicts = settle([need, replace(need, dropout=0.0)], attempt)
    assert [(verdict.agrees, verdict.why) for verdict in verdicts[:1]] == [
        (False, "it drops 0.0 % of the elements, want 10.0 %")
    ]
    assert verdicts[1].agrees
    assert found(V100, "causal_attention", "float32", *need.sizes) is run
    assert found(V100, "causal_attention", "float32", *need.sizes, dropping=True) is None


def test_the_kernels_of_paddle_are_left_out_here_one_by_one() -> None:
    """A process tries each of them on a CPU, which has machine code for none; none of them is taken for good."""
    with choice._Elsewhere("cpu") as elsewhere:
        for kernel in KERNELS:
            verdict = elsewhere.attempt(kernel, NEEDS[kernel.place])
            assert not verdict.agrees, verdict
            assert "Error" in verdict.why, verdict


def test_the_process_of_trials_tries_the_kernel_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Kernel] = []

    def serve(answer: Callable[[Any], Any]) -> None:
        for kernel in KERNELS:
            answer({"kernel": kernel.name, "need": asdict(NEEDS[kernel.place])})

    monkeypatch.setattr(choice, "serve", serve)

    def attempt(kernel: Kernel, need: Need) -> Verdict:
        asked.append(kernel)
        return Verdict(kernel.name, need, True, "")

    monkeypatch.setattr(choice, "attempt", attempt)
    choice.main("cpu")
    assert asked == list(KERNELS)


def test_a_kernel_that_ends_its_process_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Dying:
        def __init__(self, *arguments: Any) -> None:
            asked.append(self)

        def ask(self, request: Any) -> None:
            raise DeathError("kernel trial", -11, "C++ Traceback\nSegmentation fault")

        def close(self) -> None:
            pass

    monkeypatch.setattr(choice, "Process", Dying)
    with choice._Elsewhere("gpu:0") as elsewhere:
        for kernel in KERNELS[:2]:
            verdict = elsewhere.attempt(kernel, NEEDS["attention"])
            assert (verdict.agrees, verdict.why) == (False, "it crashes its process: Segmentation fault")
    assert len(asked) == 2


def test_a_cpu_has_nothing_to_prove() -> None:
    assert choice.prove(SMALL, ("float32",), training=True) == ()


def test_a_gpu_is_asked_once_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Need]] = []

    class Agreeing:
        def __init__(self, device: str) -> None:
            pass

        def __enter__(self) -> Agreeing:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def attempt(self, kernel: Kernel, need: Need) -> Verdict:
            asked.append((kernel.name, need))
            return Verdict(kernel.name, need, need.dtype == "float16", "told so")

    devices = {"gpu:0": V100, "gpu:1": Device("T4", (7, 5)), "cpu": Device("CPU", None)}
    monkeypatch.setattr(kernels, "_device", devices.__getitem__)
    monkeypatch.setattr(choice, "_Elsewhere", Agreeing)
    choice._proven.cache_clear()
    types = ("float16", "float32")
    wanted = trials.needs(SMALL, types)
    try:
        for place in ("gpu:0", "gpu:1"):
            monkeypatch.setattr(paddle.device, "get_device", lambda place=place: place)
            asked.clear()
            assert not any(find(need.place, need.dtype, *need.sizes) for need in wanted)
            verdicts = choice.prove(SMALL, types, training=True)
            assert choice.prove(SMALL, types, training=True) == verdicts
            assert [need for _, need in asked] == wanted  # one candidate each on these devices
            for need in wanted:
                assert (find(need.place, need.dtype, *need.sizes) is not None) == (need.dtype == "float16")
        monkeypatch.setattr(paddle.device, "get_device", lambda: "cpu")
        assert not any(find(need.place, need.dtype, *need.sizes) for need in wanted)
    finally:
        choice._proven.cache_clear()
    assert {need.dropout for need in wanted if need.place in ("attention", "add_norm")} == {0.1}


@pytest.mark.parametrize(("training", "dropout"), [(True, 0.1), (False, 0.0)])
def test_inference_is_not_denied_a_kernel_for_its_dropout(
    training: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Need] = []
    monkeypatch.setattr(choice, "current_device", lambda: V100)
    monkeypatch.setattr(choice, "settle", lambda wanted, attempt: asked.extend(wanted) or [])  # type: ignore[func-returns-value]
    choice._proven.cache_clear()
    try:
        choice.prove(CAUSAL, ("float32",), training=training)
    finally:
        choice._proven.cache_clear()
    drops = {need.place: need.dropout for need in asked}
    assert drops == {"causal_attention": dropout, "rotation": 0.0, "add_norm": dropout, "projection": 0.0}


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_attention_falls_back_from_flash_to_the_next(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need = replace(NEEDS["attention"], dtype=kind)
    with pretending(Device("A100", (8, 0))):
        verdicts = settle([need], lambda kernel, need: Verdict(kernel.name, need, kernel.name != "FlashAttention", ""))
    names = [verdict.kernel for verdict in verdicts]
    assert names == ["FlashAttention"] * (kind == "float16") + ["memory-efficient attention"]
    stands_in = found(Device("A100", (8, 0)), "attention", kind, *need.sizes)
    assert stands_in is next(kernel.run for kernel in KERNELS if kernel.name == "memory-efficient attention")


def test_fill_mask_and_the_gate_try_them_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from roformer_convert.models.answers import worker
    from roformer_convert.parity.participants import run_paddle
    from roformer_convert.parity.participants.run import run

    model, asked = make_model(), []
    for module in (choice, run_paddle):
        monkeypatch.setattr(module, "prove", lambda config, types, **how: asked.append((config, types, how)))
    worker.Worker("paddle").take(model)
    ids = np.ones((1, 3), np.int64)
    run(run_paddle, model, SimpleNamespace(arrays=lambda: {"input_ids": ids}, packed=False))  # type: ignore[arg-type]
    assert asked == [(SMALL, (dtype,), {"training": False}) for dtype in ("float32", "float64")]
