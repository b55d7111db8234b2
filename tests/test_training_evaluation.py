"""Evaluation on held-out text, and the fill-mask lines of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("paddle")

from roformer_convert.models.answers.fill_mask import FillMask, fill_mask
from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.models.text.text_windows import TextsError
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.training.run.evaluation import SENTENCES, evaluate, fill_lines, read_sentences
from roformer_convert.training.samples.batches import NO_ORDER, Batch, StageData

CHARACTERS = sorted({*"".join(SENTENCES).replace("[MASK]", ""), *"天气人都也酒店净阳京错"})
ROWS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
CONFIG = RoFormerConfig(
    vocab_size=len(ROWS) + 2,
    embedding_size=12,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=32,
    hidden_dropout_prob=0.5,
    attention_probs_dropout_prob=0.5,
)

#: Tokens, masked places, what was there, order, number.
Sample = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int, int]


@pytest.fixture(scope="module")
def model() -> RoFormerForPretraining:
    paddle.seed(3)
    model = RoFormerForPretraining(CONFIG)
    rng = np.random.default_rng(3)
    for parameter in model.parameters():  # fresh weights hardly tell one word from another
        parameter.set_value(rng.normal(0, 0.4, parameter.shape).astype("float32"))
    model.train()
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("vocabulary")
    (directory / "vocab.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return Tokenizer.from_pretrained(directory)


class Data(StageData):
    """Stands for held-out StageData: 8 samples a step, whatever ranks and micro-batches."""

    steps_per_epoch = 5

    def __init__(self, pairs: bool = True, masks: bool = True) -> None:
        self.pairs, self.masks = pairs, masks

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, micro_tokens: int = 0) -> list[Batch]:
        samples = [self.sample(8 * step + number) for number in range(8)][rank::ranks]
        rows = micro_tokens // 20 or 8
        return [batch(samples[at : at + rows]) for at in range(0, len(samples), rows)]

    def sample(self, number: int) -> Sample:
        rng = np.random.default_rng(number)
        length = int(rng.integers(6, 20))
        masked = np.sort(rng.permutation(length)[: 3 if self.masks else 0])
        order = int(rng.integers(2)) if self.pairs and number % 3 else NO_ORDER
        return rng.integers(5, len(ROWS), length), masked, rng.integers(5, len(ROWS), len(masked)), order, number


def batch(samples: Sequence[Sample]) -> Batch:
    width = max(len(ids) for ids, *_ in samples)
    rows = np.zeros((len(samples), width), np.int64)
    for row, (ids, *_) in zip(rows, samples, strict=True):
        row[: len(ids)] = ids
    mask = (np.arange(width) < np.array([len(ids) for ids, *_ in samples])[:, None]).astype(np.int64)
    positions = np.concatenate([number * width + masked for number, (_, masked, *_) in enumerate(samples)])
    labels = np.concatenate([labels for _, _, labels, *_ in samples])
    order, numbers = (np.array([sample[place] for sample in samples]) for place in (3, 4))
    return Batch(rows, np.zeros_like(rows), mask, positions, labels, order, numbers)


def reference(model: RoFormerForPretraining, samples: Sequence[Sample]) -> list[float]:
    """Losses and accuracies by numpy's float64 log-softmax, a sample at a time."""
    scores, orders = [], []
    model.eval()
    for sample in samples:
        one = batch([sample])
        words, order = model(paddle.to_tensor(one.input_ids), positions=paddle.to_tensor(one.positions))
        scores += [(row, label) for row, label in zip(words.numpy().astype("float64"), one.labels, strict=True)]
        if sample[3] != NO_ORDER:
            orders.append((order.numpy()[0].astype("float64"), sample[3]))
    model.train()
    out: list[float] = []
    for pairs in (scores, orders):
        losses = [np.log(np.exp(row - row.max()).sum()) + row.max() - row[label] for row, label in pairs]
        out += [np.mean(losses), np.mean([row.argmax() == label for row, label in pairs])]
    return out


def test_losses_and_accuracies_are_means_over_all_batches(model: RoFormerForPretraining) -> None:
    found = evaluate(model, Data(), 3, micro_tokens=60, step=700, stage=2)
    wanted = reference(model, [Data().sample(number) for number in range(24)])
    got = [found.lm_loss, found.lm_accuracy, found.sop_loss, found.sop_accuracy]
    assert got == pytest.approx(wanted, rel=2e-5)  # float32 logits of about 10, summed
    assert (found.step, found.stage, found.masked, found.orders) == (700, 2, 72, 16)
    assert found.tokens == sum(len(Data().sample(number)[0]) for number in range(24))


