"""LevelDB's sorted table file: keys and values in checksummed blocks, the envelope of a TensorFlow checkpoint's index.

``read_table`` yields the entries of a whole small file after checking every length, order and checksum in it;
``build_table`` answers the bytes that TensorFlow's own builder would write. What keys and values mean is
:mod:`.tensor_bundle`'s business.

Source: doc/table_format.md of https://github.com/google/leveldb; block_builder.cc, table_builder.cc and format.cc in
tensorflow/core/lib/io of https://github.com/tensorflow/tensorflow (in 2.21 in xla/tsl/lib/io).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import FETCH_AGAIN, FormatError, quoted, reading
from ...tensors.checksums import crc32c
from ...tensors.signatures import LEVELDB_END

_FIXED32 = struct.Struct("<I")

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_UNCOMPRESSED, _SNAPPY = 0, 1

#: Limits of ours on the file and on its keys written out in full. A few bytes of a prefix-compressed block can repeat a
#: key of any length, so that without the second a small file fills any memory. 10,000 tensors take about 1 MB of each.
_MAX_FILE_BYTES = 1 << 25
_MAX_KEY_BYTES = 1 << 25

#: Source: table_options.h. LevelDB's own blocks are 4 KiB, TensorFlow's are 256 KiB.
_BLOCK_BYTES = 1 << 18
_RESTART_INTERVAL = 16


def masked(checksum: int) -> int:
    """Turn a CRC32C into the form that is stored, so that a checksum of data with checksums in it stays meaningful.

    Source: tensorflow/core/lib/hash/crc32c.h, Mask.
    """
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def unmasked(stored: int) -> int:
    """Undo :func:`masked`."""
    rotated = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


def put_varint(number: int) -> bytes:
    """Encode a non-negative number in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class TableCursor:
    """A position in some bytes of a file, moved by reads that never leave them.

    Args:
        path: The file, for errors.
        content: Bytes of the file.
        offset: Where they begin in the file.
        begin: First byte of ``content`` that may be read.
        end: End of what may be read; all of ``content`` when None.
    """

    def __init__(self, path: Path, content: bytes, offset: int, begin: int = 0, end: int | None = None) -> None:
        self._path = path
        self._content = content
        self._offset = offset
        self._end = len(content) if end is None else end
        self.position = begin

    def __bool__(self) -> bool:
        return self.position < self._end

    @property
    def offset(self) -> int:
        """The position, counted from the start of the file."""
        return self._offset + self.position

    def varint(self) -> int:
        """Read a number below 2^64 in at most ten bytes."""
        number = 0
        for shift in range(0, 70, 7):
            if not self:
                raise self.wrong("a number ends early")
            byte = self._content[self.position]
            self.position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number >= 1 << 64:
                    break
                return number
        raise self.wrong("a number is wider than 64 bits")

    def take(self, count: int) -> bytes:
        """Read ``count`` bytes."""
        left = self._end - self.position
        if count > left:
            raise self.wrong(f"{count:,} bytes are announced, {left:,} are left")
        self.position += count
        return self._content[self.position - count : self.position]

    def fixed32(self) -> int:
        """Read four bytes, little-endian."""
        return int(_FIXED32.unpack(self.take(4))[0])

    def wrong(self, what: str) -> FormatError:
        """Make an error that says where in the file it was seen."""
        return FormatError(self._path, what, offset=self.offset)


@dataclass(frozen=True)
class Entry:
    """One key and its value, and where in the file the value lies."""

    key: bytes
    value: bytes
    offset: int


