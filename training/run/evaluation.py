"""How good a model is on text that it was not trained on, and what it puts into a few sentences.

Held-out batches are a function of the settings alone and dropout is off, so the same weights give the same numbers.
Filling masks is :mod:`...models.answers.fill_mask`, with the model that is being trained in place of a process's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models import ops_paddle
from ...models.answers.fill_mask import FillMask
from ...models.answers.framework_processes import Groups
from ...models.answers.worker import Worker
from ...models.config import RoFormerConfig
from ...models.processes.start_paddle import paddle
from ...models.text.text_windows import Item, TextsError, read_window
from ...models.text.tokenizer import Tokenizer
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


def read_sentences(task: FillMask, sentences: Sequence[str], config: RoFormerConfig) -> list[Item]:
    """Tokenize sentences to fill; call it before the run starts, so that a mistake costs nothing.

    Raises:
        TextsError: A sentence has no mask or is too long; all such sentences are named.
    """
    numbered = enumerate(sentences, 1)
    windows = iter(lambda: read_window(numbered, task.read, config, task.form), [])
    return [item for window in windows for item in window]


def sentences_to_fill(given: Sequence[str], tokenizer: Tokenizer, config: RoFormerConfig) -> tuple[str, ...]:
    """Choose what an evaluation fills: the sentences that are given, or those of our own that the model has room for.

    Raises:
        TextsError: One that is given cannot be filled; all such are named, by their places in ``fill_mask``.
    """
    if not given:
        return tuple(text for text in SENTENCES if len(tokenizer.encode(text).ids) <= config.max_position_embeddings)
    try:
        read_sentences(FillMask(tokenizer, top_k=1), given, config)
    except TextsError as error:
        # the next step is that of another command
        step = "Change fill_mask under [watch], or raise max_position_embeddings where a sentence is too long for it."
        raise TextsError(error.problems, step) from None
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
    task = FillMask(tokenizer, top_k)
    items = read_sentences(task, sentences, model.config)
    if not items:
        return []
    worker = _Worker(model)

    def ask(work: Sequence[Groups]) -> list[list[list[Any]]]:
        rows = [row.__dict__ for (row,) in work[0]]
        return [[[answer] for answer in worker.words(rows, **task.options)]]

    with evaluating(model):
        return [filled.line for filled in task.results(["paddle"], items, ask)]


class _Worker(Worker):
    """Answers with a model that is being trained: on its device and in its type."""

    def __init__(self, model: Any) -> None:
        super().__init__("paddle")
        self.model, self.ops = model, ops_paddle

    def array(self, output: Any) -> NDArray[Any]:
        """Return an output's values on the host, in float32."""
        found: NDArray[Any] = output.astype("float32").numpy()
        return found
