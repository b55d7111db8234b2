"""Fast kernels of Paddle: which may be tried where, what a trial finds out, and what the model then calls.

No GPU is here, so kernels are planted: right ones and wrong ones, which the CPU can compute.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("paddle")

from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.kernels import attention_paddle as kernels
from roformer_convert.models.kernels.attention_paddle import KERNELS, Device, Kernel, candidates, find, pretending
from roformer_convert.models.ops_paddle import F
from roformer_convert.models.processes.process import DeathError
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import choice_paddle as choice
from roformer_convert.models.proving import trials_paddle as trials
from roformer_convert.models.proving.choice_paddle import settle
from roformer_convert.models.proving.trials_paddle import Need, Verdict, attempt
from roformer_convert.models.roformer_paddle import RoFormerForPretraining

CONFIG = RoFormerConfig(
    vocab_size=60,
    embedding_size=24,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)
V100 = Device("V100", (7, 0))
CAUSAL = replace(CONFIG, attention="causal")
NEEDS = {need.place: need for config in (CAUSAL, CONFIG) for need in trials.needs(config, ["float32"])}


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen", {})


# --- planted kernels, with the arguments of their places --------------------------------------------------------------


def attention(query: Any, key: Any, value: Any, lengths: tuple[int, ...], dropout: float) -> Any:
    """Attend row by row, as a right kernel would."""
    return _attention(query, key, value, lengths, lambda weights: F.dropout(weights, dropout))


def causal_attention(query: Any, key: Any, value: Any, lengths: tuple[int, ...], dropout: float) -> Any:
    """Attend row by row to what was read before."""
    return _attention(query, key, value, lengths, lambda weights: F.dropout(weights, dropout), causal=True)


def _attention(
    query: Any, key: Any, value: Any, lengths: Any, drop: Callable[[Any], Any], scale: float = 1.0, causal: bool = False
) -> Any:
    real = [length for length in lengths if length]
    rows = []
    for q, k, v in zip(*(paddle.split(x, real) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose([1, 0, 2]) for x in (q, k, v))
        scores = paddle.matmul(q * (scale * q.shape[2] ** -0.5), k, transpose_y=True)
        if causal:
            scores = scores + paddle.triu(paddle.full_like(scores[0], -np.inf), 1)
        weights = F.softmax(scores, axis=-1)
        weights = paddle.tril(weights) if causal else weights  # on a CPU the softmax of Paddle ends at exp(-64)
        rows.append(paddle.matmul(drop(weights), v).transpose([1, 0, 2]))
    return paddle.concat(rows)


def rotation(x: Any, turns: Any) -> Any:
    """Turn pairs by the matrix of their angle."""
    cos, sin = (turns[..., i].astype(x.dtype) for i in (0, 1))
    even, odd = x[..., 0::2], x[..., 1::2]
    return paddle.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def add_norm(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float, dropout: float) -> Any:
    return F.layer_norm(residual + F.dropout(x, dropout), x.shape[-1], weight, bias, epsilon)


def projection(x: Any, weight: Any, bias: Any) -> Any:
    return F.linear(x, weight, bias)


RIGHT: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "causal_attention": causal_attention,
    "rotation": rotation,
    "add_norm": add_norm,
    "projection": projection,
}


class WrongGradient(paddle.autograd.PyLayer):
    """Hand x on, and its gradient a thousandth too large."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * 1.001


