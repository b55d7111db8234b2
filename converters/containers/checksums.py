"""The checksums that containers keep of their payloads: made on the way out, checked before bytes are believed.

TF checkpoints keep a CRC-32C for each tensor and TensorFlow checks it; torch's zip keeps a CRC-32 for each storage and
torch does not look at it. Both are checked here: a damaged download is otherwise a model that is quietly wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from ..errors import ConvertError, FormatError
from .stored import ChecksummedExtent, OpenFiles, StoredTensor

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
        what = f"crc32c, which takes the checksums of TF checkpoints, cannot be imported: {error}"
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
    data = tensor.data
    if not isinstance(data, ChecksummedExtent):
        return
    scratch = memoryview(bytearray(min(_CHUNK_BYTES, data.nbytes)))
    checksum = running(tensor)
    for start in range(0, data.nbytes, _CHUNK_BYTES):
        piece = scratch[: min(_CHUNK_BYTES, data.nbytes - start)]
        data.read_into(files, start, piece)
        checksum.update(piece)
    require(tensor, checksum)


def running(tensor: StoredTensor) -> Checksum:
    """Begin the checksum that the file keeps of ``tensor``; one of no kind where it keeps none."""
    return Checksum(tensor.data.kind if isinstance(tensor.data, ChecksummedExtent) else None)


def require(tensor: StoredTensor, checksum: Checksum) -> None:
    """Compare the checksum of a whole payload with the one that the file keeps, if it keeps one.

    Raises:
        FormatError: They differ.
    """
    data = tensor.data
    if isinstance(data, ChecksummedExtent) and checksum.value != data.checksum:
        raise FormatError(
            data.path,
            f"tensor {tensor.name!r:.200} has the wrong {_WORDS[data.kind]}: got {checksum.value:08x}, "
            f"wanted {data.checksum:08x}",
            offset=data.offset,
            next_step="The file is damaged: fetch it again.",
        )
