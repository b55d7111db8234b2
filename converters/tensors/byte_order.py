"""Numbers that lie in a file with their highest byte first, as big-endian machines write them."""

from __future__ import annotations

from dataclasses import dataclass

from .stored import Data, OpenFiles


@dataclass(frozen=True)
class Swapped:
    """Data of which every number's bytes lie in the other order.

    Attributes:
        data: As it lies in the file.
        width: Bytes of a number; of a complex one, of each half.
    """

    data: Data
    width: int

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        """Fill ``out`` as :class:`~.stored.Data` says; a number that it begins or ends inside of is read whole."""
        import numpy as np

        stop = start + len(out)
        first, last = start - start % self.width, stop + -stop % self.width
        whole = bytearray(last - first)
        self.data.read_into(files, first, memoryview(whole))
        numbers = np.frombuffer(whole, np.uint8).reshape(-1, self.width)[:, ::-1]
        out[:] = numbers.tobytes()[start - first : stop - first]
