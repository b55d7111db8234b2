"""The few pickle opcodes that our writers emit, as bytes: ``.pdparams`` in protocol 4, torch's ``data.pkl`` in 2.

Source: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...tensors.stored import NewTensor

MARK, STOP, POP = b"(", b".", b"0"
EMPTY_DICT, SETITEMS = b"}", b"u"
EMPTY_LIST, APPENDS = b"]", b"e"
EMPTY_TUPLE, TUPLE, REDUCE, BUILD = b")", b"t", b"R", b"b"
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
PERSISTENT_ID = b"Q"


def text(value: str) -> bytes:
    """BINUNICODE: text in protocol 2 and later."""
    encoded = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    """Write an integer in the shortest form, as CPython does."""
    if 0 <= value < 1 << 8:
        return b"K" + bytes((value,))
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes((len(content),)) + content


def tuple_of(items: Sequence[bytes]) -> bytes:
    """Return a tuple of objects that are written already."""
    if len(items) > 3:
        return MARK + b"".join(items) + TUPLE
    return b"".join(items) + (EMPTY_TUPLE, b"\x85", b"\x86", b"\x87")[len(items)]


def integers(values: Iterable[int]) -> bytes:
    """Return a tuple of integers: a shape."""
    return tuple_of([integer(value) for value in values])


def import_global(module: str, name: str) -> bytes:
    """GLOBAL: every protocol has it, protocol 4 too."""
    return f"c{module}\n{name}\n".encode()


def data(value: object, tensor: Callable[[NewTensor], bytes]) -> bytes:
    """Write dicts, lists, tuples, texts and numbers, nested in each other; tensors in them by their own writer.

    Raises:
        TypeError: There is something else in them.
    """
    if value is None or isinstance(value, bool):
        return {None: NONE, True: TRUE, False: FALSE}[value]
    if isinstance(value, NewTensor):
        return tensor(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, tuple):
        return tuple_of([data(item, tensor) for item in value])
    if isinstance(value, list):
        return EMPTY_LIST + MARK + b"".join(data(item, tensor) for item in value) + APPENDS
    if isinstance(value, Mapping):
        items = (data(key, tensor) + data(item, tensor) for key, item in value.items())
        return EMPTY_DICT + MARK + b"".join(items) + SETITEMS
    raise TypeError(f"{type(value).__name__} is no data")


class Memo:
    """Objects that the pickle refers to again: written whole the first time, as their memo slot afterwards."""

    def __init__(self) -> None:
        self._slots: dict[bytes | str, int] = {}

    def once(self, opcodes: bytes) -> bytes:
        """Write ``opcodes`` (one object) now, or refer to it."""
        return self.recall(opcodes) if opcodes in self._slots else opcodes + self.keep(opcodes)

    def keep(self, key: bytes | str) -> bytes:
        """Remember the object on top of the stack under ``key``."""
        slot = self._slots[key] = len(self._slots)
        return b"q" + bytes((slot,)) if slot < 256 else b"r" + struct.pack("<I", slot)

    def recall(self, key: bytes | str) -> bytes:
        """Put the object kept under ``key`` on the stack."""
        slot = self._slots[key]
        return b"h" + bytes((slot,)) if slot < 256 else b"j" + struct.pack("<I", slot)


def order_aliases(tensors: Sequence[NewTensor]) -> list[tuple[NewTensor, str]]:
    """Return the tensors, each with the name of the one that holds its bytes, and every alias behind that one.

    Raises:
        ValueError: A name twice, or an alias of nothing, of itself, or of another dtype or shape.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise ValueError("two tensors have one name")
    ordered: list[tuple[NewTensor, str]] = []
    late: list[tuple[NewTensor, str]] = []
    written: set[str] = set()
    for tensor in tensors:
        holder, steps = tensor, 0
        while holder.alias_of is not None:
            if holder.alias_of not in by_name or steps > len(tensors):
                raise ValueError(f"{tensor.name} is an alias of {holder.alias_of}, which holds nothing")
            holder, steps = by_name[holder.alias_of], steps + 1
        if (holder.dtype, holder.shape) != (tensor.dtype, tensor.shape):
            raise ValueError(f"{tensor.name} is {tensor.dtype} {tensor.shape}, its alias {holder.dtype} {holder.shape}")
        if holder is tensor:
            written.add(tensor.name)
        (ordered if holder.name in written else late).append((tensor, holder.name))
    return ordered + late
