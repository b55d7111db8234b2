"""The two protobuf messages in a TensorFlow checkpoint's index, read and written without protobuf.

``read_header`` and ``read_entry`` take the values of the index's table (:mod:`.leveldb_table`) as they were found and
refuse what TensorFlow's own reader could not use; ``header`` and ``entry`` answer the bytes TensorFlow would write.
Which files the numbers point into is :mod:`.tensor_bundle`'s business.

Source: tensorflow/core/protobuf/tensor_bundle.proto; tensor_shape.proto, versions.proto and types.proto in
tensorflow/core/framework of https://github.com/tensorflow/tensorflow; https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import FormatError, quoted
from ...tensors.stored import ITEMSIZE, NewTensor
from .leveldb_table import Entry, TableCursor, masked, put_varint, unmasked

#: Source: DataType in types.proto.
_NUMBERS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "float16": 19,
}
#: Types that are indexed and not converted: an object graph, an optimizer's random state.
_OTHERS = {7: "string", 8: "complex64", 17: "uint16", 18: "complex128", 21: "variant", 22: "uint32", 23: "uint64"}
_DTYPES = {number: dtype for dtype, number in _NUMBERS.items()} | _OTHERS

#: Bytes an element, where every element has as many.
ITEMSIZES = ITEMSIZE | {"complex64": 8, "uint16": 2, "complex128": 16, "uint32": 4, "uint64": 8}

#: Source: kTensorBundleVersion in tensor_bundle.cc.
_VERSION = 1

#: Limits of ours, so that an index stays small in memory. HDF5, and numpy before 2.0, have 32 axes at most.
_MAX_AXES = 32
_MAX_SIZE = 2**63 - 1

#: Protobuf's wire types: how the value behind a field's number is written.
_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5

_HEADER = {1: _VARINT, 2: _VARINT, 3: BYTES}  # num_shards, endianness, version
_VERSIONS = {1: _VARINT, 2: _VARINT, 3: BYTES}  # producer, min_consumer, bad_consumers
_ENTRY = {1: _VARINT, 2: BYTES, 3: _VARINT, 4: _VARINT, 5: _VARINT, 6: _FIXED32, 7: BYTES}  # as in BundleEntry
_SHAPE = {2: BYTES, 3: _VARINT}  # dim, unknown_rank
_DIM = {1: _VARINT, 2: BYTES}  # size, name


@dataclass(frozen=True)
class _Field:
    """One field of a message: ``value`` if its wire type is a number, ``body`` if it is a string or a message."""

    number: int
    value: int
    body: bytes
    offset: int


def fields(path: Path, message: bytes, offset: int, known: dict[int, int], *repeated: int) -> Iterator[_Field]:
    """Yield the known fields of a message, skip the others; a field that is not repeated occurs once."""
    cursor = TableCursor(path, message, offset)
    seen: set[int] = set()
    while cursor:
        tag = cursor.varint()
        number, kind = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise cursor.wrong(f"{number} is not a valid field number")
        if number in known and kind != known[number]:
            raise cursor.wrong(f"field {number} has wire type {kind}, wanted {known[number]}")
        if number in seen:
            raise cursor.wrong(f"field {number} occurs twice")
        value, body = 0, b""
        if kind == _VARINT:
            value = cursor.varint()
        elif kind == _FIXED32:
            value = cursor.fixed32()
        elif kind == BYTES:
            body = cursor.take(cursor.varint())
        elif kind == _FIXED64:
            cursor.take(8)
        else:
            raise cursor.wrong(f"field {number} has wire type {kind}, which does not exist")
        if number in known:
            if number not in repeated:
                seen.add(number)
            yield _Field(number, value, body, cursor.offset - len(body))


def read_header(path: Path, header: Entry) -> int:
    """Read BundleHeaderProto: the number of data files, once byte order and version are found to be ours."""
    shards = 0
    for field in fields(path, header.value, header.offset, _HEADER):
        if field.number == 1:
            shards = field.value
        elif field.number == 2 and field.value != 0:
            raise FormatError(
                path,
                "the checkpoint is big-endian, which is not read here",
                offset=field.offset,
                next_step="Load it in TensorFlow on a little-endian machine and save it again.",
            )
        elif field.number == 3:
            for version in fields(path, field.body, field.offset, _VERSIONS):
                if version.number == 3 or (version.number == 2 and version.value > _VERSION):
                    raise FormatError(
                        path, f"the checkpoint cannot be read as version {_VERSION}", offset=version.offset
                    )
    if not 1 <= shards < 1 << 31:
        raise FormatError(path, f"the header counts {shards:,} data files", offset=header.offset)
    return shards


@dataclass(frozen=True)
class BundleEntry:
    """A tensor as the index describes it: ``nbytes`` at ``offset`` of data file ``shard``; ``crc32c`` is unmasked.

    A partitioned variable has no payload of its own: its slices are entries under keys of their own.
    """

    key: bytes
    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    crc32c: int
    partitioned: bool


def read_entry(path: Path, entry: Entry) -> BundleEntry:
    """Read BundleEntryProto; the product of the shape's axes is below 2^63."""
    values = dict.fromkeys(_ENTRY, 0)
    shape: tuple[int, ...] = ()
    partitioned = False
    for field in fields(path, entry.value, entry.offset, _ENTRY, 7):
        values[field.number] = field.value
        if field.number == 2:
            shape = _shape(path, quoted(entry.key), field)
        elif field.number == 7:
            partitioned = True
    if not 1 <= values[1] < 1 << 31:
        raise FormatError(path, f"tensor {quoted(entry.key)} has no dtype", offset=entry.offset)
    dtype = _DTYPES.get(values[1], f"DT_{values[1]}")
    return BundleEntry(entry.key, dtype, shape, values[3], values[4], values[5], unmasked(values[6]), partitioned)


