"""Read back what was written and compare it with the source, bit by bit."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .containers.stored import Extent, OpenFiles, Slot, StoredTensor
from .errors import ConvertError
from .plan import Step

# as in engine.py, numpy waits until the kernel has begun to copy
if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .blocks import Scratch

#: Bytes of the source that are compared at a time.
_SOURCE_PIECE_BYTES = 1 << 18


@dataclass(frozen=True)
class Written:
    """Where a tensor's bytes were put, and their checksum where the container keeps one."""

    path: Path
    slot: Slot
    step: Step
    checksum: int


def cast_bits(bits: NDArray[Any], step: Step) -> NDArray[Any]:
    """Bit patterns of the source → the target's elements."""
    from .dtypes import cast, numpy_dtype

    stored = step.held.stored
    return cast(bits.view(numpy_dtype(stored.dtype)), stored.dtype, step.new.dtype, name=stored.name)


class ReadBack:
    """Compares what was written with the source; holds the files it reads; a context manager.

    Args:
        source: Where the tensors come from, open.
        scratch: Room to work in, shared with whoever does not work at the same time; filled when it is needed.
    """

    def __init__(self, source: OpenFiles, scratch: list[Scratch]) -> None:
        self._source = source
        self._files = OpenFiles()
        self._scratch = scratch
        self._source_scratch: Scratch | None = None

    def compare(self, written: Written, progress: Callable[[int], None]) -> None:
        """Compare one tensor.

        Raises:
            ConvertError: The bits differ.
        """
        from .blocks import Scratch, blocks

        if not self._scratch:
            self._scratch.append(Scratch())
        if self._source_scratch is None:
            self._source_scratch = Scratch(_SOURCE_PIECE_BYTES)
        step, path = written.step, written.path
        ours = step.held.stored
        back = StoredTensor(
            step.new.name, step.new.dtype, step.new.shape, Extent(path, written.slot.offset, written.slot.nbytes)
        )
        # The target is turned back to the source's layout, not the source forward again: a fault in turning one way
        # would otherwise hide itself.
        read = blocks(self._files, back, turn=step.turn, scratch=self._scratch[0])
        if not _same_bits(blocks(self._source, ours, turn=False, scratch=self._source_scratch), read, step):
            raise ConvertError(
                f"{path.name}: {step.new.name} was read back with other bits than {ours.name} of the source has",
                "Nothing was kept. The disk or the memory may be failing: try another disk, and report it if it stays.",
            )
        progress(back.nbytes)

    def __enter__(self) -> ReadBack:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.__exit__(None, None, None)


class ReadBackThread:
    """A thread that compares while the caller writes on; a context manager.

    Leaving the context waits for it, and raises what it found. Where files have no positioned read (Windows) it works
    in the caller's thread.
    """

    def __init__(self, read_back: ReadBack, progress: Callable[[int], None]) -> None:
        self._read_back = read_back
        self._progress = progress
        self._failure: BaseException | None = None
        self._work: queue.SimpleQueue[Written | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if hasattr(os, "preadv"):
            self._thread = threading.Thread(target=self._run, name="compare", daemon=True)

    def __enter__(self) -> ReadBackThread:
        if self._thread is not None:
            self._thread.start()
        return self

    def compare(self, written: Written) -> None:
        """Have one tensor compared; raise what was found wrong with an earlier one."""
        if self._failure is not None:
            raise self._failure
        if self._thread is not None:
            self._work.put(written)
        else:
            self._read_back.compare(written, self._progress)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            if kind is not None:
                self._failure = self._failure or ConvertError("writing failed")  # stops at the next tensor
            self._work.put(None)
            self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            import numpy  # noqa: F401

            while self._failure is None and (written := self._work.get()) is not None:
                self._read_back.compare(written, self._progress)
        except BaseException as error:
            self._failure = error


def _same_bits(forth: Iterator[NDArray[Any]], back: Iterator[NDArray[Any]], step: Step) -> bool:
    """Compare two streams of elements, casting the first as the plan did."""
    import numpy

    from .blocks import together

    ours, count = step.held.stored, 0
    for left, right in together(forth, back):
        if step.casts:
            values = cast_bits(left, step)
            left = values.view(f"u{values.itemsize}")
        if left.dtype != right.dtype or not numpy.array_equal(left, right):
            return False
        count += len(left)
    return count == ours.size
