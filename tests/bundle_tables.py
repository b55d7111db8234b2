"""LevelDB tables by hand, as TensorFlow writes them: blocks under right checksums, whatever is in them."""

from __future__ import annotations

import struct
from collections.abc import Callable

import crc32c

from roformer_convert.converters.containers.bundle.leveldb_table import masked, put_varint


def block(content: bytes, kind: int = 0) -> bytes:
    content += bytes([kind])
    return content + struct.pack("<I", masked(crc32c.crc32c(content)))


def restarts(*offsets: int) -> bytes:
    return struct.pack(f"<{len(offsets) + 1}I", *offsets, len(offsets))


def row(shared: int, key: bytes, value: bytes) -> bytes:
    return put_varint(shared) + put_varint(len(key)) + put_varint(len(value)) + key + value


def table(data: list[bytes], index_rows: Callable[[list[bytes]], bytes] | None = None, kind: int = 0) -> bytes:
    """A table of the given blocks, with an index that names each in order, or says what ``index_rows`` says."""
    body, handles = b"", []
    for content in data:
        handles.append(put_varint(len(body)) + put_varint(len(content)))
        body += block(content, kind)
    metaindex = put_varint(len(body)) + put_varint(8)
    body += block(restarts(0))
    rows = index_rows(handles) if index_rows else b"".join(row(0, bytes([0x70 + n]), h) for n, h in enumerate(handles))
    rows += restarts(0)
    footer = metaindex + put_varint(len(body)) + put_varint(len(rows))
    return body + block(rows) + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
