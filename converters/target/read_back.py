"""Compare what is made with what it is made of, bit by bit: after each transposition, and after each writing.

Nothing is transposed for it: elements are compared where they lie, so that a fault in transposing cannot hide itself.
And nothing is fetched again from afar: what is compared was touched a moment ago.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConvertError
from ..tensors.stored import OpenFiles, Slot
from .plan import Step

# numpy takes a tenth of a conversion's time to import: when there is work for it
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Written:
    """Where a tensor's bytes were put, and their checksum where the container keeps one."""

    path: Path
    slot: Slot
    step: Step
    checksum: int


class ReadBack:
    """Reads what was just written and compares it; holds files and room for that until it is closed."""

    def __init__(self) -> None:
        self._files = OpenFiles()
        self._room: NDArray[np.uint8] | None = None
        self._answer: NDArray[np.bool_] | None = None

    def transposed(self, step: Step, source: NDArray[Any], target: NDArray[Any]) -> None:
        """Compare a part of the source with what became of it; both as the target has its axes.

        Raises:
            ConvertError: The bits differ.
        """
        if not self._same(source, target):
            raise _differ(step, "was transposed into")

    def written(self, written: Written, start: int, content: NDArray[Any]) -> None:
        """Read ``content`` back, which was written ``start`` bytes into its tensor, and compare.

        Raises:
            ConvertError: The bits differ.
            FormatError: The file ends early or cannot be read.
        """
        import numpy as np

        if self._room is None or len(self._room) < content.nbytes:
            self._room = np.empty(content.nbytes, np.uint8)
        found = self._room[: content.nbytes]
        self._files.read_into(written.path, written.slot.offset + start, found.data)
        if not self._same(content, found.view(content.dtype)):
            raise _differ(written.step, "was read back with")

    def _same(self, left: NDArray[Any], right: NDArray[Any]) -> bool:
        """Compare two arrays of one shape without fresh memory for the answer."""
        import numpy as np

        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        if self._answer is None or self._answer.size < left.size:
            self._answer = np.empty(left.size, np.bool_)
        answer = self._answer[: left.size].reshape(left.shape)
        np.equal(left, right, out=answer)
        return bool(answer.all())

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _differ(step: Step, how: str) -> ConvertError:
    origin = "what was computed" if step.computed else f"those of {step.binding.stored.name} in the source"
    return ConvertError(
        f"{step.new.name} {how} bits that differ from {origin}",
        "Nothing was kept. The disk or the memory may be failing: try another disk, and report it if it stays.",
    )


def as_target(bits: NDArray[Any], step: Step) -> NDArray[Any]:
    """Bit patterns of the source → those that the target must hold.

    Raises:
        ConvertError: A value overflows in the target's type.
    """
    if not step.casts:
        return bits
    from ..tensors.dtypes import cast, numpy_dtype

    stored = step.binding.stored
    values = cast(bits.view(numpy_dtype(stored.dtype)), stored.dtype, step.new.dtype, name=stored.name)
    return values.view(f"u{values.itemsize}")
