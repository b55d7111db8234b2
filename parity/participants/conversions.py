"""Convert one checkpoint through every ordered pair of dialects and compare each result bit by bit with the first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...converters.compare import compare
from ...converters.containers.registry import containers_of
from ...converters.conversion import ConvertOptions, convert
from ...converters.errors import InexpressibleError
from ...converters.rendering import table
from ...converters.source.checkpoint import Checkpoint
from ...converters.source.opening import open_checkpoint
from ...converters.source.stated import Stated
from ...converters.table.mapping import DIALECTS, Dialect

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        impossible: Why the target cannot hold this model, from whichever dialect; empty where it can.
    """

    source: str
    target: str
    tensors: int
    transposed: int
    nbytes: int
    different: tuple[str, ...]
    seconds: float
    impossible: str = ""


def every_direction(checkpoint: Path, **stated: Unpack[Stated]) -> Iterator[Direction]:
    """Convert ``checkpoint`` into each dialect, each of those into every other, and hold all against it.

    What the target's own software would make of the model is not asked: every trait is in the files, where it is read
    back.

    Args:
        checkpoint: A directory or file.
        **stated: What is so of it, whatever its files say.

    Raises:
        ConvertError: A conversion failed.
    """
    options = ConvertOptions(**stated, allow_different=True)
    with tempfile.TemporaryDirectory() as directory, open_checkpoint(checkpoint, **stated) as first:
        starts: dict[Dialect, Path] = {}
        for dialect in DIALECTS:
            lacking = tell_lacking(first, dialect)
            if lacking:
                yield Direction("any", dialect, 0, 0, 0, (), 0.0, lacking)
                continue
            try:
                convert(checkpoint, Path(directory) / dialect, to=dialect, options=options)
                starts[dialect] = Path(directory) / dialect
            except InexpressibleError as error:  # no name for a head: not a difference, and not to be passed over
                why = error.what.removeprefix(f"{checkpoint}: ")
                yield Direction("any", dialect, 0, 0, 0, (), 0.0, why)
        for source, start in starts.items():
            for target in starts:
                if target != source:
                    yield _direction(first, start, source, target, Path(directory) / f"{source}2{target}")


def tell_lacking(checkpoint: Checkpoint, dialect: Dialect) -> str:
    """Say which type of a checkpoint's the container of a dialect cannot hold; empty where it can hold them all."""
    container = containers_of(dialect)[0]
    lacking = sorted(set(checkpoint.dtypes()).difference(container.dtypes))
    return f"{container.title} has no {' or '.join(lacking)}" if lacking else ""


def _direction(first: Checkpoint, start: Path, source: Dialect, target: Dialect, out: Path) -> Direction:
    began = time.perf_counter()
    report = convert(start, out, to=target, options=ConvertOptions(allow_different=True))
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
    made = [one for one in directions if not one.impossible]
    rows = [
        [
            f"{one.source} → {one.target}",
            str(one.tensors),
            str(one.transposed),
            f"{one.nbytes:,}",
            "DIFFER: " + ", ".join(one.different) if one.different else "every bit equal",
            f"{one.seconds:.2f}",
        ]
        for one in made
    ]
    head = ["direction", "tensors", "transposed", "bytes", "against the source", "s"]
    wrong = sum(bool(one.different) for one in made)
    if wrong:
        said = f"{checkpoint}: {wrong} of {len(made)} directions changed something"
    else:
        said = f"{checkpoint}: {len(made)} directions, every tensor equal bit for bit"
    left_out = [f"note: not converted to {one.target}: {one.impossible}" for one in directions if one.impossible]
    return "\n".join([table(head, rows, right=[1, 2, 3, 5]), *left_out, said])
