"""How far a run is, how fast, how long it still takes and when it ends: in the log, and at the bottom of a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

_REDRAW = 0.2  # seconds between two drawings
_RECENT = 120.0  # seconds that the speed is taken from


class Progress:
    """Reckons how far a run is, and keeps a line that says so on a terminal; silent where the stream is not a terminal.

    Args:
        plan: Steps of each stage and tokens of one of its steps: a longer stage's steps take longer, so time left is
            reckoned in tokens.
        stream: Standard error where nothing else is said.
        live: Whether to keep the line at all.
        clock: Gives the time in seconds.
        now: Gives the seconds since 1970, for the time of day.
    """

    def __init__(
        self,
        plan: Sequence[tuple[int, int]],
        stream: TextIO | None = None,
        *,
        live: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._plan = tuple(plan)
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._now = now
        self._live = live and self._stream.isatty()
        self._speed = ""
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
        now = self._clock()
        if not self._seen:
            self._seen = [(now, self._work(self._step))]
        self._step = step
        if now - self._drawn >= _REDRAW:
            self._seen.append((now, self._work(step)))
            while len(self._seen) > 2 and now - self._seen[1][0] > _RECENT:
                del self._seen[0]
            self.draw()

    def speed(self, tokens: float, peak_share: float | None) -> None:
        """Say how many tokens a second were trained on last, and which share of the devices' peak rate that is."""
        share = "" if peak_share is None else f" ({100 * peak_share:.1f} % of the peak)"
        self._speed = f"{tokens:,.0f} tokens/s{share}"

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
        if self._speed:
            parts.append(self._speed)
        (then, before), (now, done) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0.0), (0.0, 0.0))
        if now > then and done > before and self._step < steps:
            left = (self._work(steps) - done) * (now - then) / (done - before)
            parts.append(f"{duration(left)} left, until {self._clock_time(left)}")
        return " · ".join(parts)

    def _clock_time(self, left: float) -> str:
        """Return the time of day that is so many seconds away, with the date where it is not today's."""
        now, then = time.localtime(self._now()), time.localtime(self._now() + left)
        return time.strftime("%H:%M" if now[:3] == then[:3] else "%Y-%m-%d %H:%M", then)

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
