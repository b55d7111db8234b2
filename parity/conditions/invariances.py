"""Whether a row gives the same whatever batch it stands in: each participant is compared with itself.

The batches are :mod:`..questions.variants`', laid out in every way that must change nothing; here their results are put
back in place and compared. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.table.config import RoFormerConfig
from ..explaining.causes import Cause
from ..judging.bounds import FLOAT32, Bound, Bounds
from ..judging.measure import DTYPES, Measured
from ..judging.verdicts import Verdict, worst_of
from ..participants.dumps import Distance, Dump, distance
from ..questions.tasks import RESULTS, Task
from ..questions.variants import Variant, pools_padding

Array = NDArray[Any]
#: What every check of this module begins with.
SAME = "the same row "
#: A position's angle is rounded to float64, by up to this much a position.
_ANGLE = 2.0**-53
#: What it means that one breaks, by its first words.
_REASONS = {
    "in another order": "what a row gives depends on its place in the batch",
    "alone": "what a row gives depends on the rows beside it, or on its padding",
    "padded": "what a row gives depends on its padding",
    "beside": "a row without a real token is no number, or changes what the others give",
    "packed": "packed rows are computed otherwise than padded ones",
    "at the end": "a row near the limit is computed otherwise than one at the beginning",
    "token types": "without token types another than type 0 is taken",
}


def judge_invariances(
    dumps: Sequence[Dump],
    variants: Sequence[Variant],
    config: RoFormerConfig,
    task: Task,
    measured: Measured,
    bounds: Bounds,
) -> list[Verdict]:
    """Compare every row with itself in another batch: one verdict a participant and invariance.

    Args:
        dumps: The participants.
        variants: The other batches.
        config: The model's.
        task: What its class computes.
        measured: What a row's results are held against.
        bounds: How far two participants may be apart, and so two computations of a row.
    """
    bound_at = partial(_bound, bounds)
    return [
        verdict
        for dump in dumps
        for verdict in judge_rows(dump, variants, DTYPES, config, task, measured.scales, bound_at)
    ]


def judge_rows(
    dump: Dump,
    variants: Sequence[Variant],
    dtypes: Sequence[str],
    config: RoFormerConfig,
    task: Task,
    scales: Mapping[str, Array],
    bound_at: Callable[[str, str, Variant], Bound],
    *,
    whose: str = "",
    digits: float = 0.0,
) -> list[Verdict]:
    """Compare every row of one participant with itself: one verdict an invariance, of all types the worst.

    Args:
        dump: The participant.
        variants: The other batches.
        dtypes: The types in which both were computed.
        config: The model's.
        task: What its class computes.
        scales: Tap → what each of its channels is held against.
        bound_at: Type, tap and variant → how far two computations of a row may be apart.
        whose: Begins the checks' names.
        digits: What share of a number that is far from zero its last digits are, where the arrays' types do not say it.
    """
    found = []
    for invariance in dict.fromkeys(variant.invariance for variant in variants):
        verdicts = []
        for variant, dtype in product([one for one in variants if one.invariance == invariance], dtypes):
            with (
                dump.opened(f"{dtype}.{variant.against}") as before,
                dump.opened(f"{dtype}.{variant.case.name}") as after,
            ):
                for tap, row, apart in compare_rows(
                    variant, before, after, task, pools_padding(config, task), scales, digits
                ):
                    bound = bound_at(dtype, tap, variant)
                    where = f"{dtype} {tap} of row {row}: {apart.values[1]:.9g} instead of {apart.values[0]:.9g}"
                    status = bound.status_of(apart.relative)
                    check, about = f"{whose}{SAME}{invariance}", (dump.label,)
                    verdicts.append(Verdict(check, about, apart.relative, bound.value, status, where, bound.told))
        found.append(worst_of(verdicts))
    return found


def _bound(bounds: Bounds, dtype: str, tap: str, variant: Variant) -> Bound:
    """Return how far two computations of one row may be apart: as far as two participants.

    Farther right its angles are rounded more, which grows on its way through the model as float32's roundings do.
    """
    bound = bounds.of(dtype, tap)
    if dtype == "float32":
        return bound
    angles = variant.shift * _ANGLE * bounds.of("float32", tap).derived / FLOAT32
    return replace(bound, derived=max(bound.derived, angles))


def explain_invariances(verdicts: Sequence[Verdict]) -> list[Cause]:
    """Say what it means that one breaks."""
    causes = []
    for verdict in verdicts:
        _, same, invariance = verdict.check.partition(SAME)
        if same and verdict.status == "differs":
            why = next(said for begin, said in _REASONS.items() if invariance.startswith(begin))
            causes.append(Cause(verdict.about[0], "batch", why, verdict.where, False))
    return causes


def compare_rows(
    variant: Variant,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    task: Task,
    pools_padding: bool,
    scales: Mapping[str, Array],
    digits: float = 0.0,
) -> Iterator[tuple[str, int, Distance]]:
    """Yield how far each result of each row is from what it was: tap, row, distance.

    Of a row without a real token it is known only that its results are numbers; one that is not is infinitely far.
    """
    for tap in after:
        was, array = (taps[tap].astype(np.float64) if digits else taps[tap] for taps in (before, after))
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            yield tap, index[0], Distance(float("inf"), 1.0, index, (0.0, float(array[index])))
        elif tap == "logits":
            want = was[list(variant.scored)]
            for row in sorted(set(variant.scored_rows)):
                mine = [place for place, its in enumerate(variant.scored_rows) if its == row]
                yield tap, row, distance(want[mine], array[mine], scales[tap], digits)
        else:
            yield from _compare_tap(tap, variant, was, array, task, pools_padding, scales[tap], digits)


def _compare_tap(
    tap: str,
    variant: Variant,
    before: Array,
    after: Array,
    task: Task,
    pools_padding: bool,
    scale: Array,
    digits: float,
) -> Iterator[tuple[str, int, Distance]]:
    of_rows = tap in RESULTS and not (tap == "classifier" and task.head in ("token labels", "spans"))
    if of_rows and (variant.shift or (variant.padding and pools_padding)):
        return  # what is pooled is padding here
    first, second = _by_row(before, len(variant.real)), _by_row(after, len(variant.rows))
    width = variant.real.shape[-1]
    for place, row in enumerate(variant.rows):
        if row < 0:
            continue
        one, other = first[row], second[place]
        if not of_rows:
            option, column = np.nonzero(variant.real[row].reshape(-1, width))
            one, other = one[option, column], other[option, column + variant.shift]
        yield tap, row, distance(one, other, scale, digits)


def _by_row(array: Array, rows: int) -> Array:
    """Give the options of a question an axis of their own: (B * A, ...) to (B, A, ...)."""
    return array.reshape(rows, len(array) // rows, *array.shape[1:])
