"""Tables as the commands, the parity run and the benchmarks print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .plan import Plan


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Align rows under a head; columns in ``right`` are numbers."""
    rows = [[printable(cell) for cell in row] for row in rows]  # tensors are named by strangers
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def plan_table(plan: Plan) -> str:
    """Print every tensor of a plan: where it goes, where it comes from, whether it is turned, its bytes."""
    rows = []
    for file in plan.files:
        for step in file.steps:
            how = "turned" if step.turn else "copied"
            if step.casts:
                how += f", cast from {step.held.stored.dtype}"
            if step.new.alias_of is not None:
                how = f"second name of {step.new.alias_of}"
            stored = 0 if step.new.alias_of is not None else step.new.nbytes
            shape = " × ".join(map(str, step.new.shape))
            row = [step.new.name, step.held.stored.name, shape, step.new.dtype, how, f"{stored:,}"]
            rows.append([file.filename, *row] if len(plan.files) > 1 else row)
    head = ["target tensor", "from", "shape", "dtype", "how", "bytes"]
    if len(plan.files) > 1:
        head = ["file", *head]
    return table(head, rows, right=[len(head) - 1])