def is_table(path: Path) -> bool:
    """Tell whether ``path`` is a file that ends as a table does; False where it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return False
        with open(path, "rb") as file:
            file.seek(max(0, status.st_size - len(LEVELDB_END)))
            return file.read(len(LEVELDB_END)) == LEVELDB_END
    except OSError:
        return False


def read_table(path: Path) -> Iterator[Entry]:
    """Yield the entries of the table at ``path`` in the order of their keys, each key once.

    Raises:
        FormatError: The file is not a table, or its footer, a block, a checksum or the order of the keys is wrong, or a
            block is compressed.
    """
    table = _Table(path, _read_small_file(path))
    previous: bytes | None = None
    for handle in table.blocks():
        for entry in table.entries(*handle.extent):
            if previous is not None and entry.key <= previous:
                raise FormatError(path, f"key {quoted(entry.key)} is out of order", offset=entry.offset)
            if entry.key > handle.last_key:
                raise FormatError(path, f"key {quoted(entry.key)} lies in the wrong block", offset=entry.offset)
            previous = entry.key
            yield entry
        previous = handle.last_key if previous is None else max(previous, handle.last_key)


def _read_small_file(path: Path) -> bytes:
    with reading(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(path, "not a regular file")
        if status.st_size > _MAX_FILE_BYTES:
            raise FormatError(path, f"{status.st_size:,} bytes, at most {_MAX_FILE_BYTES:,} are read as a table")
        with open(path, "rb") as file:
            return file.read(status.st_size)  # a larger number would take its memory, whatever there is to read


@dataclass(frozen=True)
class _Block:
    """A data block as the index names it: ``extent`` is offset and bytes, no key in it is above ``last_key``."""

    extent: tuple[int, int]
    last_key: bytes


class _Table:
    """The bytes of a whole table file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        self._key_bytes = 0
        if len(content) < _FOOTER_BYTES:
            what = f"{len(content)} bytes, the footer of a table alone takes {_FOOTER_BYTES}"
            raise FormatError(path, what, next_step=FETCH_AGAIN)
        if not content.endswith(LEVELDB_END):
            what = f"not a table: it ends with {content[-8:].hex()}, wanted {LEVELDB_END.hex()}"
            raise FormatError(path, what, next_step=FETCH_AGAIN)
        self._body_bytes = len(content) - _FOOTER_BYTES
        footer = TableCursor(path, content, 0, self._body_bytes, len(content) - len(LEVELDB_END))
        self._metaindex = footer.varint(), footer.varint()
        self._index = footer.varint(), footer.varint()

    def blocks(self) -> Iterator[_Block]:
        """Yield the data blocks, which must lie in the file in the order of their keys."""
        # TensorFlow writes an empty metaindex and reads none; its checksum still tells a damaged file from a whole one.
        self._check_block(*self._metaindex)
        end = 0
        for entry in self.entries(*self._index):
            cursor = TableCursor(self._path, entry.value, entry.offset)
            offset, size = cursor.varint(), cursor.varint()
            # An index that names one block many times would have it read many times.
            if cursor or offset < end:
                raise FormatError(
                    self._path, "the index does not name the blocks in the file's order", offset=entry.offset
                )
            end = offset + size + _TRAILER_BYTES
            yield _Block((offset, size), entry.key)

    def entries(self, offset: int, size: int) -> Iterator[Entry]:
        """Yield the entries of one block, their prefix-compressed keys written out."""
        self._check_block(offset, size)
        (restart_count,) = _FIXED32.unpack_from(self._content, offset + size - 4)
        if restart_count > size // 4 - 1:
            raise FormatError(
                self._path, f"{restart_count:,} restart points in a block of {size:,} bytes", offset=offset
            )
        entries_end = offset + size - 4 * (restart_count + 1)
        restarts = struct.iter_unpack("<I", memoryview(self._content)[entries_end : offset + size - 4])
        next_restart = next(restarts, None)
        cursor = TableCursor(self._path, self._content, 0, offset, entries_end)
        # TensorFlow looks for entries from restart points only, the first of which is the first entry.
        if cursor and next_restart != (0,):
            raise FormatError(self._path, "the block's first entry is not a restart point", offset=offset)
        key = b""
        while cursor:
            start = cursor.position - offset
            shared, unshared, value_bytes = cursor.varint(), cursor.varint(), cursor.varint()
            if shared > len(key):
                raise cursor.wrong(f"a key shares {shared:,} bytes with one of {len(key):,}")
            # Searches start at restart points, so a key there must be whole.
            if next_restart == (start,):
                if shared:
                    raise cursor.wrong("a key at a restart point is not whole")
                next_restart = next(restarts, None)
            self._key_bytes += shared + unshared
            if self._key_bytes > _MAX_KEY_BYTES:
                raise cursor.wrong(f"the keys take more than {_MAX_KEY_BYTES >> 20} MiB")
            key = key[:shared] + cursor.take(unshared)
            value_offset = cursor.offset
            yield Entry(key, cursor.take(value_bytes), value_offset)
        # A block without entries has one restart point, at its beginning.
        if next_restart is not None and (entries_end > offset or next_restart != (0,)):
            raise FormatError(self._path, f"restart point {next_restart[0]:,} is not at an entry", offset=offset)

    def _check_block(self, offset: int, size: int) -> None:
        """Check that a block lies in the table, and its trailer of type and checksum."""
        where = f"a block of {size:,} bytes"
        if size < 4 or offset + size + _TRAILER_BYTES > self._body_bytes:
            raise FormatError(self._path, f"{where} does not fit the table's {self._body_bytes:,}", offset=offset)
        end = offset + size
        (stored,) = _FIXED32.unpack_from(self._content, end + 1)
        checksum = crc32c()(memoryview(self._content)[offset : end + 1])
        if checksum != unmasked(stored):
            raise FormatError(
                self._path, f"{where} has CRC32C {checksum:08x}, stored is {unmasked(stored):08x}", offset=offset
            )
        kind = self._content[end]
        if kind == _SNAPPY:
            raise FormatError(
                self._path,
                f"{where} is compressed with Snappy, which is not read here",
                offset=offset,
                next_step="Load the checkpoint in TensorFlow and save it again: it compresses no index.",
            )
        if kind != _UNCOMPRESSED:
            raise FormatError(self._path, f"{where} has the unknown type {kind}", offset=offset)


