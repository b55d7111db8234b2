"""The step: losses, gradients, AdamW; and what a whole run learns, writes, refuses and reports."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_training
from click.testing import CliRunner
from numpy.typing import NDArray

from roformer_convert import pretrain
from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.conversion import convert
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.table.mapping import DIALECTS
from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import choice_paddle as kernel_choice_paddle
from roformer_convert.models.proving.trials_paddle import Need, Verdict
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.run import loop as loop_module
from roformer_convert.training.run.feed import Feed
from roformer_convert.training.run.loop import train
from roformer_convert.training.samples.batches import NO_ORDER, Batch
from roformer_convert.training.settings.tables import Optimizer
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step import trainer as trainer_module
from roformer_convert.training.step.health import BadNumberError
from roformer_convert.training.step.meter import Meter
from roformer_convert.training.step.objective import Losses, losses
from roformer_convert.training.step.optimizer import AdamW, clip_factor, decays
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.precision import LossScaler
from roformer_convert.training.step.trainer import Trainer
from roformer_convert.training.step.weights import clear_gradients, gradient_norm


def made(corpus: Path, tmp_path: Path, **changes: Any) -> tuple[Trainer, Feed]:
    """Make a trainer and its feed."""
    settings = tiny_training.settings(corpus, tmp_path, **changes)
    sources = open_sources(settings.data.corpora)
    return Trainer(settings, sources, Ranks()), Feed(settings, sources)


def weights_after(corpus: Path, tmp_path: Path, steps: int, **changes: Any) -> dict[str, NDArray[np.float32]]:
    trainer, feed = made(corpus, tmp_path, **changes)
    with feed:
        for step in range(steps):
            trainer.take_step(feed.batches(step))
    return {name: master.numpy() for name, master in trainer.weights.masters.items()}


# the objective


def cross_entropy(logits: NDArray[np.float32], label: int) -> float:
    logits = logits.astype(np.float64)
    return float(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])


def test_losses_are_those_of_the_whole_batchs_logits_at_the_masked_places(corpus: Path, tmp_path: Path) -> None:
    trainer, feed = made(corpus, tmp_path, batch_size=6, length=24)
    with feed:
        (batch,) = feed.batches(1)
    model = trainer.model
    model.eval()
    words, order = model(*map(paddle.to_tensor, (batch.input_ids, batch.token_type_ids, batch.attention_mask)))
    words, order = words.numpy().reshape(-1, words.shape[-1]), order.numpy()
    found = losses(model, batch)
    each = [cross_entropy(words[place], label) for place, label in zip(batch.positions, batch.labels, strict=True)]
    assert float(found.mlm_sum) == pytest.approx(sum(each), rel=1e-5)
    assert found.mlm_count == len(batch.labels) > 0
    assert int(found.mlm_correct) == (words[batch.positions].argmax(-1) == batch.labels).sum()
    known = np.flatnonzero(batch.order != NO_ORDER)
    assert float(found.sop_sum) == pytest.approx(
        sum(cross_entropy(order[row], batch.order[row]) for row in known), rel=1e-5
    )
    assert found.sop_count == len(known) > 0


def test_a_batch_with_nothing_to_predict_has_losses_and_gradients_of_zero(corpus: Path, tmp_path: Path) -> None:
    trainer, feed = made(corpus, tmp_path, batch_size=4)
    with feed:
        (batch,) = feed.batches(0)
    nothing = np.empty(0, np.int64)
    batch = replace(batch, positions=nothing, labels=nothing, order=np.full_like(batch.order, NO_ORDER))
    found = losses(trainer.model, batch)
    (found.mlm_sum + found.sop_sum).backward()
    assert (float(found.mlm_sum), float(found.sop_sum)) == (0.0, 0.0)
    assert gradient_norm(trainer.weights.trained) == 0.0


# the optimiser


def test_adamw_takes_the_steps_of_its_definition() -> None:
    random = np.random.default_rng(0)
    options = Optimizer(weight_decay=0.1, beta1=0.8, beta2=0.95, adam_epsilon=1e-6, grad_clip=0.5)
    start = {"kernel": random.normal(size=(3, 4)), "bias": random.normal(size=4)}
    parameters = {name: paddle.create_parameter(value.shape, "float32") for name, value in start.items()}
    for name, value in start.items():
        parameters[name].set_value(value.astype("float32"))
    adamw = AdamW(parameters, options)
    want = {name: value.astype("float32").astype("float64") for name, value in start.items()}
    first, second = ({name: np.zeros_like(value) for name, value in start.items()} for _ in range(2))
    for step in range(1, 7):
        gradients = {name: random.normal(size=value.shape).astype("float32") for name, value in start.items()}
        products = ((parameters[name] * paddle.to_tensor(value)).sum() for name, value in gradients.items())
        sum(products, paddle.zeros([])).backward()
        norm = math.sqrt(sum((value.astype("float64") ** 2).sum() for value in gradients.values()))
        assert gradient_norm(parameters) == pytest.approx(norm, rel=1e-6)
        assert norm > options.grad_clip
        rate = 0.01 * step
        adamw.step(rate, clip_factor(norm, options.grad_clip))
        clear_gradients(parameters)
        for name, gradient in gradients.items():
            clipped = gradient * options.grad_clip / norm
            first[name] = 0.8 * first[name] + 0.2 * clipped
            second[name] = 0.95 * second[name] + 0.05 * clipped**2
            if name == "kernel":
                want[name] *= 1 - rate * options.weight_decay
            change = first[name] / (1 - 0.8**step) / (np.sqrt(second[name] / (1 - 0.95**step)) + 1e-6)
            want[name] -= rate * change
            np.testing.assert_allclose(parameters[name].numpy(), want[name], rtol=0, atol=2e-6)


def test_an_optimisers_state_is_whole_before_its_first_step_too() -> None:
    def fresh() -> tuple[dict[str, Any], None]:
        parameter = paddle.create_parameter((2, 3), "float32")
        parameter.set_value(np.ones((2, 3), np.float32))
        return {"w": parameter}, None

    (one, _), (other, _) = fresh(), fresh()
    here, there = AdamW(one, Optimizer()), AdamW(other, Optimizer())
    there.load(here.state())  # nothing was computed yet
    assert {key: value.tolist() for key, value in there.state().items()} == {
        key: value.tolist() for key, value in here.state().items()
    }
    for adamw, parameters in ((here, one), (there, other)):
        (parameters["w"] ** 2).sum().backward()
        adamw.step(0.1, 1.0)
    np.testing.assert_array_equal(one["w"].numpy(), other["w"].numpy())
    with pytest.raises(ConvertError, match=r"holds \(1,\) as w:moment2, want \(2, 3\)"):
        there.load({**here.state(), "w:moment2": np.zeros(1, np.float32)})


def test_clipping_leaves_small_gradients_alone() -> None:
    assert clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == 0.25
    assert clip_factor(4.0, 0.0) == 1.0


def test_decay_is_on_kernels_and_embeddings_alone(corpus: Path, tmp_path: Path) -> None:
    trainer, _ = made(corpus, tmp_path)
    decayed = {name for name, parameter in trainer.weights.masters.items() if decays(parameter)}
    assert decayed == {name for name in trainer.weights.masters if name.endswith(".weight") and "norm" not in name}
    assert {"embeddings.word.weight", "layers.0.attention.query.weight", "sop.weight"} <= decayed


# the step


def test_gradient_accumulation_equals_a_larger_batch(corpus: Path, tmp_path: Path) -> None:
    # micro-batches of three and more out of 8: unequal in tokens and in samples with two sentences
    changes: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_lr": 1e-3}
    whole = weights_after(corpus, tmp_path, 4, **changes)
    parts = weights_after(corpus, tmp_path, 4, micro_tokens=96, **changes)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_recomputing_layers_changes_nothing_with_dropout_too(corpus: Path, tmp_path: Path) -> None:
    kept, again = (weights_after(corpus, tmp_path, 3, recompute=recompute) for recompute in (False, True))
    for name, value in kept.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_dropout_is_drawn_anew_in_every_step_and_micro_batch(corpus: Path, tmp_path: Path) -> None:
    trainer, _ = made(corpus, tmp_path)
    seeds = {trainer._seed(part) for trainer.step in range(20) for part in range(5)}
    assert len(seeds) == 100


@pytest.mark.parametrize(
    ("off", "untouched", "trained"),
    [("mlm", ("mlm.",), "sop.weight"), ("sop", ("sop.", "pooler."), "mlm.transform.weight")],
)
def test_a_head_that_is_off_stays_as_it_was(
    corpus: Path, tmp_path: Path, off: str, untouched: str | tuple[str, ...], trained: str
) -> None:
    before = weights_after(corpus, tmp_path, 0, **{off: False})
    after = weights_after(corpus, tmp_path, 3, **{off: False})
    same = {name for name, value in before.items() if np.array_equal(after[name], value)}
    assert same == {name for name in before if name.startswith(untouched)}
    assert trained not in same


def test_a_seed_decides_the_weights_and_the_data(corpus: Path, tmp_path: Path) -> None:
    one, same, other = (weights_after(corpus, tmp_path, 2, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["embeddings.word.weight"], other["embeddings.word.weight"])


# a run


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on a text of 34 characters until it is known by heart."""
    tmp_path = tmp_path_factory.mktemp("classic")
    changes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "hidden_dropout_prob": 0.0}
    settings = tiny_training.settings(
        tiny_training.make_classic(tmp_path / "text"),
        tmp_path / "run",
        **changes,
        attention_probs_dropout_prob=0.0,
        short_sequence_probability=0.0,
        held_out_fraction=0.0,
        batch_size=16,
        steps=200,
        max_lr=4e-3,
        warmup_steps=30,
        decay="constant",
        log_steps=20,
        save_steps=200,
    )
    train(settings)
    return tmp_path / "run"


