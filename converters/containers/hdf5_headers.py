"""Object headers of HDF5: the messages that say what a group or a dataset is.

A header is one block or several, each a row of messages; those of version 2 carry checksums. The messages' own content
is read where it is needed.

Source: HDF5 File Format Specification 3.0, IV.A.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .hdf5_file import Cursor, Hdf5File

# Kinds of messages, those that mean something here.
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES = 1, 2, 3, 6, 7
LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 8, 11, 12, 16, 17
DRIVER_INFO, ATTRIBUTE_INFO, CACHE_IMAGE = 20, 21, 24
#: The highest kind in the specification; of a higher one a flag says whether it may be passed over.
_LAST_KIND = 24

#: Flags of a message: its content lies elsewhere and is shared; who does not know its kind may not read the object.
_SHARED, _MUST_KNOW = 2, 128
#: Kinds that are kept; the others say when something was made, or what a hole in it would be filled with.
_KEPT = frozenset({DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, ATTRIBUTE, SYMBOL_TABLE})
_KEPT |= {DRIVER_INFO, ATTRIBUTE_INFO, CACHE_IMAGE}
#: Cost of looking at a message, in bytes of the budget.
_MESSAGE_COST = 64

_PREFIX_V1 = struct.Struct("<BxHII4x")
_MESSAGE_V1 = struct.Struct("<HHB3x")
_MESSAGE_V2 = struct.Struct("<BHB")
_PLACE = struct.Struct("<QQ")


class Message(NamedTuple):
    """One message: its kind, its flags, its content and the address of that."""

    kind: int
    flags: int
    body: bytes
    address: int


class Header:
    """The messages of one object, in the file's order.

    Attributes:
        file: Where it is.
        address: Of its first block, which is the object's own address.
        messages: Those of the kinds above.
        kinds: That there are. Looking here is cheap, however many messages a header has.
    """

    __slots__ = ("address", "file", "kinds", "messages")

    def __init__(self, file: Hdf5File, address: int, messages: list[Message]) -> None:
        self.file, self.address, self.messages = file, address, messages
        self.kinds = frozenset(message.kind for message in messages)

    def one(self, kind: int) -> Message | None:
        """Return the message of a kind that an object has once or not at all.

        Raises:
            FormatError: It has several, or one whose content is shared with other objects (a committed datatype).
        """
        found = self.all(kind)
        if len(found) > 1:
            raise self.file.broken(f"an object header has {len(found)} messages of kind {kind}, want one", self.address)
        return found[0] if found else None

    def all(self, kind: int) -> list[Message]:
        """Return the messages of one kind, in order.

        Raises:
            FormatError: The content of one is shared with other objects.
        """
        if kind not in self.kinds:
            return []
        found = [message for message in self.messages if message.kind == kind]
        for message in found:
            if message.flags & _SHARED:
                raise self.file.broken(
                    f"an object header shares its message of kind {kind} with others (a committed datatype), "
                    "which is not read here",
                    message.address,
                    "Rewrite the file with h5py, with datasets of plain types.",
                )
        return found

    def cursor(self, message: Message, what: str) -> Cursor:
        return Cursor(self.file, message.body, message.address, what)


def read_header(file: Hdf5File, address: int) -> Header:
    """Read the object header at ``address``, all its blocks.

    Raises:
        FormatError: It is none, lies outside the file, runs in a circle, or has a wrong checksum.
    """
    start = file.read(address, 6, "an object header")
    messages: list[Message] = []
    if start[:4] == b"OHDR":
        blocks, layout, tracked = _first_block_v2(file, address, start)
    else:
        blocks, layout, tracked = _first_block_v1(file, address), _MESSAGE_V1, 0
    for begin, block in blocks:  # grows by the continuations found in it
        for message in _messages(file, begin, block, layout, tracked):
            if message.kind == CONTINUATION:
                blocks.append(_continuation(file, message, layout is _MESSAGE_V2))
            elif message.kind in _KEPT:
                messages.append(message)
            elif message.kind > _LAST_KIND and message.flags & _MUST_KNOW:
                what = f"an object header has a message of the unknown kind {message.kind} that its reader must know"
                raise file.broken(what, message.address)
    return Header(file, address, messages)


def _first_block_v1(file: Hdf5File, address: int) -> list[tuple[int, bytes]]:
    version, _, _, nbytes = _PREFIX_V1.unpack(file.read(address, _PREFIX_V1.size, "an object header"))
    if version != 1:
        raise file.broken(f"an object header has version {version}, want 1 or 2", address)
    whole = file.claim(address, _PREFIX_V1.size + nbytes, "an object header")
    return [(address + _PREFIX_V1.size, whole[_PREFIX_V1.size :])]


def _first_block_v2(file: Hdf5File, address: int, start: bytes) -> tuple[list[tuple[int, bytes]], struct.Struct, int]:
    """Read the first block of a header of version 2; the last thing returned is the bytes of a creation order."""
    version, flags = start[4:]
    if version != 2:
        raise file.broken(f"an object header has version {version}, want 1 or 2", address)
    prefix = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    nbytes = int.from_bytes(file.read(address + prefix, width, "an object header"), "little")
    begin = prefix + width
    whole = file.claim(address, begin + nbytes + 4, "an object header")
    file.verify(whole, "an object header", address)
    return [(address + begin, whole[begin:-4])], _MESSAGE_V2, 2 if flags & 4 else 0


def _messages(file: Hdf5File, begin: int, block: bytes, layout: struct.Struct, tracked: int) -> Iterator[Message]:
    """Cut a block at address ``begin`` into messages; ``tracked`` bytes of creation order follow each one's start."""
    unpack, head, at = layout.unpack_from, layout.size + tracked, 0
    end = len(block)
    while at + head <= end:
        kind, nbytes, flags = unpack(block, at)
        at += head
        if at + nbytes > end:
            raise file.broken(f"a message of {nbytes:,} bytes is longer than its object header", begin + at)
        file.charge(_MESSAGE_COST)
        yield Message(kind, flags, block[at : at + nbytes], begin + at)
        at += nbytes
    if at < end and layout is _MESSAGE_V1:  # a gap at the end is for version 2 alone
        raise file.broken("an object header ends inside a message", begin + at)


def _continuation(file: Hdf5File, message: Message, checked: bool) -> tuple[int, bytes]:
    """Read the block that a continuation message leads to; one of version 2 has a signature and a checksum."""
    cursor = Cursor(file, message.body, message.address, "an object header's continuation")
    address, nbytes = cursor.numbers(_PLACE)
    if not checked:
        return address, file.claim(address, nbytes, "an object header's continuation")
    if nbytes < 8:
        raise cursor.broken(f"has {nbytes} bytes, want 8 at least")
    block = file.claim(address, nbytes, "an object header's continuation")
    if not block.startswith(b"OCHK"):
        raise cursor.broken("leads to something else")
    file.verify(block, "an object header's continuation", address)
    return address + 4, block[4:-4]
