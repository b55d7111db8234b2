"""Read back what was written and compare it with the source, bit by bit.

A turned kernel is not turned again: its elements are compared where they lie, so that a fault in turning cannot hide.
"""

from __future__ import annotations

import mmap
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .containers.stored import ITEMSIZE, OpenFiles, Slot
from .errors import ConvertError
from .plan import Step

# as in engine.py, numpy waits until the kernel has begun to copy
if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from .blocks import Scratch

#: Linux's MADV_POPULATE_READ, which Python 3.11 has no name for: page a mapping in, or fail as a read would.
_POPULATE_READ = 22


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
    """Compares what was written with the source; holds the files it reads until it is closed.

    Args:
        source: Where the tensors come from, open.
        scratch: Room to work in, shared with whoever does not work at the same time.
    """

    def __init__(self, source: OpenFiles, scratch: Scratch) -> None:
        self._source = source
        self._files = OpenFiles()
        self._scratch = scratch
        self._equal: NDArray[numpy.bool_] | None = None

    def as_it_lies(self, written: Written, start: int, content: NDArray[Any]) -> None:
        """Compare a piece that was just written, ``start`` bytes into the tensor, with what was written.

        Raises:
            ConvertError: The bits differ.
        """
        right = _read(self._files, written, start, len(content), self._scratch)
        if not self._same(content, right):
            raise _differ(written)

    def turned(self, written: Written) -> None:
        """Compare a whole turned matrix with the source, which is read again.

        Raises:
            ConvertError: The bits differ.
        """
        from .blocks import matrix, strips

        ours = written.step.held.stored
        if not ours.size:
            return
        rows, columns = matrix(ours)
        itemsize = ITEMSIZE[written.step.new.dtype]
        mapped = _mapped(self._files.descriptor(written.path), written.slot.offset, written.slot.nbytes)
        room = written.slot.nbytes if mapped is not None else len(self._scratch.block)
        width = max(1, min(columns, room // (rows * itemsize)))
        for first in range(0, columns, width):
            last = min(columns, first + width)
            if mapped is not None:
                target = mapped.view(f"u{itemsize}")
            else:
                target = _read(self._files, written, first * rows * itemsize, (last - first) * rows, self._scratch)
            right = target.reshape(last - first, rows)
            for row, strip in strips(self._source, ours, first, last, piece=self._scratch.piece):
                left = as_target(strip, written.step)
                if not self._same(left.T, right[:, row : row + len(left)]):
                    raise _differ(written)

    def _same(self, left: NDArray[Any], right: NDArray[Any]) -> bool:
        """Compare two arrays of one shape without fresh memory for the answer."""
        import numpy

        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        if self._equal is None or self._equal.size < left.size:
            self._equal = numpy.empty(left.size, numpy.bool_)
        answer = self._equal[: left.size].reshape(left.shape)
        numpy.equal(left, right, out=answer)
        return bool(answer.all())

    def close(self) -> None:
        self._files.close()


def _differ(written: Written) -> ConvertError:
    return ConvertError(
        f"{written.path.name}: {written.step.new.name} was read back with other bits than "
        f"{written.step.held.stored.name} of the source has",
        "Nothing was kept. The disk or the memory may be failing: try another disk, and report it if it stays.",
    )


def _read(files: OpenFiles, written: Written, start: int, count: int, scratch: Scratch) -> NDArray[Any]:
    """Read ``count`` elements from byte ``start`` of what was written, into the block of ``scratch``.

    Raises:
        FormatError: The file ends early or cannot be read.
    """
    import numpy

    itemsize = ITEMSIZE[written.step.new.dtype]
    nbytes = count * itemsize
    # a single row longer than a block: as in blocks.py
    room = scratch.block[:nbytes] if nbytes <= len(scratch.block) else numpy.empty(nbytes, numpy.uint8)
    files.read_into(written.path, written.slot.offset + start, room.data)
    return room.view(f"u{itemsize}")


def _mapped(descriptor: int, offset: int, nbytes: int) -> NDArray[numpy.uint8] | None:
    """Map bytes of a file of ours, paged in; None where this cannot be done, or would fail later.

    A failing disk shows in a map as a signal that ends the process. So the system is asked beforehand to page it all
    in, and where it will not, the file is read as usual and the error told.
    """
    import numpy

    if sys.platform != "linux":
        return None
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    try:
        window = mmap.mmap(descriptor, offset - start + nbytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
        window.madvise(_POPULATE_READ)
    except (OSError, ValueError, OverflowError):  # Linux before 5.14; a file that is shorter; no room for addresses
        return None
    return numpy.frombuffer(window, numpy.uint8, nbytes, offset - start)


def as_target(bits: NDArray[Any], step: Step) -> NDArray[Any]:
    """Bit patterns of the source → those that the target must hold."""
    if not step.casts:
        return bits
    values = cast_bits(bits, step)
    return values.view(f"u{values.itemsize}")
