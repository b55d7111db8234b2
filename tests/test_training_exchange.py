"""Gradients are summed while the backward pass runs: which are sent when, in which order, and what comes back."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# not importorskip: Paddle is to be imported by start_paddle
if importlib.util.find_spec("paddle") is None:
    pytest.skip("could not import 'paddle'", allow_module_level=True)

from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.settings.tables import Data
from roformer_convert.training.step.exchange import GradientExchange
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.weights import Weights

HERE = Path(__file__).parent
SIZES = {"a": 3, "b": 4, "c": 5, "d": 6}
CONFIG = RoFormerConfig(
    vocab_size=11, embedding_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
)


class Plain(Weights):
    """Parameters that compute themselves, a to d."""

    def __init__(self) -> None:
        self.trained = {name: paddle.create_parameter([size], "float32") for name, size in SIZES.items()}

    def computing(self, name: str) -> Any:
        return self.trained[name]

    def collect(self, names: Iterable[str] | None = None) -> None:
        """There are no copies."""


class Two(Ranks):
    """Stands for two processes, of which the other has the same gradients."""

    count = 2

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Any] = []
        monkeypatch.setattr(paddle.distributed, "all_reduce", self.all_reduce)

    def all_reduce(self, flat: Any, *, sync_op: bool) -> Two.Task:
        assert sync_op is False
        self.events.append(flat.shape[0])
        return self.Task(self, flat)

    class Task:
        def __init__(self, two: Two, flat: Any) -> None:
            self.two, self.flat = two, flat

        def wait(self) -> None:
            self.flat.set_value((self.flat.astype("float32") * 2).astype(self.flat.dtype))
            self.two.events.append("wait")


def backward(weights: Weights, order: str, factor: float = 1.0, events: list[Any] | None = None) -> None:
    """Reach the parameters' gradients one after the other, in an order: each loss depends on the one after it."""
    total = paddle.zeros([])
    for name in reversed(order):
        parameter = weights.computing(name)
        if events is not None:
            parameter.register_hook(lambda gradient, name=name: events.append(name))
        total = total * 1.0 + (parameter * factor * (1 + list(SIZES).index(name))).sum()
    total.backward()


def test_buckets_leave_in_reverse_order_of_use_while_gradients_are_still_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two, weights = Two(monkeypatch), Plain()
    exchange = GradientExchange(two, weights, bucket=11)  # d with c, b with a
    exchange.begin()
    backward(weights, "dcba", events=two.events)
    assert two.events == ["d", "c", 11, "b", "a", 7]
    exchange.finish()
    assert two.events[-2:] == ["wait", "wait"]
    for number, (name, size) in enumerate(SIZES.items(), 1):
        assert weights.trained[name].grad.numpy().tolist() == [2.0 * number] * size


@pytest.mark.parametrize("order", ["abcd", "cadb", "bdac"])
def test_buckets_leave_in_the_same_order_whatever_the_order_of_the_gradients(
    monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    two, weights = Two(monkeypatch), Plain()
    exchange = GradientExchange(two, weights, bucket=6)
    exchange.begin()
    backward(weights, order)
    exchange.finish()
    assert [each for each in two.events if each != "wait"] == [6, 5, 4, 3]


def test_only_the_backward_pass_after_begin_is_exchanged_with_what_was_added_up_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two, weights = Two(monkeypatch), Plain()
    exchange = GradientExchange(two, weights)
    backward(weights, "dcba")
    assert two.events == []
    exchange.begin()
    backward(weights, "dcba", factor=10.0)
    exchange.finish()
    backward(weights, "dcba", factor=100.0)
    assert two.events == [18, "wait"]
    assert weights.trained["a"].grad.numpy().tolist() == [2 * 11.0 + 100.0] * 3


def test_half_copies_gradients_are_added_up_in_float32_before_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Two(monkeypatch)
    weights = Weights(RoFormerForPretraining(CONFIG), Data(), half="float16")
    exchange = GradientExchange(two, weights, bucket=100)

    def reach(value: float) -> None:
        total = paddle.zeros([])
        for name in weights.trained:
            total = total + (weights.computing(name).astype("float32") * value).sum()
        total.backward()
        weights.collect()

    reach(1.0)
    exchange.begin()
    reach(2.0**-12)  # lost beside 1 in float16
    exchange.finish()
    assert len([each for each in two.events if each == "wait"]) > 3
    for name, master in weights.trained.items():
        assert master.grad.dtype == paddle.float32
        np.testing.assert_array_equal(master.grad.numpy(), np.float32(2 + 2.0**-11), err_msg=name)
        assert weights.computing(name).grad is None


def test_gradients_travel_in_the_half_type_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    two, weights = Two(monkeypatch), Plain()
    exchange = GradientExchange(two, weights, "bfloat16")
    exchange.begin()
    backward(weights, "dcba", factor=1 + 2.0**-10)
    exchange.finish()
    assert weights.trained["a"].grad.dtype == paddle.float32
    assert weights.trained["a"].grad.numpy().tolist() == [2.0] * 3  # bfloat16 has 8 bits


@pytest.mark.skipif(sys.platform != "linux", reason="Paddle's launcher joins CPU processes on Linux")
def test_two_processes_get_the_sums_of_their_gradients(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "log"), str(HERE / "run_exchange.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    logs = [path.read_text(errors="replace") for path in sorted((tmp_path / "log").glob("workerlog.*"))]
    assert done.returncode == 0, "".join(logs)[-4000:]
    assert all("all sums are right" in log for log in logs)
