"""Datasets of HDF5 in chunks: where each lies, and their bytes put together again in C order.

Chunks are found through a B-tree and may have gone through filters: gzip, shuffle, fletcher32. Reading holds one or two
bands, rows of chunks, whatever the size of the tensor.

Source: HDF5 File Format Specification 3.0, III.A.1 (B-trees), IV.A.2.l (filters); the HDF5 library for the filters.
"""

from __future__ import annotations

import itertools
import math
import struct
import threading
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError
from .hdf5_checksums import fletcher32
from .hdf5_file import DAMAGED, UNDEFINED, Cursor, Hdf5File, quoted
from .stored import OpenFiles

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

MAX_BAND = 1 << 27  # bytes of one row of chunks: what reading a chunked tensor holds at a time

GZIP, SHUFFLE, FLETCHER32 = 1, 2, 3
FILTERS = {GZIP: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32"}
#: A filter that is named in a message has a number from here on.
_NAMED_FROM = 256
_MAX_FILTERS = 32
_SUM = struct.Struct("<I")

_CHUNK_TREE = 1
_CHUNK_COST = 128  # of the budget, beside its bytes
_NODE = struct.Struct("<4sBBHQQ")
_COUNTS = struct.Struct("<BB")
_FLAGS_AND_COUNT = struct.Struct("<HH")


def read_filters(cursor: Cursor) -> list[tuple[int, list[int]]]:
    """Read a filter message: number and parameters of each filter, in the order in which they pack.

    Raises:
        FormatError: It is of an unknown version, has too many, or ends too early.
    """
    version, count = cursor.numbers(_COUNTS)
    if version not in (1, 2) or count > _MAX_FILTERS:
        raise cursor.broken(f"has version {version} and {count} filters")
    cursor.take(6 if version == 1 else 0)
    filters = []
    for _ in range(count):
        number = cursor.number(2)
        name_bytes = cursor.number(2) if version == 1 or number >= _NAMED_FROM else 0
        _, parameters = cursor.numbers(_FLAGS_AND_COUNT)
        cursor.take(name_bytes + (-name_bytes % 8 if version == 1 else 0))
        filters.append((number, [cursor.number(4) for _ in range(parameters)]))
        cursor.take(4 if version == 1 and parameters % 2 else 0)
    return filters


@dataclass(frozen=True)
class Grid:
    """How a tensor is cut into chunks; lengths in elements, the last chunk of an axis may stick out.

    Attributes:
        shape: The tensor's.
        chunk: Each chunk's.
        itemsize: Bytes an element.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    itemsize: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-length // part) for length, part in zip(self.shape, self.chunk, strict=True))

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunk) * self.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of the tensor that have one first coordinate."""
        return math.prod(self.shape[1:]) * self.itemsize

    @property
    def band_bytes(self) -> int:
        """Bytes of a row of chunks, or of one chunk where that is more."""
        return max(self.chunk[0] * self.row_bytes, self.chunk_bytes)


@dataclass(frozen=True)
class Places:
    """Where the chunks of a grid lie, in C order: the address, stored bytes and filters passed over of each."""

    addresses: array[int]
    sizes: array[int]
    masks: array[int]


def find_chunks(file: Hdf5File, tree: int, grid: Grid, where: str) -> Places:
    """Walk a dataset's B-tree of chunks.

    Raises:
        FormatError: The tree is broken or circular, or a chunk is missing, twice there or outside of the file.
    """
    wanted = math.prod(grid.counts)
    found = _walk(file, tree, grid, where) if tree != UNDEFINED else {}
    if len(found) != wanted:
        what = f"{quoted(where)} has {len(found):,} chunks written, want {wanted:,}"
        raise file.broken(what, next_step=None)
    places = [found[number] for number in range(wanted)]
    most = 2 * grid.chunk_bytes + 1024  # gzip of noise is longer, but hardly
    for address, nbytes, _ in places:
        if nbytes > most:
            raise file.broken(f"{quoted(where)} has a chunk of {nbytes:,} bytes, want {grid.chunk_bytes:,}", address)
        if address + nbytes > file.end:
            raise file.broken(f"{quoted(where)} has a chunk of {nbytes:,} bytes at {address:,}, outside the file")
    addresses, sizes, masks = zip(*places, strict=True)
    return Places(array("Q", addresses), array("Q", sizes), array("Q", masks))


def _walk(file: Hdf5File, tree: int, grid: Grid, where: str) -> dict[int, tuple[int, int, int]]:
    """Return each chunk's place in the grid's C order → (address, bytes, mask).

    The library finds chunks by halving: the tree is taken only if its keys are in order everywhere, so that we and the
    library see the same.
    """
    what = f"the B-tree of {quoted(where)}"
    rank = len(grid.shape)
    key = struct.Struct(f"<II{rank + 1}Q")
    strides = [math.prod(grid.counts[axis + 1 :]) for axis in range(rank)]
    found: dict[int, tuple[int, int, int]] = {}
    # Nodes still to come, the next one last: address, level (None: any), first and last key allowed.
    waiting: list[tuple[int, int | None, tuple[int, ...] | None, tuple[int, ...] | None]] = [(tree, None, None, None)]
    while waiting:
        address, level, low, high = waiting.pop()
        own, keys, children = _node(file, address, key, what)
        if level is not None and own != level:
            raise file.broken(f"{what} has a node of level {own}, want {level}", address)
        corners = [each[2:] for each in keys]
        bounds = [*([] if low is None else [low]), *corners, *([] if high is None else [high])]
        if bounds != sorted(bounds) or len(set(corners)) != len(keys):
            raise file.broken(f"{what} has keys out of order", address)
        if own:
            below = list(zip(children, corners, corners[1:], strict=False))
            waiting += [(child, own - 1, first, last) for child, first, last in reversed(below)]
            continue
        for (nbytes, mask, *corner), child in zip(keys, children, strict=False):
            number = _number(corner, grid, strides)
            if number is None or found.setdefault(number, place := (child, nbytes, mask)) is not place:
                raise file.broken(f"{what} has a chunk at {corner[:rank]}, where none belongs", address)
    return found


def _node(file: Hdf5File, address: int, key: struct.Struct, what: str) -> tuple[int, list[tuple[int, ...]], list[int]]:
    """Read one node: its level, its keys and, one less, its children."""
    signature, kind, level, count, _, _ = _NODE.unpack(file.read(address, _NODE.size, what))
    if signature != b"TREE" or kind != _CHUNK_TREE:
        raise file.broken(f"{what} leads to something else", address)
    pair = key.size + 8
    body = file.claim(address, _NODE.size + count * pair + key.size, what)[_NODE.size :]
    file.charge(_CHUNK_COST * count)
    keys = [key.unpack_from(body, at) for at in range(0, len(body), pair)]
    children = [int.from_bytes(body[at - 8 : at], "little") for at in range(pair, len(body), pair)]
    return level, keys, children


def _number(corner: Sequence[int], grid: Grid, strides: Sequence[int]) -> int | None:
    """Place of the chunk whose first element is ``corner`` in the grid's C order; None if it is none of the grid's."""
    if corner[-1]:  # inside an element
        return None
    total = 0
    for at, part, length, stride in zip(corner, grid.chunk, grid.shape, strides, strict=False):
        if at % part or at >= length:
            return None
        total += at // part * stride
    return total


class Bands:
    """The last bands that were read of one file, shared by its tensors and by threads.

    Two, because tensors that should be tied are compared with each other; together never more than the largest allowed.
    """

    _MOST = 2

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._held: dict[tuple[int, int], NDArray[uint8]] = {}

    def get(self, key: tuple[int, int]) -> NDArray[uint8] | None:
        """Return a band, which is the last one to go now."""
        band = self._held.pop(key, None)
        if band is not None:
            self._held[key] = band
        return band

    def make_room(self, nbytes: int) -> None:
        """Let bands go until one of ``nbytes`` can be added."""
        held = self._held
        while held and (len(held) >= self._MOST or nbytes + sum(band.nbytes for band in held.values()) > MAX_BAND):
            del held[next(iter(held))]

    def put(self, key: tuple[int, int], band: NDArray[uint8]) -> None:
        self._held[key] = band


@dataclass(frozen=True)
class Chunked:
    """A tensor's bytes that lie in chunks.

    Attributes:
        path: The file.
        where: The dataset's path in it.
        grid: How it is cut.
        filters: Number of each filter, in the order in which they packed.
        places: Where the chunks are.
    """

    path: Path
    where: str
    grid: Grid
    filters: tuple[int, ...]
    places: Places = field(repr=False)
    bands: Bands = field(compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.grid.shape) * self.grid.itemsize

    def regions(self) -> Iterator[tuple[int, int]]:
        """Give begin and end of each chunk in the file."""
        for address, nbytes in zip(self.places.addresses, self.places.sizes, strict=True):
            yield address, address + nbytes

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        """Fill ``out`` with the tensor's bytes from ``start``; cheapest in order.

        Raises:
            FormatError: A chunk does not unpack to what it should.
        """
        if start < 0 or start + len(out) > self.nbytes:
            raise ValueError(f"bytes {start} to {start + len(out)} are outside the tensor's {self.nbytes}")
        band_bytes = self.grid.chunk[0] * self.grid.row_bytes
        done = 0
        while done < len(out):
            number, at = divmod(start + done, band_bytes)
            with self.bands.lock:
                band = self._band(files, number)
            piece = band.data[at : at + len(out) - done]
            out[done : done + len(piece)] = piece
            done += len(piece)

    def _band(self, files: OpenFiles, number: int) -> NDArray[uint8]:
        """Return the bytes of one row of chunks, C order."""
        import numpy

        key = self.places.addresses[0], number
        band = self.bands.get(key)
        if band is not None:
            return band
        grid = self.grid
        rows = min(grid.chunk[0], grid.shape[0] - number * grid.chunk[0])
        self.bands.make_room(rows * grid.row_bytes)
        values = numpy.empty((rows, *grid.shape[1:], grid.itemsize), numpy.uint8)
        in_band = math.prod(grid.counts[1:])
        for position, corner in enumerate(itertools.product(*map(range, grid.counts[1:]))):
            place = (step * part for step, part in zip(corner, grid.chunk[1:], strict=True))
            area = (slice(None), *(slice(at, at + part) for at, part in zip(place, grid.chunk[1:], strict=True)))
            inside = values[area]  # less than a chunk at the tensor's edges
            chunk = numpy.frombuffer(self._chunk(files, number * in_band + position), numpy.uint8)
            whole = chunk.reshape(*grid.chunk, grid.itemsize)
            inside[...] = whole[tuple(slice(length) for length in inside.shape)]
        band = values.reshape(-1)
        self.bands.put(key, band)
        return band

    def _chunk(self, files: OpenFiles, number: int) -> bytes | bytearray:
        """Read one chunk and undo its filters, the last one first."""
        address, mask = self.places.addresses[number], self.places.masks[number]
        found: bytes | bytearray = bytearray(self.places.sizes[number])
        files.read_into(self.path, address, memoryview(found))
        for position in reversed(range(len(self.filters))):
            if mask >> position & 1:  # passed over: it had not gained anything
                continue
            kind = self.filters[position]
            if kind == GZIP:
                found = self._inflated(found, address)
            elif kind == SHUFFLE:
                found = unshuffled(found, self.grid.itemsize)
            else:
                found = self._summed(found, address)
        if len(found) != self.grid.chunk_bytes:
            raise self._broken(f"unpacks to {len(found):,} bytes, want {self.grid.chunk_bytes:,}", address)
        return found

    def _inflated(self, content: bytes | bytearray, address: int) -> bytes:
        """Undo gzip; a checksum may have been added before it, so 4 bytes more than a chunk's may come."""
        inflater = zlib.decompressobj()
        try:
            found = inflater.decompress(content, self.grid.chunk_bytes + _SUM.size + 1)
        except zlib.error as error:
            raise self._broken(f"does not unpack: {error}", address) from None
        if not inflater.eof:
            raise self._broken(f"ends early, or unpacks to more than {self.grid.chunk_bytes:,} bytes", address)
        return found

    def _summed(self, content: bytes | bytearray, address: int) -> bytes | bytearray:
        """Take a checksum off and check it."""
        if len(content) < _SUM.size:
            raise self._broken("has no room for its checksum", address)
        content, kept = content[: -_SUM.size], content[-_SUM.size :]
        wanted, total = _SUM.unpack(kept)[0], fletcher32(content)
        # Old libraries of little-endian machines wrote the bytes of each half the other way round.
        if wanted not in (total, (total & 0xFF00FF) << 8 | total >> 8 & 0xFF00FF):
            raise self._broken("does not have the checksum that is kept with it", address)
        return content

    def _broken(self, what: str, address: int) -> FormatError:
        return FormatError(self.path, f"a chunk of {quoted(self.where)} {what}", offset=address, next_step=DAMAGED)


def unshuffled(content: bytes | bytearray, itemsize: int) -> bytes | bytearray:
    """Put elements together again of which all first bytes lie first, then all second ones; a rest is as it was."""
    import numpy

    count = len(content) // itemsize
    if itemsize == 1 or count < 2:
        return content
    whole = numpy.frombuffer(content, numpy.uint8, count * itemsize)
    elements: bytes = whole.reshape(itemsize, count).T.tobytes()
    return elements + content[count * itemsize :]
