"""CUDA graphs: which batches are replayed, that they give what the model gives, and that a graph that lies is refused.

No GPU is here: a device is pretended, and what a graph records is recorded by a tape of the CPU's operators.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_model import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from roformer_convert.models import roformer_torch
from roformer_convert.models.answers.worker import Worker
from roformer_convert.models.config import ModelError
from roformer_convert.models.kernels.attention_torch import Device, pretending
from roformer_convert.models.proving import graphs_torch
from roformer_convert.models.proving.graph_shapes import Shape
from roformer_convert.models.proving.graphs_torch import Graphed, Record, Results, Run, record_on

H200 = Device("cuda", "H200", (9, 0), 132)
CONFIG = replace(SMALL, max_position_embeddings=70, num_labels=3, initializer_range=0.5)
CLASSES = (
    "RoFormerModel",
    "RoFormerForMaskedLM",
    "RoFormerForPretraining",
    "RoFormerForCausalLM",
    "RoFormerForSequenceClassification",
    "RoFormerForTokenClassification",
    "RoFormerForQuestionAnswering",
)
Change = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class Tape(TorchDispatchMode):
    """Records operators with the places of their results, and does the same to the same places again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for place, value in zip(_tensors(out), _tensors(again), strict=True):
                if value.data_ptr() != place.data_ptr():
                    place.copy_(value)


def _tensors(value: Any) -> list[Any]:
    return [each for each in (value if isinstance(value, (tuple, list)) else (value,)) if torch.is_tensor(each)]


class Recorder:
    """Records tapes, and counts what is recorded and replayed."""

    def __init__(self, spoil: Callable[[Results], None] = lambda results: None) -> None:
        self.recorded = self.replayed = 0
        self.spoil = spoil

    def __call__(self, device: torch.device) -> Record:
        def record(run: Run) -> tuple[Callable[[], None], Results]:
            self.recorded += 1
            with Tape() as tape:
                results = run()

            def replay() -> None:
                self.replayed += 1
                tape.replay()
                self.spoil(results)

            return replay, results

        return record


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # there a model does not look at a mask, which a graph could not know
    monkeypatch.setattr(roformer_torch, "all_real", lambda mask: False)
    with pretending(H200):
        yield


def model(name: str = "RoFormerForMaskedLM", **changes: Any) -> Any:
    torch.manual_seed(0)
    return getattr(roformer_torch, name)(replace(CONFIG, **changes), dtype="float32").eval()


def batch(rows: int = 3, columns: int = 21, seed: int = 1, whole: bool = False) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    real = np.arange(columns) < generator.integers(1, columns + 1, (rows, 1))
    given = {
        "input_ids": generator.integers(0, CONFIG.vocab_size, (rows, columns)),
        "token_type_ids": generator.integers(0, 2, (rows, columns)),
        "attention_mask": (real | whole).astype(np.int64),
    }
    return {key: torch.from_numpy(value) for key, value in given.items()}


def padded(given: dict[str, Any], rows: int, columns: int) -> dict[str, Any]:
    """Pad a batch as :class:`Graphed` says it does, in other words than its."""
    down, right = rows - given["input_ids"].shape[0], columns - given["input_ids"].shape[1]
    return {key: torch.nn.functional.pad(value, (0, right, 0, down)) for key, value in given.items()}


def results(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple) else [found]


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_every_call_gives_what_the_model_gives_for_the_padded_batch(name: str) -> None:
    made = model(name)
    recorder = Recorder()
    graphed = Graphed(made, recorder)
    for seed in range(4):  # met, recorded, replayed, replayed
        given = batch(seed=seed)
        with torch.inference_mode():
            wants = results(made(**padded(given, 4, 24)))
            alone = results(made(**given))
        for got, want, other in zip(results(graphed(**given)), wants, alone, strict=True):
            if want is None:
                assert got is None
                continue
            assert got.shape == other.shape
            assert torch.equal(got, want[tuple(slice(size) for size in got.shape)])
            real = given["attention_mask"].bool() if got.dim() == 3 else ...
            assert abs(got[real] - other[real]).max() < 1e-4
    assert (recorder.recorded, recorder.replayed) == (1, 4)  # one of them to try it
    assert not graphed.refused


