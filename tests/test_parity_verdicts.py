"""Distances are the farthest element's, infinite for NaN, and words that may change places are ties."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from roformer_convert.parity.judging.bounds import STEADY, Bound, Bounds
from roformer_convert.parity.judging.measure import Measured
from roformer_convert.parity.judging.rankings import _same_order
from roformer_convert.parity.judging.verdicts import judge_distance
from roformer_convert.parity.participants.dumps import distance


def test_one_far_element_among_many_equal_ones_decides() -> None:
    one = np.ones(100_000)
    other = one.copy()
    other[77_777] += 1e-3
    apart = distance(one, other)
    assert apart.index == (77_777,)
    assert apart.relative == pytest.approx(1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("both", [False, True])
def test_what_is_not_finite_is_infinitely_far(value: float, both: bool) -> None:
    one, other = np.ones(5), np.ones(5)
    other[2] = value
    if both:
        one[2] = value
    apart = distance(one, other)
    assert apart.relative == float("inf")
    assert apart.index == (2,)
    assert not apart.relative <= 1e300


def test_other_shapes_are_infinitely_far() -> None:
    assert distance(np.ones((2, 3)), np.ones((3, 2))).relative == float("inf")


def test_difference_from_zeros_is_infinite() -> None:
    assert distance(np.zeros(3), np.zeros(3)).relative == 0.0
    assert distance(np.zeros(3), np.full(3, 1e-30)).relative == pytest.approx(1.0)


def test_a_verdict_says_where_the_difference_is_and_nothing_where_there_is_none() -> None:
    bound, who = Bound(1e-3, 1e-2, "why so much"), ("torch", "tf")
    one, other = np.ones(5), np.ones(5)
    other[2] = 1.5
    far = judge_distance("float64 logits", who, "texts", distance(one, other), bound)
    assert (far.where, far.status, far.bound, far.note) == ("texts [2]: 1 and 1.5", "differs", 1e-3, "why so much")
    same = judge_distance("float64 logits", who, "texts", distance(one, one), bound)
    assert same.as_dict() == {
        "check": "float64 logits",
        "about": ["torch", "tf"],
        "value": 0.0,
        "bound": 1e-3,
        "status": "good",
        "where": "",
        "note": "why so much",
        "passed": True,
    }


def test_a_bound_is_told_with_what_rounding_may_leave() -> None:
    wide = Bound(2e-2, 1e-2, "16 × what was measured")
    told = Bounds({"float32": {"logits": wide}}, STEADY, cast(Measured, None)).as_dict()
    assert told == {"float32": {"logits": {"value": 1e-2, "derived": 2e-2, "from": "16 × what was measured"}}}
    assert STEADY.note == ""


ORDER = (5, 3, 8, 1, 0, 2)


@pytest.mark.parametrize(
    ("words", "gaps", "agree"),
    [
        ((5, 3, 8), (9, 9, 9, 9, 9), True),
        ((3, 5, 8), (9, 9, 9, 9, 9), False),
        ((3, 5, 8), (0.1, 9, 9, 9, 9), True),  # 5 and 3 are tied
        ((5, 8, 3), (0.1, 9, 9, 9, 9), False),
        ((8, 3, 5), (0.1, 0.1, 9, 9, 9), True),
        ((5, 3, 1), (9, 9, 0.1, 9, 9), True),  # the last place is shared with the next word
        ((5, 3, 0), (9, 9, 0.1, 9, 9), False),
        ((5, 3, 0), (9, 9, 0.1, 0.1, 9), True),
        ((5, 3, 8), (float("nan"), 9, 9, 9, 9), True),
    ],
)
def test_order_counts_where_the_gap_exceeds_the_tie(
    words: tuple[int, ...], gaps: tuple[float, ...], agree: bool
) -> None:
    assert _same_order(words, ORDER, np.array(gaps), np.full(5, 0.5)) is agree
