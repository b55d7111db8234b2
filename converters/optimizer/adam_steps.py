"""Steps that AdamW has taken, as a number and as Paddle keeps them: powers of both decays.

Paddle begins with ``beta`` and multiplies it by ``beta`` at every step, in float32, so after t steps it holds the
float32 product of t + 1 factors, which is not the nearest float32 to the power. The same product is made here.

Source: paddle/phi/kernels/cpu/adam_kernel.cc ``AdamDenseKernel``; ``Adam._add_moments_pows`` in
paddle/optimizer/adam.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: torch counts in float32, which has no odd numbers above this.
MOST_STEPS = 1 << 24
_RUN = 1 << 16
#: Below it, devices keep a power or make a zero of it, and one minus it is one all the same.
_SMALLEST = float(np.finfo(np.float32).tiny)


@cache
def power_after(beta: float, steps: int) -> float:
    """Return what Paddle holds of ``beta`` after ``steps`` steps."""
    for run in _runs(beta):
        if steps < len(run):
            return float(run[steps])
        steps -= len(run)
    raise ValueError(f"more than {MOST_STEPS:,} steps")


@cache
def steps_behind(powers: tuple[float, float], betas: tuple[float, float], last_step: int | None) -> int:
    """Return the number of steps after which Paddle holds ``powers``.

    Args:
        powers: Of the first moment's decay, and of the second's.
        betas: Both decays.
        last_step: What another file says; it counts where both powers have vanished and tell nothing any more.

    Raises:
        ValueError: There is no such number; the message says of which power.
    """
    for number in (1, 0):  # the second decays more slowly, and so tells for longer
        if powers[number] >= _SMALLEST:
            steps = _find(powers[number], betas[number])
            other = 1 - number
            if steps is None:
                raise ValueError(f"beta{number + 1}_pow_acc = {powers[number]:.9g} is no power of {betas[number]:g}")
            if not _same(powers[other], power_after(betas[other], steps)):
                raise ValueError(
                    f"beta{other + 1}_pow_acc = {powers[other]:.9g} is not {betas[other]:g} to the power of "
                    f"{steps + 1:,}, as beta{number + 1}_pow_acc has it"
                )
            return steps
    return max(last_step or 0, *(_vanished(beta) for beta in betas))


def _runs(beta: float) -> Iterator[NDArray[np.float32]]:
    """Yield beta, beta squared and so on as Paddle computes them, many at a time."""
    factor, last = np.float32(beta), np.float32(1)
    for _ in range(MOST_STEPS // _RUN + 1):
        run = np.full(_RUN, factor)
        run[0] = last * factor
        np.multiply.accumulate(run, out=run)
        yield run
        last = run[-1]


def _find(power: float, beta: float) -> int | None:
    before = 0
    for run in _runs(beta):
        if run[-1] <= power:
            place = int(np.argmax(run <= power))
            return before + place if run[place] == power else None
        before += len(run)
    return None


def _vanished(beta: float) -> int:
    """Return after how many steps a power tells nothing any more."""
    before = 0
    for run in _runs(beta):
        if run[-1] < _SMALLEST:
            return before + int(np.argmax(run < _SMALLEST))
        before += len(run)
    return MOST_STEPS


def _same(power: float, other: float) -> bool:
    return power == other or max(power, other) < _SMALLEST
