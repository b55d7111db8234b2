"""When Paddle packs: where a kernel attends the run, or much of a batch is padding; and what stays on the host.

No GPU is here: the branches of one are taken on the CPU.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("paddle")

from small_model import SMALL

from roformer_convert.models import ops_paddle
from roformer_convert.models.answers.worker import Worker
from roformer_convert.models.config import MASKED
from roformer_convert.models.kernels import attention_paddle as kernels
from roformer_convert.models.kernels.attention_paddle import Device, Kernel, pretending
from roformer_convert.models.layout import Layout
from roformer_convert.models.ops_paddle import worth_packing
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.samples.batches import Batch
from roformer_convert.training.step import objective

CONFIG = replace(SMALL, initializer_range=0.5)
CPU = Device("CPU", None)
V100 = Device("V100", (7, 0))
A100 = Device("A100", (8, 0))


@pytest.mark.parametrize(
    ("device", "fast", "dtype", "attention", "worth"),
    [
        (CPU, True, "float32", "bidirectional", True),
        (V100, True, "float32", "bidirectional", True),
        (V100, True, "float16", "causal", True),
        (V100, True, "float32", "unilm", False),
        (V100, True, "float64", "bidirectional", False),
        (V100, False, "float32", "bidirectional", False),
        (A100, True, "bfloat16", "bidirectional", True),
        (A100, False, "bfloat16", "causal", False),
    ],
)
def test_little_padding_is_worth_packing_where_a_kernel_attends_the_run(
    device: Device, fast: bool, dtype: Any, attention: Any, worth: bool
) -> None:
    config, like = replace(CONFIG, attention=attention), paddle.zeros([1], dtype)
    with pretending(device, fast=fast):
        assert worth_packing(like, config, 900, 1000) == worth
        assert worth_packing(like, config, 500, 1000)  # laid out for attention alone, it is faster all the same


def test_what_is_worth_packing_is_asked_in_the_type_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen", {})
    kernel = Kernel("planted", "attention", (5, 0), ("bfloat16",), (), lambda query, *_: query, "here")
    like, sizes = paddle.zeros([1], "float32"), (CONFIG.num_attention_heads, CONFIG.head_size)
    with mock.patch.object(kernels, "current_device", return_value=V100):
        kernels.choose(kernel, "bfloat16", sizes, dropping=False)
        assert not worth_packing(like, CONFIG, 900, 1000)
        monkeypatch.setattr(ops_paddle, "product_type", lambda x: "bfloat16")  # automatic mixed precision knows no CPU
        assert worth_packing(like, CONFIG, 900, 1000)
        assert not worth_packing(like, replace(CONFIG, attention="causal"), 900, 1000)


@pytest.mark.parametrize(
    ("device", "lengths", "packs"),
    [
        (CPU, (17, 16, 17, 15), True),
        (V100, (17, 16, 17, 15), False),
        (V100, (17, 3, 2, 9), True),
    ],
)
def test_texts_are_packed_where_that_is_faster(
    device: Device, lengths: tuple[int, ...], packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paddle.seed(0)
    model = RoFormerForPretraining(CONFIG, dtype="float64")
    model.eval()
    worker = Worker("paddle")
    worker.take(model)
    ids = np.random.default_rng(0).integers(1, CONFIG.vocab_size, 17).tolist()
    rows = [{"ids": ids[:length], "types": [0] * length, "columns": [1, length - 1]} for length in lengths]
    want = [list(_flat(worker.words([row], 0, 5))) for row in rows]
    asked, stayed, lay_out = [], [], model.lay_out

    def record(ids: Any, mask: Any, packed: bool, types: Any) -> Any:
        asked.append(packed)
        return lay_out(ids, mask, packed, types)

    def on_host(values: Any) -> Any:
        stayed.append(values.shape)
        return paddle.to_tensor(values, place=paddle.CPUPlace())

    monkeypatch.setattr(model, "lay_out", record)
    monkeypatch.setattr(ops_paddle, "on_host", on_host)
    with pretending(device, fast=False):
        found = [list(_flat([row])) for row in worker.words(rows, 0, 5)]
    assert asked == [packs]
    assert sorted(stayed) == [(4, 17), (8,)]  # the mask, and the places of words
    assert np.allclose(found, want, rtol=0, atol=1e-9)


def _flat(nested: Any) -> Iterator[float]:
    for each in nested:
        if isinstance(each, list | tuple):
            yield from _flat(each)
        else:
            yield each


def test_a_micro_batch_is_computed_without_waiting_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read but what was left on the host, and one number that says whether all of it is real."""
    real = np.arange(17) < np.array([17, 3, 2, 9])[:, None]
    ids = np.random.default_rng(0).integers(1, CONFIG.vocab_size, real.shape) * real
    places = np.flatnonzero(real.reshape(-1))[::5]
    order = np.array([0, 1, 1, 0])
    batch = Batch(ids, np.zeros_like(ids), real.astype(np.int64), places, ids.reshape(-1)[places], order, order)
    read, left, numpy, on_host = [], [], paddle.Tensor.numpy, ops_paddle.on_host

    def leave(values: Any) -> Any:
        left.append(on_host(values))
        return left[-1]

    def stayed(tensor: Any) -> bool:
        return any(tensor is each for each in left)

    def record(tensor: Any, *more: Any) -> Any:
        if tensor.ndim and not stayed(tensor):
            read.append(tensor)
        return numpy(tensor, *more)

    model = RoFormerForPretraining(CONFIG)
    monkeypatch.setattr(objective, "on_host", leave)
    monkeypatch.setattr(ops_paddle, "at_hand", stayed)
    monkeypatch.setattr(paddle.Tensor, "numpy", record)
    with pretending(V100, fast=False):
        found = objective.losses(model, batch)
    assert not read
    assert len(left) == 2
    assert found.mlm_count == len(places)


