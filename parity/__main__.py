"""``make parity``: the shipped fixture through every conversion, then through the three frameworks.

Two parts, each with its time: every ordered pair of dialects converted and compared bit by bit
(:mod:`.conversions`), and the gate (:mod:`.gate`) against the committed golden. ``--bits`` stops after the first, which
needs no framework.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..converters.errors import ConvertError
from ..converters.rendering import table
from .conversions import every_direction

_FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
FIXTURE = _FIXTURES / "tiny"
GOLDEN = _FIXTURES / "tiny.golden.npz"


def main() -> int:
    """Run both parts; 0 where all agrees, 1 where something differs, 2 where it could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m roformer_convert.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, default=FIXTURE)
    parser.add_argument("--bits", action="store_true", help="the conversions alone, which need no framework")
    parser.add_argument("--golden", type=Path, help="a recorded run to compare with")
    parser.add_argument("--report", type=Path, help="an HTML file to write")
    chosen = parser.parse_args()
    golden = chosen.golden
    if golden is None and chosen.checkpoint == FIXTURE and GOLDEN.exists():
        golden = GOLDEN
    try:
        status = convert_every_way(chosen.checkpoint)
        return status if chosen.bits else max(status, run_frameworks(chosen.checkpoint, golden, chosen.report))
    except ConvertError as error:
        print(f"parity: {error}", file=sys.stderr)
        return error.exit_status


def convert_every_way(checkpoint: Path) -> int:
    """Print one line for each direction; 0 where all bits agree, 1 where some differ."""
    began = time.perf_counter()
    directions = list(every_direction(checkpoint))
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
        print(f"{len(wrong)} of {len(directions)} directions changed something ({took})\n")
        return 1
    print(f"{checkpoint}: {len(directions)} directions, every tensor equal bit for bit ({took})\n", flush=True)
    return 0


def run_frameworks(checkpoint: Path, golden: Path | None, report: Path | None) -> int:
    """Run the gate and print its screen; 0 where the frameworks agree, 1 where they differ."""
    from .gate import run
    from .golden import compare_golden, read_golden
    from .screen import screen

    recorded = None if golden is None else read_golden(golden)
    began = time.perf_counter()
    with run([checkpoint]) as result:
        if recorded is not None:
            result.verdicts += compare_golden(recorded, result)
        print(screen(result))
        if report is not None:
            from .report import write_report

            write_report(report, result)
            print(f"report: {report}")
    print(f"the frameworks' part took {time.perf_counter() - began:.1f} s")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
