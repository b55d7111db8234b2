"""What a trial of a fast kernel for Paddle finds out. No GPU is here: kernels are planted."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle")

from planted_kernels import (
    NEEDS,
    RIGHT,
    OtherGradientMask,
    WrongGradient,
    add_norm,
    attention,
    attention_dropping,
    causal_attention,
    first_wrong,
    plant,
    projection,
    result_wrong,
)

from roformer_convert.models.kernels import attention_paddle as kernels
from roformer_convert.models.ops_paddle import F
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving.trials_paddle import attempt


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen", {})


@pytest.mark.parametrize("place", kernels.PLACES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_right_kernel_agrees(place: str, dropout: float) -> None:
    verdict = attempt(plant(place, RIGHT[place]), replace(NEEDS[place], dropout=dropout))  # type: ignore[index]
    assert verdict.agrees, verdict


@pytest.mark.parametrize("place", kernels.PLACES)
def test_a_wrong_result_is_found(place: str) -> None:
    verdict = attempt(plant(place, result_wrong(lambda x: x * 1.001, RIGHT[place])), NEEDS[place])  # type: ignore[index]
    assert not verdict.agrees
    assert verdict.why.startswith("the result is off by"), verdict


@pytest.mark.parametrize("place", kernels.PLACES)
def test_a_wrong_gradient_is_found(place: str) -> None:
    kernel = plant(place, first_wrong(WrongGradient.apply, RIGHT[place]))
    verdict = attempt(kernel, replace(NEEDS[place], dropout=0.0))  # type: ignore[index]
    assert not verdict.agrees
    assert verdict.why.startswith("gradient of "), verdict


@pytest.mark.parametrize("place", kernels.PLACES)
def test_numbers_that_are_not_finite_are_found(place: str) -> None:
    verdict = attempt(plant(place, result_wrong(lambda x: x * float("nan"), RIGHT[place])), NEEDS[place])  # type: ignore[index]
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
        return attention_dropping(
            query, key, value, lengths, drop if dropout else lambda weights: weights, causal=causal
        )

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
        return attention_dropping(query, key, value, lengths, _same_mask if dropout else lambda weights: weights)

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

    verdict = attempt(plant("projection", first_wrong(Raising.apply, projection)), NEEDS["projection"])
    assert not verdict.agrees
    assert "no way back" in verdict.why
