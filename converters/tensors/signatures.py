"""The bytes by which formats are told apart, each written down once: readers and the registry both look at them."""

from __future__ import annotations

import re

#: An HDF5 file begins with this, unless a user block precedes it, which Keras never writes.
HDF5 = b"\x89HDF\r\n\x1a\n"
#: A zip archive begins with its first member's header, and an empty one with its directory's end.
ZIP = b"PK\x03\x04"
ZIP_WITHOUT_MEMBERS = b"PK\x05\x06"
#: A LevelDB table ends with this: the index of a TF checkpoint, or all of a V1 checkpoint.
#: Source: kTableMagicNumber in leveldb's table/format.h, as it lies in the file.
LEVELDB_END = (0xDB4775248B80FB57).to_bytes(8, "little")
#: A pickle of protocol 2 or later begins with this opcode, PROTO.
PICKLE = b"\x80"
#: ``pickle.dumps(0x1950a86a20f9469cfc6c, protocol)``, which torch.save put first before release 1.6; from protocol 4 on
#: there is a frame around it. Its caller chose the protocol, and 2 was the default.
LEGACY_TORCH = re.compile(rb"\x80(?:[\2\3]|[\4\5]\x95\x0d\0{7})\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e")
