"""What the gate takes a loss of: one batch, and for each class what would be right there.

The losses are those of transformers' classes. Nothing is learned: all that counts is that every parameter has a
gradient, and that three frameworks find the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...converters.table.config import RoFormerConfig
from .cases import Case, Int64, count_options
from .tasks import Task

#: Of a classifier's scores: of one label each, of any number of labels, of numbers.
Loss = Literal["cross entropy", "binary cross entropy", "squares"]


@dataclass(frozen=True)
class Training:
    """One batch with what is right there; what a class does not score is empty.

    Attributes:
        case: The batch; its ``positions`` are the tokens at which words are scored.
        words: (K,) the words to guess there, or those that come next.
        order: (B,) 0 or 1, the order of each row's two texts.
        weights: (K, H) what the hidden states are weighted with, for a checkpoint that has no head.
        labels: What a classifier should say: (B,) labels or options; (B, C) numbers, or 0 and 1; (K,) labels of
            tokens; (B, 2) start and end.
        places: (K,) the tokens that have labels, row * T + column.
        loss: Which loss is taken of ``labels``.
    """

    case: Case
    words: Int64
    order: Int64
    weights: NDArray[np.float64]
    labels: NDArray[Any]
    places: Int64
    loss: Loss = "cross entropy"


def make_training(config: RoFormerConfig, task: Task) -> Training:
    """Make a batch with padding and two token types; a quarter of the real tokens are guessed or weighted."""
    random = np.random.Generator(np.random.PCG64(5))
    rows, columns = 3, min(19, config.max_position_embeddings)
    lengths = np.array([columns, max(1, columns - 5), max(1, columns // 2)])
    mask = (np.arange(columns) < lengths[:, None]).astype(np.int64)
    types = (np.arange(columns) >= lengths[:, None] // 2).astype(np.int64) * min(1, config.type_vocab_size - 1)
    positions = np.flatnonzero(mask)[::4]
    if task.next_word:  # every token after which there is one
        positions = np.flatnonzero(mask * np.append(mask[:, 1:], np.zeros((rows, 1), np.int64), axis=1))
    input_ids = random.integers(0, config.vocab_size, (rows, columns))
    words = random.integers(0, config.vocab_size, len(positions))
    if task.next_word:
        words = input_ids.reshape(-1)[positions + 1]
    weights = random.standard_normal((len(positions), config.hidden_size))
    case = Case("pretraining", input_ids, types, mask, None if task.head else positions, taps=False)
    labels: NDArray[Any] = np.zeros(0, np.int64)
    places, loss = np.zeros(0, np.int64), _loss(config, task)
    if task.head == "labels":
        labels = random.integers(0, config.num_labels, rows)
        if loss != "cross entropy":
            labels = random.integers(0, 2, (rows, config.num_labels)).astype(np.float64)
        if loss == "squares":
            labels = random.standard_normal((rows, config.num_labels))
    elif task.head == "token labels":
        places = np.flatnonzero(mask)
        labels = random.integers(0, config.num_labels, len(places))
    elif task.head == "spans":
        labels = np.sort(random.integers(0, lengths[:, None], (rows, 2)), axis=1)
    elif task.head == "options":
        options = count_options(config)
        labels = random.integers(0, options, rows)
        shape = (rows, options, columns)
        case = Case(
            case.name,
            random.integers(0, config.vocab_size, shape),
            np.broadcast_to(types[:, None], shape),
            np.broadcast_to(mask[:, None], shape),
            taps=False,
        )
    return Training(case, words, np.arange(rows) % 2, weights, labels, places, loss)


def _loss(config: RoFormerConfig, task: Task) -> Loss:
    """Choose as transformers does for a sequence classifier; where no file says it, one label is a number."""
    if task.head != "labels":
        return "cross entropy"
    if config.problem_type == "multi_label_classification":
        return "binary cross entropy"
    one_number = config.problem_type is None and config.num_labels == 1
    return "squares" if config.problem_type == "regression" or one_number else "cross entropy"