def test_a_small_text_is_overfitted(overfitted: Path) -> None:
    records = [json.loads(line) for line in (overfitted / "metrics.jsonl").read_text().splitlines()]
    first, last = ([record for record in records if record["kind"] == "step"][place] for place in (0, -1))
    assert first["lm_loss"] > 3.3  # 34 characters, each as likely: 3.5
    assert last["lm_loss"] < 1.3
    assert last["sop_loss"] < 0.2


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the gate compares Paddle with torch")
def test_a_trained_checkpoint_passes_the_parity_gate(overfitted: Path) -> None:
    program = [sys.executable, "-m", "roformer_convert", "parity", str(overfitted / "step-000200")]
    done = subprocess.run([*program, "--frameworks", "paddle,torch"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AGREE: " in done.stdout


def test_a_checkpoint_converts_to_every_dialect_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    train(tiny_training.settings(corpus, tmp_path / "run", steps=4))
    checkpoint = tmp_path / "run" / "step-000004"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"config.json", "model_state.pdparams", "vocab.txt"} <= names
    with open_checkpoint(checkpoint) as source:
        for dialect in DIALECTS:
            convert(checkpoint, tmp_path / dialect, to=dialect)
            with open_checkpoint(tmp_path / dialect) as copy:
                assert set(copy) == set(source)
                for name in source:
                    np.testing.assert_array_equal(copy.read(name), source.read(name), err_msg=name)


def test_log_lines_evaluations_and_stages_are_recorded(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages: list[dict[str, Any]] = [{"steps": 6}, {"steps": 5, "length": 48, "max_lr": None, "warmup_steps": 0}]
    train(tiny_training.settings(corpus, tmp_path, stages, log_steps=4, eval_steps=5))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [(record["kind"], record["step"]) for record in records]
    assert seen == [
        ("stage", 0), ("step", 4), ("evaluation", 5), ("fill_mask", 5), ("stage", 6), ("step", 8), ("evaluation", 10),
        ("fill_mask", 10), ("step", 11), ("evaluation", 11), ("fill_mask", 11),
    ]  # fmt: skip
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("global step 8, loss: "))
    assert line.endswith("loss_scaling: 1.0, num_good_steps: 0, num_bad_steps: 0")


def test_the_logs_losses_are_means_over_the_steps_since_the_last_line(corpus: Path, tmp_path: Path) -> None:
    train(tiny_training.settings(corpus, tmp_path / "each", steps=6, log_steps=1))
    train(tiny_training.settings(corpus, tmp_path / "three", steps=6, log_steps=3))

    def found(name: str) -> list[dict[str, Any]]:
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["kind"] == "step"]

    each, three = found("each"), found("three")
    for number, record in enumerate(three):
        part = each[3 * number : 3 * number + 3]
        assert record["lm_loss"] == pytest.approx(np.mean([one["lm_loss"] for one in part]))
        orders = [one["sop_loss"] for one in part if one["sop_loss"]]
        assert record["sop_loss"] == pytest.approx(np.mean(orders))
        assert record["loss"] == pytest.approx(record["lm_loss"] + record["sop_loss"])
        assert record["tokens"] == part[-1]["tokens"]


