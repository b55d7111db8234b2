"""Datasets of HDF5: type, shape and where the bytes are, of those that can be read without the HDF5 library.

Source: HDF5 File Format Specification 3.0, IV.A.2.i (data layout).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .hdf5_datatypes import DATATYPES
from .hdf5_file import UNDEFINED, Cursor, quoted
from .hdf5_groups import is_group
from .hdf5_headers import DATASPACE, DATATYPE, EXTERNAL_FILES, FILTERS, LAYOUT, Header
from .hdf5_messages import MAX_RANK, read_dataspace, read_datatype
from .stored import ITEMSIZE, Extent

if TYPE_CHECKING:
    from .hdf5_chunks import Chunked

UNPACK = "Rewrite the file plainly: h5repack -l CONTI -f NONE OLD.h5 NEW.h5"

#: The most elements, and the most dimensions of what is put together: NumPy before 2.0 has 32, one is the element.
_MAX_SIZE, _MAX_CHUNKED_RANK = 2**63 - 1, 31

COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = 0, 1, 2, 3
_PLACE = struct.Struct("<QQ")
_OLD_LAYOUT = struct.Struct("<BB5x")


class Layout(NamedTuple):
    """How a dataset is stored.

    Attributes:
        kind: COMPACT and so on.
        address: Of the values, or of the B-tree of chunks; maybe undefined.
        nbytes: That are stored, or None where the layout does not say.
        chunk: Its lengths in elements and, last, the bytes of an element; None where a newer index finds chunks.
    """

    kind: int
    address: int
    nbytes: int | None = None
    chunk: tuple[int, ...] | None = None


class Dataset(NamedTuple):
    """What a dataset holds.

    Attributes:
        dtype: A key of ITEMSIZE.
        shape: Lengths.
        data: Its bytes.
        in_header: They lie in the object's header, which has read over them as a structure.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Extent | Chunked
    in_header: bool

    def regions(self) -> Iterator[tuple[int, int]]:
        """Give begin and end of each part of the file that holds bytes of it and no structure."""
        if not isinstance(self.data, Extent):
            yield from self.data.regions()
        elif self.data.nbytes and not self.in_header:
            yield self.data.offset, self.data.offset + self.data.nbytes


def is_dataset(header: Header) -> bool:
    """Say whether an object is a dataset; the library, too, asks first whether it is a group."""
    return header.kinds >= {DATATYPE, DATASPACE} and not is_group(header)


def read_dataset(header: Header, where: str) -> Dataset:
    """Describe the dataset whose path is ``where``.

    Raises:
        FormatError: It is none, its values lie elsewhere or were never written, its type is none of ours, or it is
            packed in a way that is not read here.
    """
    file = header.file
    if not is_dataset(header):
        raise file.broken(f"{quoted(where)} is not a dataset", header.address, None)
    layout = _layout(header, where)
    if layout.kind == VIRTUAL:
        what = f"{quoted(where)} is a virtual dataset: its values lie in other datasets or files"
        raise file.broken(what, next_step=None)
    if header.one(EXTERNAL_FILES) is not None:
        raise file.broken(f"{quoted(where)} keeps its values in another file (external storage)", next_step=None)
    dtype = _dtype(header, where)
    space = header.one(DATASPACE)
    assert space is not None  # is_dataset
    shape = read_dataspace(header.cursor(space, quoted(where)))
    if shape is None:
        raise file.broken(f"{quoted(where)} has no shape", next_step=None)
    if math.prod(shape) > _MAX_SIZE:
        raise file.broken(f"{quoted(where)} has shape {_shown(shape)}: more than 2^63 - 1 elements", next_step=None)
    if layout.kind == CHUNKED:
        return Dataset(dtype, shape, _chunked(header, where, layout, dtype, shape), False)
    return Dataset(dtype, shape, _extent(header, where, layout, dtype, shape), layout.kind == COMPACT)


def _shown(lengths: tuple[int, ...]) -> str:
    """Show a shape: 32 dimensions of 19 digits each are too long for a message."""
    text = str(list(lengths))
    return text if len(text) <= 200 else f"{text[:200]}…]"


def _dtype(header: Header, where: str) -> str:
    message = header.one(DATATYPE)
    assert message is not None
    kind = read_datatype(header.cursor(message, quoted(where)))
    if kind.element is None:
        what = f"{quoted(where)} has dtype {kind.words}; want one of {', '.join(DATATYPES)}"
        raise header.file.broken(what, next_step=None)
    return kind.element


def _layout(header: Header, where: str) -> Layout:
    message = header.one(LAYOUT)
    if message is None:
        raise header.file.broken(f"{quoted(where)} does not say where its values are", header.address)
    cursor = header.cursor(message, quoted(where))
    version = cursor.number(1)
    if version in (1, 2):
        return _old_layout(cursor)
    if version not in (3, 4, 5):
        raise cursor.broken(f"has a layout of version {version}, want 1 to 5")
    kind = cursor.number(1)
    if kind == COMPACT:
        nbytes = cursor.number(2)
        return Layout(COMPACT, cursor.address + cursor.at, len(cursor.take(nbytes)))
    if kind == CONTIGUOUS:
        address, nbytes = cursor.numbers(_PLACE)
        return Layout(CONTIGUOUS, address, nbytes)
    if kind == CHUNKED and version == 3:
        lengths, address = _lengths(cursor, cursor.number(1))
        return Layout(CHUNKED, address, None, lengths)
    if kind in (CHUNKED, VIRTUAL) and version > 3:
        return Layout(kind, UNDEFINED)
    raise cursor.broken(f"is stored in the unknown way {kind}")


