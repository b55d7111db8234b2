"""Loss scaling, half types with float32 masters, and where they are refused. No GPU: the arithmetic stays float32."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_training
from numpy.typing import NDArray

from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.doctor.machine import Device
from roformer_convert.training.run import loop as loop_module
from roformer_convert.training.run.feed import Feed
from roformer_convert.training.run.loop import train
from roformer_convert.training.settings.tables import PRECISIONS, Data, Precision, Run, Scaling
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step import trainer as trainer_module
from roformer_convert.training.step.health import BadNumberError
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.precision import LossScaler, autocast, choose_device, types_of
from roformer_convert.training.step.state import read_checkpoint
from roformer_convert.training.step.trainer import Trainer
from roformer_convert.training.step.weights import Weights, gradient_norm

# half types


@pytest.mark.parametrize("precision", ["fp16-o1", "fp16-o2", "bf16-o1", "bf16-o2"])
def test_embeddings_are_halved_under_o2_alone(precision: Precision) -> None:
    """Paddle's own lists, as its tracer has them: it fills them in on a CPU, too, where it then casts nothing."""
    tracer = paddle.base.framework._dygraph_tracer()
    with pytest.warns(UserWarning, match="no effect"), autocast(precision):
        halved, kept = tracer._get_amp_op_list()
    assert "matmul_v2" in halved
    assert "lookup_table_v2" in (halved if precision.endswith("o2") else kept)
    assert not set(halved) & set(kept)


def test_a_run_computes_in_the_half_type_and_under_o1_in_float32_too() -> None:
    assert [types_of(each) for each in ("fp32", "fp16-o1", "bf16-o2")] == [
        ("float32",),
        ("float16", "float32"),
        ("bfloat16",),
    ]


# the scaler


@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim")
def test_the_scale_and_its_counters_are_those_of_paddles_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    # it disables itself where the current device is a CPU
    gpu = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", lambda: gpu)
    options = Scaling(init_loss_scaling=1024.0, incr_every_n=3, decr_every_n=2)
    theirs: Any = paddle.amp.GradScaler(
        init_loss_scaling=1024.0, incr_ratio=2.0, decr_ratio=0.8, incr_every_n_steps=3, decr_every_n_nan_or_inf=2
    )
    ours = LossScaler.fresh(options)
    for finite in map(int, "1110100101111110010000111111111"):
        theirs._cache_found_inf = not finite
        theirs._update()
        ours.update(bool(finite))
        assert (ours.scale, ours.good_steps, ours.bad_steps) == (
            float(theirs._scale.numpy()[0]),
            theirs._incr_count,
            theirs._decr_count,
        )


def test_the_reference_runs_scale_is_reached() -> None:
    scaler = LossScaler.fresh(Scaling(incr_every_n=1, decr_every_n=1))
    for finite in (*[True] * 4, *[False] * 6):
        scaler.update(finite)
    assert f"{scaler.scale:.5f}" == "137438.96875"


def test_the_scale_stays_finite_and_vanishes_below_its_least() -> None:
    scaler = LossScaler.fresh(Scaling(init_loss_scaling=2.0**127, incr_every_n=1, decr_every_n=1))
    scaler.update(True)
    assert scaler.scale == 2.0**127
    for _ in range(400):
        scaler.update(False)
    assert scaler.vanished


def forced(corpus: Path, tmp_path: Path, **changes: Any) -> tuple[Trainer, Feed]:
    """Make a trainer whose losses are scaled although it computes in float32."""
    settings = tiny_training.settings(corpus, tmp_path, **changes)
    sources = open_sources(settings.data.corpora)
    return Trainer(settings, sources, Ranks(), scaled=True), Feed(settings, sources)


def overflowing(monkeypatch: pytest.MonkeyPatch, above: float) -> None:
    """Let gradients be infinite wherever the scale is above a limit."""
    monkeypatch.setattr(
        trainer_module, "gradient_norm", lambda p, scale: math.inf if scale > above else gradient_norm(p, scale)
    )


def values(trainer: Trainer) -> dict[str, NDArray[np.float32]]:
    return {name: master.numpy() for name, master in trainer.weights.masters.items()}


