"""``make parity``: convert the shipped fixture through every direction, compare bit by bit, print a table."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..converters.errors import ConvertError
from ..converters.rendering import table
from .conversions import every_direction

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"


def main() -> int:
    """Print one line for each direction; 0 where all bits agree, 1 where some differ, 2 where it could not run."""
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURE
    began = time.perf_counter()
    try:
        directions = list(every_direction(checkpoint))
    except ConvertError as error:
        print(f"parity: {error}", file=sys.stderr)
        return error.exit_status
    rows = [
        [
            f"{one.source} → {one.target}",
            str(one.tensors),
            str(one.turned),
            f"{one.nbytes:,}",
            "DIFFER: " + ", ".join(one.different) if one.different else "every bit equal",
            f"{one.seconds:.2f}",
        ]
        for one in directions
    ]
    print(table(["direction", "tensors", "turned", "bytes", "against the source", "s"], rows, right=[1, 2, 3, 5]))
    wrong = [one for one in directions if one.different]
    took = f"{time.perf_counter() - began:.1f} s"
    if wrong:
        print(f"{len(wrong)} of {len(directions)} directions changed something ({took})")
        return 1
    print(f"{checkpoint}: {len(directions)} directions, every tensor equal bit for bit ({took})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
