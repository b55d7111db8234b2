"""A step of the trainer against numpy's: rate, clipping, decay; and which dropout and data a part of a run gets."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training
from numpy.typing import NDArray

from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.run.evaluation import evaluating
from roformer_convert.training.run.feed import Feed
from roformer_convert.training.run.loop import train
from roformer_convert.training.samples.batches import NO_ORDER, Batch
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step import trainer as trainer_module
from roformer_convert.training.step.objective import Losses, losses
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.schedule import learning_rate
from roformer_convert.training.step.trainer import Trainer
from roformer_convert.training.step.weights import clear_gradients

NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def made(corpus: Path, tmp_path: Path, *, scaled: bool = False, **changes: Any) -> tuple[Trainer, Feed]:
    """Make a trainer and its feed."""
    settings = tiny_training.settings(corpus, tmp_path, **changes)
    sources = open_sources(settings.data.corpora)
    return Trainer(settings, sources, Ranks(), scaled=scaled), Feed(settings, sources)


# AdamW by hand


def paired(batches: Sequence[Batch]) -> int:
    """Samples that have two sentences: only they give the sentence-order head a gradient."""
    return sum(int((batch.order != NO_ORDER).sum()) for batch in batches)


def gradients_of(trainer: Trainer, batches: Sequence[Batch]) -> dict[str, NDArray[np.float64]]:
    """The gradient of a global batch's loss: of the mean over its masked tokens and over its pairs."""
    words, pairs = sum(len(batch.labels) for batch in batches), paired(batches)
    for batch in batches:
        found = losses(trainer.model, batch)
        (found.mlm_sum / float(words) + found.sop_sum / float(pairs)).backward()
    out = {name: master.grad.numpy().astype(np.float64) for name, master in trainer.weights.masters.items()}
    clear_gradients(trainer.weights.masters)
    return out


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_is_adamw_with_the_warm_ups_rate_and_clipped_gradients(
    corpus: Path, tmp_path: Path, scaled: bool
) -> None:
    # without a large epsilon AdamW's first steps are the same whatever the gradients are multiplied by
    options = {"weight_decay": 0.5, "beta1": 0.8, "beta2": 0.95, "adam_epsilon": 1e-3, "grad_clip": 0.1}
    trainer, feed = made(
        corpus, tmp_path, scaled=scaled, max_lr=3e-2, warmup_steps=3, micro_tokens=96, **options, **NO_DROPOUT
    )
    random = np.random.default_rng(0)
    masters = trainer.weights.masters
    for master in masters.values():  # fresh biases are 0 and fresh norms 1: decay of neither would be seen
        master.set_value(random.normal(0, 0.2, master.shape).astype(np.float32))
    want = {name: master.numpy().astype(np.float64) for name, master in masters.items()}
    first, second = ({name: np.zeros_like(value) for name, value in want.items()} for _ in range(2))
    with feed:
        for step, rate in ((1, 1e-2), (2, 2e-2)):
            batches = next(each for each in map(feed.batches, itertools.count(step)) if paired(each))
            gradients = gradients_of(trainer, batches)
            norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
            assert norm > 2 * options["grad_clip"]
            trainer.take_step(batches)
            moments = trainer.optimizer.state()
            for name, gradient in gradients.items():
                clipped = gradient * options["grad_clip"] / norm
                first[name] = 0.8 * first[name] + 0.2 * clipped
                second[name] = 0.95 * second[name] + 0.05 * clipped**2
                if name.endswith(".weight") and "norm" not in name:
                    want[name] *= 1 - rate * options["weight_decay"]
                root = np.sqrt(second[name] / (1 - 0.95**step))
                want[name] -= rate * first[name] / (1 - 0.8**step) / (root + options["adam_epsilon"])
                # float32 gradients of at most 0.1 and weights of at most 1, rates of 1e-2
                np.testing.assert_allclose(moments[f"{name}:moment1"], first[name], rtol=0, atol=1e-7, err_msg=name)
                np.testing.assert_allclose(moments[f"{name}:moment2"], second[name], rtol=1e-3, atol=1e-11)
                np.testing.assert_allclose(masters[name].numpy(), want[name], rtol=0, atol=2e-6, err_msg=name)
            assert trainer.meter.gradient_norm == pytest.approx(norm, rel=1e-5)
            trainer.meter.reset()


def test_the_rate_beside_a_step_in_the_log_is_the_one_it_was_taken_with(corpus: Path, tmp_path: Path) -> None:
    settings = tiny_training.settings(corpus, tmp_path, log_steps=2, max_lr=1e-2, warmup_steps=5)
    train(settings)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {record["step"]: record["learning_rate"] for record in records if record["kind"] == "step"}
    assert found == {step: learning_rate(settings, step) for step in range(2, 13, 2)}
    assert [found[2], found[4], found[12]] == pytest.approx([4e-3, 8e-3, 0.0])


# dropout


def losses_of_a_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, **changes: Any
) -> tuple[float, list[float], float]:
    """The loss of a step of two micro-batches that hold the same; its masked-LM parts; and the loss without dropout."""
    trainer, feed = made(corpus, tmp_path, **changes)
    trainer.ranks.rank = rank
    parts = []

    def recorded(model: RoFormerForPretraining, batch: Batch, **options: Any) -> Losses:
        parts.append(losses(model, batch, **options))
        return parts[-1]

    with feed:
        (batch,) = feed.batches(0)
    with evaluating(trainer.model):
        plain = losses(trainer.model, batch)
    monkeypatch.setattr(trainer_module, "losses", recorded)
    trainer.take_step([batch, batch])
    without = float(plain.mlm_sum) / plain.mlm_count
    return trainer.meter.lm_loss, [float(part.mlm_sum) for part in parts], without


def test_a_step_is_taken_with_dropout_and_every_micro_batch_and_rank_draws_its_own(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    loss, (one, other), without = losses_of_a_step(corpus, tmp_path, monkeypatch, **changes)
    assert abs(loss - without) > 1e-4
    assert one != other
    assert losses_of_a_step(corpus, tmp_path, monkeypatch, **changes) == (loss, [one, other], without)
    _, parts, also_without = losses_of_a_step(corpus, tmp_path, monkeypatch, rank=1, **changes)
    assert also_without == without
    assert not {one, other} & set(parts)


def test_without_dropout_a_step_has_the_loss_of_an_evaluation(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, (one, other), without = losses_of_a_step(corpus, tmp_path, monkeypatch, **NO_DROPOUT)
    assert loss == pytest.approx(without, rel=1e-6)
    assert one == other


# data


def test_a_second_stage_on_the_same_corpus_has_other_samples_and_masks(corpus: Path, tmp_path: Path) -> None:
    settings = tiny_training.settings(corpus, tmp_path, [{"steps": 6}, {"steps": 6}])
    with Feed(settings, open_sources(settings.data.corpora)) as feed:
        steps = [list(feed.batches(step)) for step in range(12)]
    rows = [[row.tobytes() for (batch,) in part for row in trimmed(batch)] for part in (steps[:6], steps[6:])]
    assert not set(rows[0]) & set(rows[1])


def trimmed(batch: Batch) -> list[NDArray[np.int64]]:
    return [row[: mask.sum()] for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
