"""How a command's model computes each batch: replayed, packed or padded, and always what the model gives.

No GPU is here: devices are pretended, and what would be a graph is run again.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from roformer_convert.models import graphs_torch, kernel_choice_torch, ops_torch
from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.graphs_torch import Graphed, Record, Results, Run
from roformer_convert.models.kernels_torch import Device, pretending
from roformer_convert.models.roformer_torch import RoFormerForMaskedLM, RoFormerModel
from roformer_convert.models.worker import Worker, padded

CPU = Device("cpu", "cpu")
P100 = Device("cuda", "P100", (6, 0), 56)  # older than those that graphs are known to help
H200 = Device("cuda", "H200", (9, 0), 132)
CONFIG = RoFormerConfig(
    vocab_size=60,
    embedding_size=24,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=70,
    initializer_range=0.5,
)
LENGTHS = {"full": (20, 20, 19), "ragged": (20, 3, 3)}


class Again:
    """Stands for graphs: runs once more into the same results, and counts."""

    def __init__(self) -> None:
        self.replayed = 0

    def __call__(self, device: torch.device) -> Record:
        def record(run: Run) -> tuple[Callable[[], None], Results]:
            results = run()

            def replay() -> None:
                self.replayed += 1
                for place, value in zip(results, run(), strict=True):
                    if place is not None and value is not None:
                        place.copy_(value)

            return replay, results

        return record


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Again:
    again = Again()
    monkeypatch.setattr(graphs_torch, "Graphed", partial(Graphed, recorder=again))
    return again


def rows(name: str) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [
        {"ids": generator.integers(5, 60, length).tolist(), "types": generator.integers(0, 2, length).tolist()}
        for length in LENGTHS[name]
    ]


def row_by_row(causal: bool, query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    """Stands for a kernel: (P, N, D), one row of the packed batch after the other."""
    rows = zip(*(each.transpose(0, 1).split(lengths, dim=1) for each in (query, key, value)), strict=True)
    attend = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=causal)
    return torch.cat([attend(*row) for row in rows], dim=1).transpose(0, 1)


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "unilm"])
@pytest.mark.parametrize(
    ("device", "kernel", "lengths", "packed"),
    [
        (CPU, False, "full", True),
        (CPU, False, "ragged", True),
        (P100, False, "full", False),
        (P100, False, "ragged", True),
        (P100, True, "full", True),
        (P100, True, "ragged", True),
    ],
)
def test_a_batch_is_packed_where_that_is_faster(
    attention: Any,
    device: Device,
    kernel: bool,
    lengths: str,
    packed: bool,
    graphs: Again,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    made = RoFormerForMaskedLM(RoFormerConfig(**{**CONFIG.__dict__, "attention": attention}), dtype="float64").eval()
    asked: list[str] = []

    def find(place: str, like: Any, heads: int, size: int) -> Any:
        asked.append(place)
        assert (heads, size) == (4, 8)
        return partial(row_by_row, place == "causal_attention") if kernel else None

    monkeypatch.setattr(ops_torch, "find", find)
    batch = padded(rows(lengths), 0)
    told: list[bool] = []
    made.register_forward_pre_hook(lambda model, args, given: told.append(given["packed"]), with_kwargs=True)
    worker = Worker("torch")
    given = [torch.from_numpy(array) for array in batch]
    with torch.inference_mode():
        want = RoFormerForMaskedLM.forward(made, *given)
    with pretending(device):
        worker.take(made)
        for positions in (None, np.array([0, 21, 2])):
            (got,) = worker.compute(batch, positions)
            if positions is None:
                real = given[2].bool()
                assert abs(got[real] - want[real].numpy()).max() < 1e-9
            else:
                assert abs(got - want.reshape(-1, 60)[positions].numpy()).max() < 1e-9
    assert told == [packed if attention != "unilm" or device is CPU else lengths == "ragged"] * 2
    wanted = {"bidirectional": {"attention"}, "causal": {"causal_attention"}, "unilm": set()}[attention]
    assert set(asked) == wanted
    assert graphs.replayed == 0


def test_small_batches_are_replayed_on_a_gpu(graphs: Again) -> None:
    torch.manual_seed(0)
    made = RoFormerForMaskedLM(CONFIG, dtype="float32").eval()
    worker = Worker("torch")
    worker.take(made)
    asked = [{**row, "columns": [1, 2]} for row in rows("ragged")]
    want = worker.words(asked, 0, 3)
    with pretending(H200):
        worker.take(made)
        found = [worker.words(asked, 0, 3) for _ in range(3)]
    assert graphs.replayed == 3  # one to try it
    assert found[0] == found[1] == found[2]  # whether it was replayed or not
    assert [[ids for ids, *_ in row] for row in found[0]] == [[ids for ids, *_ in row] for row in want]
    assert np.abs(np.array(found[0])[..., 1, :] - np.array(want)[..., 1, :]).max() < 1e-4
    assert not kernel_choice_torch.verdicts  # float32 has no kernel to try


def test_vectors_come_from_the_same_graphs(graphs: Again) -> None:
    torch.manual_seed(0)
    made = RoFormerModel(CONFIG, dtype="float32").eval()
    worker = Worker("torch")
    worker.take(made)
    want = worker.vectors(rows("ragged"), 0)
    with pretending(H200):
        worker.take(made)
        for _ in range(3):
            assert np.abs(np.array(worker.vectors(rows("ragged"), 0)) - want).max() < 1e-5
    assert graphs.replayed == 3
