"""Read a matrix block by block, as it lies or turned: the one kernel under copying, verifying and comparing.

Memory is bounded by :data:`BLOCK_BYTES` whatever the matrix's size. A turn goes in strips of 64 rows that are read
with a gap of one cache line between them: 4 to 9 GB/s on one core, where ``numpy.ascontiguousarray(a.T)`` gives 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from .containers.stored import Extent, OpenFiles, StoredTensor

#: Largest piece held in memory at a time: half a base-size kernel of 768 × 3072 in float32. Each of two processes holds
#: one. A whole one would spare reading such kernels twice and take 10 MB more, which is more than was promised.
BLOCK_BYTES = 9 << 19
#: Rows turned at a time, and bytes left free between two of them in the buffer. The rows of a model's kernels are
#: multiples of 1 kB long: one column of them shares a few sets of the cache, unless the rows are moved apart. Without
#: the gap 16 rows are the fastest, at three quarters of the speed and in four times as many calls.
_STRIP, _GAP_BYTES = 64, 64
#: Bytes read at a time: they are checksummed, written or turned while still in the cache. A strip of a kernel of 3072
#: columns in float32.
_PIECE_BYTES = 800 << 10
#: Elements compared at a time: temporaries of it stay in the cache.
_PART = 1 << 16

if TYPE_CHECKING:
    from numpy.typing import NDArray  # 3 ms at run time

_UNSIGNED = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}


class Scratch:
    """Room to work in, made once and used for every tensor: fresh pages for each would cost as much as the copy.

    Args:
        piece_bytes: Less than usual, for reading what is not turned.
    """

    def __init__(self, piece_bytes: int | None = None) -> None:
        self.piece: NDArray[numpy.uint8] = numpy.empty(piece_bytes or _PIECE_BYTES, numpy.uint8)
        self._block: NDArray[numpy.uint8] | None = None

    @property
    def block(self) -> NDArray[numpy.uint8]:
        """Room for a block that is turned, made when the first one is."""
        if self._block is None:
            self._block = numpy.empty(BLOCK_BYTES, numpy.uint8)
        return self._block


def blocks(files: OpenFiles, stored: StoredTensor, *, turn: bool, scratch: Scratch) -> Iterator[NDArray[Any]]:
    """Yield a tensor's elements in order, as unsigned integers of their width, in flat pieces.

    Args:
        files: Where the source is open.
        stored: The tensor.
        turn: Yield the rows of the transposed matrix; the tensor must then be a matrix.
        scratch: Room to work in; a piece is valid until the next one is asked for.
    """
    if stored.size == 0:
        return
    itemsize = stored.nbytes // stored.size
    unsigned = _UNSIGNED[itemsize]
    if not turn:
        for start in range(0, stored.nbytes, len(scratch.piece)):
            piece = scratch.piece[: stored.nbytes - start]
            stored.data.read_into(files, start, piece.data)
            yield piece.view(unsigned)
        return
    rows, columns = stored.shape if stored.order == "C" else stored.shape[::-1]
    width = max(1, min(columns, BLOCK_BYTES // (rows * itemsize)))
    for first in range(0, columns, width):
        last = min(columns, first + width)
        nbytes = (last - first) * rows * itemsize
        # a single column longer than a block: no model has a matrix of so many rows, but a file may
        room = scratch.block[:nbytes] if nbytes <= BLOCK_BYTES else numpy.empty(nbytes, numpy.uint8)
        out = room.view(unsigned)
        _turn_columns(files, stored, first, last, rows, columns, out.reshape(last - first, rows), scratch.piece)
        yield out


def _turn_columns(
    files: OpenFiles,
    stored: StoredTensor,
    first: int,
    last: int,
    rows: int,
    columns: int,
    out: NDArray[Any],
    piece: NDArray[numpy.uint8],
) -> None:
    """Fill ``out`` (last - first, rows) with columns ``first`` to ``last`` of the file's (rows, columns) matrix."""
    itemsize = out.itemsize
    # Reading whole rows for a few columns would read a large matrix many times over: then each row's part is read by
    # itself, where the bytes can be addressed at all.
    addressed = isinstance(stored.data, Extent)
    narrow = addressed and 4 * (last - first) < columns
    row_width = last - first if narrow else columns
    pitch = row_width + (_GAP_BYTES // itemsize if addressed else 0)
    height = max(1, min(rows, _STRIP, _PIECE_BYTES // (pitch * itemsize)))
    nbytes = height * pitch * itemsize
    room = piece[:nbytes] if nbytes <= len(piece) else numpy.empty(nbytes, numpy.uint8)
    buffer = room.view(out.dtype).reshape(height, pitch)[:, :row_width]
    part = buffer if narrow else buffer[:, first:last]
    lines = [line.view(numpy.uint8).data for line in buffer]
    for row in range(0, rows, height):
        count = min(height, rows - row)
        if narrow:
            for offset in range(count):
                stored.data.read_into(files, ((row + offset) * columns + first) * itemsize, lines[offset])
        elif isinstance(stored.data, Extent):
            stored.data.read_lines(files, row * columns * itemsize, lines[:count])
        else:
            stored.data.read_into(files, row * columns * itemsize, room[: count * columns * itemsize].data)
        out[:, row : row + count] = part[:count].T


def together(one: Iterator[NDArray[Any]], other: Iterator[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Cut two streams of pieces at each other's borders, into small parts; end with the shorter."""
    nothing = numpy.empty(0, numpy.uint8)
    left = right = nothing
    while True:
        if not len(left):
            left = next(one, nothing)
        if not len(right):
            right = next(other, nothing)
        count = min(len(left), len(right), _PART)
        if not count:
            return
        yield left[:count], right[:count]
        left, right = left[count:], right[count:]
