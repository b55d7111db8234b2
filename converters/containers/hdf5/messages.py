"""Dataspaces and datatypes of HDF5: the shape of a dataset or an attribute, and what one of its elements is.

Source: HDF5 File Format Specification 3.0, IV.A.2.b (dataspace) and IV.A.2.d (datatype), version 1 of each.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .datatypes import DATATYPES
from .file import StructureCursor

#: HDF5 has so many dimensions at most.
MAX_RANK = 32

_DATASPACE = struct.Struct("<BBB5x")
_DATATYPE = struct.Struct("<BB2xI")


class Datatype(NamedTuple):
    """One element's type.

    Attributes:
        kind: Class of the specification: STRING and so on of :mod:`.datatypes`.
        flags: 8 bits whose meaning the class gives.
        size: Bytes of an element.
        element: Our word for it, a key of DATATYPES, or None.
    """

    kind: int
    flags: int
    size: int
    element: str | None


def read_dataspace(cursor: StructureCursor) -> tuple[int, ...]:
    """Read a dataspace message: a shape.

    Raises:
        UnfamiliarError: It is of a newer version.
        FormatError: It has too many dimensions, or impossible ones.
    """
    version, rank, flags = cursor.numbers(_DATASPACE)
    if version != 1:
        raise cursor.unfamiliar(f"has a dataspace of version {version}")
    if rank > MAX_RANK or flags & ~1:
        raise cursor.broken(f"has a dataspace of {rank} dimensions and flags {flags}")
    shape = struct.unpack(f"<{rank}Q", cursor.take(8 * rank))
    if flags & 1:
        cursor.take(8 * rank)  # how far each dimension may grow
    if any(length >> 63 for length in shape):
        raise cursor.broken(f"has a dimension of {max(shape):,} elements")
    return shape


def read_datatype(cursor: StructureCursor) -> Datatype:
    """Read a datatype message as far as it matters here.

    Raises:
        UnfamiliarError: It is of a newer version.
        FormatError: It takes no bytes.
    """
    first, flags, size = cursor.numbers(_DATATYPE)
    version, kind = first >> 4, first & 15
    if version != 1:
        raise cursor.unfamiliar(f"has a datatype of version {version}")
    if not size:
        raise cursor.broken("has a datatype of no bytes")
    element = next((word for word, message in DATATYPES.items() if cursor.body.startswith(message)), None)
    return Datatype(kind, flags, size, element)
