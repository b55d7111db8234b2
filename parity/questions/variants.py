"""One batch laid out in other ways, none of which may change what its rows give.

Made once by :mod:`..gate` and run by every framework's process like the other cases; :mod:`..conditions.invariances`
compares what came of them. Rows are of several lengths, one with a hole, over the whole vocabulary. Of multiple choice
a row is a question with its options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...converters.table.config import RoFormerConfig
from .cases import LONGEST, Case, Int64, count_options
from .tasks import Task

#: Past this many floating-point operations a row at the limit is computed packed, its real tokens alone.
_MOST_AT_THE_LIMIT = 20e9
_WIDTH, _WIDER = 13, 7
_NOBODY = -1


@dataclass(frozen=True)
class Variant:
    """One layout.

    Attributes:
        invariance: What is done to the batch; several variants may show one.
        case: What is run.
        against: Name of the case that has the same rows as they were.
        rows: For each row of ``case`` the row there that it must give the same as, or -1 where there is none.
        real: (B, T) or (B, options, T), nonzero at the real tokens of ``against``.
        shift: Columns by which every row stands farther right.
        padding: Whether the padding is another, which a mean over all positions or the last of them would see.
        scored: For each of ``case.positions`` its place among the positions of ``against``.
        scored_rows: For each of them, its row there.
    """

    invariance: str
    case: Case
    against: str
    rows: tuple[int, ...]
    real: Int64
    shift: int = 0
    padding: bool = False
    scored: tuple[int, ...] = ()
    scored_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Variants:
    """All of them.

    Attributes:
        cases: What is to be run, each once.
        variants: What is to be compared.
    """

    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]


NO_VARIANTS = Variants((), ())


def make_variants(config: RoFormerConfig, task: Task, longest: int = LONGEST) -> Variants:
    """Lay one batch out in every way.

    Args:
        config: Sizes and limits.
        task: What the class computes.
        longest: Tokens of a row at the limit, where the configuration allows more.
    """
    random = np.random.Generator(np.random.PCG64(6))
    width = min(_WIDTH, config.max_position_embeddings)
    rows = _Rows.draw(random, config, task, width)
    found = [*_in_batches(rows, random, config, task), *_at_the_limit(rows, config, task, longest)]
    untyped = replace(rows, types=None, name="rows of type 0")
    zeros = replace(rows, types=np.zeros_like(rows.ids))
    base, other = rows.as_case(task), untyped.as_case(task)
    found.append(zeros.laid_out("token types left out", other.name, task, range(len(rows.ids))))
    return Variants((base, other, *(variant.case for variant in found)), tuple(found))


@dataclass(frozen=True)
class _Rows:
    """A batch whose rows' results are known by their place: (B, T), or (B, options, T)."""

    ids: Int64
    types: Int64 | None
    mask: Int64
    scored: tuple[tuple[int, int], ...]  # row and column of real tokens, at which words are scored
    name: str = "rows"

    @classmethod
    def draw(cls, random: np.random.Generator, config: RoFormerConfig, task: Task, width: int) -> _Rows:
        options = (count_options(config),) if task.head == "options" else ()
        shape = (4, *options, width)
        lengths = np.array([width, max(1, width - 4), 1, max(1, width // 2 + 2)])
        mask = np.zeros(shape, np.int64)
        for row, length in enumerate(lengths):
            mask[row, ..., :length] = 1
        if lengths[3] > 2:
            mask[3, ..., lengths[3] // 2] = 0  # a hole
        ids = random.integers(0, config.vocab_size, shape)
        types = random.integers(0, config.type_vocab_size, shape)
        real = np.argwhere(mask.reshape(-1, width))
        chosen = real[np.linspace(0, len(real) - 1, min(24, len(real))).astype(int)]
        return cls(ids, types, mask, tuple((int(row), int(column)) for row, column in chosen))

    def as_case(self, task: Task) -> Case:
        width = self.ids.shape[-1]
        positions = np.array([row * width + column for row, column in self.scored], np.int64) if task.mlm else None
        return Case(self.name, self.ids, self.types, self.mask, positions, taps=False)

    def laid_out(
        self,
        invariance: str,
        against: str,
        task: Task,
        rows: Sequence[int],
        change: Callable[[Int64, str], Int64] = lambda array, what: array,
        *,
        number: int = 0,
        shift: int = 0,
        padding: bool = False,
        packed: bool = False,
    ) -> Variant:
        """Take ``rows`` of the batch, change each array, and note where everything went."""
        taken = np.array([max(row, 0) for row in rows])
        nobody = np.array([row == _NOBODY for row in rows])
        ids, mask = change(self.ids[taken], "ids"), change(self.mask[taken], "mask").copy()
        mask[nobody] = 0
        types = None if self.types is None else change(self.types[taken], "types")
        width = ids.shape[-1]
        scored = [
            (place * width + column + shift, there, row)
            for place, row in enumerate(rows)
            for there, (its, column) in enumerate(self.scored)
            if its == row
        ]
        positions, there, its_rows = zip(*scored, strict=True) if scored else ((), (), ())
        case = Case(
            f"{invariance} {number}",
            ids,
            types,
            mask,
            np.array(positions) if task.mlm else None,
            taps=False,
            packed=packed,
        )
        return Variant(invariance, case, against, tuple(rows), self.mask, shift, padding, there, its_rows)


def _in_batches(rows: _Rows, random: np.random.Generator, config: RoFormerConfig, task: Task) -> Iterator[Variant]:
    """Lay the rows out beside one another in every way."""
    count, width = len(rows.ids), rows.ids.shape[-1]
    everyone = range(count)
    counts_padding = pools_padding(config, task)
    yield rows.laid_out("in another order", rows.name, task, [*reversed(everyone), 0])
    for row in everyone:
        length = width if counts_padding else int(np.flatnonzero(rows.mask[row].reshape(-1, width).any(0))[-1]) + 1

        def cut(array: Int64, what: str, length: int = length) -> Int64:
            return array[..., :length]

        yield rows.laid_out("alone, without padding", rows.name, task, [row], cut, number=row)
    wider = min(width + _WIDER, config.max_position_embeddings) - width
    other = random.integers(0, config.vocab_size, (*rows.ids.shape[:-1], width + wider))

    def pad(array: Int64, what: str) -> Int64:
        array = np.concatenate([array, np.zeros_like(other[..., :wider])], -1)
        if what != "ids":
            return array
        real = np.concatenate([rows.mask, np.zeros_like(other[..., :wider])], -1)
        return np.where(real, array, other)

    yield rows.laid_out("padded otherwise", rows.name, task, everyone, pad, padding=True)
    yield rows.laid_out("beside a row without a real token", rows.name, task, [0, _NOBODY, *everyone[1:]])
    if not counts_padding:
        yield rows.laid_out("packed", rows.name, task, [*everyone[:2], _NOBODY, *everyone[2:]], packed=True)


def _at_the_limit(rows: _Rows, config: RoFormerConfig, task: Task, longest: int) -> Iterator[Variant]:
    """Lay one row out in the longest batch there may be: at its beginning, and where positions allow it at its end."""
    width, limit = rows.ids.shape[-1], min(config.max_position_embeddings, longest)
    more = limit - width
    if more <= 0:
        return
    hidden = config.hidden_size
    products = 2 * hidden * (4 * hidden + 2 * config.intermediate_size) + 4 * limit * hidden
    packed = rows.ids[0].size // width * limit * config.num_hidden_layers * products > _MOST_AT_THE_LIMIT
    if packed and pools_padding(config, task):
        return

    def at_the_beginning(array: Int64, what: str) -> Int64:
        return np.concatenate([array, np.zeros((*array.shape[:-1], more), np.int64)], -1)

    def at_the_end(array: Int64, what: str) -> Int64:
        return np.concatenate([np.zeros((*array.shape[:-1], more), np.int64), array], -1)

    yield rows.laid_out(
        f"padded to {limit:,} tokens", rows.name, task, [3], at_the_beginning, padding=True, packed=packed
    )
    if not config.rotary_value:  # queries and keys say how far they are apart, values where they stand
        yield rows.laid_out(
            f"at the end of {limit:,} tokens", rows.name, task, [3], at_the_end, shift=more, padding=True, packed=packed
        )


def pools_padding(config: RoFormerConfig, task: Task) -> bool:
    """Say whether a class looks at padding, as transformers' multiple choice does by ``summary_type``."""
    return task.head == "options" and config.summary_type != "first"
