"""What is done when a device's memory runs out: a batch is cut in half until it fits, or one line says what does not.

Each framework raises an error of its own then; ``ran_out`` in its operations (``ops_*.py``) knows it. Imports no
framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...converters.errors import ConvertError
from .devices import DeviceName

Rows = Sequence[dict[str, Any]]


class OutOfMemoryError(ConvertError):
    """What cannot be made smaller does not fit in a device's memory.

    Args:
        device: The device.
        what: What does not fit.
    """

    def __init__(self, device: DeviceName, what: str) -> None:
        if device.kind == "gpu":
            advice = "Free memory there (nvidia-smi lists who holds it), take another one, or leave --device out."
        else:
            advice = "Free memory on this machine."
        super().__init__(f"out of memory on {device}: {what}", advice)


@contextmanager
def needing_memory(device: DeviceName, ran_out: Callable[[BaseException], bool], what: str) -> Iterator[None]:
    """Turn a framework's error for spent memory into a sentence.

    Args:
        device: What computes.
        ran_out: Says of an error whether it is such a one.
        what: What does not fit if it comes to that.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise OutOfMemoryError(device, what) from None


class FittingBatches:
    """Has rows computed in batches that fit, and remembers what fitted.

    Args:
        device: What computes.
        ran_out: Says of an error whether it means that memory ran out.
    """

    def __init__(self, device: DeviceName, ran_out: Callable[[BaseException], bool]) -> None:
        self.device = device
        self.ran_out = ran_out
        self._most: int | None = None  # tokens of a batch, padding too, once one did not fit

    def run(
        self, compute: Callable[[Rows], list[Any]], rows: Rows, divisible: bool = True
    ) -> tuple[list[Any], list[str]]:
        """Compute rows, the longest first: an answer for each, and a line if a batch did not fit.

        Args:
            compute: Gives an answer for each of some rows.
            rows: With ``ids`` each.
            divisible: Whether a row's answer is the same whatever other rows there are.

        Raises:
            OutOfMemoryError: One row alone is too much, or rows that cannot be divided are.
        """
        answers: list[Any] = []
        failed: Rows = ()
        while len(answers) < len(rows):
            rest = rows[len(answers) :]
            batch = rest[: self._count(rest)] if divisible else rest
            found = self._try(compute, batch)
            if found is not None:
                answers += found
                continue
            failed = failed or batch
            if len(batch) == 1 or not divisible:
                what = f"a batch of {len(batch)} × {_longest(batch)} tokens does not fit and cannot be divided"
                raise OutOfMemoryError(self.device, what)
            self._most = _longest(batch) * (len(batch) // 2)
        if not failed:
            return answers, []
        longest = _longest(failed)
        return answers, [
            f"out of memory on {self.device} with a batch of {len(failed)} × {longest} tokens; "
            f"{self._count(failed)} × {longest} fits, and no larger one is tried again"
        ]

    def _count(self, rows: Rows) -> int:
        return len(rows) if self._most is None else max(1, self._most // _longest(rows))

    def _try(self, compute: Callable[[Rows], list[Any]], batch: Rows) -> list[Any] | None:
        try:
            return compute(batch)
        except Exception as error:
            if not self.ran_out(error):
                raise
        return None  # only here is the error gone, whose frames held the batch's tensors


def _longest(rows: Rows) -> int:
    return max(len(row["ids"]) for row in rows)
