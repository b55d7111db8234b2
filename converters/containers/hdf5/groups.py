"""Groups of HDF5: the names in one and what each leads to.

A group as Keras writes it is a symbol table: a B-tree of nodes with 8 names each, which lie in a heap of the group's
own.

Source: HDF5 File Format Specification 3.0, III.A.1 (B-trees), III.B (symbol table nodes), III.C (entries) and III.D
(local heaps).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ...errors import quoted
from .file import Hdf5File
from .headers import SYMBOL_TABLE, Header

#: A group's B-tree has this type, and the entry of a soft link, the last one there is, this kind.
_GROUP_TREE = 0
_SOFT = 2
_ENTRY_COST = 64  # of the budget, beside its bytes

_PLACES = struct.Struct("<QQ")
_NODE = struct.Struct("<4sBBHQQ")
_CHILD = struct.Struct("<8xQ")
_SYMBOLS = struct.Struct("<4sBxH")
_ENTRY = struct.Struct("<QQI20x")
_HEAP = struct.Struct("<4sB3xQQQ")


class Link(NamedTuple):
    """Where a name leads: to the object header at ``address``, or (``soft``) to whatever has another name."""

    soft: bool
    address: int


def is_group(header: Header) -> bool:
    """Say whether an object is a group. Source: the HDF5 library asks the same of a header."""
    return SYMBOL_TABLE in header.kinds


def read_links(header: Header) -> dict[bytes, Link]:
    """Return all names of a group.

    Raises:
        FormatError: A structure is broken, or a name is there twice.
    """
    table = header.one(SYMBOL_TABLE, "a symbol table message")
    if table is None:
        return {}
    tree, heap = table.numbers(_PLACES)
    file, what = header.file, "a group's heap of names"
    signature, version, nbytes, _, place = _HEAP.unpack(file.claim(heap, _HEAP.size, what))
    if signature != b"HEAP" or version != 0:
        raise file.broken(f"{what} was expected here, and something else was found", heap)
    names = file.claim(place, nbytes, what) if nbytes else b""
    links: dict[bytes, Link] = {}
    last = b""
    for node in group_nodes(file, tree):
        for offset, address, kind in _symbols(file, node):
            end = names.find(b"\0", offset)
            if end < 0:
                raise file.broken(f"a name at byte {offset:,} of {nbytes:,} is not terminated in {what}", node)
            name = names[offset:end]
            # The library looks names up by halving: one out of order is there for us and not for it.
            if name <= last:
                raise file.broken(f"a group's names are not in order: {quoted(name)}", node)
            if kind > _SOFT:
                raise file.broken(f"a group's entry has the unknown kind {kind}", node)
            file.charge(_ENTRY_COST + len(name))
            links[name] = Link(kind == _SOFT, address)
            last = name
    return links


def group_nodes(file: Hdf5File, tree: int) -> list[int]:
    """Return the addresses of a group's symbol table nodes, in the order of their names."""
    what = "a group's B-tree"
    level: int | None = None
    nodes = [tree]
    while level != 0 and nodes:  # all nodes of one level at a time; a level's number is one less than that above it
        below: list[int] = []
        for address in nodes:
            signature, kind, own, count, _, _ = _NODE.unpack(file.read(address, _NODE.size, what))
            if signature != b"TREE" or kind != _GROUP_TREE:
                raise file.broken(f"{what} points to something else", address)
            if level is not None and own != level - 1:
                raise file.broken(f"{what} has a node of level {own}, want {level - 1}", address)
            body = file.claim(address, _NODE.size + _CHILD.size * count + 8, what)
            below += [child for (child,) in _CHILD.iter_unpack(body[_NODE.size : -8])]
        level, nodes = own, below
    return nodes


def _symbols(file: Hdf5File, address: int) -> list[tuple[int, int, int]]:
    """Read one symbol table node: (offset of the name in the heap, address of the object, kind) of each entry."""
    what = "a group's symbol table node"
    signature, version, count = _SYMBOLS.unpack(file.read(address, _SYMBOLS.size, what))
    if signature != b"SNOD" or version != 1:
        raise file.broken(f"{what} was expected here, and something else was found", address)
    body = file.claim(address, _SYMBOLS.size + count * _ENTRY.size, what)
    return list(_ENTRY.iter_unpack(body[_SYMBOLS.size :]))
