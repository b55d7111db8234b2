"""The rotary table as a tensor of a plan: a function of the configuration, computed while it is written.

transformers saves it with the weights (``embed_positions``) and reports it as newly initialized where a file lacks it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..source.checkpoint import Binding
from ..table.config import RoFormerConfig
from ..table.mapping import POSITIONS
from ..table.rotary import embed_positions
from ..tensors.stored import OpenFiles, StoredTensor

_ITEM_BYTES = 4
#: Bytes computed at a time.
_PIECE = 1 << 15
#: The longest table that is written, 32 MB at a head size of 128. A number in a small file must not fill a disk.
MOST_POSITIONS = 1 << 16


@dataclass(frozen=True)
class RotaryTable:
    """A table (positions, D) in float32, as transformers computes it before it casts it to the model's type."""

    positions: int
    head_size: int

    @property
    def nbytes(self) -> int:
        return self.positions * self.head_size * _ITEM_BYTES

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        """Fill ``out`` with the table's bytes from ``start``; nothing is read from ``files``."""
        for done in range(0, len(out), _PIECE):
            self._compute(start + done, out[done : done + _PIECE])

    def _compute(self, start: int, out: memoryview) -> None:
        import numpy as np

        row_bytes = self.head_size * _ITEM_BYTES
        first, last = start // row_bytes, -(-(start + len(out)) // row_bytes)
        rows = embed_positions(last - first, self.head_size, first=first).astype("<f4")
        skipped = start - first * row_bytes
        out[:] = rows.reshape(-1).view(np.uint8)[skipped : skipped + len(out)].data


def computed_positions(config: RoFormerConfig) -> Binding:
    """Bind the rotary table to its computation."""
    table = RotaryTable(config.max_position_embeddings, config.head_size)
    shape = (table.positions, table.head_size)
    return Binding(POSITIONS, StoredTensor(POSITIONS.canonical, "float32", shape, table), transposed=False)