class OtherGradientMask(paddle.autograd.PyLayer):
    """Drop elements, and drop others on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Any, dropout: float) -> Any:
        ctx.dropout = dropout
        return F.dropout(x, dropout)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return F.dropout(gradient, ctx.dropout)


def _first_wrong(change: Callable[[Any], Any], right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda first, *others: right(change(first), *others)


def _result_wrong(change: Callable[[Any], Any], right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: change(right(*arguments))


def found(device: Device, place: str, dtype: str, *sizes: int, dropping: bool = False) -> Any:
    """What stands in on a device."""
    with mock.patch.object(kernels, "current_device", return_value=device):
        return find(place, dtype, *sizes, dropping=dropping)  # type: ignore[arg-type]


def plant(place: str, run: Callable[..., Any], name: str = "planted", capability: tuple[int, int] = (5, 0)) -> Kernel:
    return Kernel(name, place, capability, ("float32", "float64"), ("an_operator",), run, "here")  # type: ignore[arg-type]


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


# --- trials -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", kernels.PLACES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_right_kernel_agrees(place: str, dropout: float) -> None:
    verdict = attempt(plant(place, RIGHT[place]), replace(NEEDS[place], dropout=dropout))  # type: ignore[index]
    assert verdict.agrees, verdict


@pytest.mark.parametrize("place", kernels.PLACES)
def test_a_wrong_result_is_found(place: str) -> None:
    verdict = attempt(plant(place, _result_wrong(lambda x: x * 1.001, RIGHT[place])), NEEDS[place])  # type: ignore[index]
    assert not verdict.agrees
    assert verdict.why.startswith("the result is off by"), verdict


@pytest.mark.parametrize("place", kernels.PLACES)
def test_a_wrong_gradient_is_found(place: str) -> None:
    kernel = plant(place, _first_wrong(WrongGradient.apply, RIGHT[place]))
    verdict = attempt(kernel, replace(NEEDS[place], dropout=0.0))  # type: ignore[index]
    assert not verdict.agrees
    assert verdict.why.startswith("gradient of "), verdict


@pytest.mark.parametrize("place", kernels.PLACES)
def test_numbers_that_are_not_finite_are_found(place: str) -> None:
    verdict = attempt(plant(place, _result_wrong(lambda x: x * float("nan"), RIGHT[place])), NEEDS[place])  # type: ignore[index]
    assert not verdict.agrees
    assert "nan" in verdict.why


@pytest.mark.parametrize("place", ["attention", "causal_attention"])
def test_rows_that_see_each_other_are_found(place: str) -> None:
    verdict = attempt(plant(place, lambda q, k, v, n, p: RIGHT[place](q, k, v, (sum(n),), p)), NEEDS[place])  # type: ignore[index]
    assert not verdict.agrees
    assert verdict.why.startswith("the result is off by"), verdict


@pytest.mark.parametrize(("place", "other"), [("attention", "causal_attention"), ("causal_attention", "attention")])
def test_the_order_of_the_other_attention_is_found(place: str, other: str) -> None:
    verdict = attempt(plant(place, RIGHT[other]), NEEDS[place])  # type: ignore[index]
    assert not verdict.agrees
    assert verdict.why.startswith("the result is off by"), verdict


def test_a_causal_order_that_is_shifted_is_found() -> None:
    def run(query: Any, key: Any, value: Any, lengths: Any, dropout: float) -> Any:
        return causal_attention(query, paddle.roll(key, 1, 0), paddle.roll(value, 1, 0), lengths, dropout)

    assert not attempt(plant("causal_attention", run), NEEDS["causal_attention"]).agrees


def test_keys_seen_where_elements_are_dropped_alone_are_found() -> None:
    def run(query: Any, key: Any, value: Any, lengths: Any, dropout: float) -> Any:
        return (attention if dropout else causal_attention)(query, key, value, lengths, dropout)

    verdict = attempt(plant("causal_attention", run), NEEDS["causal_attention"])
    assert not verdict.agrees
    assert "the result with dropout is off" in verdict.why, verdict


@pytest.mark.parametrize(
    ("drop", "what"),
    [
        (lambda w: F.dropout(w, 0.2), "drops 20."),
        (lambda w: w, "drops 0.0 %"),
        (lambda w: F.dropout(w, 0.1, mode="downscale_in_infer"), "result with dropout is off"),
        (lambda w: OtherGradientMask.apply(w, 0.1), "with dropout is off"),
        (lambda w: w * F.dropout(paddle.ones_like(w[:, :1]), 0.1), "it drops"),
    ],
)
@pytest.mark.parametrize("place", ["attention", "causal_attention"])
def test_wrong_dropout_of_attention_is_found(place: str, drop: Callable[[Any], Any], what: str) -> None:
    def run(query: Any, key: Any, value: Any, lengths: Any, dropout: float) -> Any:
        causal = place == "causal_attention"
        return _attention(query, key, value, lengths, drop if dropout else lambda weights: weights, causal=causal)

    verdict = attempt(plant(place, run), NEEDS[place])  # type: ignore[index]
    assert not verdict.agrees
    assert what in verdict.why, verdict


def test_another_mask_for_the_same_seed_is_found() -> None:
    count = itertools.count()

    def run(query: Any, key: Any, value: Any, lengths: Any, dropout: float) -> Any:
        paddle.seed(next(count))
        return attention(query, key, value, lengths, dropout)

    assert not attempt(plant("attention", run), NEEDS["attention"]).agrees


def _same_mask(x: Any) -> Any:
    """Drop a tenth, whatever was drawn before: as a kernel does that begins anew from its seed at every call."""
    kept = np.random.default_rng(7).random(x.shape) >= 0.1
    return x * paddle.to_tensor(kept.astype("float64") / 0.9).astype(x.dtype)


@pytest.mark.parametrize("place", ["attention", "add_norm"])
def test_a_mask_that_stays_the_same_is_found(place: str) -> None:
    def attend(query: Any, key: Any, value: Any, lengths: Any, dropout: float) -> Any:
        return _attention(query, key, value, lengths, _same_mask if dropout else lambda weights: weights)

    def norm(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float, dropout: float) -> Any:
        return add_norm(_same_mask(x) if dropout else x, residual, weight, bias, epsilon, 0.0)

    fast: dict[str, Callable[..., Any]] = {"attention": attend, "add_norm": norm}
    verdict = attempt(plant(place, fast[place]), NEEDS[place])  # type: ignore[index]
    assert (verdict.agrees, verdict.why) == (False, "its next call drops the same elements")


@pytest.mark.parametrize(
    ("drop", "what"),
    [
        (lambda x: F.dropout(x, 0.2), "drops 20."),
        (lambda x: x, "drops 0.0 %"),
        (lambda x: F.dropout(x, 0.1, mode="downscale_in_infer"), "with dropout is off"),
        (lambda x: OtherGradientMask.apply(x, 0.1), "result with dropout is off"),
    ],
)
def test_wrong_dropout_before_a_norm_is_found(drop: Callable[[Any], Any], what: str) -> None:
    def run(x: Any, residual: Any, weight: Any, bias: Any, epsilon: float, dropout: float) -> Any:
        return add_norm(drop(x) if dropout else x, residual, weight, bias, epsilon, 0.0)

    verdict = attempt(plant("add_norm", run), NEEDS["add_norm"])
    assert not verdict.agrees
    assert what in verdict.why, verdict


def test_a_kernel_that_raises_is_left_out_with_its_words() -> None:
    def run(*arguments: Any) -> Any:
        raise RuntimeError(
            "\n--------\nError Message Summary:\n--------\nExternalError: CUDA error 209\n  [Hint: no image]"
        )

    verdict = attempt(plant("projection", run), NEEDS["projection"])
    assert (verdict.agrees, verdict.why) == (False, "RuntimeError: ExternalError: CUDA error 209")


def test_a_kernel_that_raises_on_the_way_back_is_left_out() -> None:
    class Raising(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            raise NotImplementedError("no way back")

    verdict = attempt(plant("projection", _first_wrong(Raising.apply, projection)), NEEDS["projection"])
    assert not verdict.agrees
    assert "no way back" in verdict.why


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
    context = _attention(q, k, v, rows.tolist(), lambda w: F.dropout(w, dropout), scale, causal)
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
    return _attention(query, key, value, rows.tolist(), lambda w: F.dropout(w, dropout), scale, causal), None


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
    bad = plant("projection", _result_wrong(lambda x: -x, projection), "bad")
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
        return _attention(query, key, value, lengths, lambda weights: weights, causal=True)

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
    assert choice.prove(CONFIG, ("float32",), training=True) == ()


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
    wanted = trials.needs(CONFIG, types)
    try:
        for place in ("gpu:0", "gpu:1"):
            monkeypatch.setattr(paddle.device, "get_device", lambda place=place: place)
            asked.clear()
            assert not any(find(need.place, need.dtype, *need.sizes) for need in wanted)
            verdicts = choice.prove(CONFIG, types, training=True)
            assert choice.prove(CONFIG, types, training=True) == verdicts
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

    model, asked = _model(), []
    for module in (choice, run_paddle):
        monkeypatch.setattr(module, "prove", lambda config, types, **how: asked.append((config, types, how)))
    worker.Worker("paddle").take(model)
    ids = np.ones((1, 3), np.int64)
    run(run_paddle, model, SimpleNamespace(arrays=lambda: {"input_ids": ids}, packed=False))  # type: ignore[arg-type]
    assert asked == [(CONFIG, (dtype,), {"training": False}) for dtype in ("float32", "float64")]


# --- the model --------------------------------------------------------------------------------------------------------


def _calls(model: Any) -> Iterator[tuple[str, Any]]:
    """The results of padded, masked and packed batches, and the gradients of the last."""
    ids = np.random.default_rng(0).integers(1, CONFIG.vocab_size, (4, 17))
    real = np.arange(17) < np.array([17, 5, 0, 9])[:, None]
    positions = paddle.to_tensor(np.flatnonzero(real.reshape(-1))[::3])
    batches: dict[str, dict[str, Any]] = {
        "whole": {},
        "masked": {"attention_mask": real},
        "packed": {"attention_mask": real, "packed": True},
    }
    for name, arguments in batches.items():
        arguments["token_type_ids"] = (np.arange(17) > 3).astype(np.int64) * (ids % 2)
        given = {key: paddle.to_tensor(x) if isinstance(x, np.ndarray) else x for key, x in arguments.items()}
        words, order = model(paddle.to_tensor(ids), positions=positions, **given)
        yield f"{name} words", words
        yield f"{name} order", order
    (words.square().sum() + order.square().sum()).backward()
    for name, parameter in model.named_parameters():
        yield f"gradient of {name}", parameter.grad
        parameter.clear_gradient(False)


def _model(**fields: Any) -> Any:
    paddle.seed(0)
    model = RoFormerForPretraining(replace(CONFIG, **fields), dtype="float64")
    model.eval()
    return model


@pytest.mark.parametrize("recompute", [False, True])
def test_the_plain_path_of_a_gpu_computes_what_a_cpu_does(recompute: bool) -> None:
    model = _model()
    model.gradient_checkpointing = recompute
    if recompute:
        model.train()
        for layer in model.sublayers():
            if hasattr(layer, "dropout"):
                layer.dropout = 0.0
    want = {name: value.numpy() for name, value in _calls(model)}
    with pretending(V100, fast=False):
        for name, value in _calls(model):
            assert abs(value.numpy() - want[name]).max() < 1e-12 * max(1.0, abs(want[name]).max()), name


def test_what_stands_in_is_called_and_changes_nothing_else() -> None:
    model = _model()
    want = {name: value.numpy() for name, value in _calls(model)}
    called = dict.fromkeys(kernels.PLACES, 0)

    def counting(place: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            called[place] += 1
            return RIGHT[place](*arguments)

        return run

    for need in trials.needs(CONFIG, ["float64"]):
        kernels.choose(plant(need.place, counting(need.place)), need.dtype, need.sizes, dropping=False)
    for name, value in _calls(model):
        assert abs(value.numpy() - want[name]).max() < 1e-12 * max(1.0, abs(want[name]).max()), name
    layers = CONFIG.num_hidden_layers
    # two of the three batches say which tokens are real; the masked one is found out on a CPU alone
    assert called["causal_attention"] == 0
    assert called["attention"] == 2 * layers
    assert called["rotation"] == 3 * 2 * layers
    assert called["add_norm"] == 3 * 2 * layers
    assert called["projection"] >= 3 * 6 * layers


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"attention": "causal"}, ()),
        ({"attention": "unilm"}, ("attention",)),
        ({"norm_type": "rms_norm", "use_bias": False, "embedding_size": CONFIG.hidden_size}, ("add_norm",)),
    ],
    ids=["causal", "UniLM", "RoFormerV2"],
)
def test_kernels_and_plain_operators_of_a_gpu_compute_what_a_cpu_does(
    fields: dict[str, Any], left: tuple[str, ...]
) -> None:
    model = _model(**fields)
    want = {name: value.numpy() for name, value in _calls(model)}
    called = dict.fromkeys(kernels.PLACES, 0)

    def counting(place: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            called[place] += 1
            assert all(argument is not None for argument in arguments)  # no kernel does without a bias
            return RIGHT[place](*arguments)

        return run

    with pretending(V100, fast=False):  # the plain operators of a GPU
        for name, value in _calls(model):
            assert abs(value.numpy() - want[name]).max() < 1e-12 * max(1.0, abs(want[name]).max()), name
    for config in (CONFIG, CAUSAL):
        for need in trials.needs(config, ["float64"]):
            kernels.choose(plant(need.place, counting(need.place)), need.dtype, need.sizes, dropping=False)
    for name, value in _calls(model):
        assert abs(value.numpy() - want[name]).max() < 1e-12 * max(1.0, abs(want[name]).max()), name
    pair: list[kernels.Place] = ["attention", "causal_attention"]
    attention, other = reversed(pair) if fields.get("attention") == "causal" else pair
    assert {place for place, calls in called.items() if not calls} == {other, *left}
    if attention not in left:  # of a batch that is masked and not packed nobody knows which tokens are real
        assert called[attention] == 2 * CONFIG.num_hidden_layers


def test_kernels_that_were_not_tried_with_dropout_are_not_asked_to_drop() -> None:
    model = _model()
    called: list[str] = []

    def counting(place: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            called.append(place)
            return RIGHT[place](*arguments)

        return run

    for need in trials.needs(CONFIG, ["float64"]):
        kernels.choose(plant(need.place, counting(need.place)), need.dtype, need.sizes, dropping=False)
    model.train()
    list(_calls(model))
    assert set(called) == {"rotation", "projection"}
    model.eval()
    list(_calls(model))
    assert set(called) == {"rotation", "projection", "attention", "add_norm"}


def test_dropout_goes_to_the_kernels_while_training() -> None:
    model = _model()
    model.train()
    heard: dict[str, set[float]] = {"attention": set(), "add_norm": set()}

    def attending(*arguments: Any) -> Any:
        heard["attention"].add(arguments[-1])
        return attention(*arguments)

    def adding(*arguments: Any) -> Any:
        heard["add_norm"].add(arguments[-1])
        return add_norm(*arguments)

    for need in trials.needs(CONFIG, ["float64"]):
        if need.place in heard:
            run = attending if need.place == "attention" else adding
            kernels.choose(plant(need.place, run), need.dtype, need.sizes, dropping=True)
    list(_calls(model))
    assert heard == {"attention": {0.1}, "add_norm": {0.1}}


@pytest.mark.parametrize("config", [CONFIG, CAUSAL], ids=["bidirectional", "causal"])
def test_a_gpu_asks_for_every_place_it_could_speed_up(config: RoFormerConfig) -> None:
    paddle.seed(0)
    model = RoFormerForPretraining(config)
    model.train()
    heard = set()
    with pretending(V100, heard=lambda kernel, dtype: heard.add((kernel.place, kernel.name, dtype))):
        list(_calls(model))
    other = "attention" if config is CAUSAL else "causal_attention"
    in_type = [kernel for kernel in KERNELS if "float32" in kernel.types and kernel.place != other]
    assert heard == {(kernel.place, kernel.name, "float32") for kernel in in_type}


def test_a_pretended_gpu_is_left_again() -> None:
    with pretending(V100):
        assert kernels.current_device() == V100
        assert not kernels.on_cpu()
    assert kernels.on_cpu()
