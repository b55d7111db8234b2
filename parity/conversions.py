"""Convert one checkpoint through every ordered pair of dialects and compare each result bit by bit with the first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..converters.compare import compare
from ..converters.conversion import convert
from ..converters.mapping import DIALECTS
from ..converters.opening import open_checkpoint


@dataclass(frozen=True)
class Direction:
    """One conversion and what came of it.

    Attributes:
        source: Dialect converted from (first made from the checkpoint itself).
        target: Dialect converted to.
        tensors: Number of tensors compared.
        turned: Kernels transposed on the way.
        nbytes: Bytes of payload.
        different: Canonical names whose bits differ from the checkpoint's, and configuration fields.
        seconds: Wall time of the conversion.
    """

    source: str
    target: str
    tensors: int
    turned: int
    nbytes: int
    different: tuple[str, ...]
    seconds: float


def every_direction(checkpoint: Path) -> Iterator[Direction]:
    """Convert ``checkpoint`` into each dialect, each of those into every other, and hold all against it.

    Raises:
        ConvertError: A conversion failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        for source in DIALECTS:
            start = Path(directory) / source
            convert(checkpoint, start, to=source)
            for target in DIALECTS:
                if target != source:
                    yield _direction(checkpoint, start, source, target, Path(directory) / f"{source}2{target}")


def _direction(checkpoint: Path, start: Path, source: str, target: str, out: Path) -> Direction:
    began = time.perf_counter()
    report = convert(start, out, to=target)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    with open_checkpoint(checkpoint) as first, open_checkpoint(out) as second:
        comparison = compare(first, second)
    different = [tensor.name for tensor in comparison.tensors if tensor.verdict != "equal"]
    return Direction(
        source=source,
        target=target,
        tensors=len(comparison.tensors),
        turned=sum(step.turn for step in report.plan.steps if step.new.alias_of is None),
        nbytes=report.plan.nbytes,
        different=(*different, *comparison.config),
        seconds=seconds,
    )
