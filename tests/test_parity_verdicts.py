"""Verdicts take the farthest element, fail on NaN, and call words that may change places ties."""

from __future__ import annotations

import numpy as np
import pytest

from roformer_convert.parity.dumps import Distance, distance
from roformer_convert.parity.measure import Measured, _over_all_cases
from roformer_convert.parity.rankings import _same_order
from roformer_convert.parity.verdicts import single_bound


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


def test_a_case_of_next_to_nothing_is_put_on_the_scale_of_all_cases() -> None:
    # the order of one row, 0.1 beside another's 4: its rounding is that of the numbers that were added up
    case, apart = _over_all_cases([("one", Distance(3e-6, 0.1, (0, 0))), ("many", Distance(2e-6, 4.0, (5, 1)))])
    assert (case, apart.index) == ("one", (0, 0))
    assert apart.relative == pytest.approx(7.5e-7)
    case, apart = _over_all_cases([("one", Distance(3e-6, 0.1)), ("wrong", Distance(float("inf"), 1.0))])
    assert (case, apart.relative) == ("wrong", float("inf"))


def _bound(**rounding: float) -> float:
    found = {label: {"logits": ("ids", Distance(value, 1.0))} for label, value in rounding.items()}
    return single_bound(Measured({}, found, {}, {}))[0]


def test_broken_float32_does_not_widen_its_own_bound() -> None:
    assert _bound(paddle=1e-6, torch=1e-6, tf=1e-2) == pytest.approx(4e-6)


def test_bound_does_not_fall_below_what_float32_holds() -> None:
    assert _bound(paddle=0.0, torch=1e-6) == pytest.approx(4 * 2.0**-23)


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
    assert _same_order(words, ORDER, np.array(gaps), 0.5) is agree