def _shape(path: Path, name: str, message: _Field) -> tuple[int, ...]:
    """Read TensorShapeProto."""
    shape: list[int] = []
    size = 1
    for field in fields(path, message.body, message.offset, _SHAPE, 2):
        if field.number == 3 and field.value:
            raise FormatError(path, f"tensor {name} has a shape of unknown rank", offset=field.offset)
        if field.number == 2:
            sizes = [dim.value for dim in fields(path, field.body, field.offset, _DIM) if dim.number == 1]
            shape.append(sizes[0] if sizes else 0)
            size *= shape[-1]
            # An axis of unknown length is -1, and -1 is 2^64 - 1 here.
            if shape[-1] > _MAX_SIZE or size > _MAX_SIZE or len(shape) > _MAX_AXES:
                raise FormatError(
                    path, f"tensor {name} has the shape {shape}, too much for an array", offset=field.offset
                )
    return tuple(shape)


def header() -> bytes:
    """Write BundleHeaderProto for one data file; little-endian is 0, which protobuf leaves out."""
    return b"\x08\x01\x1a\x02\x08" + put_varint(_VERSION)


def entry(tensor: NewTensor, offset: int, crc32c: int) -> bytes:
    """Write BundleEntryProto for a payload at ``offset`` of data file 0; numbers that are 0 are left out."""
    dims = [b"\x08" + put_varint(axis) if axis else b"" for axis in tensor.shape]
    shape = b"".join(b"\x12" + put_varint(len(dim)) + dim for dim in dims)
    message = b"\x08" + put_varint(_NUMBERS[tensor.dtype]) + b"\x12" + put_varint(len(shape)) + shape
    if offset:
        message += b"\x20" + put_varint(offset)
    if tensor.nbytes:
        message += b"\x28" + put_varint(tensor.nbytes)
    # Written even where it is 0, so that the index's size is known before the checksums are.
    return message + b"\x35" + struct.pack("<I", masked(crc32c))
