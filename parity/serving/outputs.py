"""What an official participant computes and answers, held against one of ours. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..judging.bounds import Bounds
from ..judging.divergence import Divergence
from ..judging.verdicts import Verdict, judge_distance
from ..participants.dumps import Distance, Dump, as_rows, digits_of, distance, farthest, last_digits
from ..questions.cases import Case
from ..questions.tasks import results
from .asking import Official

Array = NDArray[Any]


@dataclass(frozen=True)
class Compared:
    """What of a case is compared.

    Attributes:
        tokens: (B, T) or (B, A, T), flattened to (rows, T): tokens whose results are compared.
        rows: (rows,) whether a row's results are.
        real: (rows, T) tokens that are no padding.
    """

    tokens: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    real: NDArray[np.bool_]

    @classmethod
    def of(cls, official: Official, case: Case) -> Compared:
        """Compare everything; of a software that masks token 0 alone, and never a row's first, what it can be told."""
        words = case.input_ids.reshape(-1, case.input_ids.shape[-1])
        mask = np.ones_like(words) if case.attention_mask is None else case.attention_mask
        real = mask.reshape(words.shape) != 0
        rows = np.ones(len(words), bool)
        if official.software.takes_a_mask:
            return cls(np.ones(words.shape, bool), rows, real)
        rows = ~(real & (words == 0)).any(1) & real[:, 0]
        return cls(real & rows[:, None], rows, real)

    def whole(self, row: int) -> bool:
        """Say whether a row of the case is compared."""
        return bool(self.rows[row]) if row < len(self.rows) else False

    def over(self, array: Array, case: Case, name: str) -> NDArray[np.bool_]:
        """Say which numbers of a tap are compared, in a shape that broadcasts to it."""
        if name == "logits" and case.positions is not None:
            chosen: NDArray[np.bool_] = self.tokens.reshape(-1)[case.positions]
        elif array.shape[:2] == self.tokens.shape and name not in ("pooler", "sop"):
            chosen = self.tokens
        elif name == "classifier" and array.shape == case.input_ids.shape[:-1] and array.ndim == 2:
            chosen = self.rows.reshape(array.shape)
        else:
            chosen = self.rows
        return chosen.reshape(*chosen.shape, *[1] * (array.ndim - chosen.ndim))


def compare_outputs(
    official: Official, ours: Dump, cases: Sequence[Case], compared: Mapping[str, Compared], bounds: Bounds
) -> tuple[list[Verdict], Divergence | None, dict[str, NDArray[np.bool_]]]:
    """Measure the results in every type, and where one differs the first activation that does.

    Returns where that one differs too: case → (rows, T) tokens.
    """
    verdicts: list[Verdict] = []
    first: Divergence | None = None
    where: dict[str, NDArray[np.bool_]] = {}
    about = (ours.label, official.label)
    for dtype in official.facts["types"]:
        taps = _taps(official, ours, cases, compared, dtype, bounds.measured.scales)
        found = [
            judge_distance(f"official: {dtype} {_called(name)}", about, *taps[name], bounds.of(dtype, name))
            for name in results(taps)
        ]
        verdicts += found
        if first is None and not all(verdict.passed for verdict in found):
            for name, (case, one) in taps.items():
                limit = bounds.at_tap(dtype, name)
                if not one.relative <= limit:
                    first = Divergence(dtype, name, official.label, about, case, one)
                    where = _places(official, ours, cases, compared, first, limit, bounds.measured.scales)
                    break
    return verdicts, first, where


def _called(name: str) -> str:
    return "last hidden states" if name.endswith("feed_forward_norm") or name == "embeddings" else name


def _taps(
    official: Official,
    ours: Dump,
    cases: Sequence[Case],
    compared: Mapping[str, Compared],
    dtype: str,
    scales: Mapping[str, Array],
) -> dict[str, tuple[str, Distance]]:
    """Measure every activation that both have: tap → (case, distance), the farthest of all cases."""
    found: dict[str, list[tuple[str, Distance]]] = {}
    for case in cases:
        if not compared[case.name].rows.any():
            continue
        with ours.opened(f"float64.{case.name}") as right, official.dump.opened(f"{dtype}.{case.name}") as theirs:
            for name in theirs:
                if name in right:
                    apart = _apart(right[name], theirs[name], compared[case.name], case, name, scales.get(name))
                    found.setdefault(name, []).append((case.name, apart))
    return {name: farthest(listed, lambda one: one.relative) for name, listed in found.items()}


def _apart(right: Array, theirs: Array, compared: Compared, case: Case, name: str, scale: Array | None) -> Distance:
    if right.shape != theirs.shape:
        return distance(right, theirs)
    chosen = np.where(compared.over(right, case, name), theirs, right)
    return distance(right, chosen, scale, digits_of(theirs.dtype))


def _places(
    official: Official,
    ours: Dump,
    cases: Sequence[Case],
    compared: Mapping[str, Compared],
    divergence: Divergence,
    limit: float,
    scales: Mapping[str, Array],
) -> dict[str, NDArray[np.bool_]]:
    """Say at which tokens of each case an activation differs; a row's result differs at all of them."""
    found = {}
    for case in cases:
        name, mine = divergence.tap, compared[case.name]
        with (
            ours.opened(f"float64.{case.name}") as right,
            official.dump.opened(f"{divergence.dtype}.{case.name}") as theirs,
        ):
            if name not in right or name not in theirs or right[name].shape != theirs[name].shape:
                continue
            exact, got = right[name], theirs[name]
            scale = scales[name]
            room = limit * scale + last_digits(as_rows(exact), scale, digits_of(got.dtype))
            near: NDArray[np.bool_] = np.asarray(as_rows(np.abs(exact - got)) <= room).reshape(exact.shape)
            wrong = ~near & mine.over(exact, case, name)
        tokens = np.zeros(mine.real.shape, bool)
        if name == "logits" and case.positions is not None:
            tokens.reshape(-1)[case.positions] = wrong.any(-1)
        elif wrong.shape[:2] == tokens.shape and name not in ("pooler", "sop"):
            tokens |= wrong.reshape(*tokens.shape, -1).any(-1)
        else:
            tokens |= wrong.reshape(len(tokens), -1).any(-1, keepdims=True)
        found[case.name] = tokens
    return found
