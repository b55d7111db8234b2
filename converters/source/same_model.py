"""Several weight files in one directory: of one model, tensor by tensor through the table, or where they are not.

A directory of a hub often has ``model.safetensors``, ``pytorch_model.bin`` and ``tf_model.h5`` of one model. Which of
them is read makes no difference where they are equal; nobody but a person can say which is meant where they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..table.mapping import Dialect, ModelClass, Table, Tensor, Traits
from ..tensors.stored import OpenFiles, StoredTensor


@dataclass(frozen=True)
class Side:
    """One of the files, as far as a comparison goes.

    Attributes:
        entry: The file.
        dialect: Whose names its tensors have.
        base: Whether these lack the outer prefix.
        tensors: What it holds.
    """

    entry: Path
    dialect: Dialect
    base: bool
    tensors: Sequence[StoredTensor]

    def rows(self, table: Table) -> dict[str, tuple[Tensor, StoredTensor]]:
        """Return canonical name → row and tensor, of the names that are a row's."""
        by_name = {tensor.name: tensor for tensor in reversed(self.tensors)}
        found = {
            row.canonical: (row, by_name[name])
            for name, row in table.by_name(self.dialect, base=self.base).items()
            if name in by_name
        }
        for tie in table.ties:  # a vector may be there under its second name alone
            second = by_name.get(tie.spelling.in_(self.dialect) or "")
            if tie.written == "copy" and second is not None:
                found.setdefault(tie.of, (table.by_canonical[tie.of], second))
        return found


def first_difference(
    one: Side, other: Side, kind: ModelClass, traits: Traits, layers: int, *, whole: bool = True
) -> str | None:
    """Say in which tensor two files of a model first differ, and how; None where in none.

    Args:
        one: The file that is taken.
        other: Another.
        kind: The model's class.
        traits: Of its encoder.
        layers: How many there are in either.
        whole: Whether all of ``one`` is meant, so that a tensor of ``other`` alone is a difference.

    Raises:
        FormatError: A file cannot be read.
    """
    table = Table(layers, kind, traits)
    mine, theirs = one.rows(table), other.rows(table)
    with OpenFiles() as files:
        for name in table.by_canonical:
            if name not in mine and (name not in theirs or not whole):
                continue
            if name not in mine or name not in theirs:
                here, away = (other, one) if name not in mine else (one, other)
                stored = (theirs if name not in mine else mine)[name][1]
                return f"{stored.name} is in {here.entry.name} and not in {away.entry.name}"
            said = _difference(files, mine[name], theirs[name], one, other)
            if said is not None:
                return f"{theirs[name][1].name} differs from {mine[name][1].name} of {one.entry.name}: {said}"
    return None


def _difference(
    files: OpenFiles,
    mine: tuple[Tensor, StoredTensor],
    theirs: tuple[Tensor, StoredTensor],
    one: Side,
    other: Side,
) -> str | None:
    import numpy as np

    from ..tensors.blocks import Scratch, blocks, together

    (row, left), (_, right) = mine, theirs
    turned = row.transposed(one.dialect), row.transposed(other.dialect)
    shapes = left.shape[:: -1 if turned[0] else 1], right.shape[:: -1 if turned[1] else 1]
    if shapes[0] != shapes[1]:
        return f"shape {shapes[1]} instead of {shapes[0]}"
    if left.dtype != right.dtype:
        return f"{right.dtype} instead of {left.dtype}"
    streams = (
        blocks(
            files,
            stored,
            transpose=(turn != (stored.order == "F")) and len(stored.shape) == 2,
            scratch=Scratch(),
        )
        for stored, turn in ((left, turned[0]), (right, turned[1]))
    )
    start = 0
    for mine_bits, their_bits in together(*streams):
        wrong = (mine_bits != their_bits).nonzero()[0]
        if len(wrong):
            place = np.unravel_index(start + int(wrong[0]), shapes[0])
            return f"first at element {tuple(map(int, place))}"
        start += len(mine_bits)
    return None