@pytest.mark.parametrize("name", ["RoFormerModel", "RoFormerForPretraining", "RoFormerForTokenClassification"])
def test_chosen_positions_move_with_the_padding(name: str) -> None:
    made = model(name)
    graphed = Graphed(made, Recorder())
    given, chosen = batch(), torch.tensor([[0, 20, 21], [42, 62, 1]])
    with torch.inference_mode():
        wants = results(made(**given, positions=chosen))
    for _ in range(3):
        for got, want in zip(results(graphed(**given, positions=chosen)), wants, strict=True):
            if want is not None:
                assert got.shape == want.shape
                assert abs(got - want).max() < 1e-4
    assert graphed.shape(**given, positions=chosen) == Shape(4, 24, 16, True)


@pytest.mark.parametrize("attention", ["causal", "unilm"])
@pytest.mark.parametrize("whole", [False, True])
def test_orders_are_replayed(attention: str, whole: bool) -> None:
    made = model("RoFormerForCausalLM", attention=attention)
    recorder = Recorder()
    graphed = Graphed(made, recorder)
    for seed in range(3):
        given = batch(4, 24, seed, whole)
        real = given["attention_mask"].bool()
        with torch.inference_mode():
            want = made(**given)
        assert abs(graphed(**given) - want)[real].max() < 1e-4
    assert recorder.replayed == 3
    assert not graphed.refused


def test_what_was_returned_stays_when_the_next_batch_comes() -> None:
    graphed = Graphed(model(), Recorder())
    given = batch()
    for _ in range(2):
        graphed(**given)
    first = graphed(**given)
    kept = first.clone()
    graphed(**batch(seed=9))
    assert torch.equal(first, kept)


def test_without_a_mask_a_whole_shape_has_none() -> None:
    made = model()
    graphed = Graphed(made, Recorder())
    whole, wide = batch(4, 24), batch(3, 20)
    for given, masked in ((whole, False), (wide, True)):
        for _ in range(3):
            with torch.inference_mode():
                want = made(given["input_ids"])
            assert abs(graphed(given["input_ids"]) - want).max() < 1e-4
        assert Shape(4, 24, None, masked) in graphed._met


def test_a_mask_of_any_type_hides_what_is_zero() -> None:
    graphed = Graphed(model(), Recorder())
    given = batch()
    real = given["attention_mask"].bool()
    want = graphed(**given)
    for mask in (real, real.double() / 2, real.int() * -1):
        assert torch.equal(graphed(given["input_ids"], given["token_type_ids"], mask)[real], want[real])


# --- a graph that lies ------------------------------------------------------------------------------------------------


def stale(results: Results) -> None:
    assert results[0] is not None
    results[0].zero_()


def last_bit(results: Results) -> None:
    assert results[0] is not None
    results[0].view(torch.int32)[-1, -1, -1] ^= 1


@pytest.mark.parametrize("spoil", [stale, last_bit])
def test_a_graph_that_lies_is_refused(spoil: Callable[[Results], None], caplog: pytest.LogCaptureFixture) -> None:
    made = model()
    recorder = Recorder(spoil)
    graphed = Graphed(made, recorder)
    given = batch()
    with torch.inference_mode():
        want = made(**padded(given, 4, 24))[:3, :21]
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert torch.equal(graphed(**given), want)
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    assert graphed.refused == {Shape(4, 24, None, True): "result 0 is not what the model gives, bit for bit"}
    assert len(caplog.messages) == 1


