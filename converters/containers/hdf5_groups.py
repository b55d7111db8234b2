"""Groups of HDF5: the names in one and what each leads to.

An old group is a symbol table: a B-tree of nodes with 8 names each, which lie in a heap of the group's own. A new one
keeps its links as messages of its header, or in a fractal heap where there are many (:mod:`.hdf5_dense`).

Source: HDF5 File Format Specification 3.0, III.A.1 (B-trees), III.B (symbol table nodes), III.C (entries), III.D (local
heaps), IV.A.2.c (link info) and IV.A.2.g (link).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .hdf5_file import UNDEFINED, Cursor, Hdf5File
from .hdf5_headers import LINK, LINK_INFO, SYMBOL_TABLE, Header

HARD, SOFT, EXTERNAL = 0, 1, 64

#: A group's B-tree has this type, its symbol table entries these kinds.
_GROUP_TREE = 0
_PLAIN, _GROUP, _SOFT = 0, 1, 2
_ENTRY_COST = 64  # of the budget, beside its bytes

_PLACES = struct.Struct("<QQ")
_NODE = struct.Struct("<4sBBHQQ")
_CHILD = struct.Struct("<8xQ")
_SYMBOLS = struct.Struct("<4sBxH")
_ENTRY = struct.Struct("<QQI20x")
_HEAP = struct.Struct("<4sB3xQQQ")
_FLAGS = struct.Struct("<BB")


class Link(NamedTuple):
    """Where a name leads: ``kind`` is HARD, SOFT, EXTERNAL or one of an application's own (above EXTERNAL).

    ``address`` is that of an object header and means nothing for another kind than HARD.
    """

    kind: int
    address: int


def is_group(header: Header) -> bool:
    """Say whether an object is a group. Source: the HDF5 library asks the same of a header."""
    return SYMBOL_TABLE in header.kinds or LINK_INFO in header.kinds


def read_links(header: Header) -> dict[bytes, Link]:
    """Return all names of a group.

    Raises:
        FormatError: A structure is broken, or a name is there twice.
    """
    info = header.one(LINK_INFO)
    if info is not None:
        return _read_new(header, header.cursor(info, "a link info message"))
    table = header.one(SYMBOL_TABLE)
    if table is None:
        return {}
    tree, heap = header.cursor(table, "a symbol table message").numbers(_PLACES)
    return _read_old(header.file, tree, heap)


def _read_old(file: Hdf5File, tree: int, heap: int) -> dict[bytes, Link]:
    what = "a group's heap of names"
    signature, version, nbytes, _, place = _HEAP.unpack(file.claim(heap, _HEAP.size, what))
    if signature != b"HEAP" or version != 0:
        raise file.broken(f"{what} is none", heap)
    names = file.claim(place, nbytes, what) if nbytes else b""
    links: dict[bytes, Link] = {}
    last = b""
    for node in group_nodes(file, tree):
        for offset, address, kind in _symbols(file, node):
            end = names.find(b"\0", offset)
            if end < 0:
                raise file.broken(f"a name at byte {offset:,} of {nbytes:,} has no end in {what}", node)
            name = names[offset:end]
            # The library looks names up by halving: one out of order is there for us and not for it.
            if name <= last:
                raise file.broken(f"a group's names are not in order: {ascii(name)[:100]}", node)
            if kind > _SOFT:
                raise file.broken(f"a group's entry is of the unknown kind {kind}", node)
            file.charge(_ENTRY_COST + len(name))
            links[name] = Link(SOFT if kind == _SOFT else HARD, address)
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
                raise file.broken(f"{what} leads to something else", address)
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
        raise file.broken(f"{what} is none", address)
    body = file.claim(address, _SYMBOLS.size + count * _ENTRY.size, what)
    return list(_ENTRY.iter_unpack(body[_SYMBOLS.size :]))


def _read_new(header: Header, info: Cursor) -> dict[bytes, Link]:
    version, flags = info.numbers(_FLAGS)
    if version != 0 or flags > 3:
        raise info.broken(f"has version {version} and flags {flags}")
    info.take(8 if flags & 1 else 0)
    heap, names = info.number(8), info.number(8)
    if heap != UNDEFINED:
        from .hdf5_dense import dense_links  # imported here: few files have one

        cursors = dense_links(header.file, heap, names)
    else:
        cursors = [header.cursor(message, "a link message") for message in header.all(LINK)]
    links: dict[bytes, Link] = {}
    for cursor in cursors:
        name, link = read_link(cursor)
        if links.setdefault(name, link) is not link:
            raise cursor.broken(f"has a name that another one has: {ascii(name)[:100]}")
        header.file.charge(_ENTRY_COST + len(name))
    return links


def read_link(cursor: Cursor) -> tuple[bytes, Link]:
    """Read one link message: its name and where it leads.

    Raises:
        FormatError: It is of an unknown version, or ends too early.
    """
    version, flags = cursor.numbers(_FLAGS)
    if version != 1 or flags > 31:
        raise cursor.broken(f"has version {version} and flags {flags}")
    kind = cursor.number(1) if flags & 8 else HARD
    cursor.take(8 if flags & 4 else 0)  # its place in the order of creation
    cursor.take(1 if flags & 16 else 0)  # the name's encoding
    name = cursor.take(cursor.number(1 << (flags & 3)))
    if not name or b"\0" in name:  # to the library it would end there
        raise cursor.broken(f"has a name that is none: {ascii(name)[:100]}")
    return name, Link(kind, cursor.number(8) if kind == HARD else UNDEFINED)
