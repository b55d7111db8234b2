"""The structures of an HDF5 file in its oldest form, which every release of the HDF5 library reads.

A file is its superblock, its payloads, and behind them what describes them. So a payload's place depends on no
description, and each structure is built once, when all that it points to has its place: a group after its members.

Addresses count bytes from the start of the file, numbers are little-endian, and every structure begins at a multiple of
8 bytes. No structure holds a time or anything else that changes from one run to the next.

Source: HDF5 File Format Specification 3.0, in the versions that h5py writes by default: superblock 0 (II.A), B-tree 1
(III.A.1), symbol table nodes and entries (III.B, III.C), local and global heaps (III.D, III.E), object header 1 (IV.A).
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from ...tensors.signatures import HDF5 as SIGNATURE
from ...tensors.stored import ITEMSIZE
from .datatypes import DATATYPES
from .file import UNDEFINED
from .headers import ATTRIBUTE, DATASPACE, DATATYPE, LAYOUT, SYMBOL_TABLE
from .messages import MAX_RANK

SUPERBLOCK_BYTES = 96
#: What stands in an attribute for a text of any length.
REFERENCE_BYTES = 16

#: The library's own K values, which the superblock repeats. A node has room for 2 K members and is at least half full,
#: unless it is the only one.
_LEAF_K, _INTERNAL_K = 4, 16
_MOST_ENTRIES, _MOST_CHILDREN = 2 * _LEAF_K, 2 * _INTERNAL_K
_ENTRY_BYTES = 40
_SYMBOL_NODE_BYTES = 8 + _MOST_ENTRIES * _ENTRY_BYTES
_TREE_NODE_BYTES = 24 + 8 * _MOST_CHILDREN + 8 * (_MOST_CHILDREN + 1)

#: A kind of message that only writers care about: what a hole in a dataset would be filled with.
_FILL_VALUE = 5
#: A message's flag: it never changes.
_CONSTANT = 1
#: A message's size has 16 bits and is a multiple of 8.
_MOST_MESSAGE_BYTES = 65528

#: A local heap's list of free blocks, where there is none.
_NO_FREE_BLOCK = 1
#: The size of a global heap's collections; only a text that does not fit gets a larger one.
_COLLECTION_BYTES = 4096

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class NewDataset:
    """An array whose payload is one run of bytes, in C order. It may be linked more than once.

    Attributes:
        dtype: A key of :data:`.datatypes.DATATYPES`.
        shape: At most :data:`MAX_RANK` axes.
        offset: The payload's place; an array without bytes has none, whatever is said here.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, eq=False)
class Group:
    """Names for datasets and other groups. A group is linked once.

    Attributes:
        links: Name → member. A name has no ``/`` and no zero byte.
        attributes: What :func:`attribute` made.
    """

    links: dict[str, NewDataset | Group] = field(default_factory=dict)
    attributes: list[bytes] = field(default_factory=list)


