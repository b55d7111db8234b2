"""numpy arrays as pickles describe them: the globals a ``.pdparams`` file may name, and what each stands for.

The handlers here are what :mod:`.machine` calls instead of numpy and paddle. Each accepts the one form of call
that numpy's or paddle's own pickling writes. An array of something else than numbers (text, Python objects, records,
dates) is told from damage, and is no tensor: a training program keeps it beside them.

Sources: numpy/_core/src/multiarray/methods.c ``array_reduce`` and ``array_setstate``, descriptor.c
``arraydescr_reduce``; paddle/framework/io.py ``_pickle_save`` (its ``tuple`` and ``eval`` forms).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from ...errors import FormatError, quoted
from ...tensors.byte_order import Swapped
from ...tensors.stored import Data, Extent, OpenFiles
from .machine import Allowed, Buildable, Global, OpaqueLeaf, PickleMachine, Span, Unbuilt, kind_of
from .state_tree import TensorLeaf

# fmt: off
#: numpy's type code → (our name, bytes an element).
TYPES = {
    "f8": ("float64", 8), "f4": ("float32", 4), "f2": ("float16", 2),
    "i8": ("int64", 8),   "i4": ("int32", 4),   "i2": ("int16", 2),   "i1": ("int8", 1),
    "u1": ("uint8", 1),   "b1": ("bool", 1),
    "u2": ("bfloat16", 2),  # paddle has no other use for uint16: paddle.load turns every one into bfloat16
    "u4": ("uint32", 4),  "u8": ("uint64", 8),  "c8": ("complex64", 8), "c16": ("complex128", 16),
}
# fmt: on


#: Classes that numpy names as the type of an array, where it has no code: a type of another package's.
_CLASSES = {"ml_dtypes.bfloat16": ("bfloat16", 2)}
#: Classes whose arrays are the same numbers: a mapped file's, a matrix.
_ARRAYS = {
    "numpy.ndarray", "numpy.memmap", "numpy.matrix",
    *(f"numpy.{module}memmap.memmap" for module in ("core.", "_core.")), "numpy.matrixlib.defmatrix.matrix",
}  # fmt: skip


class OrderedState(dict[str, object], Buildable):
    """An ``OrderedDict``; its attributes (torch keeps ``_metadata`` there, module versions) say nothing of tensors."""

    def set_state(self, machine: PickleMachine, state: object) -> None:
        if not isinstance(state, dict):
            machine.fail(f"{kind_of(state)} is the state of an OrderedDict, want a dict")


def ordered_dict(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    """Describe ``OrderedDict()``, or Python 2's ``OrderedDict([[key, value], ...])``."""
    made = OrderedState()
    if len(arguments) > 1 or (arguments and type(arguments[0]) is not list):
        return NotImplemented
    for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return NotImplemented
        machine.set_item(made, pair[0], pair[1])
    return made


@dataclass(slots=True, eq=False)
class EncodedText:
    """What ``_codecs.encode(text, "latin1")`` stands for: protocol 2 has no bytes, so they are written as text."""

    text: Span

    def __str__(self) -> str:
        return "bytes"


@dataclass(slots=True, eq=False)
class DType(Buildable):
    """A ``numpy.dtype``; its state says the byte order.

    Attributes:
        name: Our name of the type; of what is no type of a tensor numpy's.
        itemsize: Bytes an element, 0 of what is no type of a tensor.
        big: Whether its numbers are big-endian.
    """

    name: str
    itemsize: int
    big: bool = False

    def __str__(self) -> str:
        return f"numpy.dtype {self.name}"

    def set_state(self, machine: PickleMachine, state: object) -> None:
        if not self.itemsize:
            return
        if type(state) is not tuple or len(state) < 5:
            machine.fail(f"{kind_of(state)} is the state of a numpy.dtype, want its tuple")
        order = machine.text(state[1], "a byte order")
        if order not in ("<", ">", "|", "="):
            machine.fail(f"numpy.dtype byte order {quoted(order)}, want '<'")
        if any(part is not None for part in state[2:5]):
            machine.fail("a numpy.dtype of numbers with fields or sub-arrays")
        self.big = order == ">"


