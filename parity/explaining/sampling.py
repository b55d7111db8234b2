"""What of a run is recomputed in numpy: all of a small model's, of a large one's as many rows as a fixed amount of work
allows.

Rows are whole, for attention sees all of a row, and one of each case comes before the second of any, the shortest
first: so that padding, token types and masks are among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.table.config import RoFormerConfig
from ..participants.dumps import Dump
from ..questions.cases import Case
from ..questions.tasks import Task

Array = NDArray[Any]

#: Floating-point operations that are recomputed of a participant: about four seconds of one core.
BUDGET = 40e9
#: Taps of which chosen positions are scored alone.
_SCORED = ("mlm.transform", "mlm.norm", "logits")


@dataclass(frozen=True)
class Sample:
    """Some rows of a case.

    Attributes:
        case: They alone.
        rows: Their places in the case; of multiple choice a row is a question.
        scored: Where the case chooses positions, the places of theirs among them.
        task: What the model's class computes.
    """

    case: Case
    rows: Array
    scored: Array | None
    task: Task

    def taps(self, dump: Dump, dtype: str = "float64") -> dict[str, Array]:
        """Read what a participant computed of these rows, in float64."""
        with dump.opened(f"{dtype}.{self.case.name}") as arrays:
            return {name: self.take(name, arrays[name]).astype(np.float64, copy=False) for name in arrays}

    def take(self, name: str, array: Array) -> Array:
        """Take these rows of a tap."""
        taken: Array
        if name in _SCORED and self.scored is not None:
            taken = array[self.scored]
        elif self.case.input_ids.ndim == 3 and name not in ("classifier",):
            options = self.case.input_ids.shape[1]
            taken = array[(self.rows[:, None] * options + np.arange(options)).reshape(-1)]
        else:
            taken = array[self.rows]
        return taken


def choose_samples(cases: Sequence[Case], config: RoFormerConfig, task: Task, budget: float = BUDGET) -> list[Sample]:
    """Choose the rows of cases whose taps are recorded; whole cases where all of them are within the budget.

    Args:
        cases: What was run.
        config: The model's sizes.
        task: What its class computes.
        budget: Floating-point operations; one row is taken whatever it costs.
    """
    recorded = sorted((case for case in cases if case.taps), key=lambda case: case.input_ids.shape[-1])
    rows: dict[str, list[int]] = {}
    left = budget
    for case, row in _by_turns(recorded):
        left -= work_of(take_rows(case, np.array([row]), task).case, config, task)
        if left < 0 and rows:
            break
        rows.setdefault(case.name, []).append(row)
    return [take_rows(case, np.array(rows[case.name]), task) for case in cases if case.name in rows]


def _by_turns(cases: Sequence[Case]) -> Iterator[tuple[Case, int]]:
    for row in range(max(len(case.input_ids) for case in cases)):
        for case in cases:
            if row < len(case.input_ids):
                yield case, row


def take_rows(case: Case, rows: Array, task: Task) -> Sample:
    """Cut a case down to some of its rows."""
    if len(rows) == len(case.input_ids):
        scored = None if case.positions is None else np.arange(len(case.positions))
        return Sample(case, rows, scored, task)
    arrays = {
        name: None if array is None else array[rows]
        for name in ("input_ids", "token_type_ids", "attention_mask")
        for array in [getattr(case, name)]
    }
    scored = positions = None
    if case.positions is not None:
        width = case.input_ids.shape[-1]
        row, column = np.divmod(case.positions, width)
        scored = np.flatnonzero(np.isin(row, rows))
        positions = np.searchsorted(rows, row[scored]) * width + column[scored]
    return Sample(replace(case, **arrays, positions=positions, ranked=(), parts=()), rows, scored, task)  # type: ignore[arg-type]


def work_of(case: Case, config: RoFormerConfig, task: Task) -> float:
    """Return the floating-point operations of a case's products."""
    tokens, width, hidden = case.input_ids.size, case.input_ids.shape[-1], config.hidden_size
    layer = 2 * hidden * (4 * hidden + 2 * config.intermediate_size) + 4 * width * hidden
    scored = len(case.scored) * 2 * config.vocab_size * config.embedding_size if task.mlm else 0
    return float(tokens * config.num_hidden_layers * layer + scored)


def tell_sampled(samples: Sequence[Sample], cases: Sequence[Case]) -> str:
    """Say how much is recomputed where that is not everything that was recorded."""
    rows = sum(len(sample.rows) for sample in samples)
    everything = sum(len(case.input_ids) for case in cases if case.taps)
    return "" if rows == everything else f"{rows} of {everything} rows, what {BUDGET / 1e9:.0f} GFLOP allow"
