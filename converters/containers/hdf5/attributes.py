"""Attributes of HDF5 that hold text: where an object keeps them, and the strings in them.

Strings are of one width, or of any length and then in a heap that the whole file shares.

Source: HDF5 File Format Specification 3.0, IV.A.2.m (attribute), version 1, and III.E (global heap).
"""

from __future__ import annotations

import math
import struct

from ...errors import FormatError, quoted
from .datatypes import STRING, VARIABLE_LENGTH
from .file import Hdf5File, StructureCursor
from .headers import ATTRIBUTE, Header
from .messages import Datatype, read_dataspace, read_datatype

MAX_NAMES = 50_000  # names in one attribute, and tensors and layers a file; a 24-layer model has 400
MAX_NAME = 1024  # characters
MAX_ATTRIBUTE = 1 << 26  # bytes of one attribute

#: How a string of one width is padded: ended by a zero, filled with zeros, filled with spaces.
_ENDED, _ZEROS, _SPACES = 0, 1, 2
#: Bits 4 to 7 of a variable-length type's flags are such a padding, bits 0 to 3 say that it is text.
_TEXT = 1

_OBJECT_COST = 64  # of the budget, for one text

_START = struct.Struct("<BxHHH")
_REFERENCE = struct.Struct("<IQI")
_COLLECTION = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<HHIQ")


class Attributes:
    """The attributes of one object, found by name.

    Args:
        header: The object's.
        heap: The file's strings of any length.
    """

    def __init__(self, header: Header, heap: GlobalHeap) -> None:
        self._file = header.file
        self._heap = heap
        self._found: dict[bytes, StructureCursor] = {}
        for cursor in header.all(ATTRIBUTE, "an attribute"):
            name = _name(cursor)
            if self._found.setdefault(name, cursor) is not cursor:
                raise cursor.broken(f"{quoted(name)} occurs twice")

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._found

    def texts(self, name: str, dimensions: int) -> list[str]:
        """Read an attribute of text that has so many dimensions, after looking at its type and size.

        Raises:
            FormatError: It is something else, too large, or not UTF-8.
        """
        cursor = self._found[name.encode()]
        shape, kind = self._described(cursor)
        if len(shape) != dimensions:
            raise self._refused(name, f"has shape {shape!s:.200}, want {dimensions} dimension(s)")
        count = math.prod(shape)
        if count == 0:
            return []  # Keras stores an empty list as float64 of shape (0,)
        variable = kind.kind == VARIABLE_LENGTH and kind.flags & 15 == _TEXT and kind.size == _REFERENCE.size
        if not variable and kind.kind != STRING:
            raise self._refused(name, "does not hold text")
        if count > MAX_NAMES or count * kind.size > MAX_ATTRIBUTE:
            raise self._refused(name, f"holds {count:,} names of {kind.size:,} bytes, more than any model has")
        data = cursor.take(count * kind.size)
        pieces = [data[at : at + kind.size] for at in range(0, len(data), kind.size)]
        if variable:
            return [self._decoded(name, self._heap.text(piece)) for piece in pieces]
        return [self._decoded(name, self._unpadded(cursor, kind, piece)) for piece in pieces]

    def _described(self, cursor: StructureCursor) -> tuple[tuple[int, ...], Datatype]:
        """Read an attribute's shape and type; the cursor stands at its values then."""
        _, name_bytes, type_bytes, space_bytes = cursor.numbers(_START)
        cursor.take(name_bytes + 7 & ~7)  # each part is filled up to a multiple of eight
        parts = []
        for nbytes in (type_bytes, space_bytes):
            at = cursor.address + cursor.at
            parts.append(StructureCursor(self._file, cursor.take(nbytes + 7 & ~7), at, "an attribute"))
        return read_dataspace(parts[1]), read_datatype(parts[0])

    def _unpadded(self, cursor: StructureCursor, kind: Datatype, piece: bytes) -> bytes:
        padding = kind.flags & 15
        if padding == _ENDED:
            return piece.partition(b"\0")[0]
        if padding == _ZEROS:
            return piece.rstrip(b"\0")
        if padding == _SPACES:
            return piece.rstrip(b" ")
        raise cursor.broken(f"has text with the unknown padding {padding}")

    def _decoded(self, name: str, value: bytes) -> str:
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise self._refused(name, "holds a name that is not UTF-8") from None
        if len(text) > MAX_NAME:
            raise self._refused(name, f"holds a name of {len(text):,} characters, more than {MAX_NAME}")
        return text

    def _refused(self, name: str, what: str) -> FormatError:
        return self._file.broken(f"attribute {name} {what}", next_step=None)


def _name(cursor: StructureCursor) -> bytes:
    """Return an attribute's name; the cursor stays at its start.

    Raises:
        UnfamiliarError: The attribute is of a newer version.
        FormatError: Its name does not end with a zero and no sooner: the library would take it for another name.
    """
    version, nbytes, _, _ = cursor.numbers(_START)
    if version != 1:
        raise cursor.unfamiliar(f"has version {version}")
    name = cursor.take(nbytes)
    cursor.at = 0
    if name.find(b"\0") != nbytes - 1 or nbytes < 2:
        raise cursor.broken(f"has a name that does not end where it should: {quoted(name)}")
    return name[:-1]


class GlobalHeap:
    """The strings of any length of one file. They lie in collections, each read once."""

    def __init__(self, file: Hdf5File) -> None:
        self._file = file
        self._collections: dict[int, dict[int, bytes]] = {}

    def text(self, reference: bytes) -> bytes:
        """Return the string that 16 bytes of an attribute refer to; it ends at its first zero.

        Raises:
            FormatError: It is not where it should be.
        """
        nbytes, address, number = _REFERENCE.unpack(reference)
        if nbytes == 0:
            return b""
        objects = self._collections.get(address)
        if objects is None:
            objects = self._collections[address] = self._read(address)
        found = objects.get(number)
        if found is None or len(found) < nbytes:
            there = "does not have it" if found is None else f"has {len(found):,} there"
            raise self._file.broken(f"a string of {nbytes:,} bytes is object {number} of a heap that {there}", address)
        self._file.charge(nbytes)
        return found[:nbytes].partition(b"\0")[0]

    def _read(self, address: int) -> dict[int, bytes]:
        what = "a heap of strings"
        signature, version, nbytes = _COLLECTION.unpack(self._file.read(address, _COLLECTION.size, what))
        if signature != b"GCOL" or version != 1 or nbytes < _COLLECTION.size:
            raise self._file.broken(f"{what} was expected here, and something else was found", address)
        cursor = StructureCursor(self._file, self._file.claim(address, nbytes, what), address, what)
        cursor.take(_COLLECTION.size)
        objects: dict[int, bytes] = {}
        while cursor.at + _HEAP_OBJECT.size <= nbytes:
            number, _, _, size = cursor.numbers(_HEAP_OBJECT)
            if number == 0:  # the free space, which is the rest
                break
            self._file.charge(_OBJECT_COST)
            if objects.setdefault(number, found := cursor.take(size)) is not found:
                raise cursor.broken(f"has two objects of number {number}")
            cursor.take(-size % 8)
        return objects
