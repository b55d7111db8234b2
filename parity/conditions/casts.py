"""A conversion that cast: judged at what its cast explains.

Of two directories the first is the source. Where the second stores a tensor in a type that cannot hold the source's,
the source is compared as that type leaves it: its values are rounded here, by :mod:`..participants.rounding` and not
the converter's code, into a copy that takes its place. After that every value must be equal and every bound holds as
ever. How far the cast moves the results is told, and no verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters import open_checkpoint, save_checkpoint
from ...converters.source.checkpoint import Checkpoint
from ..judging.rankings import asked, questions_of
from ..participants.dumps import Distance, Dump, distance, farthest
from ..participants.rounding import holds, round_to
from ..questions.cases import Case
from ..questions.tasks import Task, results

Array = NDArray[Any]


@dataclass(frozen=True)
class Cast:
    """What was cast.

    Attributes:
        source: The source, as the person called it.
        target: What it was converted to.
        types: How, e.g. ``float32 to float16``.
        original: What is loaded as the source.
        rounded: The copy that is compared in its place; None where every value must be equal without: a wider type.
    """

    source: Path
    target: Path
    types: str
    original: Path
    rounded: Path | None

    def __str__(self) -> str:
        said = f"{self.target} is {self.source} cast from {self.types}"
        if self.rounded is None:
            return f"{said}: a wider type, so every value must be equal (of a cast the source is named first)"
        return f"{said}: compared with the source's values, rounded so"


def find_cast(loaded: Sequence[Path], names: Sequence[Path], scratch: Path) -> Cast | None:
    """Say how the second of two directories was cast; None where it was not, or there are not two.

    Args:
        loaded: What is loaded.
        names: What the person called each.
        scratch: Where a rounded copy of the first goes.

    Raises:
        ConvertError: A directory is no checkpoint.
    """
    if len(loaded) != 2:
        return None
    with open_checkpoint(loaded[0]) as source, open_checkpoint(loaded[1]) as target:
        pairs = {name: (source.dtype(name), target.dtype(name)) for name in source if name in target}
        changed = Counter(pair for pair in pairs.values() if pair[0] != pair[1])
        if not changed:
            return None
        types = ", ".join(f"{one} to {other}" for (one, other), _ in changed.most_common())
        cast = Cast(names[0], names[1], types, loaded[0], None)
        narrowed = {name: other for name, (one, other) in pairs.items() if not holds(other, one)}
        if not narrowed:
            return cast
        copy = scratch / "rounded"
        tensors = dict(_rounded(source, narrowed))
        kinds = {name: source.dtype(name) for name in source}
        save_checkpoint(
            copy, tensors, source.config, dialect=source.dialect, kind=source.kind, dtypes=kinds, allow_different=True
        )
        return replace(cast, rounded=copy)


def _rounded(source: Checkpoint, types: dict[str, str]) -> Iterator[tuple[str, Array]]:
    """Yield every tensor in its own type, holding what another leaves of it."""
    for name in source:
        array = source.read(name)
        if name in types:
            values = round_to(source.read(name, "float64"), types[name])
            if source.dtype(name) == "bfloat16":
                array = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            else:
                array = values.astype(array.dtype)
        yield name, array


def tell_moved(dump: Dump, cases: Sequence[Case], scales: Mapping[str, Array], task: Task) -> list[str]:
    """Say how far a cast moves each result, the farthest element over what its channel is held against, and which
    answers it changes.
    """
    found: dict[str, list[tuple[str, Distance]]] = {}
    for case in cases:
        with dump.opened(f"before cast.{case.name}") as before, dump.opened(f"float64.{case.name}") as after:
            for name in results(before):
                found.setdefault(name, []).append((case.name, distance(before[name], after[name], scales[name])))
    lines = []
    for name, listed in found.items():
        case_name, apart = farthest(listed, lambda one: one.relative)
        called = "the last hidden states" if name.endswith("feed_forward_norm") else name
        lines.append(f"the cast moves {called} by up to {apart.relative:.1e} of their spread, most in {case_name}")
    return [*lines, *_tell_answers(dump, cases, task)]


def _tell_answers(dump: Dump, cases: Sequence[Case], task: Task) -> list[str]:
    """Say at how many places the best answer is another after a cast; nothing where nothing is asked."""
    name = "logits" if task.mlm else "classifier"
    changed = places = 0
    for case in cases:
        with dump.opened(f"before cast.{case.name}") as before, dump.opened(f"float64.{case.name}") as after:
            if name in before:
                first, second = (questions_of(taps[name], case, task)[1] for taps in (before, after))
                places += len(first)
                changed += int((first.argmax(-1) != second.argmax(-1)).sum()) if len(first) else 0
    return [f"the cast changes the best of the {asked(task)} at {changed} of {places} places"] if places else []
