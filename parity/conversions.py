"""Convert one checkpoint through every ordered pair of dialects and compare each result bit by bit with the first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..converters.compare import compare
from ..converters.conversion import ConvertOptions, convert
from ..converters.rendering import table
from ..converters.source.checkpoint import Checkpoint
from ..converters.source.opening import open_checkpoint
from ..converters.table.mapping import DIALECTS


@dataclass(frozen=True)
class Direction:
    """One conversion and what came of it.

    Attributes:
        source: Dialect converted from (first made from the checkpoint itself).
        target: Dialect converted to.
        tensors: Number of tensors compared.
        transposed: Kernels transposed on the way.
        nbytes: Bytes of payload.
        different: Canonical names whose bits differ from the checkpoint's, and configuration fields.
        seconds: Wall time of the conversion.
    """

    source: str
    target: str
    tensors: int
    transposed: int
    nbytes: int
    different: tuple[str, ...]
    seconds: float


def every_direction(
    checkpoint: Path, *, set: Mapping[str, Any] | None = None, model_class: str | None = None
) -> Iterator[Direction]:
    """Convert ``checkpoint`` into each dialect, each of those into every other, and hold all against it.

    What the target's own software would make of the model is not asked: every trait is in the files, where it is read
    back.

    Args:
        checkpoint: A directory or file.
        set: Field of the configuration → value, whatever its file says.
        model_class: The class, where the files do not say it.

    Raises:
        ConvertError: A conversion failed.
    """
    stated = ConvertOptions(set=set, model_class=model_class, allow_different=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        open_checkpoint(checkpoint, set=set, model_class=model_class) as first,
    ):
        for source in DIALECTS:
            start = Path(directory) / source
            convert(checkpoint, start, to=source, options=stated)
            for target in DIALECTS:
                if target != source:
                    yield _direction(first, start, source, target, Path(directory) / f"{source}2{target}")


def _direction(first: Checkpoint, start: Path, source: str, target: str, out: Path) -> Direction:
    began = time.perf_counter()
    report = convert(start, out, to=target, options=ConvertOptions(allow_different=True))  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    with open_checkpoint(out) as second:
        comparison = compare(first, second)
    different = [tensor.name for tensor in comparison.tensors if tensor.verdict != "equal"]
    return Direction(
        source=source,
        target=target,
        tensors=len(comparison.tensors),
        transposed=sum(step.transpose for step in report.plan.steps if step.new.alias_of is None),
        nbytes=report.plan.nbytes,
        different=(*different, *comparison.config),
        seconds=seconds,
    )


def report(checkpoint: Path, directions: Sequence[Direction]) -> str:
    """Lay the conversions out as a table, with one sentence of what came of them all."""
    rows = [
        [
            f"{one.source} → {one.target}",
            str(one.tensors),
            str(one.transposed),
            f"{one.nbytes:,}",
            "DIFFER: " + ", ".join(one.different) if one.different else "every bit equal",
            f"{one.seconds:.2f}",
        ]
        for one in directions
    ]
    head = ["direction", "tensors", "transposed", "bytes", "against the source", "s"]
    wrong = sum(bool(one.different) for one in directions)
    if wrong:
        said = f"{checkpoint}: {wrong} of {len(directions)} directions changed something"
    else:
        said = f"{checkpoint}: {len(directions)} directions, every tensor equal bit for bit"
    return f"{table(head, rows, right=[1, 2, 3, 5])}\n{said}"
