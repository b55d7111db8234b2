"""What a Paddle model calls in place of plain operators, computing the same. No GPU is here: one is pretended."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle")

from planted_kernels import CAUSAL, RIGHT, V100, add_norm, attention, make_model, plant
from small_model import SMALL

from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.kernels import attention_paddle as kernels
from roformer_convert.models.kernels.attention_paddle import KERNELS, pretending
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import trials_paddle as trials
from roformer_convert.models.roformer_paddle import RoFormerForPretraining


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen", {})


def _calls(model: Any) -> Iterator[tuple[str, Any]]:
    """The results of padded, masked and packed batches, and the gradients of the last."""
    ids = np.random.default_rng(0).integers(1, SMALL.vocab_size, (4, 17))
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


@pytest.mark.parametrize("recompute", [False, True])
def test_the_plain_path_of_a_gpu_computes_what_a_cpu_does(recompute: bool) -> None:
    model = make_model()
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
    model = make_model()
    want = {name: value.numpy() for name, value in _calls(model)}
    called = dict.fromkeys(kernels.PLACES, 0)

    def counting(place: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            called[place] += 1
            return RIGHT[place](*arguments)

        return run

    for need in trials.needs(SMALL, ["float64"]):
        kernels.choose(plant(need.place, counting(need.place)), need.dtype, need.sizes, dropping=False)
    for name, value in _calls(model):
        assert abs(value.numpy() - want[name]).max() < 1e-12 * max(1.0, abs(want[name]).max()), name
    layers = SMALL.num_hidden_layers
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
        ({"norm_type": "rms_norm", "use_bias": False, "embedding_size": SMALL.hidden_size}, ("add_norm",)),
    ],
    ids=["causal", "UniLM", "RoFormerV2"],
)
def test_kernels_and_plain_operators_of_a_gpu_compute_what_a_cpu_does(
    fields: dict[str, Any], left: tuple[str, ...]
) -> None:
    model = make_model(**fields)
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
    for config in (SMALL, CAUSAL):
        for need in trials.needs(config, ["float64"]):
            kernels.choose(plant(need.place, counting(need.place)), need.dtype, need.sizes, dropping=False)
    for name, value in _calls(model):
        assert abs(value.numpy() - want[name]).max() < 1e-12 * max(1.0, abs(want[name]).max()), name
    pair: list[kernels.Place] = ["attention", "causal_attention"]
    attention, other = reversed(pair) if fields.get("attention") == "causal" else pair
    assert {place for place, calls in called.items() if not calls} == {other, *left}
    if attention not in left:  # of a batch that is masked and not packed nobody knows which tokens are real
        assert called[attention] == 2 * SMALL.num_hidden_layers


def test_kernels_that_were_not_tried_with_dropout_are_not_asked_to_drop() -> None:
    model = make_model()
    called: list[str] = []

    def counting(place: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            called.append(place)
            return RIGHT[place](*arguments)

        return run

    for need in trials.needs(SMALL, ["float64"]):
        kernels.choose(plant(need.place, counting(need.place)), need.dtype, need.sizes, dropping=False)
    model.train()
    list(_calls(model))
    assert set(called) == {"rotation", "projection"}
    model.eval()
    list(_calls(model))
    assert set(called) == {"rotation", "projection", "attention", "add_norm"}


def test_dropout_goes_to_the_kernels_while_training() -> None:
    model = make_model()
    model.train()
    heard: dict[str, set[float]] = {"attention": set(), "add_norm": set()}

    def attending(*arguments: Any) -> Any:
        heard["attention"].add(arguments[-1])
        return attention(*arguments)

    def adding(*arguments: Any) -> Any:
        heard["add_norm"].add(arguments[-1])
        return add_norm(*arguments)

    for need in trials.needs(SMALL, ["float64"]):
        if need.place in heard:
            run = attending if need.place == "attention" else adding
            kernels.choose(plant(need.place, run), need.dtype, need.sizes, dropping=True)
    list(_calls(model))
    assert heard == {"attention": {0.1}, "add_norm": {0.1}}


@pytest.mark.parametrize("config", [SMALL, CAUSAL], ids=["bidirectional", "causal"])
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