class TextHeap:
    """The global heap: texts of any length, which attributes refer to.

    ``start`` is where :attr:`content` will lie in the file, a multiple of 8 bytes.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._closed = bytearray()
        self._open = b""
        self._count = 0

    def add(self, text: bytes) -> bytes:
        """Keep ``text`` and return what stands for it in an attribute."""
        kept = _padded(text)
        if self._count and 16 + len(self._open) + 16 + len(kept) > _COLLECTION_BYTES:
            self._closed += self._collection()
            self._open, self._count = b"", 0
        self._count += 1
        self._open += struct.pack("<HHIQ", self._count, 0, 0, len(text)) + kept
        return struct.pack("<IQI", len(text), self._start + len(self._closed), self._count)

    @property
    def content(self) -> bytes:
        """All collections."""
        return bytes(self._closed) + (self._collection() if self._count else b"")

    def _collection(self) -> bytes:
        """Build the collection that is being filled, the rest of it free."""
        size = max(_COLLECTION_BYTES, 16 + len(self._open))
        free = size - 16 - len(self._open)
        # free space is object 0, whose size counts its own 16 bytes; less than that goes without saying
        rest = struct.pack("<HHIQ", 0, 0, 0, free) if free >= 16 else b""
        return (struct.pack("<4sB3xQ", b"GCOL", 1, size) + self._open + rest).ljust(size, b"\0")


def attribute(name: str, datatype: bytes, shape: Sequence[int], content: bytes) -> bytes:
    """Build an attribute's message: ``content`` is its value, of the type that the message ``datatype`` describes.

    Raises:
        ValueError: The message is above the format's limit of 64 KB.
    """
    label, space = name.encode() + b"\0", _dataspace(shape)
    sizes = struct.pack("<BBHHH", 1, 0, len(label), len(datatype), len(space))
    return _message(ATTRIBUTE, sizes + _padded(label) + _padded(datatype) + _padded(space) + content)


def describe(root: Group, start: int) -> tuple[bytes, bytes]:
    """Build what describes ``root`` and all below it.

    Returns:
        The structures that lie from ``start`` (a multiple of 8) to the end of the file, and the superblock that lies
        at its beginning.
    """
    groups = [root]
    for group in groups:  # which grows meanwhile: every group comes after the one it is in
        groups += [member for member in group.links.values() if isinstance(member, Group)]
    links = Counter(member for group in groups for member in group.links.values() if isinstance(member, NewDataset))
    output = _Output(start)
    placed: dict[NewDataset | Group, _Placed] = {}
    for dataset, count in links.items():
        placed[dataset] = _Placed(output.add(_dataset_header(dataset, count)))
    for group in reversed(groups):
        placed[group] = _add_group(output, group, placed)
    return bytes(output.content), _superblock(placed[root], output.end)


def evenly(items: Sequence[_Item], most: int) -> list[Sequence[_Item]]:
    """Split ``items`` into as few runs of at most ``most`` as possible, whose lengths differ by one at most.

    The longer runs come first, as ``numpy.array_split`` has them.
    """
    if not items:
        return []
    count = -(-len(items) // most)
    length, longer = divmod(len(items), count)
    begins = [number * length + min(number, longer) for number in range(count + 1)]
    return [items[begin:end] for begin, end in pairwise(begins)]


class _Output:
    """Structures one behind the other."""

    def __init__(self, start: int) -> None:
        if start % 8:
            raise ValueError(f"structures cannot begin at byte {start}, want a multiple of 8")
        self._start = start
        self.content = bytearray()

    @property
    def end(self) -> int:
        """Where the next structure will lie."""
        return self._start + len(self.content)

    def add(self, structure: bytes) -> int:
        """Append a structure of a multiple of 8 bytes and return its address."""
        address = self.end
        self.content += structure
        return address


@dataclass(frozen=True)
class _Placed:
    """The address of an object's header and, for a group, those of its B-tree and of its heap."""

    header: int
    tables: tuple[int, int] | None = None

    def entry(self, name: int) -> bytes:
        """Build the symbol table entry for a link to this object; ``name`` is its name's place in the heap."""
        # the entry repeats where a group's tables are, so that no reader needs its header for them
        kept = (1, 0, *self.tables) if self.tables else (0, 0, 0, 0)
        return struct.pack("<QQIIQQ", name, self.header, *kept)


def _add_group(output: _Output, group: Group, placed: Mapping[NewDataset | Group, _Placed]) -> _Placed:
    """Append a group all of whose members are placed."""
    links = sorted(((name.encode(), member) for name, member in group.links.items()), key=lambda link: link[0])
    content, names = _heap([name for name, _ in links], output.end)
    heap = output.add(content)
    entries = [(name, placed[member].entry(name)) for name, (_, member) in zip(names, links, strict=True)]
    nodes = [
        (output.add(_symbol_node([entry for _, entry in run])), run[-1][0]) for run in evenly(entries, _MOST_ENTRIES)
    ]
    tree = _add_tree(output, nodes)
    table = _message(SYMBOL_TABLE, struct.pack("<QQ", tree, heap))
    return _Placed(output.add(_header([table, *group.attributes], 1)), (tree, heap))


def _heap(names: Sequence[bytes], address: int) -> tuple[bytes, list[int]]:
    """Build the local heap that will lie at ``address`` and say where in its segment each name is."""
    segment = bytearray(8)  # the empty name, which every B-tree begins with
    places = []
    for name in names:
        places.append(len(segment))
        segment += _padded(name + b"\0")
    head = struct.pack("<4sB3xQQQ", b"HEAP", 0, len(segment), _NO_FREE_BLOCK, address + 32)
    return head + segment, places