def test_all_of_the_held_out_text_is_scored_where_there_is_less_than_was_asked_for(
    model: RoFormerForPretraining,
) -> None:
    assert evaluate(model, Data(), 99).masked == 5 * 24


def test_the_same_weights_give_the_same_numbers(model: RoFormerForPretraining) -> None:
    paddle.seed(1)
    first = evaluate(model, Data(), 2, micro_tokens=80)
    paddle.seed(2)
    assert evaluate(model, Data(), 2, micro_tokens=80) == first


def test_the_model_goes_on_training_and_no_random_number_is_drawn(model: RoFormerForPretraining) -> None:
    paddle.seed(9)
    wanted = paddle.rand([4]).tolist()
    paddle.seed(9)
    evaluate(model, Data(), 1)
    assert paddle.rand([4]).tolist() == wanted
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_is_kept_for_a_way_back(model: RoFormerForPretraining) -> None:
    class Watching(Data):
        def batches(self, step: int, **where: int) -> list[Batch]:
            kept.append(paddle.is_grad_enabled())
            return super().batches(step, **where)

    kept: list[bool] = []
    evaluate(model, Watching(), 1)
    assert kept == [False]
    assert paddle.is_grad_enabled()


def test_a_model_that_was_not_training_is_left_so(model: RoFormerForPretraining) -> None:
    model.eval()
    try:
        evaluate(model, Data(), 1)
        assert not model.training
    finally:
        model.train()


def test_two_ranks_score_what_one_does(model: RoFormerForPretraining) -> None:
    whole = evaluate(model, Data(), 2, micro_tokens=80)
    parts = []

    def gather(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        parts.append(sums)
        return sums

    for rank in (0, 1):
        evaluate(model, Data(), 2, micro_tokens=80, rank=rank, ranks=2, reduce=gather)
    together = evaluate(model, Data(), 2, micro_tokens=80, rank=0, ranks=2, reduce=lambda sums: parts[0] + parts[1])
    assert together.lm_loss == pytest.approx(whole.lm_loss, rel=1e-6)
    assert (together.lm_accuracy, together.sop_accuracy) == (whole.lm_accuracy, whole.sop_accuracy)
    assert (together.tokens, together.masked, together.orders) == (whole.tokens, whole.masked, whole.orders)


def test_an_objective_without_samples_has_no_numbers(model: RoFormerForPretraining) -> None:
    found = evaluate(model, Data(pairs=False), 1)
    assert (found.sop_loss, found.sop_accuracy, found.orders) == (None, None, 0)
    assert "sop" not in found.line()
    found = evaluate(model, Data(masks=False), 1)
    assert (found.lm_loss, found.lm_accuracy, found.masked) == (None, None, 0)


def test_the_line_of_an_evaluation_can_be_read_as_the_steps_line(model: RoFormerForPretraining) -> None:
    line = evaluate(model, Data(), 1, step=500).line()
    fields = dict(part.split(": ") for part in line.split(", ")[1:])
    assert line.startswith("evaluation at step 500, lm_loss: ")
    assert list(fields) == ["lm_loss", "lm_accuracy", "sop_loss", "sop_accuracy", "tokens"]


def test_the_lines_are_those_of_the_fill_mask_command(
    model: RoFormerForPretraining, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    wanted = [found.line for found in fill_mask(tmp_path / "saved", SENTENCES, frameworks=["paddle"], top_k=3)]
    assert fill_lines(model, tokenizer, SENTENCES, top_k=3) == wanted
    assert wanted[0].startswith("paddle: 今天[")
    assert wanted[0].count("||") == 4
    assert model.training


def test_sentences_that_cannot_be_filled_are_all_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextsError) as error:
        read_sentences(FillMask(tokenizer, top_k=5), ["今天[MASK]很好", "今天很好", "[MASK]" + "很" * 40], CONFIG)
    assert [number for number, _ in error.value.problems] == [2, 3]


def test_no_sentences_no_lines(model: RoFormerForPretraining, tokenizer: Tokenizer) -> None:
    assert fill_lines(model, tokenizer, []) == []