def test_a_graph_that_took_the_mask_for_granted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with real tokens alone by a model that looks at its mask, as on a CPU."""
    monkeypatch.setattr(roformer_torch, "all_real", lambda mask: bool(mask.all()))
    graphed = Graphed(model(), Recorder())
    for _ in range(2):
        graphed(**batch())
    assert list(graphed.refused.values()) == ["result 0 is not what the model gives, bit for bit"]


def test_a_graph_that_cannot_be_made_is_done_without() -> None:
    def recorder(device: torch.device) -> Record:
        def record(run: Run) -> Any:
            raise RuntimeError("CUDA out of memory.\nTried to allocate")

        return record

    made = model()
    graphed = Graphed(made, recorder)
    given = batch()
    for _ in range(3):
        graphed(**given)
    assert list(graphed.refused.values()) == ["RuntimeError: CUDA out of memory."]


# --- what is left to the model ----------------------------------------------------------------------------------------


def test_the_model_itself_computes_what_a_graph_does_not() -> None:
    made = model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    recorder = Recorder()
    graphed = Graphed(made, recorder)
    given = batch()
    taps: dict[str, Any] = {}
    for _ in range(3):
        assert graphed(**given, packed=True).shape == (3, 21, 60)
        graphed(**given, taps=taps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert graphed(**given).dtype == torch.bfloat16
        made.train()
        assert graphed(**given).requires_grad
        made.eval()
    assert taps["embeddings"].shape == (3, 21, 32)
    assert not recorder.recorded
    with pytest.raises(ModelError, match="70"):
        graphed(**batch(1, 71))
    graphed._most = 95
    for _ in range(3):
        graphed(**given)
    assert not recorder.recorded


def test_multiple_choice_is_the_models() -> None:
    made = model("RoFormerForMultipleChoice", summary_type="last")
    given = {key: value[None] for key, value in batch().items()}
    recorder = Recorder()
    graphed = Graphed(made, recorder)
    with torch.inference_mode():
        want = made(**given)
        for _ in range(3):
            assert torch.equal(graphed(**given), want)
    assert not recorder.recorded


def test_positions_outside_the_batch_are_refused_as_by_the_model() -> None:
    graphed = Graphed(model(), Recorder())
    for wrong in (63, -1):
        with pytest.raises(ModelError, match=f"positions holds {wrong}; the batch has 63 tokens"):
            graphed(**batch(), positions=torch.tensor([0, wrong]))


def test_a_model_on_a_cpu_has_no_graphs() -> None:
    with pretending(Device("cpu", "cpu")), pytest.raises(ModelError, match="CUDA graphs want a model on a GPU"):
        Graphed(model())


# --- in the process of fill-mask and predict --------------------------------------------------------------------------


def rows() -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [
        {"ids": generator.integers(5, 60, length).tolist(), "types": generator.integers(0, 2, length).tolist()}
        for length in (20, 3, 7)
    ]


def worker(made: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Worker, Worker, Recorder]:
    """Take a model on the CPU and on a GPU."""
    recorder = Recorder()
    monkeypatch.setattr(graphs_torch, "Graphed", partial(Graphed, recorder=recorder))
    plain, fast = Worker("torch"), Worker("torch")
    with pretending(Device("cpu", "cpu")):
        plain.take(made)
    fast.take(made)
    assert plain.graphed is None
    return plain, fast, recorder


def test_words_are_ranked_by_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast, recorder = worker(model(), monkeypatch)
    asked = [{**row, "columns": [1, 2]} for row in rows()]
    found = [fast.words(asked, 0, 3) for _ in range(3)]
    assert recorder.replayed == 3  # one of them to try it
    assert found[0] == found[1] == found[2]  # whether it was replayed or not
    got, want = np.array(found[0]), np.array(plain.words(asked, 0, 3))
    assert (got[:, :, 0] == want[:, :, 0]).all()
    assert abs(got - want).max() < 1e-4


def test_vectors_come_from_graphs_and_choices_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast, recorder = worker(model("RoFormerModel"), monkeypatch)
    for _ in range(3):
        assert np.abs(np.subtract(fast.vectors(rows(), 0), plain.vectors(rows(), 0))).max() < 1e-5
    assert recorder.replayed == 3
    plain, fast, recorder = worker(model("RoFormerForMultipleChoice", summary_type="last"), monkeypatch)
    for _ in range(3):
        assert fast.choices(rows(), 0) == plain.choices(rows(), 0)
    assert recorder.replayed == 0


# --- memory -----------------------------------------------------------------------------------------------------------


def test_weights_may_change_in_place_and_may_move() -> None:
    made = model()
    recorder = Recorder()
    graphed = Graphed(made, recorder)
    given = batch()
    for change in (lambda weight: weight.data.mul_(1.5), lambda weight: setattr(weight, "data", weight.data * 1.5)):
        for _ in range(3):
            graphed(**given)
        change(made.mlm.bias)
        change(made.layers[0].feed_forward.up.weight)
        with torch.inference_mode():
            want = made(**padded(given, 4, 24))[:3, :21]
        assert torch.equal(graphed(**given), want)
    assert recorder.recorded == 1
    for _ in range(2):
        graphed(**given)
    assert recorder.recorded == 2  # anew where weights moved


def test_the_shapes_longest_not_asked_for_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs_torch, "_MOST_BYTES", 40 * 60 * 4)  # room for 40 tokens' scores
    recorder = Recorder()
    graphed = Graphed(model(), recorder)
    one, two = Shape(1, 16, None, False), Shape(2, 16, None, False)
    came = (
        (one, [one]),
        (one, [one]),
        (two, [one, two]),
        (one, [two, one]),
        (two, [two]),
        (one, [two, one]),
        (one, [one]),
    )
    for shape, left in came:
        graphed(batch(shape.rows, shape.columns)["input_ids"])
        assert list(graphed._met) == left
    assert recorder.recorded == 3


def test_shapes_that_come_once_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs_torch, "_MOST_SHAPES", 2)
    recorder = Recorder()
    graphed = Graphed(model(), recorder)
    for _ in range(2):
        for rows in (1, 2, 4):
            graphed(batch(rows, 16)["input_ids"])
    assert len(graphed._met) == 2
    assert not recorder.recorded


# --- how CUDA is asked ------------------------------------------------------------------------------------------------


def test_graphs_are_recorded_after_warm_runs_on_two_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    names = iter(("aside", "recorded"))

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.name = next(names) if device == torch.device("cuda:1") else "main"

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

    class Within:
        def __init__(self, what: Any, **more: Any) -> None:
            self.what = getattr(what, "name", what)
            self.more = {name: getattr(each, "name", each) for name, each in more.items()}

        def __enter__(self) -> None:
            told.append(("in", self.what, self.more))

        def __exit__(self, *error: object) -> None:
            told.append(("out", self.what))

    class Graph:
        name = "graph"

        def replay(self) -> None:
            told.append("replay")

    main = Stream()
    for name, stand_in in {
        "graph_pool_handle": lambda: "pool",
        "Stream": Stream,
        "current_stream": lambda: main,
        "stream": Within,
        "device": Within,
        "CUDAGraph": Graph,
        "graph": Within,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def run() -> Results:
        told.append("run")
        return (None,)

    record = record_on(torch.device("cuda:1"))
    replay, found = record(run)
    assert found == (None,)
    replay()
    once = [
        ("in", torch.device("cuda:1"), {}),
        "aside waits for main",
        ("in", "aside", {}),
        *["run"] * 3,
        ("out", "aside"),
        "main waits for aside",
        ("in", "graph", {"pool": "pool", "stream": "recorded"}),
        "run",
        ("out", "graph"),
        ("out", torch.device("cuda:1")),
    ]
    assert told == [*once, "replay"]
    told.clear()
    record(run)
    assert told == once
