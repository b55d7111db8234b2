"""The learning rate of every step: linear warm-up, then linear, cosine or no decay to ``min_lr``.

Source: the reference run (junnyu/roformer_base_wwm_cluecorpussmall) printed 1e-4 · (500000 - step) / 495000 beside
``global step``: a decay that is a straight line from the end of a warm-up of 5,000 steps to 0 at step 500,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..settings.tables import Decay, Settings


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule of one warm-up and one decay.

    Attributes:
        max_lr: The rate after the warm-up.
        min_lr: The rate from ``decay_steps`` on.
        warmup_steps: Steps until ``max_lr``.
        decay_steps: Step, counted from the schedule's beginning, that has ``min_lr``.
        decay: The way from one to the other.
    """

    max_lr: float
    min_lr: float
    warmup_steps: int
    decay_steps: int
    decay: Decay

    def rate(self, step: int) -> float:
        """Return the rate of a step; the schedule's first step is 1, so that no step is wasted at rate 0."""
        if step < self.warmup_steps:
            return self.max_lr * step / self.warmup_steps
        if self.decay == "constant":
            return self.max_lr
        left = max(0.0, (self.decay_steps - step) / (self.decay_steps - self.warmup_steps))  # from 1 down to 0
        if self.decay == "cosine":
            left = 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
        return self.min_lr + (self.max_lr - self.min_lr) * left


def learning_rate(settings: Settings, step: int) -> float:
    """Find the learning rate of ``global step`` ``step`` (from 1): its stage's own schedule, or an earlier stage's."""
    begin, schedule = _schedules(settings)[settings.stage_at(step - 1)[0]]
    return schedule.rate(step - begin)


def _schedules(settings: Settings) -> list[tuple[int, Schedule]]:
    """Give for each stage the step before its schedule's first, and the schedule."""
    out: list[tuple[int, Schedule]] = []
    begin = 0
    for number, stage in enumerate(settings.stages):
        if stage.max_lr is None:
            out.append(out[-1])
        else:
            later = settings.stages[number + 1 :]
            until_next = next((i for i, each in enumerate(later) if each.max_lr is not None), len(later))
            steps = stage.steps + sum(each.steps for each in later[:until_next])
            decay_steps = stage.decay_steps or max(steps, stage.warmup_steps + 1)
            schedule = Schedule(stage.max_lr, stage.min_lr, stage.warmup_steps, decay_steps, stage.decay)
            out.append((begin, schedule))
        begin += stage.steps
    return out