def _lengths(cursor: Cursor, count: int) -> tuple[tuple[int, ...], int]:
    """Read the address of a B-tree and the ``count`` lengths of its chunks, in this order."""
    if not 1 < count <= MAX_RANK + 1:
        raise cursor.broken(f"has chunks of {count} lengths")
    address = cursor.number(8)
    return struct.unpack(f"<{count}I", cursor.take(4 * count)), address


def _old_layout(cursor: Cursor) -> Layout:
    """Read a layout of version 1 or 2, as HDF5 1.4 and older wrote it."""
    count, kind = cursor.numbers(_OLD_LAYOUT)
    if count > MAX_RANK + 1 or kind > CHUNKED:
        raise cursor.broken(f"is stored in the unknown way {kind} with {count} lengths")
    if kind == CHUNKED:
        lengths, address = _lengths(cursor, count)
        return Layout(CHUNKED, address, None, lengths)
    address = cursor.number(8) if kind == CONTIGUOUS else UNDEFINED
    cursor.take(4 * count)  # the shape again
    if kind == CONTIGUOUS:
        return Layout(CONTIGUOUS, address)
    nbytes = cursor.number(4)
    return Layout(COMPACT, cursor.address + cursor.at, len(cursor.take(nbytes)))


def _extent(header: Header, where: str, layout: Layout, dtype: str, shape: tuple[int, ...]) -> Extent:
    """Check where contiguous values lie, or those kept in the header."""
    file = header.file
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    if header.all(FILTERS):
        raise file.broken(f"{quoted(where)} is compressed and not stored in chunks", header.address)
    if nbytes == 0:
        return Extent(file.path, 0, 0)
    if layout.address == UNDEFINED:
        raise file.broken(f"{quoted(where)} was declared and never written", next_step=None)
    stored = nbytes if layout.nbytes is None else layout.nbytes
    if stored != nbytes:
        raise file.broken(f"{quoted(where)} has shape {_shown(shape)} in {stored:,} bytes, want {nbytes:,}")
    if layout.address + nbytes > file.end:
        what = f"{quoted(where)} claims {nbytes:,} bytes at {layout.address:,}, and the file has {file.end:,}"
        raise file.broken(what)
    return Extent(file.path, layout.address, nbytes)


def _chunked(header: Header, where: str, layout: Layout, dtype: str, shape: tuple[int, ...]) -> Extent | Chunked:
    """Check how chunks are cut and packed, and find them all."""
    # imported here: weight files are rarely packed
    from .hdf5_chunks import FILTERS as WORDS
    from .hdf5_chunks import MAX_BAND, SHUFFLE, Bands, Chunked, Grid, find_chunks, read_filters

    file = header.file
    message = header.one(FILTERS)
    filters = read_filters(header.cursor(message, f"the filters of {quoted(where)}")) if message is not None else []
    used = [number for number, _ in filters]
    if len(set(used)) != len(used) or any(number not in WORDS for number in used):
        words = ", ".join(WORDS.get(number, f"filter {number}") for number in used)
        what = f"{quoted(where)} is compressed with {words}; want each of gzip, shuffle, fletcher32 once"
        unknown = any(number not in WORDS for number in used)  # which h5repack may not have either
        step = "Rewrite the file with the program that packed it (h5py, for lzf), without that filter."
        raise file.broken(what, next_step=step if unknown else UNPACK)
    if 0 in shape:
        return Extent(file.path, 0, 0)
    if layout.chunk is None:
        what = f"{quoted(where)} is stored in chunks that only a newer index finds (libver='latest')"
        raise file.broken(what, next_step=UNPACK)
    itemsize = ITEMSIZE[dtype]
    chunk = layout.chunk[:-1]
    if len(chunk) != len(shape) or layout.chunk[-1] != itemsize or 0 in chunk:
        what = f"{quoted(where)} of shape {_shown(shape)} is stored in chunks {_shown(chunk)}"
        raise file.broken(f"{what} of {layout.chunk[-1]} bytes an element", header.address)
    if any(number == SHUFFLE and values != [itemsize] for number, values in filters):
        raise file.broken(f"{quoted(where)} was shuffled as if its elements had another width", header.address)
    grid = Grid(shape, chunk, itemsize)
    if grid.band_bytes > MAX_BAND or len(shape) > _MAX_CHUNKED_RANK:
        what = f"{quoted(where)} is stored in chunks {_shown(chunk)} of {_shown(shape)}, too large to read in parts"
        raise file.broken(what, next_step=UNPACK)
    file.bands = file.bands or Bands()
    places = find_chunks(file, layout.address, grid, where)
    return Chunked(file.path, where, grid, tuple(used), places, file.bands)
