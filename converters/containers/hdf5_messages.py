"""Dataspaces and datatypes of HDF5: the shape of a dataset or an attribute, and what one of its elements is.

Source: HDF5 File Format Specification 3.0, IV.A.2.b (dataspace) and IV.A.2.d (datatype).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .hdf5_datatypes import DATATYPES, ENUMERATION, FIXED_POINT, FLOATING_POINT, STRING, VARIABLE_LENGTH
from .hdf5_file import Cursor

#: HDF5 has so many dimensions at most.
MAX_RANK = 32
#: Versions of datatype messages: they differ in arrays, compounds, references and in how an enumeration pads its names.
_DATATYPE_VERSIONS = range(1, 6)
_PACKED_NAMES = 3  # the first version that does not pad them

_FOUR_BYTES = struct.Struct("<BBBB")
_DATATYPE = struct.Struct("<BBHI")

#: Bytes of what follows the first eight of a datatype message of a plain number.
_NUMBER_TAIL = {FIXED_POINT: 4, FLOATING_POINT: 12}
#: Message, in version 1 → our word for the type.
_WORDS = {message: word for word, message in DATATYPES.items() if word != "bool"}
#: What an enumeration is whose names NumPy gives to bool: name → value.
_BOOL = {b"FALSE": b"\0", b"TRUE": b"\1"}
_CLASSES = {
    2: "a time",
    STRING: "text",
    4: "a bit field",
    5: "opaque values",
    6: "a compound of several values",
    7: "references",
    ENUMERATION: "an enumeration",
    VARIABLE_LENGTH: "values of variable length",
    10: "arrays",
    11: "complex numbers",
}


class Datatype(NamedTuple):
    """One element's type.

    Attributes:
        kind: Class of the specification: STRING and so on of :mod:`.hdf5_datatypes`.
        flags: 24 bits whose meaning the class gives.
        size: Of an element, in bytes.
        element: Our word for it, one of DATATYPES, or None.
        words: For an error about it.
    """

    kind: int
    flags: int
    size: int
    element: str | None
    words: str


def read_dataspace(cursor: Cursor) -> tuple[int, ...] | None:
    """Read a dataspace message: a shape, or None for a dataspace that has none (h5py's Empty).

    Raises:
        FormatError: It is of an unknown version or has too many dimensions.
    """
    version, rank, flags, kind = cursor.numbers(_FOUR_BYTES)
    if version not in (1, 2) or rank > MAX_RANK or flags & ~1:
        raise cursor.broken(f"has a dataspace of version {version} with {rank} dimensions and flags {flags}")
    if version == 1:
        cursor.take(4)
        kind = 1 if rank else 0
    if kind > 2 or (kind != 1 and rank):
        raise cursor.broken(f"has a dataspace of the unknown type {kind} with {rank} dimensions")
    shape = struct.unpack(f"<{rank}Q", cursor.take(8 * rank))
    if flags & 1:
        cursor.take(8 * rank)  # how far each dimension may grow
    if any(length >> 63 for length in shape):
        raise cursor.broken(f"has a dimension of {max(shape):,} elements")
    return None if kind == 2 else shape


def read_datatype(cursor: Cursor) -> Datatype:
    """Read a datatype message as far as it matters here.

    Raises:
        FormatError: It is of an unknown version, or takes no bytes.
    """
    start = cursor.take(_DATATYPE.size)
    first, low, high, size = _DATATYPE.unpack(start)
    version, kind, flags = first >> 4, first & 15, low | high << 8
    if version not in _DATATYPE_VERSIONS:
        raise cursor.broken(f"has a datatype of version {version}, want 1 to {_DATATYPE_VERSIONS[-1]}")
    if not size:
        raise cursor.broken("has a datatype of no bytes")
    if kind in _NUMBER_TAIL:
        element, words = _number(cursor, kind, start, flags, size)
    elif kind == ENUMERATION:
        element = "bool" if _is_bool(cursor, version, flags & 0xFFFF, size) else None
        words = element or _CLASSES[kind]
    else:
        element, words = None, _CLASSES.get(kind, f"of HDF5 class {kind}")
    return Datatype(kind, flags, size, element, words)


def _number(cursor: Cursor, kind: int, start: bytes, flags: int, size: int) -> tuple[str | None, str]:
    """Read an integer or a float; return our word for it, or None, and words to name it."""
    tail = cursor.take(_NUMBER_TAIL[kind])
    # In version 1, as our table is: the versions do not differ in numbers.
    element = _WORDS.get(bytes([1 << 4 | kind]) + start[1:] + tail)
    if element is not None:
        return element, element
    unsigned = "u" if kind == FIXED_POINT and not flags & 8 else ""
    words = f"{unsigned}{'int' if kind == FIXED_POINT else 'float'}{8 * size}"
    if flags & 1:
        return None, f"{words} (big-endian)"
    return None, f"{words} (a layout of its own)" if words in DATATYPES else words


def _is_bool(cursor: Cursor, version: int, count: int, size: int) -> bool:
    """Say whether an enumeration is NumPy's bool: FALSE and TRUE over int8, in either order."""
    base = _base(cursor)
    if base != "int8" or size != 1 or count != len(_BOOL):
        return False
    names = []
    for _ in range(count):
        end = cursor.body.find(b"\0", cursor.at)
        if end < 0:
            raise cursor.broken("has an enumeration with a name that does not end")
        name = cursor.take(end - cursor.at)
        cursor.take(1 if version >= _PACKED_NAMES else 8 - len(name) % 8)
        names.append(name)
    return dict(zip(names, (cursor.take(1) for _ in names), strict=True)) == _BOOL


def _base(cursor: Cursor) -> str | None:
    """Read the datatype of an enumeration's base, which is a plain number; return our word for it, or None."""
    start = cursor.take(_DATATYPE.size)
    kind = start[0] & 15
    if kind not in _NUMBER_TAIL:
        return None
    return _WORDS.get(bytes([1 << 4 | kind]) + start[1:] + cursor.take(_NUMBER_TAIL[kind]))
