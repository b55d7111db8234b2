"""safetensors files: a JSON header in front of contiguous little-endian payloads.

``index`` refuses whatever the safetensors library refuses, and a little more: names given twice, fields the format does
not have, numbers no array can have. The header is read by a scanner of its own whose grammar is the format's and no
wider, so that nesting cannot recurse and a header of junk cannot grow into a heap of Python objects. ``lay_out`` puts
the tensors in the library's own order.

Source: the format section of https://github.com/huggingface/safetensors (README.md) and its safetensors/src/tensor.rs.
"""

from __future__ import annotations

import json
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError
from .stored import ITEMSIZE, Extent, Fragment, Index, NewTensor, Slot, StoredTensor, create_sized

#: The format's word for each dtype, in the order in which the library lays dtypes out: widest elements first.
_DTYPE_WORDS = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {word: dtype for dtype, word in _DTYPE_WORDS.items()}
_LAYOUT_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPE_WORDS)}

_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")

#: Source: MAX_HEADER_SIZE in the library's tensor.rs.
_MAX_HEADER_BYTES = 100_000_000

#: Limits of ours, so that what the index holds in memory is bounded. HDF5 and numpy before 2.0 have 32 axes at most.
_MAX_ENTRIES = 100_000
_MAX_AXES = 32
_MAX_SIZE = 2**63 - 1

#: Payloads start at a multiple of this many bytes, a cache line. The library wants 8; spaces after the header are free.
_ALIGNMENT = 64


def index(path: Path) -> Index:
    """Read the header of ``path`` and check every tensor's extent against the file; no payload is read.

    Raises:
        FormatError: The header is too long, no JSON of the format's shape, or does not cover the file exactly; a name
            occurs twice; a dtype is not one we convert.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(path, "not a regular file")
        with open(path, "rb") as file:
            header = _read_header(path, file.read(_LENGTH.size), status.st_size, file.read)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
    return _Header(path, header, status.st_size).index()


def _read_header(path: Path, prefix: bytes, file_size: int, read: object) -> bytes: ...
