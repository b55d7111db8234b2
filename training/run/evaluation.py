"""How good a model is on text that it was not trained on, and what it puts into a few sentences.

Held-out batches are a function of the settings alone and dropout is off, so the same weights give the same numbers.
Filling masks is :mod:`...models.fill_mask`, with the model that is being trained in place of a process's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models import fill_mask
from ...models.config import RoFormerConfig
from ...models.start_paddle import paddle
from ...models.tokenizer import Encoding, Tokenizer
from ...models.worker import Worker
from ..reporting.records import EvaluationRecord
from ..samples.batches import StageData
from ..step.objective import losses

#: Filled at each evaluation where the settings name no others; the first is that of the model card.
SENTENCES = (
    "今天[MASK]很好，我[MASK]去公园玩。",
    "中国的首都是北[MASK]。",
    "酒店的房间很干[MASK]，服务员的态度也很[MASK]。",
)

_COUNTS = ("mlm_sum", "mlm_count", "mlm_correct", "sop_sum", "sop_count", "sop_correct")


def evaluate(
    model: Any,
    data: StageData,
    steps: int,
    *,
    micro_tokens: int = 0,
    step: int = 0,
    stage: int = 1,
    rank: int = 0,
    ranks: int = 1,
    reduce: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda sums: sums,
) -> EvaluationRecord:
    """Score the first ``steps`` batches of held-out data, or all of it where there are fewer; every rank its part.

    Held-out samples stand in a fixed random order in which each comes once, so the first ones are a fair sample.

    The model is scored without dropout and left in the mode it was in; no random number is drawn.

    Args:
        model: :class:`~...models.roformer_paddle.RoFormerForPretraining`, not wrapped.
        data: Held-out batches.
        steps: How many batches.
        micro_tokens: Tokens that are scored together; 0: those of a batch.
        step: Steps of the run so far, for the record.
        stage: Number of the stage, for the record.
        rank: Rank of this process.
        ranks: How many there are.
        reduce: Adds up the ranks' sums; every rank gets the whole.
    """
    sums = np.zeros(len(_COUNTS) + 1)
    with evaluating(model):
        for number in range(min(steps, data.steps_per_epoch)):
            for batch in data.batches(number, rank=rank, ranks=ranks, micro_tokens=micro_tokens):
                found = losses(model, batch)
                sums[:-1] += [float(getattr(found, name)) for name in _COUNTS]
                sums[-1] += batch.attention_mask.sum()
    sums = reduce(sums)
    mlm_sum, mlm_count, mlm_correct, sop_sum, sop_count, sop_correct, tokens = sums.tolist()
    return EvaluationRecord(
        step=step,
        lm_loss=mlm_sum / mlm_count if mlm_count else None,
        lm_accuracy=mlm_correct / mlm_count if mlm_count else None,
        sop_loss=sop_sum / sop_count if sop_count else None,
        sop_accuracy=sop_correct / sop_count if sop_count else None,
        tokens=int(tokens),
        masked=int(mlm_count),
        orders=int(sop_count),
        stage=stage,
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch dropout and gradients off for a while."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            model.train()


def read_sentences(tokenizer: Tokenizer, sentences: Sequence[str], config: RoFormerConfig) -> list[Encoding]:
    """Tokenize sentences to fill; call it before the run starts, so that a mistake costs nothing.

    Raises:
        TextsError: A sentence has no mask or is too long; all such sentences are named.
    """
    numbered = enumerate(sentences, 1)
    windows = iter(lambda: fill_mask.read_window(numbered, tokenizer, config), [])
    return [encoding for _, _, encoding in itertools.chain.from_iterable(windows)]


def sentences_to_fill(given: Sequence[str], tokenizer: Tokenizer, config: RoFormerConfig) -> tuple[str, ...]:
    """Choose what an evaluation fills: the sentences that are given, or those of our own that the model has room for.

    Raises:
        TextsError: One that is given cannot be filled; all such are named, by their places in ``fill_mask``.
    """
    if not given:
        return tuple(text for text in SENTENCES if len(tokenizer.encode(text).ids) <= config.max_position_embeddings)
    try:
        read_sentences(tokenizer, given, config)
    except fill_mask.TextsError as error:
        # the next step is that of another command
        step = "Change fill_mask under [watch], or raise max_position_embeddings where a sentence is too long for it."
        raise fill_mask.TextsError(error.problems, step) from None
    return tuple(given)


def fill_lines(model: Any, tokenizer: Tokenizer, sentences: Sequence[str], top_k: int = 5) -> list[str]:
    """Fill every mask of a few sentences: the model card's line of each.

    Args:
        model: The model, as for :func:`evaluate`.
        tokenizer: The tokenizer that the model was trained with.
        sentences: Sentences with at least one mask each.
        top_k: Words a mask.

    Raises:
        TextsError: As for :func:`read_sentences`.
        ModelError: A logit is not finite.
    """
    encodings = read_sentences(tokenizer, sentences, model.config)
    if not encodings:
        return []
    worker = Worker("paddle")
    worker.score = lambda *arrays: _score(model, *arrays)
    with evaluating(model):
        answers = worker.fill([encoding.ids for encoding in encodings], tokenizer.mask_id, tokenizer.pad_id, top_k)
    return [
        fill_mask.assemble("paddle", number, text, encoding, masks, tokenizer).line
        for number, (text, encoding, masks) in enumerate(zip(sentences, encodings, answers["texts"], strict=True), 1)
    ]


def _score(
    model: Any, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[Any]:
    logits, _ = model(
        paddle.to_tensor(input_ids),
        attention_mask=paddle.to_tensor(attention_mask),
        positions=paddle.to_tensor(positions),
        packed=True,
    )
    scores: NDArray[Any] = logits.astype("float32").numpy()
    return scores
