"""The checksums that containers keep of their payloads: made on the way out, checked before bytes are believed.

TF checkpoints keep a CRC-32C for each tensor and TensorFlow checks it; torch's zip keeps a CRC-32 for each storage and
torch does not look at it. Both are checked here: a damaged download is otherwise a model that is quietly wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ConvertError, FormatError, quoted
from .stored import ChecksummedExtent, Data, OpenFiles, StoredTensor

_CHUNK_BYTES = 1 << 20
_WORDS = {"crc32": "CRC32", "crc32c": "CRC32C"}


def crc32c() -> Callable[..., int]:
    """Import the function of the package of that name, which only TF checkpoints need.

    It takes content, and the checksum of what came before, and returns the checksum of both.

    Raises:
        ConvertError: The package cannot be imported.
    """
    try:
        import crc32c
    except ImportError as error:
        what = f"crc32c, which computes the checksums of TF checkpoints, cannot be imported: {error}"
        raise ConvertError(what, "Install it: python -m pip install crc32c") from None
    return crc32c.crc32c


class Checksum:
    """A running checksum; one of no kind stays 0 and costs nothing."""

    def __init__(self, kind: str | None) -> None:
        self.kind = kind
        self.value = 0
        self._update: Callable[[Any, int], int] | None = None
        if kind == "crc32":
            self._update = zlib.crc32
        elif kind == "crc32c":
            self._update = crc32c()

    def update(self, content: memoryview) -> None:
        """Take in what passes by."""
        if self._update is not None:
            self.value = self._update(content, self.value)


def verify_checksum(files: OpenFiles, tensor: StoredTensor) -> None:
    """Read the payload of ``tensor`` in pieces and compare its checksum with the file's; nothing where it keeps none.

    Raises:
        FormatError: The checksums differ, or the file ends early.
    """
    if isinstance(tensor.data, ChecksummedExtent):
        _require(tensor.data, _checksum(files, tensor.data), f"tensor {quoted(tensor.name)}")


def _checksum(files: OpenFiles, extent: ChecksummedExtent) -> Checksum:
    """Read an extent in pieces and take its checksum."""
    scratch = memoryview(bytearray(min(_CHUNK_BYTES, extent.nbytes)))
    checksum = Checksum(extent.kind)
    for start in range(0, extent.nbytes, _CHUNK_BYTES):
        piece = scratch[: extent.nbytes - start]
        extent.read_into(files, start, piece)
        checksum.update(piece)
    return checksum


def running(tensor: StoredTensor) -> Checksum:
    """Begin the checksum that the file keeps of ``tensor``; one of no kind where it keeps none."""
    return Checksum(tensor.data.kind if isinstance(tensor.data, ChecksummedExtent) else None)


def require(tensor: StoredTensor, checksum: Checksum) -> None:
    """Compare the checksum of a whole payload with the one that the file keeps, if it keeps one.

    Raises:
        FormatError: They differ.
    """
    if isinstance(tensor.data, ChecksummedExtent):
        _require(tensor.data, checksum, f"tensor {quoted(tensor.name)}")


def _require(extent: ChecksummedExtent, checksum: Checksum, what: str) -> None:
    if checksum.value != extent.checksum:
        raise FormatError(
            extent.path,
            f"{what} has the wrong {_WORDS[extent.kind]}: got {checksum.value:08x}, wanted {extent.checksum:08x}",
            offset=extent.offset,
            next_step="The file is damaged: fetch it again.",
        )


@dataclass(frozen=True)
class CheckedPart:
    """Data that lies in a larger run of bytes, of which as a whole the file keeps a checksum.

    The whole is read and checked before the first byte is given, once for each :class:`OpenFiles`.

    Attributes:
        part: The data.
        whole: The run of bytes.
        owner: What the whole is called, for the message.
    """

    part: Data
    whole: ChecksummedExtent
    owner: str

    @property
    def nbytes(self) -> int:
        return self.part.nbytes

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        """Fill ``out`` as the part itself does.

        Raises:
            FormatError: The whole has another checksum, or the file ends early.
        """
        if self.whole not in files.checked:
            _require(self.whole, _checksum(files, self.whole), self.owner)
            files.checked.add(self.whole)
        self.part.read_into(files, start, out)
