"""How far a run's data are read: part of every checkpoint, and where a run that goes on takes up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .batches import Origin

#: Digest and weight of each corpus of a run, in their order: what it knows them by, wherever they lie.
Contents = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Position:
    """How far a run's data are read.

    Attributes:
        corpora: Digest of every corpus that the run has read or is about to, in the order in which they came. A
            corpus's place in it is its number, which it keeps when others come and go.
        stage: Stage of the last step that was taken.
        begun: Where in that stage the steps of the batch and the corpora of now begin.
        reached: Where other steps would begin that come next.
    """

    corpora: tuple[str, ...] = ()
    stage: int = 0
    begun: Origin = field(default_factory=Origin)
    reached: Origin = field(default_factory=Origin)

    def with_corpora(self, contents: Contents) -> Position:
        """Give numbers to corpora that are new."""
        known, left = list(self.corpora), list(self.corpora)
        for digest, _ in contents:
            if digest in left:
                left.remove(digest)  # a corpus that is named twice has two numbers
            else:
                known.append(digest)
        return replace(self, corpora=tuple(known))

    def numbers(self, contents: Contents) -> list[int]:
        """Give the corpora's numbers; every one of them has one."""
        numbers: list[int] = []
        for digest, _ in contents:
            same = (number for number, each in enumerate(self.corpora) if each == digest and number not in numbers)
            numbers.append(next(same))
        return numbers

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Position:
        """Make one of what :func:`dataclasses.asdict` gave, with JSON's lists for tuples."""
        begun, reached = (
            Origin(each["step"], each["sample"], tuple(each["taken"])) for each in (tree["begun"], tree["reached"])
        )
        return cls(tuple(tree["corpora"]), tree["stage"], begun, reached)