def test_losses_of_which_there_was_no_sample_are_not_zero() -> None:
    meter = Meter()
    meter.add(2.0, None, 3.0)
    meter.add(4.0, None, 5.0)
    loss, lm_loss, sop_loss, norm = meter.means(mlm=True, sop=True)
    assert (loss, lm_loss, norm) == (3.0, 3.0, 4.0)
    assert math.isnan(sop_loss)
    assert meter.means(mlm=True, sop=False) == (3.0, 3.0, 0.0, 4.0)
    meter.add(6.0, 0.5, 1.0)
    assert meter.means(mlm=True, sop=True) == (4.5, 4.0, 0.5, 3.0)


def test_a_line_without_any_pair_or_without_any_update_has_nulls(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer_module, "gradient_norm", lambda *given: math.inf if len(taken) == 1 else gradient_norm(*given)
    )
    taken: list[int] = []
    take_step = Trainer.take_step

    def counted(trainer: Trainer, batches: Sequence[Batch], **options: bool) -> bool:
        trainer.scaler = trainer.scaler or LossScaler.fresh(trainer.settings.scaling)
        pairless = [replace(batch, order=np.full_like(batch.order, NO_ORDER)) for batch in batches]
        asked = take_step(trainer, pairless, **options)
        taken.append(trainer.step)
        return asked

    monkeypatch.setattr(Trainer, "take_step", counted)
    train(tiny_training.settings(corpus, tmp_path, steps=3, log_steps=1))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    one, skipped, _ = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    assert one["loss"] == one["lm_loss"] > 0
    assert one["sop_loss"] is None
    assert [skipped[key] for key in ("loss", "lm_loss", "sop_loss", "gradient_norm")] == [None] * 4
    assert skipped["bad_steps"] == 1


