"""Read a matrix block by block, as it lies or turned: the one kernel under copying, verifying and comparing.

Memory is bounded by :data:`BLOCK_BYTES` whatever the matrix's size. A turn goes through tiles of 8 rows by 768 columns,
which keeps both sides in the cache: 4 to 5 GB/s on one core, where ``numpy.ascontiguousarray(a.T)`` gives 0.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy
from numpy.typing import NDArray

from .containers.stored import Extent, OpenFiles, StoredTensor

#: Largest piece held in memory at a time: a base-size kernel (768 × 3072 in float32) is one piece.
BLOCK_BYTES = 9 << 20
#: Rows and columns turned at a time. Of 4, 8, 16 and 32 rows by 256, 768 and all columns this was the fastest for
#: base and large kernels; whole rows of 3072 and 4096 columns fall to half of it (12 and 16 kB apart, lines collide).
_STRIP, _TILE = 8, 768
#: Bytes of source rows read at a time, small enough to stay in the cache until they are turned.
_READ_BYTES = 256 << 10

#: Bytes read at a time where nothing is turned: they are checksummed, compared or written while still in the cache.
_PIECE_BYTES = 1 << 20
#: Elements compared at a time: temporaries of it stay in the cache.
_PART = 1 << 16

_UNSIGNED = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}


def blocks(
    files: OpenFiles, stored: StoredTensor, *, turn: bool, scratch: NDArray[numpy.uint8] | None = None
) -> Iterator[NDArray[Any]]:
    """Yield a tensor's elements in order, as unsigned integers of their width, in flat pieces.

    Args:
        files: Where the source is open.
        stored: The tensor.
        turn: Yield the rows of the transposed matrix; the tensor must then be a matrix.
        scratch: ``BLOCK_BYTES`` to work in; a piece is valid until the next one is asked for.
    """
    if stored.size == 0:
        return
    if scratch is None:
        scratch = new_scratch(min(stored.nbytes, BLOCK_BYTES if turn else _PIECE_BYTES))
    itemsize = stored.nbytes // stored.size
    unsigned = _UNSIGNED[itemsize]
    if not turn:
        step = min(len(scratch), _PIECE_BYTES) // itemsize * itemsize
        for start in range(0, stored.nbytes, step):
            piece = scratch[: min(step, stored.nbytes - start)]
            stored.data.read_into(files, start, piece.data)
            yield piece.view(unsigned)
        return
    rows, columns = stored.shape if stored.order == "C" else stored.shape[::-1]
    width = max(1, min(columns, len(scratch) // (rows * itemsize)))
    for first in range(0, columns, width):
        last = min(columns, first + width)
        # one row of a block is a column of the file: a matrix of more rows than fit is out of any model's range
        out = numpy.empty((last - first) * rows, unsigned) if (last - first) * rows * itemsize > len(scratch) else None
        flat = scratch[: (last - first) * rows * itemsize].view(unsigned) if out is None else out
        _turn_columns(files, stored, first, last, rows, columns, flat.reshape(last - first, rows))
        yield flat


def new_scratch(nbytes: int = BLOCK_BYTES) -> NDArray[numpy.uint8]:
    """Room of ``nbytes`` for :func:`blocks` to work in, in whole cache lines."""
    return numpy.empty(max(64, math.ceil(nbytes / 64) * 64), numpy.uint8)


def _turn_columns(
    files: OpenFiles, stored: StoredTensor, first: int, last: int, rows: int, columns: int, out: NDArray[Any]
) -> None:
    """Fill ``out`` (last - first, rows) with columns ``first`` to ``last`` of the file's (rows, columns) matrix."""
    itemsize = out.itemsize
    # Reading whole rows for a few columns would read a large matrix many times over: then each row's part is read by
    # itself, where the bytes can be addressed at all.
    narrow = isinstance(stored.data, Extent) and 4 * (last - first) < columns
    row_start, row_width = (first, last - first) if narrow else (0, columns)
    height = max(_STRIP, _READ_BYTES // (row_width * itemsize) // _STRIP * _STRIP)
    buffer = numpy.empty((min(height, rows), row_width), out.dtype)
    part = buffer if narrow else buffer[:, first:last]
    for row in range(0, rows, height):
        count = min(height, rows - row)
        if narrow:
            for offset in range(count):
                start = ((row + offset) * columns + row_start) * itemsize
                stored.data.read_into(files, start, buffer[offset].view(numpy.uint8).data)
        else:
            stored.data.read_into(files, row * columns * itemsize, buffer[:count].reshape(-1).view(numpy.uint8).data)
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
