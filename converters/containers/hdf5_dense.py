"""Links and attributes of HDF5 where an object has many: messages in a fractal heap, found through a B-tree.

A heap is a table of blocks whose sizes double from the second row on; wide rows lead to tables of their own. An ID
names a piece of it (managed), holds the piece itself (tiny), or leads to one outside of it (huge). The B-tree, of
version 2, lists the IDs in the order of their names' hashes. Everything but the huge pieces has a checksum.

Source: HDF5 File Format Specification 3.0, III.A.2 (B-trees of version 2), III.G (fractal heaps).
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator

from ..errors import FormatError
from .hdf5_attributes import attribute_name
from .hdf5_checksums import lookup3
from .hdf5_file import UNDEFINED, Cursor, Hdf5File

#: Types of B-trees, and the bytes of their records.
_HUGE, _LINKS, _ATTRIBUTES = 1, 5, 8
_RECORD = {_HUGE: 24, _LINKS: 11, _ATTRIBUTES: 17}
#: Bytes of an ID in a record of attributes; one of links has it as its rest.
_ATTRIBUTE_ID = 8

_TREE = struct.Struct("<4sBBIHHBBQHQ")
_NODE_START, _CHECKSUM = 6, 4
_HEAP = struct.Struct("<4sBHHBIQQQQQQQQQQQQHQQHHQH")
_SHARED = 2


def dense_links(file: Hdf5File, heap: int, names: int) -> list[Cursor]:
    """Return a group's link messages, in the order of their names' hashes.

    Raises:
        FormatError: A structure is broken, or a hash is not its name's.
    """
    from .hdf5_groups import read_link

    pieces = FractalHeap(file, heap)
    found: list[Cursor] = []
    last = 0
    for record in read_tree(file, names, _LINKS):
        hashed = int.from_bytes(record[:4], "little")
        cursor = pieces.piece(record[4:], "a link message")
        name, _ = read_link(cursor)
        cursor.at = 0
        _check_hash(cursor, name, hashed, last)
        last = hashed
        found.append(cursor)
    return found


def dense_attributes(file: Hdf5File, heap: int, names: int) -> list[Cursor]:
    """Return an object's attribute messages, in the order of their names' hashes.

    Raises:
        FormatError: As :func:`dense_links`.
    """
    pieces = FractalHeap(file, heap)
    found: list[Cursor] = []
    last = 0
    for record in read_tree(file, names, _ATTRIBUTES):
        hashed = int.from_bytes(record[-4:], "little")
        cursor = pieces.piece(record[:_ATTRIBUTE_ID], "an attribute")
        if record[_ATTRIBUTE_ID] & _SHARED:
            raise cursor.broken("is shared by several objects")
        _check_hash(cursor, attribute_name(cursor), hashed, last)
        last = hashed
        found.append(cursor)
    return found


def _check_hash(cursor: Cursor, name: bytes, hashed: int, last: int) -> None:
    """Check that the library, which looks names up by hash, finds this one."""
    cursor.file.charge(4 * len(name))
    if lookup3(name) != hashed or hashed < last:
        raise cursor.broken(f"is not where its name belongs: {ascii(name)[:100]}")


def _bytes_for(limit: int) -> int:
    """Bytes that a number up to ``limit`` takes."""
    return max(1, -(-limit.bit_length() // 8))


def read_tree(file: Hdf5File, address: int, kind: int) -> Iterator[bytes]:
    """Give the records of a B-tree of version 2 in order.

    Raises:
        FormatError: It is of another type, a checksum is wrong, or its counts disagree.
    """
    what = "a B-tree"
    content = file.claim(address, _TREE.size + _CHECKSUM, what)
    signature, version, own, node, size, depth, _, _, root, count, total = _TREE.unpack_from(content)
    if (signature, version, own, size) != (b"BTHD", 0, kind, _RECORD[kind]):
        raise file.broken(f"{what} is not one of type {kind} with records of {_RECORD[kind]} bytes", address)
    file.verify(content, what, address)
    if total == 0:
        return
    widths = _pointer_widths(node, size, depth)
    if widths is None:
        raise file.broken(f"{what} has nodes of {node:,} bytes, too few", address)
    given = 0
    # Nodes and records still to come, the next one last.
    waiting: list[bytes | tuple[int, int, int]] = [(root, count, depth)]
    while waiting:
        each = waiting.pop()
        if isinstance(each, bytes):
            given += 1
            yield each
        else:
            waiting += reversed(_tree_node(file, each, kind, node, widths))
    if given != total:
        raise file.broken(f"{what} counts {total:,} records and has {given:,}", address)


def _pointer_widths(node: int, size: int, depth: int) -> list[tuple[int, int]] | None:
    """For nodes of each depth above the leaves: bytes of a child's count, and of the count of all below it.

    Depth 0 is that of leaves, which have no children. None where a node could hold nothing.
    """
    room = node - _NODE_START - _CHECKSUM
    most = most_below = room // size
    width = _bytes_for(most)
    widths, below = [(0, 0)], 0
    for _ in range(depth):
        if most < 1 or len(widths) > 64:
            return None
        widths.append((width, below))
        pointer = 8 + width + below
        most = (room - pointer) // (size + pointer)
        most_below = (most + 1) * most_below + most
        below = _bytes_for(most_below)
    return widths if most >= 1 else None


def _tree_node(
    file: Hdf5File, place: tuple[int, int, int], kind: int, node: int, widths: list[tuple[int, int]]
) -> list[bytes | tuple[int, int, int]]:
    """Read one node (its address, its count of records, its depth): its records with its children between them."""
    address, count, depth = place
    what = "a B-tree's node"
    size, (width, below) = _RECORD[kind], widths[depth]
    children = (count + 1) * (8 + width + below) if depth else 0
    nbytes = _NODE_START + count * size + children + _CHECKSUM
    if nbytes > node:
        raise file.broken(f"{what} of {node:,} bytes claims {count:,} records", address)
    content = file.claim(address, nbytes, what)
    if content[:_NODE_START] != (b"BTIN" if depth else b"BTLF") + bytes([0, kind]):
        raise file.broken(f"{what} is none", address)
    file.verify(content, what, address)
    cursor = Cursor(file, content, address, what)
    cursor.take(_NODE_START)
    found: list[bytes | tuple[int, int, int]] = [cursor.take(size) for _ in range(count)]
    for position in range(count + 1 if depth else 0):
        child, records = cursor.number(8), cursor.number(width)
        cursor.take(below)
        found.insert(2 * position, (child, records, depth - 1))
    return found


class FractalHeap:
    """Pieces of one heap by their IDs.

    Raises:
        FormatError: The heap's header is broken, or its blocks are compressed.
    """

    def __init__(self, file: Hdf5File, address: int) -> None:
        self._file, self._address = file, address
        what = "a fractal heap"
        content = file.claim(address, _HEAP.size + _CHECKSUM, what)
        fields = _HEAP.unpack_from(content)
        signature, version, self._id_bytes, filters, flags, largest = fields[:6]
        self._huge_tree = fields[7]
        bits, _, root, rows = fields[-4:]
        self._width: int = fields[-7]
        self._first: int = fields[-6]
        self._most: int = fields[-5]
        if signature != b"FRHP" or version != 0:
            raise file.broken(f"{what} is none", address)
        if filters:
            raise file.broken(
                f"{what} is compressed, which is not read here", address, "Rewrite the file with h5py, uncompressed."
            )
        file.verify(content, what, address)
        powers = all(number & (number - 1) == 0 < number for number in (self._width, self._first, self._most))
        if not powers or not self._first <= self._most or bits > 64:
            raise file.broken(f"{what} has blocks of {self._first:,} to {self._most:,} bytes in {bits} bits", address)
        self._offset_bytes: int = (bits + 7) // 8
        self._length_bytes = min((self._most.bit_length() + 6) // 8, _bytes_for(largest))
        self._checked = bool(flags & 2)
        self._blocks: dict[int, tuple[int, bytes]] = {}  # where a block begins in the heap → its address, its content
        self._huge: dict[int, tuple[int, int]] | None = None
        self._read_blocks(root, rows)
        self._begins = sorted(self._blocks)

    def piece(self, name: bytes, what: str) -> Cursor:
        """Return the piece with ID ``name`` to read.

        Raises:
            FormatError: There is none.
        """
        if len(name) != self._id_bytes or name[0] >> 6:
            raise self._broken(f"has no IDs like {name.hex()}")
        kind = name[0] >> 4 & 3
        if kind == 0:
            address, content = self._managed(name)
        elif kind == 1:
            address, nbytes = self._huge_place(int.from_bytes(name[1:], "little"))
            content = self._file.claim(address, nbytes, what)
        elif kind == 2 and len(name) <= 17:
            address, content = self._address, name[1 : 2 + (name[0] & 15)]
        else:
            raise self._broken(f"has no IDs like {name.hex()}")
        return Cursor(self._file, content, address, what)

    def _managed(self, name: bytes) -> tuple[int, bytes]:
        """Return address and content of a piece inside the heap's blocks."""
        end = 1 + self._offset_bytes
        start = int.from_bytes(name[1:end], "little")
        nbytes = int.from_bytes(name[end : end + self._length_bytes], "little")
        position = bisect.bisect_right(self._begins, start) - 1
        begin = self._begins[position] if position >= 0 else -1
        address, content = self._blocks.get(begin, (0, b""))
        at = start - begin
        if begin < 0 or at + nbytes > len(content) or at < self._head():
            raise self._broken(f"has no {nbytes:,} bytes at {start:,}")
        self._file.charge(nbytes)
        return address + at, content[at : at + nbytes]

    def _huge_place(self, number: int) -> tuple[int, int]:
        """Return address and bytes of a piece outside the heap."""
        if self._huge is None:
            self._huge = {}
            records = () if self._huge_tree == UNDEFINED else read_tree(self._file, self._huge_tree, _HUGE)
            for record in records:
                address, nbytes, key = struct.unpack("<QQQ", record)
                self._huge[key] = address, nbytes
        if number not in self._huge:
            raise self._broken(f"has no huge piece of number {number:,}")
        return self._huge[number]

    def _broken(self, what: str) -> FormatError:
        return self._file.broken(f"a fractal heap {what}", self._address)

    def _head(self) -> int:
        """Bytes of a direct block before its content; offsets in the heap count them."""
        return 13 + self._offset_bytes + (_CHECKSUM if self._checked else 0)

    def _row_bytes(self, row: int) -> int:
        """Bytes of each block in a row: the first two rows are alike, then they double."""
        return self._first << max(0, row - 1)

    def _read_blocks(self, root: int, rows: int) -> None:
        """Read all blocks; ``rows`` is that of the root's table, or 0 where the root is one block."""
        if root == UNDEFINED:
            return
        if rows == 0:
            self._direct(root, self._first, 0)
            return
        direct_rows = self._most.bit_length() - self._first.bit_length() + 2
        waiting = [(root, rows, 0)]
        while waiting:  # ends: each table was claimed, so none comes twice
            address, count, begin = waiting.pop()
            for row, child in self._table(address, count, begin):
                nbytes = self._row_bytes(row)
                if child == UNDEFINED:
                    pass
                elif row < direct_rows:
                    self._direct(child, nbytes, begin)
                else:
                    # as many rows as make up the bytes that this row has room for
                    below = nbytes.bit_length() - (self._first * self._width).bit_length() + 1
                    waiting.append((child, below, begin))
                begin += nbytes

    def _table(self, address: int, rows: int, begin: int) -> list[tuple[int, int]]:
        """Read one table of blocks: each one's row and address."""
        what = "a fractal heap's table"
        if not 0 < rows <= 64:
            raise self._broken(f"has a table of {rows} rows")
        head = 13 + self._offset_bytes
        count = rows * self._width
        content = self._file.claim(address, head + 8 * count + _CHECKSUM, what)
        self._check_start(content, b"FHIB", address, begin, what)
        self._file.verify(content, what, address)
        children = struct.unpack_from(f"<{count}Q", content, head)
        return [(position // self._width, child) for position, child in enumerate(children)]

    def _direct(self, address: int, nbytes: int, begin: int) -> None:
        """Read one block that begins at ``begin`` in the heap."""
        what = "a fractal heap's block"
        if nbytes <= self._head():
            raise self._broken(f"has blocks of {nbytes} bytes")
        content = self._file.claim(address, nbytes, what)
        self._check_start(content, b"FHDB", address, begin, what)
        if self._checked:
            at = self._head() - _CHECKSUM
            # It is taken over the whole block with zeros in its own place.
            plain = content[:at] + bytes(_CHECKSUM) + content[at + _CHECKSUM :]
            self._file.verify(plain + content[at : at + _CHECKSUM], what, address)
        self._blocks[begin] = address, content

    def _check_start(self, content: bytes, signature: bytes, address: int, begin: int, what: str) -> None:
        wanted = signature + bytes(1) + struct.pack("<Q", self._address)
        place = (begin & (1 << 8 * self._offset_bytes) - 1).to_bytes(self._offset_bytes, "little")
        if not content.startswith(wanted + place):
            raise self._file.broken(f"{what} is none, or of another place", address)
