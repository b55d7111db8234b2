"""Datasets of HDF5 as Keras writes them: type, shape and the one run of bytes that holds the values.

Source: HDF5 File Format Specification 3.0, IV.A.2.i (data layout), version 3.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from ...errors import quoted
from ...tensors.stored import ITEMSIZE, Extent
from .file import UNDEFINED
from .groups import is_group
from .headers import DATASPACE, DATATYPE, EXTERNAL_FILES, LAYOUT, Header
from .messages import read_dataspace, read_datatype

#: The most elements of an array.
_MAX_SIZE = 2**63 - 1
_VERSION, _CONTIGUOUS = 3, 1
_LAYOUT = struct.Struct("<BBQQ")


class Dataset(NamedTuple):
    """What a dataset holds: a key of ITEMSIZE, a shape and where the bytes are."""

    dtype: str
    shape: tuple[int, ...]
    data: Extent


def is_dataset(header: Header) -> bool:
    """Say whether an object is a dataset; the library, too, asks first whether it is a group."""
    return header.kinds >= {DATATYPE, DATASPACE} and not is_group(header)


def read_dataset(header: Header, where: str) -> Dataset:
    """Describe the dataset whose path is ``where``.

    Raises:
        UnfamiliarError: It is of a type, or stored in a way, that no weight of Keras is.
        FormatError: It is not a dataset, its values lie in another file, were never written, or lie outside this one.
    """
    file, name = header.file, quoted(where)
    type_message, space, layout = header.one(DATATYPE, name), header.one(DATASPACE, name), header.one(LAYOUT, name)
    if not is_dataset(header) or type_message is None or space is None:
        raise file.broken(f"{name} is not a dataset", header.address, None)
    if layout is None:
        raise file.broken(f"{name} does not say where its values are", header.address)
    if EXTERNAL_FILES in header.kinds:
        raise file.broken(f"{name} keeps its values in another file (external storage)", next_step=None)
    dtype, shape = read_datatype(type_message).element, read_dataspace(space)
    if dtype is None:
        raise file.unfamiliar(f"{name} has an element type that weights do not have", header.address)
    if math.prod(shape) > _MAX_SIZE:
        raise file.broken(f"{name} has a shape of more than 2^63 - 1 elements", next_step=None)
    if tuple(layout.body[:2]) != (_VERSION, _CONTIGUOUS):
        raise file.unfamiliar(f"{name} is not stored as one run of bytes", header.address)
    _, _, address, stored = layout.numbers(_LAYOUT)
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    if nbytes == 0:
        return Dataset(dtype, shape, Extent(file.path, 0, 0))
    if address == UNDEFINED:
        raise file.broken(f"{name} was declared and never written", next_step=None)
    if stored != nbytes:
        raise file.broken(f"{name} has shape {str(shape)[:200]} in {stored:,} bytes, want {nbytes:,}")
    if address + nbytes > file.end:
        raise file.broken(f"{name} claims {nbytes:,} bytes at {address:,}, and the file has {file.end:,}")
    return Dataset(dtype, shape, Extent(file.path, address, nbytes))