def _symbol_node(entries: Sequence[bytes]) -> bytes:
    return (struct.pack("<4sBBH", b"SNOD", 1, 0, len(entries)) + b"".join(entries)).ljust(_SYMBOL_NODE_BYTES, b"\0")


def _add_tree(output: _Output, children: Sequence[tuple[int, int]]) -> int:
    """Append a group's B-tree and return the address of its root.

    ``children`` are the addresses of the symbol table nodes, each with the place of its last name in the heap.
    """
    level = 0
    while True:
        runs = evenly(children, _MOST_CHILDREN) or [[]]
        first, last = output.end, output.end + (len(runs) - 1) * _TREE_NODE_BYTES
        parents, key = [], 0
        for run in runs:
            at = output.end
            left = at - _TREE_NODE_BYTES if at > first else UNDEFINED
            right = at + _TREE_NODE_BYTES if at < last else UNDEFINED
            output.add(_tree_node(level, left, right, key, run))
            key = run[-1][1] if run else 0
            parents.append((at, key))
        if len(parents) == 1:
            return first
        children, level = parents, level + 1


def _tree_node(level: int, left: int, right: int, key: int, children: Sequence[tuple[int, int]]) -> bytes:
    """Build a node: each child stands between two keys, names that its own are behind and up to.

    ``key`` is the last name of the node to the left, and ``left`` and ``right`` are the neighbours on the same level.
    """
    node = struct.pack("<4sBBHQQQ", b"TREE", 0, level, len(children), left, right, key)
    return (node + b"".join(struct.pack("<QQ", *child) for child in children)).ljust(_TREE_NODE_BYTES, b"\0")


def _dataset_header(dataset: NewDataset, links: int) -> bytes:
    nbytes = math.prod(dataset.shape) * ITEMSIZE[dataset.dtype]
    # Version 2: allocated when the dataset is made, no fill value written, none defined but the usual zero.
    fill_value = struct.pack("<BBBBI", 2, 1, 1, 1, 0)
    # Version 3, contiguous. An array without bytes has no place, and the library may give it one.
    layout = struct.pack("<BBQQ", 3, 1, dataset.offset if nbytes else UNDEFINED, nbytes)
    messages = [
        _message(DATASPACE, _dataspace(dataset.shape)),
        _message(DATATYPE, DATATYPES[dataset.dtype], _CONSTANT),
        _message(_FILL_VALUE, fill_value, _CONSTANT),
        _message(LAYOUT, layout, _CONSTANT if nbytes else 0),
    ]
    return _header(messages, links)


def _dataspace(shape: Sequence[int]) -> bytes:
    """Build the message of a shape that is also the largest possible one; a scalar has no axes."""
    if len(shape) > MAX_RANK:
        raise ValueError(f"{len(shape)} axes, HDF5 has {MAX_RANK} at most")
    return struct.pack(f"<BBB5x{2 * len(shape)}Q", 1, len(shape), 1 if shape else 0, *shape, *shape)


def _message(kind: int, body: bytes, flags: int = 0) -> bytes:
    body = _padded(body)
    if len(body) > _MOST_MESSAGE_BYTES:
        raise ValueError(f"an HDF5 header message of {len(body):,} bytes is above the limit of {_MOST_MESSAGE_BYTES:,}")
    return struct.pack("<HHB3x", kind, len(body), flags) + body


def _header(messages: Sequence[bytes], links: int) -> bytes:
    """Build an object header, in one block whatever its size: only a header that grows later needs a second one."""
    return struct.pack("<BBHII4x", 1, 0, len(messages), links, sum(map(len, messages))) + b"".join(messages)


def _superblock(root: _Placed, end: int) -> bytes:
    """Build the superblock of a file of ``end`` bytes, addresses and sizes of 8 bytes each."""
    head = SIGNATURE + struct.pack("<8B2HI", 0, 0, 0, 0, 0, 8, 8, 0, _LEAF_K, _INTERNAL_K, 0)
    return head + struct.pack("<4Q", 0, UNDEFINED, end, UNDEFINED) + root.entry(0)


def _padded(content: bytes) -> bytes:
    """Fill up to a multiple of 8 bytes."""
    return content + bytes(-len(content) % 8)
