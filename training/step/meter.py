"""What is added up between two lines of the log: losses, which are part of a checkpoint, and seconds, which are not."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Meter:
    """Sums over the steps since the last line of the log. Steps that loss scaling left out count, their losses do not.

    Attributes:
        steps: Steps whose gradients were finite.
        lm_steps: The steps among them that had a masked token.
        sop_steps: The steps among them that had a sample of two sentences; a batch of short samples may have none.
        lm_loss: Loss of the masked-LM part, nats.
        sop_loss: Loss of the sentence-order part, nats.
        gradient_norm: Norm of all gradients, before clipping.
        taken: Steps that were taken, skipped updates included.
        tokens: Tokens over all ranks, without padding.
        sequences: Sequences over all ranks.
        all_tokens: Tokens since the run began.
    """

    steps: int = 0
    lm_steps: int = 0
    sop_steps: int = 0
    lm_loss: float = 0.0
    sop_loss: float = 0.0
    gradient_norm: float = 0.0
    taken: int = 0
    tokens: int = 0
    sequences: int = 0
    all_tokens: int = 0

    def count(self, tokens: int, sequences: int) -> None:
        """Count a step's data."""
        self.taken += 1
        self.tokens += tokens
        self.sequences += sequences
        self.all_tokens += tokens

    def add(self, lm_loss: float | None, sop_loss: float | None, gradient_norm: float) -> None:
        """Add a step's numbers; a loss is None where nothing was to be predicted."""
        self.steps += 1
        self.lm_steps += lm_loss is not None
        self.sop_steps += sop_loss is not None
        self.lm_loss += lm_loss or 0.0
        self.sop_loss += sop_loss or 0.0
        self.gradient_norm += gradient_norm

    def means(self, *, mlm: bool, sop: bool) -> tuple[float, float, float, float | None]:
        """Return the means over the steps: what was minimised, its two parts, the gradients' norm.

        A part whose objective is off is 0; one of which these steps had no sample is NaN, and so is everything where
        loss scaling left out all of them.

        Args:
            mlm: Whether the masked-LM objective is on.
            sop: Whether the sentence-order objective is.
        """
        lm_loss, sop_loss = (
            total / steps if steps else math.nan if on else 0.0
            for total, steps, on in ((self.lm_loss, self.lm_steps, mlm), (self.sop_loss, self.sop_steps, sop))
        )
        if not self.steps:
            return math.nan, lm_loss, sop_loss, None
        loss = sum(
            part for part in (lm_loss, sop_loss) if not math.isnan(part)
        )  # a part without a sample added nothing
        return loss, lm_loss, sop_loss, self.gradient_norm / self.steps

    def reset(self) -> None:
        """Start the sums of the log's next line."""
        self.__dict__.update(Meter(all_tokens=self.all_tokens).__dict__)


class Clock:
    """Seconds of training; evaluations and checkpoints are left out."""

    def __init__(self) -> None:
        self._steps = 0
        self._begin = time.perf_counter()

    def tick(self) -> None:
        """Count a step."""
        self._steps += 1

    def lap(self) -> tuple[int, float]:
        """Return the steps and seconds since the last lap."""
        now = time.perf_counter()
        steps, seconds = self._steps, now - self._begin
        self._steps, self._begin = 0, now
        return steps, max(seconds, 1e-9)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the time inside out of the count."""
        now = time.perf_counter()
        yield
        self._begin += time.perf_counter() - now