# what goes wrong


def test_numbers_that_run_away_end_with_status_2_and_the_tensor_and_samples_named(corpus: Path, tmp_path: Path) -> None:
    tree = tiny_training.tree(corpus, tmp_path / "run", max_lr=1e30, warmup_steps=0, save_steps=1)
    configuration = tiny_training.write_toml(tmp_path / "run.toml", tree)
    result = CliRunner().invoke(pretrain.cli, ["train", "--config", str(configuration)])
    error = result.exception
    assert isinstance(error, BadNumberError)
    assert error.exit_status == 2
    assert error.step > 1
    assert error.tensor is not None
    assert len(error.samples) == 8
    assert f"newest checkpoint  {tmp_path / 'run' / f'step-{error.step - 1:06d}'}" in str(error)
    with open_checkpoint(tmp_path / "run" / f"step-{error.step - 1:06d}") as kept:
        assert all(np.isfinite(kept.read(name)).all() for name in kept)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("layers.1.feed_forward.up.bias", r"weight layers\.1\.feed_forward\.up\.bias \(1 NaN of 24\)"),
        (None, r"activation layers\.1\.attention\.query \(.* of .*\)"),
    ],
)
def test_the_first_bad_tensor_is_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str | None, said: str
) -> None:
    trainer, feed = made(corpus, tmp_path, micro_tokens=110)
    if broken is not None:
        values = trainer.weights.masters[broken].numpy()
        values[3] = np.nan
        trainer.weights.masters[broken].set_value(values)
    else:  # finite weights whose product is not
        trainer.weights.masters["layers.1.attention.query.weight"].set_value(np.full((16, 16), 3e38, np.float32))
    with feed, pytest.raises(BadNumberError, match=said) as caught:
        trainer.take_step(feed.batches(0))
    assert caught.value.samples == tuple(
        int(sample) for batch in (feed.batches(0)[: None if broken else 1]) for sample in batch.samples
    )
    assert trainer.step == 0