@pytest.mark.parametrize(
    ("device", "fast", "shortest", "packs"),
    [(CPU, False, 15, True), (V100, True, 15, True), (V100, False, 15, False), (V100, False, 2, True)],
)
def test_a_micro_batch_is_packed_where_that_is_faster(
    device: Device, fast: bool, shortest: int, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses are those of its samples, however it is laid out."""
    real = np.arange(17) < np.array([17, shortest, shortest, shortest])[:, None]
    ids = np.random.default_rng(0).integers(1, CONFIG.vocab_size, real.shape) * real
    places, order = np.flatnonzero(real.reshape(-1))[::5], np.array([0, 1, 1, 0])
    batch = Batch(ids, np.zeros_like(ids), real.astype(np.int64), places, ids.reshape(-1)[places], order, order)
    model = RoFormerForPretraining(CONFIG)
    model.eval()
    want = objective.losses(model, batch)
    asked, lay_out = [], model.lay_out

    def record(ids: Any, mask: Any, packed: bool, types: Any) -> Any:
        asked.append(packed)
        return lay_out(ids, mask, False, types)

    monkeypatch.setattr(model, "lay_out", record)
    with pretending(device, fast=fast):
        found = objective.losses(model, batch)
    assert asked == [packs]
    assert abs(float(found.mlm_sum) - float(want.mlm_sum)) < 1e-3
    assert abs(float(found.sop_sum) - float(want.sop_sum)) < 1e-3


def test_what_stayed_on_the_host_is_taken_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def to_tensor(values: Any, like: Any = None) -> Any:
        taken.append(values.tolist())
        return paddle.to_tensor(values)

    monkeypatch.setattr(ops_paddle, "to_tensor", to_tensor)
    mask, positions = ops_paddle.on_host(np.array([[1, 0]])), ops_paddle.on_host(np.array([1]))
    layout = Layout(1, 2, None)
    for device, want in ((CPU, []), (V100, [[[1, 0]], [1]])):
        with pretending(device):
            added = ops_paddle.key_mask(mask, paddle.zeros([1]))
            assert added[0, 0, 0].tolist() == [0.0, np.float32(MASKED)]
            assert ops_paddle.take(paddle.to_tensor([3.0, 4.0]), positions, layout).tolist() == [4.0]
        assert taken == want
