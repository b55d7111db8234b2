"""Object headers of HDF5: the messages that say what a group or a dataset is.

A header is one block or several, each a row of messages. The messages' own content is read where it is needed.

Source: HDF5 File Format Specification 3.0, IV.A, version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .file import Hdf5File, StructureCursor

# Kinds of messages, those that mean something here.
DATASPACE, DATATYPE, EXTERNAL_FILES, LAYOUT, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 1, 3, 7, 8, 12, 16, 17
#: Kinds that are needed here; the others say when something was made, or what a hole in it would be filled with.
_NEEDED = frozenset({DATASPACE, DATATYPE, EXTERNAL_FILES, LAYOUT, ATTRIBUTE, SYMBOL_TABLE})
#: Kinds that only other forms of objects have → what such an object is.
_UNFAMILIAR = {
    2: "a group of the newer kind",
    6: "a group of the newer kind",
    11: "a compressed dataset",
    21: "an object with attributes of the newer kind",
}
#: The highest kind in the specification; of a higher one a flag says whether it may be passed over.
_LAST_KIND = 24
#: Flags of a message: its content lies elsewhere and is shared; who does not know its kind may not read the object.
_SHARED, _MUST_KNOW = 2, 128
#: Cost of looking at a message, in bytes of the budget.
_MESSAGE_COST = 64

_PREFIX = struct.Struct("<BxHII4x")
_MESSAGE = struct.Struct("<HHB3x")
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
        address: Address of its first block, which is the object's own address.
        messages: The messages of the kinds that are needed here.
        kinds: The kinds that it has. Looking here is cheap, however many messages a header has.
    """

    __slots__ = ("address", "file", "kinds", "messages")

    def __init__(self, file: Hdf5File, address: int, messages: list[Message]) -> None:
        self.file, self.address, self.messages = file, address, messages
        self.kinds = frozenset(message.kind for message in messages)

    def one(self, kind: int, what: str) -> StructureCursor | None:
        """Return the message of a kind that an object has once or not at all; ``what`` names it in an error.

        Raises:
            FormatError: The object has several.
        """
        found = self.all(kind, what)
        if len(found) > 1:
            raise self.file.broken(f"an object header has {len(found)} messages of kind {kind}, want one", self.address)
        return found[0] if found else None

    def all(self, kind: int, what: str) -> list[StructureCursor]:
        """Return the messages of one kind, in order."""
        if kind not in self.kinds:
            return []
        return [
            StructureCursor(self.file, body, address, what) for own, _, body, address in self.messages if own == kind
        ]


def read_header(file: Hdf5File, address: int) -> Header:
    """Read the object header at ``address``, all its blocks.

    Raises:
        UnfamiliarError: It is of a newer version, or of an object that Keras does not write.
        FormatError: It is not a header, lies outside the file, or runs in a circle.
    """
    start = file.read(address, _PREFIX.size, "an object header")
    if start.startswith(b"OHDR"):
        raise file.unfamiliar("it has an object header of version 2", address)
    version, _, _, nbytes = _PREFIX.unpack(start)
    if version != 1:
        raise file.broken(f"an object header has version {version}, want 1", address)
    whole = file.claim(address, _PREFIX.size + nbytes, "an object header")
    blocks = [(address + _PREFIX.size, whole[_PREFIX.size :])]
    messages: list[Message] = []
    for begin, block in blocks:  # grows by the continuations found in it
        for message in _messages(file, begin, block):
            if message.kind == CONTINUATION:
                what = "an object header's continuation"
                place, nbytes = StructureCursor(file, message.body, message.address, what).numbers(_PLACE)
                blocks.append((place, file.claim(place, nbytes, what)))
            elif message.kind in _UNFAMILIAR:
                raise file.unfamiliar(f"it has {_UNFAMILIAR[message.kind]}", address)
            elif message.kind in _NEEDED:
                if message.flags & _SHARED:
                    raise file.unfamiliar(
                        "an object shares its description with others (a committed datatype)", address
                    )
                messages.append(message)
            elif message.kind > _LAST_KIND and message.flags & _MUST_KNOW:
                raise file.unfamiliar(f"an object header has a message of the kind {message.kind}", message.address)
    return Header(file, address, messages)


def _messages(file: Hdf5File, begin: int, block: bytes) -> Iterator[Message]:
    """Cut a block at address ``begin`` into messages."""
    unpack, at, end = _MESSAGE.unpack_from, 0, len(block)
    while at + _MESSAGE.size <= end:
        kind, nbytes, flags = unpack(block, at)
        at += _MESSAGE.size
        if at + nbytes > end:
            raise file.broken(f"a message of {nbytes:,} bytes is longer than its object header", begin + at)
        file.charge(_MESSAGE_COST)
        yield Message(kind, flags, block[at : at + nbytes], begin + at)
        at += nbytes
    if at < end:
        raise file.broken("an object header ends inside a message", begin + at)
