"""The line at the bottom of the terminal: how far a run is, how fast, and how long it still takes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

_REDRAW = 0.2  # seconds between two drawings
_RECENT = 120.0  # seconds that the speed is taken from


class Progress:
    """A line on a terminal; silent where the stream is none.

    Args:
        plan: Steps of each stage and tokens of one of its steps: a longer stage's steps take longer, so time left is
            reckoned in tokens.
        stream: Standard error where nothing else is said.
        clock: Seconds.
    """

    def __init__(
        self,
        plan: Sequence[tuple[int, int]],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = tuple(plan)
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._live = self._stream.isatty()
        self._step = 0
        self._drawn = -_REDRAW
        self._shown = False
        self._seen: list[tuple[float, float]] = []  # seconds, tokens

    def start(self, step: int) -> None:
        """Begin at ``step``: what was done before counts as done and not as speed."""
        self._step = step
        self._seen = [(self._clock(), self._work(step))]

    def move(self, step: int) -> None:
        """Say that ``step`` steps are done."""
        if not self._live:
            return
        now = self._clock()
        if not self._seen:
            self._seen = [(now, self._work(self._step))]
        self._step = step
        if now - self._drawn >= _REDRAW:
            self._seen.append((now, self._work(step)))
            while len(self._seen) > 2 and now - self._seen[1][0] > _RECENT:
                del self._seen[0]
            self.draw()

    def draw(self) -> None:
        """Draw the line."""
        if self._live and self._seen:
            width = max(20, shutil.get_terminal_size().columns - 1)
            self._stream.write(f"\r\x1b[K{self.text()[:width]}")
            self._stream.flush()
            self._shown = True
            self._drawn = self._clock()

    def clear(self) -> None:
        """Take the line away, for another to be printed in its place."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False

    def text(self) -> str:
        """Write the line."""
        steps = sum(count for count, _ in self._plan)
        if not steps:
            return f"step {self._step:,}"
        parts = [f"step {self._step:,} of {steps:,}", f"{100 * self._step / steps:.1f} %"]
        if len(self._plan) > 1:
            parts.append(f"stage {self._stage()} of {len(self._plan)}")
        (then, before), (now, done) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0.0), (0.0, 0.0))
        if now > then and done > before:
            left = (self._work(steps) - done) * (now - then) / (done - before)
            parts.append(f"{duration(left)} left")
        return " · ".join(parts)

    def _stage(self) -> int:
        left = self._step
        for number, (steps, _) in enumerate(self._plan, 1):
            left -= steps
            if left <= 0:
                return number
        return len(self._plan)

    def _work(self, step: int) -> float:
        work = 0.0
        for steps, tokens in self._plan:
            taken = min(step, steps)
            work += taken * max(1, tokens)
            step -= taken
        return work + step


def duration(seconds: float) -> str:
    """Write a time span for a person: ``40 s``, ``12 min``, ``3 h 20 min``, ``11.6 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{seconds / 86400:.1f} days"
