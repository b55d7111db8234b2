"""What a container's index says of a tensor, and how its bytes are read: nothing here knows a model or a dialect.

A reader (``index(path)`` of each container) answers with :class:`StoredTensor` records without touching payloads. A
record's ``data`` says where the bytes lie. :class:`Extent` is the common case, one contiguous run in a file, which the
engine may copy inside the kernel; every other kind gives its bytes through ``read_into`` in C order, sequentially,
with memory that does not grow with the tensor.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import FETCH_AGAIN, FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes an element. A tensor of another type ("string" in a TF checkpoint) may be indexed but never converted.
ITEMSIZE = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
#: The types a model's weights may have, and that ``--dtype`` may ask for.
FLOATS = ("float32", "float16", "bfloat16", "float64")
HALF_TYPES = ("float16", "bfloat16")


class OpenFiles:
    """Files opened once for positioned reads, closed together (a context manager, safe to share between threads)."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        #: What :mod:`.checksums` has read as a whole and found to have its checksum.
        self.checked: set[ChecksummedExtent] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every file; one that is asked for later is opened again."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def descriptor(self, path: Path) -> int:
        """Open ``path`` for reading on first use and return its descriptor.

        Raises:
            FormatError: It cannot be opened.
        """
        with self._lock:
            found = self._descriptors.get(path)
            if found is None:
                try:
                    found = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
                except OSError as error:
                    raise FormatError(path, f"cannot be opened: {error.strerror or error}") from None
                self._descriptors[path] = found
            return found

    def read_into(self, path: Path, offset: int, out: memoryview) -> None:
        """Fill ``out`` with the file's bytes from ``offset``.

        Raises:
            FormatError: The file ends before ``out`` is full.
        """
        descriptor = self.descriptor(path)
        done = 0
        while done < len(out):
            try:
                count = _pread_into(descriptor, out[done:], offset + done)
            except OSError as error:
                what = f"reading failed: {error.strerror or error}"
                raise FormatError(path, what, offset=offset + done) from None
            if count == 0:
                what = f"the file ends {len(out) - done:,} bytes early"
                raise FormatError(path, what, offset=offset + done, next_step=FETCH_AGAIN)
            done += count

    def read_lines(self, path: Path, offset: int, lines: Sequence[memoryview], nbytes: int) -> None:
        """Fill ``lines``, of ``nbytes`` all together, one after the other with the file's bytes from ``offset``.

        Raises:
            FormatError: The file ends before the last one is full.
        """
        if hasattr(os, "preadv"):
            try:
                if os.preadv(self.descriptor(path), lines, offset) == nbytes:
                    return
            except OSError:
                pass  # what is wrong shows again, and is reported, where each is read by itself
        for line in lines:
            self.read_into(path, offset, line)
            offset += len(line)


def _pread_into(descriptor: int, out: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    # Windows has no positioned read; nobody else reads by this descriptor, so moving its position is safe.
    os.lseek(descriptor, offset, os.SEEK_SET)
    piece = os.read(descriptor, min(len(out), 1 << 24))
    out[: len(piece)] = piece
    return len(piece)


class Data(Protocol):
    """Where a tensor's bytes come from."""

    @property
    def nbytes(self) -> int:
        """Size of the whole tensor in bytes, in C order."""

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        """Fill ``out`` with bytes ``start`` to ``start + len(out)`` of the tensor's C-order serialisation."""


@dataclass(frozen=True)
class Extent:
    """One contiguous run of a file, checked by the index to lie inside it."""

    path: Path
    offset: int
    nbytes: int

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        if start < 0 or start + len(out) > self.nbytes:
            raise ValueError(f"bytes {start} to {start + len(out)} are outside the tensor's {self.nbytes}")
        files.read_into(self.path, self.offset + start, out)

    def read_lines(self, files: OpenFiles, start: int, lines: Sequence[memoryview]) -> None:
        """Fill at most 1024 ``lines`` of one length with successive bytes from ``start``.

        (1024 is the limit of one call of the system.)
        """
        nbytes = len(lines) * len(lines[0])
        if start < 0 or start + nbytes > self.nbytes:
            raise ValueError(f"{len(lines)} lines from byte {start} are outside the tensor's {self.nbytes}")
        files.read_lines(self.path, self.offset + start, lines, nbytes)


@dataclass(frozen=True)
class ChecksummedExtent(Extent):
    """An extent of whose bytes the file keeps a checksum.

    Attributes:
        checksum: Plain, not masked as a TF index stores it.
        kind: ``"crc32c"`` or ``"crc32"``.
    """

    checksum: int
    kind: str = "crc32c"


@dataclass(frozen=True)
class InMemory:
    """An array in memory as a tensor's data."""

    array: NDArray[Any]

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        """Fill ``out`` as :class:`Data` says."""
        import numpy as np

        out[:] = self.array.reshape(-1).view(np.uint8)[start : start + len(out)].data


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a file holds it.

    Attributes:
        name: Its name as the file spells it.
        dtype: A key of :data:`ITEMSIZE`, or the container's own word for a type we do not convert.
        shape: Its shape as the file means it.
        data: Where the bytes are.
        order: ``"C"``, or ``"F"`` when a matrix lies in the file column by column: its bytes are those of the
            transposed matrix in C order (a ``.t()`` view in a torch file, a Fortran array in a pickle). A transposition
            that the table asks for and this one cancel out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Data
    order: str = "C"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True)
class Index:
    """What a file holds: its tensors in file order, and the textual metadata the format keeps beside them.

    A name occurs twice only where the format allows it (Keras HDF5 stores shared weights under each layer).

    Attributes:
        tensors: All of them.
        metadata: What else lies beside them: name → text.
        nested: Prefixes of names that are dicts or lists of the file (``"optimizer."``), where a format has them.
        unread: Names of metadata that are tensors or arrays of a kind that is not read.
    """

    tensors: tuple[StoredTensor, ...]
    metadata: dict[str, str]
    nested: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True)
class NewTensor:
    """One tensor that a writer is asked to lay out.

    Attributes:
        name: Its name as the file is to spell it.
        dtype: A key of :data:`ITEMSIZE`.
        shape: Its shape as the file is to mean it, C order.
        alias_of: Name of another tensor of the same file whose bytes this one shares (a tied weight): a container that
            can refer to one payload twice does so, and no byte is stored for it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    alias_of: str | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Fragment:
    """Bytes of a file that are not payload: headers, opcodes, padding, tables."""

    filename: str
    offset: int
    content: bytes


@dataclass(frozen=True)
class Slot:
    """Where one tensor's payload goes."""

    filename: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class FileLayout:
    """A file (or the files of one checkpoint) laid out before a byte moves.

    The engine calls :meth:`create` once, writes every payload into its slot, and then writes the fragments: a file
    whose writing was cut short lacks its header or directory and is refused by every loader.

    Attributes:
        sizes: File name → exact size in bytes.
        slots: Name of each stored (not aliased) tensor → where its payload goes.
        fragments: Gives everything that is not payload, what loaders look at first as the last, from the checksum of
            each payload by tensor name.
        checksum: ``"crc32"``, ``"crc32c"``, or None: which checksum ``fragments`` wants.
    """

    sizes: Mapping[str, int]
    slots: Mapping[str, Slot]
    fragments: Callable[[Mapping[str, int]], Sequence[Fragment]]
    checksum: str | None = None

    def create(self, directory: Path) -> None:
        """Create each file empty at its final size under ``directory`` (sparse; the blocks come with the payloads)."""
        for filename, size in self.sizes.items():
            with open(directory / filename, "xb") as file:
                file.truncate(size)
