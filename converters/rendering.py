"""Tables as the commands, the parity run and the benchmarks print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Rows that differ in their layer alone are folded where a table would be longer than this.
MANY_ROWS = 100


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Align rows under a head; columns in ``right`` are numbers."""
    rows = [[shown(cell) for cell in row] for row in rows]  # tensors are named by strangers
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
