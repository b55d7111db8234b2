"""Read a matrix block by block, as it lies or transposed: the one kernel under copying, verifying and comparing.

Memory is bounded by :data:`BLOCK_BYTES` whatever the matrix's size. A matrix is transposed in strips of 64 rows that
are read with a gap of one cache line between them: 4 to 9 GB/s on one core, where ``numpy.ascontiguousarray(a.T)``
gives 0.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .stored import Extent, OpenFiles, StoredTensor

#: Largest piece held in memory at a time: a base-size kernel of 768 × 3072 in float32, whole, so that it is read once.
BLOCK_BYTES = 9 << 20
#: Rows transposed at a time, and bytes left free between two of them in the buffer. The rows of a model's kernels are
#: multiples of 1 kB long: one column of them shares a few sets of the cache, unless the rows are moved apart. Without
#: the gap 16 rows are the fastest, at three quarters of the speed and in four times as many calls.
_STRIP, _GAP_BYTES = 64, 64
#: Bytes read at a time: they are checksummed, written or transposed while still in the cache. A strip of a kernel of
#: 3072 columns in float32.
_PIECE_BYTES = 800 << 10
#: The same for what is not transposed.
_PLAIN_BYTES = 256 << 10
#: Elements compared at a time: temporaries of it stay in the cache.
_PART = 1 << 16

if TYPE_CHECKING:
    from numpy.typing import NDArray  # 3 ms at run time

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Scratch:
    """Room to work in, made once and used for every tensor: fresh pages for each would cost as much as the copy."""

    def __init__(self) -> None:
        self.piece: NDArray[np.uint8] = np.empty(_PIECE_BYTES, np.uint8)
        self._block: NDArray[np.uint8] | None = None

    @property
    def block(self) -> NDArray[np.uint8]:
        """Room for a block that is transposed, made when the first one is."""
        if self._block is None:
            self._block = np.empty(BLOCK_BYTES, np.uint8)
        return self._block


def blocks(
    files: OpenFiles,
    stored: StoredTensor,
    *,
    transpose: bool,
    scratch: Scratch,
    passing: Callable[[memoryview], None] | None = None,
    on_transposed: Callable[[NDArray[Any], NDArray[Any]], None] | None = None,
) -> Iterator[NDArray[Any]]:
    """Yield a tensor's elements in order, as unsigned integers of their width, in flat pieces.

    Args:
        files: Where the source is open.
        stored: The tensor.
        transpose: Yield the rows of the transposed matrix; the tensor must then be a matrix.
        scratch: Room to work in; a piece is valid until the next one is asked for.
        passing: Called with every byte of the tensor in the file's order. Only where :func:`in_order` allows it.
        on_transposed: Called with each part of the file's matrix and the same part of what became of it, in equal
            orientation, while both are in the processor's cache.
    """
    if stored.size == 0:
        return
    itemsize = stored.nbytes // stored.size
    unsigned = _UNSIGNED[itemsize]
    if not transpose:
        room = scratch.piece[:_PLAIN_BYTES]
        for start in range(0, stored.nbytes, len(room)):
            piece = room[: stored.nbytes - start]
            stored.data.read_into(files, start, piece.data)
            if passing is not None:
                passing(piece.data)
            yield piece.view(unsigned)
        return
    rows, columns = _matrix(stored)
    width = _columns_at_a_time(stored)
    for first in range(0, columns, width):
        last = min(columns, first + width)
        nbytes = (last - first) * rows * itemsize
        # a single column longer than a block: no model has a matrix of so many rows, but a file may
        room = scratch.block[:nbytes] if nbytes <= BLOCK_BYTES else np.empty(nbytes, np.uint8)
        out = room.view(unsigned)
        columns_now = out.reshape(last - first, rows)
        for row, strip in _strips(files, stored, first, last, piece=scratch.piece, passing=passing):
            target = columns_now[:, row : row + len(strip)]
            target[...] = strip.T
            if on_transposed is not None:
                on_transposed(strip.T, target)
        yield out


def in_order(stored: StoredTensor, *, transpose: bool) -> bool:
    """Say whether :func:`blocks` reads the tensor once, from its first byte to its last."""
    return not transpose or stored.size == 0 or _columns_at_a_time(stored) == _matrix(stored)[1]


def _columns_at_a_time(stored: StoredTensor) -> int:
    rows, columns = _matrix(stored)
    return max(1, min(columns, BLOCK_BYTES // (rows * stored.nbytes // stored.size)))


def _matrix(stored: StoredTensor) -> tuple[int, int]:
    """Return the rows and columns of a matrix as its bytes lie in the file."""
    rows, columns = stored.shape if stored.order == "C" else stored.shape[::-1]
    return rows, columns


def _strips(
    files: OpenFiles,
    stored: StoredTensor,
    first: int,
    last: int,
    *,
    piece: NDArray[np.uint8],
    passing: Callable[[memoryview], None] | None = None,
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield columns ``first`` to ``last`` of the file's matrix, some rows at a time, as (row, strip).

    Args:
        files: Where the source is open.
        stored: The matrix, not empty.
        first: First column.
        last: Behind the last column.
        piece: Room for a strip, which is valid until the next one is asked for.
        passing: Called with every byte of the matrix in its order; all columns must then be asked for.
    """
    rows, columns = _matrix(stored)
    itemsize = stored.nbytes // stored.size
    # Reading whole rows for a few columns would read a large matrix many times over: then each row's part is read by
    # itself, where the bytes can be addressed at all.
    addressed = isinstance(stored.data, Extent)
    narrow = addressed and 4 * (last - first) < columns
    row_width = last - first if narrow else columns
    pitch = row_width + (_GAP_BYTES // itemsize if addressed else 0)
    height = max(1, min(rows, _STRIP, _PIECE_BYTES // (pitch * itemsize)))
    nbytes = height * pitch * itemsize
    room = piece[:nbytes] if nbytes <= len(piece) else np.empty(nbytes, np.uint8)
    buffer = room.view(_UNSIGNED[itemsize]).reshape(height, pitch)[:, :row_width]
    part = buffer if narrow else buffer[:, first:last]
    lines = [line.view(np.uint8).data for line in buffer]
    for row in range(0, rows, height):
        count = min(height, rows - row)
        if narrow:
            for offset in range(count):
                stored.data.read_into(files, ((row + offset) * columns + first) * itemsize, lines[offset])
        elif isinstance(stored.data, Extent):
            stored.data.read_lines(files, row * columns * itemsize, lines[:count])
        else:
            stored.data.read_into(files, row * columns * itemsize, room[: count * columns * itemsize].data)
        if passing is not None:
            for line in lines[:count]:
                passing(line)
        yield row, part[:count]


def together(one: Iterator[NDArray[Any]], other: Iterator[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Cut two streams of pieces at each other's borders, into small parts; end with the shorter."""
    nothing = np.empty(0, np.uint8)
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