def build_table(entries: Iterable[tuple[bytes, bytes]], block_bytes: int = _BLOCK_BYTES) -> bytes:
    """Answer the table that holds ``entries``, which come in the order of their keys.

    Args:
        entries: Keys and values.
        block_bytes: A block is closed once it holds this many; a value of twice that has a block of its own.
    """
    table = bytearray()
    index = _BlockBuilder(restart_interval=1)
    block = _BlockBuilder(_RESTART_INTERVAL)
    last_key: bytes | None = None
    closed: bytes | None = None
    for key, value in entries:
        if last_key is not None and key <= last_key:
            raise ValueError(f"key {key!r} comes after {last_key!r}")
        if block.count and len(key) + len(value) >= 2 * block_bytes:
            closed = _append_block(table, block)
            block = _BlockBuilder(_RESTART_INTERVAL)
        if closed is not None:
            assert last_key is not None, "a block was closed, so it had a key"
            index.add(_separator(last_key, key), closed)
            closed = None
        block.add(key, value)
        last_key = key
        if len(block) >= block_bytes:
            closed = _append_block(table, block)
            block = _BlockBuilder(_RESTART_INTERVAL)
    if block.count:
        closed = _append_block(table, block)
    metaindex_handle = _append_block(table, _BlockBuilder(_RESTART_INTERVAL))
    if closed is not None:
        assert last_key is not None, "a block was closed, so it had a key"
        index.add(_successor(last_key), closed)
    footer = metaindex_handle + _append_block(table, index)
    return bytes(table) + footer.ljust(_FOOTER_BYTES - len(LEVELDB_END), b"\0") + LEVELDB_END


class _BlockBuilder:
    """One block growing: entries with their keys' common beginnings left out, then the places where keys are whole."""

    def __init__(self, restart_interval: int) -> None:
        self.count = 0
        self._restart_interval = restart_interval
        self._entries = bytearray()
        self._restarts = [0]
        self._last_key = b""

    def __len__(self) -> int:
        return len(self._entries) + 4 * (len(self._restarts) + 1)

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self.count and self.count % self._restart_interval == 0:
            self._restarts.append(len(self._entries))
        else:
            shared = _common(self._last_key, key)
        self._entries += put_varint(shared) + put_varint(len(key) - shared) + put_varint(len(value))
        self._entries += key[shared:] + value
        self._last_key = key
        self.count += 1

    def content(self) -> bytes:
        return bytes(self._entries) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))


def _append_block(table: bytearray, block: _BlockBuilder) -> bytes:
    """Append ``block`` with its trailer; return its handle, offset and size without the trailer."""
    content = block.content()
    handle = put_varint(len(table)) + put_varint(len(content))
    content += bytes([_UNCOMPRESSED])
    table += content + _FIXED32.pack(masked(crc32c()(content)))
    return handle


def _common(left: bytes, right: bytes) -> int:
    """Return the number of bytes with which both begin."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _separator(last: bytes, following: bytes) -> bytes:
    """Return a short key that is not below ``last`` and below ``following``. Source: FindShortestSeparator."""
    common = _common(last, following)
    if common < min(len(last), len(following)) and last[common] + 1 < following[common]:
        return last[:common] + bytes([last[common] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """Return a short key that is not below ``last``. Source: FindShortSuccessor."""
    for position, byte in enumerate(last):
        if byte != 0xFF:
            return last[:position] + bytes([byte + 1])
    return last