def test_a_scale_of_a_power_of_two_changes_no_bit(corpus: Path, tmp_path: Path) -> None:
    settings = tiny_training.settings(corpus, tmp_path)
    sources = open_sources(settings.data.corpora)
    plain = Trainer(settings, sources, Ranks())
    scaled, feed = forced(corpus, tmp_path, init_loss_scaling=1024.0)
    with feed:
        for step in range(4):
            plain.take_step(feed.batches(step))
            scaled.take_step(feed.batches(step))
    for name, value in values(plain).items():
        np.testing.assert_allclose(values(scaled)[name], value, rtol=0, atol=1e-7, err_msg=name)
    assert scaled.scaler is not None
    assert scaled.scaler.good_steps == 4


def test_a_step_with_infinite_gradients_is_left_out_and_counted(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing(monkeypatch, above=1000.0)
    trainer, feed = forced(corpus, tmp_path, init_loss_scaling=1024.0, decr_every_n=2)
    before, seen = values(trainer), []
    assert trainer.scaler is not None
    with feed:
        for step in range(4):
            trainer.take_step(feed.batches(step))
            seen.append((trainer.scaler.good_steps, trainer.scaler.bad_steps))
            if step < 2:
                assert all(np.array_equal(value, before[name]) for name, value in values(trainer).items())
    assert seen == [(0, 1), (0, 0), (1, 0), (2, 0)]
    assert not np.array_equal(values(trainer)["sop.weight"], before["sop.weight"])
    assert trainer.step == 4
    assert (trainer.meter.taken, trainer.meter.steps) == (4, 2)


def test_a_vanishing_scale_ends_the_run(corpus: Path, tmp_path: Path) -> None:
    trainer, feed = forced(corpus, tmp_path, init_loss_scaling=4.0, min_loss_scaling=3.0, decr_ratio=0.5)
    trainer.weights.masters["layers.0.feed_forward.up.weight"].set_value(np.full((16, 24), 3e38, np.float32))
    with feed:
        trainer.take_step(feed.batches(0))
        with pytest.raises(BadNumberError, match="the loss scale fell to 2, below min_loss_scaling") as caught:
            trainer.take_step(feed.batches(1))
    assert caught.value.step == 2
    assert caught.value.tensor is not None
    assert caught.value.tensor.startswith("activation layers.0.feed_forward")


def test_the_scaler_goes_on_from_a_checkpoint(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, scaled=True)

    monkeypatch.setattr(loop_module, "Trainer", Scaled)
    overflowing(monkeypatch, above=1000.0)
    changes: dict[str, Any] = {"init_loss_scaling": 1024.0, "incr_every_n": 3, "log_steps": 1, "save_steps": 1}
    train(tiny_training.settings(corpus, tmp_path / "whole", steps=9, keep_checkpoints=0, **changes))
    assert read_checkpoint(tmp_path / "whole" / "step-000001").scaler["bad_steps"] == 1
    assert read_checkpoint(tmp_path / "whole" / "step-000004").scaler["good_steps"] == 2
    for stop in (1, 4):
        run = tmp_path / f"stopped-{stop}"
        run.mkdir()
        (run / f"step-{stop:06d}").symlink_to(tmp_path / "whole" / f"step-{stop:06d}")
        train(tiny_training.settings(corpus, run, steps=9, keep_checkpoints=0, **changes), resume=True)
        ours, whole = ((each / "step-000009") for each in (run, tmp_path / "whole"))
        for name in ("training.safetensors", "model_state.pdparams"):
            assert (ours / name).read_bytes() == (whole / name).read_bytes()
        assert read_checkpoint(ours).scaler == read_checkpoint(whole).scaler
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["good_steps"], last["bad_steps"]) == (0, 0)
    # 2 bad, 3 good, 2 bad, 2 bad
    assert last["loss_scaling"] == np.prod(np.array([1024, 0.8, 2, 0.8, 0.8], np.float32))