def test_a_bad_gradient_under_finite_activations_is_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, feed = made(corpus, tmp_path, hidden_dropout_prob=0.0)

    def infinite(model: RoFormerForPretraining, batch: Batch, **options: Any) -> Losses:
        found = losses(model, batch, **options)
        # the square root's slope at 0 is infinite
        return replace(found, sop_sum=found.sop_sum + (cast(Any, model.sop.bias)[0] * 0.0).sqrt())

    monkeypatch.setattr(trainer_module, "losses", infinite)
    monkeypatch.setattr("roformer_convert.training.step.health.losses", infinite)
    with feed, pytest.raises(BadNumberError, match=r"gradient of sop\.bias \(1 "):
        trainer.take_step(feed.batches(0))


def test_sentences_that_cannot_be_filled_are_refused_before_the_first_step(corpus: Path, tmp_path: Path) -> None:
    wrong = ["今天[MASK]很好。", "今天很好。", "很" * 70 + "[MASK]"]
    said = r"2 texts cannot be used\n  text 2: no \[MASK\].*\n  text 3: 73 tokens.*\n  Change fill_mask under \[watch\]"
    with pytest.raises(ConvertError, match=said):
        train(tiny_training.settings(corpus, tmp_path, fill_mask=wrong))
    assert not list(tmp_path.glob("step-*"))


def test_a_batch_that_is_smaller_than_the_number_of_ranks_is_refused_by_its_stage(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Three(Ranks):
        def __init__(self) -> None:
            self.count, self.rank = 3, 1

    monkeypatch.setattr(loop_module, "Ranks", Three)
    stages = [{"batch_size": 2}, {"batch_size": 3}, {"batch_size": 0, "batch_tokens": 50, "length": 20}]
    with pytest.raises(ConvertError) as caught:
        train(tiny_training.settings(corpus, tmp_path / "run", stages))
    assert str(caught.value) == (
        "stages[0].batch_size = 2, but there are 3 ranks: each needs at least one sequence a step\n"
        "  stages[2].batch_tokens = 50 of length 20, but there are 3 ranks: each needs at least one sequence a step\n"
        "  Raise --batch-size or --batch-tokens, which count all ranks together, or start fewer ranks."
    )
    assert not list(tmp_path.rglob("step-*"))


def test_a_corpus_without_held_out_documents_is_refused_before_anything_starts(corpus: Path, tmp_path: Path) -> None:
    few = tiny_training.make_corpus(tmp_path / "few", documents=3)
    both, run = [str(corpus), str(few)], tmp_path / "run"
    why = r"few/corpus: none of its 3 documents is held out at held_out_fraction 0\.1\n.*--eval-batches 0"
    with pytest.raises(ConvertError, match=why):
        train(tiny_training.settings(corpus, run, corpora=both, steps=4, eval_steps=3))
    assert not list(run.glob("metrics*"))
    assert train(tiny_training.settings(corpus, run, corpora=both, steps=4, eval_steps=3, eval_batches=0)) == 4


def test_a_later_stages_data_are_laid_out_before_the_first_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module.Loop, "run", lambda loop: None)
    stages = [{"steps": 2}, {"steps": 2, "length": 48}, {"steps": 2, "length": 16}]
    train(tiny_training.settings(corpus, tmp_path, stages, eval_steps=1))
    assert len(list((tmp_path / "samples").iterdir())) == 6  # of each stage what is trained on and what is held out


