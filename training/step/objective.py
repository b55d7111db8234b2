"""The two losses of a batch, as sums: whoever divides knows how many tokens all ranks and micro-batches have together.

Masked language model: cross-entropy at the masked positions alone, which are gathered before the head. Sentence order:
cross-entropy of "as found" (0) against "swapped" (1).
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.ops_paddle import Tensor, on_host, worth_packing
from ...models.processes.start_paddle import paddle
from ...models.roformer_paddle import RoFormerForPretraining, Taps
from ..samples.batches import NO_ORDER, Batch

F = paddle.nn.functional

_FIRST = np.zeros(1, np.int64)
_NOTHING = np.full(1, NO_ORDER, np.int64)


@dataclass(frozen=True)
class Losses:
    """Sums over a batch. Those that are tensors wait for no device; the counts are known on the host.

    Attributes:
        mlm_sum: Cross-entropy of the masked tokens, float32 (nats).
        mlm_count: Number of masked tokens.
        mlm_correct: Masked tokens whose best word is the right one.
        sop_sum: Cross-entropy of the samples that have two sentences.
        sop_count: Samples that have two sentences.
        sop_correct: The samples among them whose order was predicted.
    """

    mlm_sum: Tensor
    mlm_count: int
    mlm_correct: Tensor
    sop_sum: Tensor
    sop_count: int
    sop_correct: Tensor


def losses(model: RoFormerForPretraining, batch: Batch, *, taps: Taps | None = None, accuracy: bool = True) -> Losses:
    """Compute a batch's losses.

    Args:
        model: The model, in training mode where dropout is wanted.
        batch: One micro-batch.
        taps: Filled with named activations.
        accuracy: Whether to count right answers; a training step saves itself the trouble.
    """
    mlm_count, sop_count = len(batch.labels), int((batch.order != NO_ORDER).sum())
    # a head that has nothing to predict still takes part, with a gradient of zero: every rank must have the same ones
    positions, labels = (batch.positions, batch.labels) if mlm_count else (_FIRST, _NOTHING)
    slots = batch.attention_mask.size
    words, order = model(
        paddle.to_tensor(batch.input_ids),
        paddle.to_tensor(batch.token_type_ids),
        on_host(batch.attention_mask),  # as the positions: places are looked up there
        positions=on_host(positions),
        packed=worth_packing(model.embeddings.word.weight, model.config, int(batch.attention_mask.sum()), slots),
        taps=taps,
    )
    words, order = words.astype("float32"), order.astype("float32")
    right_words, right_order = paddle.to_tensor(labels), paddle.to_tensor(batch.order)
    zero = paddle.zeros([], "float32")
    return Losses(
        mlm_sum=F.cross_entropy(words, right_words, reduction="sum", ignore_index=NO_ORDER),
        mlm_count=mlm_count,
        mlm_correct=(words.argmax(-1) == right_words).astype("float32").sum() if accuracy else zero,
        sop_sum=F.cross_entropy(order, right_order, reduction="sum", ignore_index=NO_ORDER),
        sop_count=sop_count,
        sop_correct=(order.argmax(-1) == right_order).astype("float32").sum() if accuracy else zero,
    )