@pytest.mark.parametrize("state", [{}, {"scale": 0.0, "good_steps": 1, "bad_steps": 0}, {"scale": 1.0}])
def test_a_scaler_state_that_is_none_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="want scale, good_steps and bad_steps"):
        LossScaler.loaded(Scaling(), state)


# masters


CONFIG = RoFormerConfig(
    vocab_size=11, embedding_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
)


@pytest.fixture
def halved() -> Weights:
    return Weights(RoFormerForPretraining(CONFIG), Data(), half="float16")


def test_the_model_holds_rounded_copies_of_float32_masters(halved: Weights) -> None:
    for name, copy in halved.model.named_parameters():
        assert copy.dtype == paddle.float16
        master = halved.masters[name]
        assert master.dtype == paddle.float32
        np.testing.assert_array_equal(copy.numpy(), master.numpy().astype("float16"), err_msg=name)
    assert halved.model.rotary.table.dtype == paddle.float32


def test_gradients_of_copies_are_added_up_in_float32(halved: Weights) -> None:
    name = "sop.weight"
    copy, master = dict(halved.model.named_parameters())[name], halved.masters[name]
    halved.trained = {name: master}
    for value in (1.0, 2.0**-12):  # their sum is no float16
        copy.grad = paddle.full(copy.shape, value, "float16")
        halved.collect()
        assert copy.grad is None or not copy.grad.numpy().any()
    np.testing.assert_array_equal(master.grad.numpy(), np.full(master.shape, 1 + 2.0**-12, np.float32))


def test_a_small_change_is_kept_by_the_masters_and_saved(halved: Weights, tmp_path: Path) -> None:
    master = halved.masters["sop.weight"]
    ones = np.ones(master.shape, np.float32)
    for _ in range(4):  # each alone is lost in float16
        master.set_value((ones if _ == 0 else master.numpy()) + np.float32(1e-4))
        halved.publish()
    np.testing.assert_allclose(master.numpy(), 1.0004, atol=1e-6)
    assert dict(halved.model.named_parameters())["sop.weight"].numpy().dtype == np.float16
    halved.save(tmp_path / "saved", [])
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.dtype("sop.weight") == "float32"
        np.testing.assert_array_equal(checkpoint.read("sop.weight").T, master.numpy())


# devices


@pytest.mark.parametrize("precision", ["fp16-o1", "fp16-o2", "bf16-o1", "bf16-o2"])
def test_half_types_are_refused_on_a_cpu(precision: Precision) -> None:
    with pytest.raises(ConvertError, match=f"precision = '{precision}' needs a GPU, and this run computes on the CPU"):
        choose_device(Run(device="cpu", precision=precision))


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="this Paddle may have a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConvertError, match="device = 'gpu', but this build of Paddle is for CPUs only"):
        choose_device(Run(device="gpu"))
    assert choose_device(Run(device="auto")) == "cpu"


@pytest.mark.parametrize(
    ("capability", "refused"),
    [((6, 1), {"fp16-o1", "fp16-o2", "bf16-o1", "bf16-o2"}), ((7, 0), {"bf16-o1", "bf16-o2"}), ((8, 0), set())],
)
def test_a_half_type_is_refused_where_paddle_would_turn_itself_off(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refused: set[str]
) -> None:
    cuda = paddle.device.cuda
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(paddle.device, "set_device", lambda _: None)
    monkeypatch.setattr(paddle.distributed, "ParallelEnv", lambda: SimpleNamespace(device_id=0))
    monkeypatch.setattr(paddle.amp, "is_float16_supported", lambda: capability >= (7, 0))
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda: capability >= (8, 0))
    assert choose_device(Run(device="gpu")) == "gpu:0"
    for precision in PRECISIONS:
        if precision in refused:
            with pytest.raises(
                ConvertError, match=rf"precision = '{precision}': .*a card has (no bfloat16|a lower one)"
            ):
                choose_device(Run(device="gpu", precision=precision))
        else:
            assert choose_device(Run(device="gpu", precision=precision)) == "gpu:0"
    types = Device("a card", 1, capability).types
    assert {precision for precision in PRECISIONS if precision[:4] not in types} == refused
