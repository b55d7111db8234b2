"""Datatype messages of HDF5: how each of our element types is described in an object header.

A message of version 1 is a byte of version and class, three of flags, the element's size and what the class asks for.

Source: HDF5 File Format Specification 3.0, IV.A.2.d; NumPy's bool is an enumeration over int8, as h5py writes it.
"""

from __future__ import annotations

import struct

FIXED_POINT, FLOATING_POINT, STRING, ENUMERATION, VARIABLE_LENGTH = 0, 1, 3, 8, 9
#: Version of the message that every reader of HDF5 knows.
_VERSION = 1 << 4


def _head(kind: int, flags: int, size: int) -> bytes:
    return struct.pack("<BHBI", _VERSION | kind, flags, 0, size)


def _integer(size: int, *, signed: bool) -> bytes:
    """Little-endian, every bit used."""
    return _head(FIXED_POINT, 8 if signed else 0, size) + struct.pack("<HH", 0, 8 * size)


def _float(size: int, exponent_bits: int) -> bytes:
    """Little-endian IEEE 754: sign, exponent, mantissa whose leading one is not stored."""
    bits = 8 * size
    mantissa_bits = bits - 1 - exponent_bits
    flags = 2 << 4 | (bits - 1) << 8  # the mantissa's norm, the sign's place
    bias = (1 << (exponent_bits - 1)) - 1
    fields = struct.pack("<HHBBBBI", 0, bits, mantissa_bits, exponent_bits, 0, mantissa_bits, bias)
    return _head(FLOATING_POINT, flags, size) + fields


def _bool() -> bytes:
    names = b"".join(name.ljust(8, b"\0") for name in (b"FALSE", b"TRUE"))
    return _head(ENUMERATION, 2, 1) + _integer(1, signed=True) + names + bytes([0, 1])


def text(width: int) -> bytes:
    """Describe strings of ``width`` bytes, padded with zeros, as Keras writes the parts of a long list of names."""
    return _head(STRING, 1, width)


#: Text of any length, as Keras writes names. An element is 16 bytes: a length, and where in a global heap the text is.
ANY_TEXT = _head(VARIABLE_LENGTH, 1, 16) + _integer(1, signed=False)


#: Type → its datatype message. bfloat16 has none that a reader of HDF5 would know.
DATATYPES = {
    "float64": _float(8, 11),
    "float32": _float(4, 8),
    "float16": _float(2, 5),
    "int64": _integer(8, signed=True),
    "int32": _integer(4, signed=True),
    "int16": _integer(2, signed=True),
    "int8": _integer(1, signed=True),
    "uint8": _integer(1, signed=False),
    "bool": _bool(),
}