@dataclass(slots=True, eq=False)
class NumpyArray(Buildable, TensorLeaf):
    """A ``numpy.ndarray``, empty until its state is set.

    Attributes:
        unread: What it is, where it is no tensor.
    """

    offset: int
    dtype: DType | None = None
    shape: tuple[int, ...] = ()
    order: str = "C"
    data: Data | None = None
    unread: str | None = None

    def __str__(self) -> str:
        if self.unread is not None:
            return self.unread
        return "a tensor" if self.dtype is None else f"one tensor ({self.dtype.name}, shape {self.shape})"

    def set_state(self, machine: PickleMachine, state: object) -> None:
        if self.unread is not None:
            return
        if type(state) is not tuple or len(state) != 5:
            machine.fail(f"{kind_of(state)} is the state of a numpy array, want (version, shape, dtype, order, bytes)")
        version, shape, dtype, fortran, payload = state
        if type(version) is not int or version not in (0, 1):
            machine.fail(f"version {kind_of(version)} of a numpy array's state, want 1")
        if type(fortran) not in (bool, int):
            machine.fail(f"{kind_of(fortran)} says whether a numpy array is in Fortran order, want True or False")
        if self.data is not None:
            machine.fail("the state of a numpy array is set twice")
        self._fill(machine, dtype, machine.sizes(shape, "the shape of a numpy array"), bool(fortran), payload)

    def _fill(
        self, machine: PickleMachine, dtype: object, shape: tuple[int, ...], fortran: bool, payload: object
    ) -> None:
        if type(dtype) is not DType and type(dtype) is not Unbuilt:
            machine.fail(f"{kind_of(dtype)} is the dtype of a numpy array")
        if not isinstance(dtype, DType) or not dtype.itemsize:
            self.unread = f"an array of {'another' if type(dtype) is Unbuilt else str(dtype)}, shape {shape}"
            return
        if type(payload) is OpaqueLeaf:
            self.unread = f"an array whose numbers are in {payload}"
            return
        if fortran and len(shape) > 2 and 0 not in shape:
            self.unread = f"a Fortran-order array of {len(shape)} dimensions, of which two are read"
            return
        nbytes = checked_nbytes(machine, shape, dtype.itemsize)
        if type(payload) is EncodedText:
            stored = payload.text.length
            if not nbytes <= stored <= 2 * nbytes:
                machine.fail(f"{stored:,} bytes of latin-1 text for shape {shape} of {dtype.name}, want {nbytes:,}")
            self.data = LatinText(machine.path, payload.text.offset, stored, nbytes)
        elif type(payload) is Span and payload.kind != "text":
            if payload.length != nbytes:
                machine.fail(f"{payload.length:,} bytes for shape {shape} of {dtype.name}, want {nbytes:,}")
            self.data = Extent(machine.path, payload.offset, nbytes)
        else:
            machine.fail(f"{kind_of(payload)} is the payload of a numpy array, want bytes")
        if dtype.big and dtype.itemsize > 1:
            self.data = Swapped(self.data, dtype.itemsize // (2 if dtype.name.startswith("complex") else 1))
        # A matrix of one row or one column is the same either way.
        self.order = "F" if fortran and len(shape) == 2 and min(shape) > 1 else "C"
        self.dtype, self.shape = dtype, shape


def checked_nbytes(machine: PickleMachine, shape: tuple[int, ...], itemsize: int) -> int:
    """Return the bytes of a tensor; a shape that no machine could hold is refused even where a zero makes it empty."""
    if math.prod(max(size, 1) for size in shape) * itemsize >= 1 << 63:
        machine.fail(f"the shape {shape} is larger than any memory")
    return math.prod(shape) * itemsize


@dataclass(frozen=True)
class LatinText:
    """An array's bytes as the text that protocol 2 makes of them: latin-1 characters, written in UTF-8.

    Protocol 2 was the default of ``paddle.save`` in Paddle 2.0.

    Attributes:
        offset, stored: Where the text lies in the file.
        nbytes: How many characters it must have.
    """

    path: Path
    offset: int
    stored: int
    nbytes: int
    _marks: _Marks = field(default_factory=lambda: _Marks(), compare=False, repr=False)

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        if start < 0 or start + len(out) > self.nbytes:
            raise ValueError(f"bytes {start} to {start + len(out)} are outside the tensor's {self.nbytes}")
        stop = start + len(out)
        position, stored = self._marks.before(start)
        while position < stop or (stop == self.nbytes and stored < self.stored):
            piece, used = self._decode(files, stored)
            stored += used
            behind = position + len(piece)
            if behind > self.nbytes or (stored == self.stored and behind < self.nbytes):
                raise FormatError(
                    self.path, f"the latin-1 text decodes to other than {self.nbytes:,} bytes", offset=self.offset
                )
            first, last = max(position, start), min(behind, stop)
            if first < last:
                out[first - start : last - start] = piece[first - position : last - position]
            position = behind
            self._marks.add(position, stored)

    def _decode(self, files: OpenFiles, stored: int) -> tuple[bytes, int]:
        """Decode a chunk from ``stored``; return the bytes and how much text they took."""
        chunk = bytearray(min(_CHUNK, self.stored - stored))
        files.read_into(self.path, self.offset + stored, memoryview(chunk))
        if chunk[-1] & 0xC0 == 0xC0 and stored + len(chunk) < self.stored:
            del chunk[-1]  # the first half of a two-byte character: the next chunk begins with it
        try:
            return chunk.decode("utf-8").encode("latin-1"), len(chunk)
        except UnicodeError:
            raise FormatError(
                self.path, "the text of an array is not latin-1 in UTF-8", offset=self.offset + stored
            ) from None


_CHUNK = 1 << 18


class _Marks:
    """Where decoding has been, every chunk: a reader that goes forward, or back, starts from the nearest."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._positions: list[tuple[int, int]] = [(0, 0)]

    def before(self, position: int) -> tuple[int, int]:
        """Return the last known (bytes decoded, text bytes used) at or before ``position``."""
        with self._lock:
            low, high = 0, len(self._positions)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self._positions[middle][0] <= position else (low, middle)
            return self._positions[low]

    def add(self, position: int, stored: int) -> None:
        with self._lock:
            if position > self._positions[-1][0]:
                self._positions.append((position, stored))


def _encode(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    if len(arguments) != 2 or type(arguments[0]) is not Span or arguments[0].kind == "bytes":
        return NotImplemented
    if machine.text(arguments[1], "an encoding") not in ("latin1", "latin-1"):
        return NotImplemented
    return EncodedText(arguments[0])


def _no_bytes(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    """Describe ``bytes()``, as protocol 2 writes empty ones."""
    return NotImplemented if arguments else EncodedText(Span(machine.offset, 0, "text"))


def _dtype(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    if not 1 <= len(arguments) <= 3:
        return NotImplemented
    if type(arguments[0]) is Global:
        return DType(*_CLASSES.get(str(arguments[0]), (str(arguments[0]), 0)))
    code = machine.text(arguments[0], "a numpy type code")
    return DType(*TYPES.get(code, (quoted(code), 0)))


def _reconstruct(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    if len(arguments) != 3 or type(arguments[0]) is not Global:
        return NotImplemented
    kind = str(arguments[0])
    return NumpyArray(machine.offset, unread=None if kind in _ARRAYS else f"an array of the class {kind}")


def _from_buffer(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    """Describe ``_frombuffer(bytes, dtype, shape, order)``; of order ``K`` there follows that of the axes."""
    if not 4 <= len(arguments) <= 5:
        return NotImplemented
    payload, dtype, shape, order = arguments[:4]
    letter = machine.text(order, "the order of a numpy array")
    if letter not in ("C", "F", "K"):
        machine.fail(f"a numpy array in order {quoted(letter)}, want 'C', 'F' or 'K'")
    array = NumpyArray(machine.offset)
    if letter == "K" and len(arguments) == 5 and arguments[4] is not None:
        array.unread = "an array whose axes lie in an order of their own"
    else:
        array._fill(machine, dtype, machine.sizes(shape, "the shape of a numpy array"), letter == "F", payload)
    return array


def _scalar(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    if len(arguments) != 2 or type(arguments[0]) is not DType:
        return NotImplemented
    return OpaqueLeaf(f"a numpy scalar of {arguments[0].name}")


def _tuple(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    """Describe ``tuple((name, ndarray))``, which is how paddle pickles one of its tensors, or any other tuple."""
    inner = arguments[0] if len(arguments) == 1 else None
    if not isinstance(inner, tuple | list):
        return NotImplemented
    if len(inner) == 2 and type(inner[0]) is Span and type(inner[1]) is NumpyArray:
        return inner[1]
    return tuple(inner)


def _eval(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    """Recognise paddle's ``eval('data', {'data': ndarray})``, its way to pickle a DenseTensor; run nothing."""
    if len(arguments) >= 1 and type(arguments[0]) is Span and arguments[0].kind != "bytes":
        expression = "code" if arguments[0].length > 200 else quoted(machine.text(arguments[0], "an expression"))
        if expression == "'data'" and len(arguments) == 2 and type(arguments[1]) is dict:
            array = arguments[1].get("data")
            if len(arguments[1]) == 1 and type(array) is NumpyArray:
                return array
    else:
        expression = "something other than text"
    machine.fail(
        f"the pickle asks for builtins.eval of {expression}; it was not run",
        "paddle.load would run it. Do not open this file with paddle.load.",
    )


_OPEN: dict[tuple[str, str], Callable[[PickleMachine, tuple[object, ...]], object] | None] = {
    ("collections", "OrderedDict"): ordered_dict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
}
# Python 2's names are what protocol 2 writes; numpy 2 moved numpy.core to numpy._core.
for _module in ("builtins", "__builtin__"):
    _OPEN[_module, "tuple"] = _tuple
    _OPEN[_module, "bytes"] = _no_bytes
    _OPEN[_module, "eval"] = _eval
for _module in ("numpy.core", "numpy._core"):
    _OPEN[f"{_module}.multiarray", "_reconstruct"] = _reconstruct
    _OPEN[f"{_module}.multiarray", "scalar"] = _scalar
    _OPEN[f"{_module}.numeric", "_frombuffer"] = _from_buffer
#: The globals that a file of numpy arrays may name.
NUMPY_GLOBALS: Allowed = _OPEN
