"""Paddle's ``.pdparams``: a pickled dict of numpy arrays.

``index`` follows the pickle with :mod:`.machine` and runs nothing; ``paddle.load`` runs whatever the pickle says.
``lay_out`` emits a protocol 4 pickle whose every offset is known before a byte of payload moves.

Sources: paddle/framework/io.py ``_legacy_save``, ``_pickle_save``, ``load``; paddle/framework/io_utils.py
``_unpack_saved_dict`` and ``_pack_loaded_dict``.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...errors import FETCH_AGAIN, FormatError, quoted
from ...tensors import signatures
from ...tensors.stored import (
    Data,
    FileLayout,
    Fragment,
    Index,
    NewTensor,
    OpenFiles,
    Slot,
    StoredTensor,
)
from . import opcodes
from .machine import PickleMachine, kind_of
from .numpy_pickle import NUMPY_GLOBALS, TYPES, NumpyArray
from .state_tree import TensorLeaf, as_tree, flatten

#: paddle.save's table from the state dict's names to its own internal ones, which an optimizer's state goes by.
NAME_TABLE = "StructuredToParameterName@@"
#: paddle.save's note of which arrays it sliced; the spelling is theirs.
_SLICES = "UnpackBigParamInfor@@"


def index(path: Path | str) -> Index:
    """Index a ``.pdparams`` file; an array under ``k`` → ``inner`` is called ``k.inner``, other leaves are metadata.

    Raises:
        FormatError: The file is not a pickled state dict, is damaged, or names code.
    """
    path = Path(path)
    with OpenFiles() as files:
        machine, state = _follow(path, files)
        pieces: dict[str, Pieces] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        if isinstance(state, dict):
            if isinstance(state.get(NAME_TABLE), dict):
                del state[NAME_TABLE]
            if _SLICES in state:
                pieces, shapes = _join_slices(machine, state)
        flat = flatten(path, machine, state)
    stored = []
    for name, array in flat.tensors:
        placed = _place(path, name, array)
        if name in pieces:
            placed = replace(placed, shape=shapes[name], data=pieces[name], order="C")
        stored.append(placed)
    return Index(tuple(stored), flat.metadata, flat.nested, flat.unread)


def read_tree(path: Path) -> dict[str, object]:
    """Index a file of ``paddle.save`` as it is nested, with its table of names: an optimizer's ``.pdopt``.

    Raises:
        FormatError: The file is not a pickled dict, or is damaged.
    """
    with OpenFiles() as files:
        machine, state = _follow(path, files)
        if isinstance(state, dict) and _SLICES in state:
            machine.fail("an array that paddle.save cut up, which no optimizer's state of a RoFormer has")
        return as_tree(path, machine, state, partial(_place, path))


def _follow(path: Path, files: OpenFiles) -> tuple[PickleMachine, object]:
    size = path.stat().st_size
    _refuse_other_formats(path, files, size)
    # paddle.load decodes Python 2's strings as latin-1.
    machine = PickleMachine(path, files, 0, size, NUMPY_GLOBALS, string_encoding="latin-1")
    state = machine.run()
    if machine.position != size:
        raise FormatError(
            path, f"{size - machine.position:,} bytes follow the end of the pickle", offset=machine.position
        )
    return machine, state


def _place(path: Path, name: str, array: TensorLeaf) -> StoredTensor:
    if not isinstance(array, NumpyArray) or array.dtype is None or array.data is None:
        raise FormatError(path, f"the array {quoted(name)} has no contents")
    return StoredTensor(name, array.dtype.name, array.shape, array.data, array.order)


def _refuse_other_formats(path: Path, files: OpenFiles, size: int) -> None:
    start = bytearray(min(8, size))
    files.read_into(path, 0, memoryview(start))
    if not start:
        raise FormatError(path, "the file is empty", next_step=FETCH_AGAIN)
    for magic, other in ((signatures.ZIP, "a zip archive, as torch writes"), (signatures.HDF5[:4], "an HDF5 file")):
        if start.startswith(magic):
            raise FormatError(path, f"this is {other}, want a pickle as paddle.save writes", offset=0)


@dataclass(frozen=True)
class Pieces:
    """A tensor that lies in several runs, one behind the other."""

    parts: tuple[Data, ...]
    ends: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.ends[-1]

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        if start < 0 or start + len(out) > self.nbytes:
            raise ValueError(f"bytes {start} to {start + len(out)} are outside the tensor's {self.nbytes}")
        done = 0
        while done < len(out):
            number = bisect_right(self.ends, start + done)
            count = min(self.ends[number] - start - done, len(out) - done)
            first = self.ends[number] - self.parts[number].nbytes
            self.parts[number].read_into(files, start + done - first, out[done : done + count])
            done += count


def _join_slices(
    machine: PickleMachine, state: dict[str, object]
) -> tuple[dict[str, Pieces], dict[str, tuple[int, ...]]]:
    """Replace the slices of each array that paddle.save cut up by their first one under the array's name.

    Returns:
        By name: all the pieces, and the array's shape.
    """
    table = state.pop(_SLICES)
    if not isinstance(table, dict):
        machine.fail(f"{_SLICES} is {kind_of(table)}, want a dict")
    pieces: dict[str, Pieces] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    first_slices: dict[str, str] = {}
    others: set[str] = set()
    for name, entry in table.items():
        slices = entry.get("slices") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or type(slices) is not list or not slices:
            machine.fail(f"{_SLICES} does not list the slices of {quoted(name)}")
        shape = machine.sizes(entry.get("OriginShape"), f"the shape of {quoted(name)}")
        parts: list[Data] = []
        ends: list[int] = []
        dtype = None
        for item in slices:
            slice_name = machine.text(item, "the name of a slice")
            part = state.get(slice_name)
            if not isinstance(part, NumpyArray) or part.data is None or part.dtype is None or len(part.shape) != 1:
                machine.fail(f"{quoted(name)} is made of {quoted(slice_name)}, which is not a flat array in the file")
            if dtype not in (None, part.dtype.name):
                machine.fail(f"the slices of {quoted(name)} have several dtypes")
            if slice_name in others or slice_name in first_slices:
                machine.fail(f"the slice {quoted(slice_name)} is used twice")
            if parts:
                others.add(slice_name)
            else:
                first_slices[slice_name] = name
            dtype = part.dtype.name
            itemsize = part.dtype.itemsize
            parts.append(part.data)
            ends.append((ends[-1] if ends else 0) + part.data.nbytes)
        if math.prod(shape) * itemsize != ends[-1]:
            machine.fail(f"the slices of {quoted(name)} hold {ends[-1]:,} bytes, want {shape} of {dtype}")
        pieces[name], shapes[name] = Pieces(tuple(parts), tuple(ends)), shape
    joined = {first_slices.get(name, name): value for name, value in state.items() if name not in others}
    if len(joined) + len(others) != len(state):
        machine.fail(f"{_SLICES} names an array that the file holds whole as well")
    state.clear()
    state.update(joined)
    return pieces, shapes


_CODES = {dtype: code for code, (dtype, _) in TYPES.items()}

#: Payloads start at multiples of this: rows and strips of a kernel then lie on cache lines.
_ALIGNMENT = 64


def lay_out(filename: str, tensors: Sequence[NewTensor], others: Mapping[str, object] | None = None) -> FileLayout:
    """Lay out a pickled dict of arrays, in protocol 4 (paddle 2.6.2 does not read 5), as numpy 1.26 and 2 read it.

    An alias is the same array under another name: paddle.load makes two tensors of it, with the same values. The file's
    beginning is written last: until then a loader finds a zero byte, which no pickle begins with.

    Args:
        filename: The file's name.
        tensors: The arrays.
        others: What else the dict holds: plain data, behind the arrays.
    """
    memo = opcodes.Memo()
    ordered = opcodes.order_aliases(tensors)
    shared = {holder for tensor, holder in ordered if holder != tensor.name}
    fragments: list[Fragment] = []
    slots: dict[str, Slot] = {}
    begun, position = 0, 0
    # The pickle between two payloads; `begun` is where in the file it starts.
    run = bytearray(b"\x80\x04" + opcodes.EMPTY_DICT + opcodes.MARK)
    for tensor, holder in ordered:
        run += opcodes.text(tensor.name)
        if holder != tensor.name:
            run += memo.recall(holder)
            continue
        run += memo.once(opcodes.import_global("numpy.core.multiarray", "_reconstruct"))
        array = opcodes.import_global("numpy", "ndarray"), opcodes.integers([0]), b"C\x01b"
        run += memo.once(opcodes.tuple_of(array)) + opcodes.REDUCE
        if holder in shared:
            run += memo.keep(holder)
        run += opcodes.MARK + opcodes.integer(1) + opcodes.integers(tensor.shape)
        run += memo.once(_dtype(_CODES[tensor.dtype])) + opcodes.FALSE
        nbytes = tensor.nbytes
        length = b"B" + struct.pack("<I", nbytes) if nbytes < 1 << 32 else b"\x8e" + struct.pack("<Q", nbytes)
        run += _padding(begun + len(run) + len(length)) + length
        position = begun + len(run)
        fragments.append(Fragment(filename, begun, bytes(run)))
        slots[tensor.name] = Slot(filename, position, nbytes)
        begun = position + nbytes
        run = bytearray(opcodes.TUPLE + opcodes.BUILD)
    for name, value in (others or {}).items():
        run += opcodes.text(name) + opcodes.data(value, _refuse_array)
    run += opcodes.SETITEMS + opcodes.STOP
    fragments.append(Fragment(filename, begun, bytes(run)))
    return FileLayout({filename: begun + len(run)}, slots, lambda checksums: fragments[::-1])


def _refuse_array(tensor: NewTensor) -> bytes:
    raise ValueError(f"{tensor.name}: an array that does not lie at the top")


def _padding(position: int) -> bytes:
    """Return opcodes that do nothing (bytes, and POP) and make what follows start at a multiple of the alignment."""
    missing = -position % _ALIGNMENT
    if missing == 0:
        return b""
    # The least that can be written is three bytes: the opcode, an empty length and POP.
    missing += _ALIGNMENT if missing < 3 else 0
    return b"C" + bytes((missing - 3,)) + bytes(missing - 3) + opcodes.POP


def _dtype(code: str) -> bytes:
    """Return a numpy.dtype and its state, as numpy pickles it: single bytes have the order '|'."""
    made = opcodes.import_global("numpy", "dtype")
    made += opcodes.tuple_of([opcodes.text(code), opcodes.FALSE, opcodes.TRUE]) + opcodes.REDUCE
    order = opcodes.text("|" if code.endswith("1") else "<")
    minus_one = opcodes.integer(-1)
    state = [opcodes.integer(3), order, *[opcodes.NONE] * 3, minus_one, minus_one, opcodes.integer(0)]
    return made + opcodes.tuple_of(state) + opcodes.BUILD
