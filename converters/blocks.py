"""Read a matrix block by block, as it lies or turned: the one kernel under copying, verifying and comparing.

Memory is bounded by :data:`BLOCK_BYTES` whatever the matrix's size. A turn goes in tiles of 16 rows by 768 columns,
which keeps both sides in the cache: 3 to 7 GB/s on one core, where ``numpy.ascontiguousarray(a.T)`` gives 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
from numpy.typing import NDArray

from .containers.stored import Extent, OpenFiles, StoredTensor

#: Largest piece held in memory at a time: a base-size kernel (768 × 3072 in float32) is one piece.
BLOCK_BYTES = 9 << 20
#: Rows and columns turned at a time. 8 and 16 rows by at most 768 columns are the fastest over base and large kernels
#: (whole rows of 3072 and 4096 columns fall to half: lines 12 and 16 kB apart share cache sets). 16 makes half as many
#: calls, which matters where two threads hand the interpreter to each other after each.
_STRIP, _TILE = 16, 768
#: Bytes of source rows read at a time, small enough to stay in the cache until they are turned.
_READ_BYTES = 1 << 19
#: Bytes read at a time where nothing is turned: they are checksummed, compared or written while still in the cache.
_PIECE_BYTES = 1 << 20
#: Elements compared at a time: temporaries of it stay in the cache.
_PART = 1 << 16

_UNSIGNED = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}


class Scratch:
    """Room to work in, made once and used for every tensor: fresh pages for each would cost as much as the copy."""

    def __init__(self) -> None:
        self.piece: NDArray[numpy.uint8] = numpy.empty(_PIECE_BYTES, numpy.uint8)
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
        for start in range(0, stored.nbytes, _PIECE_BYTES):
            piece = scratch.piece[: min(_PIECE_BYTES, stored.nbytes - start)]
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
    narrow = isinstance(stored.data, Extent) and 4 * (last - first) < columns
    row_width = last - first if narrow else columns
    height = max(1, min(rows, _READ_BYTES // (row_width * itemsize) // _STRIP * _STRIP))
    nbytes = height * row_width * itemsize
    room = piece[:nbytes] if nbytes <= len(piece) else numpy.empty(nbytes, numpy.uint8)
    buffer = room.view(out.dtype).reshape(height, row_width)
    part = buffer if narrow else buffer[:, first:last]
    for row in range(0, rows, height):
        count = min(height, rows - row)
        if narrow:
            for offset in range(count):
                start = ((row + offset) * columns + first) * itemsize
                stored.data.read_into(files, start, buffer[offset].view(numpy.uint8).data)
        else:
            stored.data.read_into(files, row * columns * itemsize, room[: count * columns * itemsize].data)
        for left in range(0, last - first, _TILE):
            right = min(left + _TILE, last - first)
            for strip in range(0, count, _STRIP):
                end = min(strip + _STRIP, count)
                out[left:right, row + strip : row + end] = part[strip:end, left:right].T


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