def test_the_sentences_that_are_filled_in_are_those_with_room_in_the_model(corpus: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"length": 12, "max_position_embeddings": 12, "steps": 2, "eval_steps": 2}
    assert train(tiny_training.settings(corpus, tmp_path, **changes)) == 2
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (lines,) = [record["lines"] for record in records if record["kind"] == "fill_mask"]
    assert len(lines) == 1  # of three
    assert "北[" in lines[0]


def test_without_any_sentence_that_fits_none_is_filled_in(corpus: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"length": 8, "max_position_embeddings": 8, "steps": 2, "eval_steps": 2}
    assert train(tiny_training.settings(corpus, tmp_path, **changes)) == 2
    assert '"fill_mask"' not in (tmp_path / "metrics.jsonl").read_text()


def test_no_corpus_another_vocabulary_and_a_weight_that_is_none_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no corpus is named"):
        open_sources([])
    with pytest.raises(ConvertError, match="the weight after = must be a number above 0"):
        open_sources([f"{corpus}=much"])
    other = tmp_path / "other"
    other.mkdir()
    vocabulary = corpus.parent / "vocab.txt"
    (other / "vocab.txt").write_text(vocabulary.read_text(encoding="utf-8") + "外\n", encoding="utf-8")
    from roformer_convert.training.corpus.prepare import prepare

    prepare([corpus.parent / "text.txt"], other / "corpus", other / "vocab.txt", segmenter="none", processes=1)
    with pytest.raises(ConvertError, match="was prepared with another vocabulary"):
        open_sources([f"{corpus}=2", str(other / "corpus")])


def test_the_run_begins_from_the_weights_of_init(corpus: Path, tmp_path: Path) -> None:
    train(tiny_training.settings(corpus, tmp_path / "first", steps=4))
    began = tmp_path / "first" / "step-000004"
    trainer, _ = made(corpus, tmp_path / "second", init=str(began), seed=7)
    for name, parameter in RoFormerForPretraining.from_pretrained(began).named_parameters():
        np.testing.assert_array_equal(trainer.weights.masters[name].numpy(), parameter.numpy(), err_msg=name)
    assert trainer.step == 0


def test_the_log_says_what_became_of_each_kernel(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need = Need("attention", "float32", (2, 8))
    verdicts = (Verdict("one", need, False, "it raises"), Verdict("other", need, True, "its error is small"))
    asked = []

    def prove(config: RoFormerConfig, types: tuple[str, ...], *, training: bool) -> tuple[Verdict, ...]:
        assert training
        asked.append((config, types))
        return verdicts

    monkeypatch.setattr(kernel_choice_paddle, "prove", prove)
    train(tiny_training.settings(corpus, tmp_path / "run", steps=1))
    said = capsys.readouterr().out.splitlines()
    first_step = next(number for number, line in enumerate(said) if line.startswith("global step 1,"))
    opening = "\n".join(said[:first_step])
    assert "kernels  attention: one in float32 is left out: it raises\n" in opening
    assert "kernels  attention: other in float32, its error is small\n" in opening
    ((config, types),) = asked
    assert (config.num_attention_heads, types) == (2, ("float32",))
