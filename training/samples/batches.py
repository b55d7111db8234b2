"""The batches of a training stage, by step: numpy arrays that are a function of settings, seed and step alone.

The stage is an endless row of samples, each epoch in a random order of its own; a step takes the next `batch_size` of
them, or as many as begin within the next `batch_tokens`. Nothing is sorted across steps, so that every step is a random
draw of lengths and kinds of text and its loss estimates the corpus's. Within a step, where order does not matter,
samples stand by length: rank r of R computes those at r, r + R, r + 2R, …, in micro-batches of consecutive ones under a
token budget. Ranks then have equal shares of long samples, and memory is bounded. What a sample holds depends on none
of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from .examples import NO_ORDER, Batch, SamplingOptions, Stretch, make_batch
from .masking import SpecialIds
from .mixture import CorpusSamples, Mixture, each_once
from .sampling import Corpus, MapRecipe
from .splitmix import derive

Int64 = NDArray[np.int64]

__all__ = [
    "NO_ORDER",
    "Batch",
    "Origin",
    "Prefetching",
    "SamplingOptions",
    "SpecialIds",
    "StageData",
]

_PURPOSE_CORPUS, _PURPOSE_SAMPLE = 1, 2

_COUNTED = 1 << 16  # samples that are counted together


@dataclass(frozen=True)
class Origin:
    """Where in a stage's data steps of one batch and one mixture of corpora begin; others may have gone before.

    Attributes:
        step: Step of the stage, counted from 0.
        sample: Number in the stage of that step's first sample; masks and swaps are drawn by it.
        taken: How many samples of each corpus came before, by the corpus's number; none of those past the end.
    """

    step: int = 0
    sample: int = 0
    taken: tuple[int, ...] = ()


class StageData:
    """One stage's data: random access by step, no state.

    Args:
        corpora: Prepared corpora with their weights, above 0; a sample's corpus is drawn in exact proportion.
        length: Longest sample in tokens, special tokens included.
        seed: Seed of the order, the masks, the swaps and the samples' boundaries. Held-out data do not depend on it.
        options: How samples are made.
        special: The vocabulary's special tokens.
        batch_size: Samples of a step over all ranks; on average, where there is a `batch_tokens`.
        batch_tokens: Tokens of a step over all ranks, to within a sample, special tokens counted as in a pair; 0: a
            step is `batch_size` samples, whatever they hold.
        origin: From where on steps take what the other arguments say; those before it are past.
        numbers: Number of each corpus, by which its order and its samples' boundaries are drawn; its place where none
            are given. A run keeps them when corpora come and go.
        held_out: The held-out documents instead of the training ones, with the same masks each time: a fixed random
            order in which each sample comes once. The last step may be a smaller one, and those after it are empty.
        held_out_fraction: Share of documents held out. Which ones is a function of this and their number alone.
        cache: Directory that keeps sample maps for the next start and other ranks; None makes them in memory.

    Raises:
        ConvertError: Values that cannot be, or a corpus without text on this side of the split.
    """

    def __init__(
        self,
        corpora: Sequence[tuple[Corpus, float]],
        *,
        length: int,
        seed: int,
        options: SamplingOptions,
        special: SpecialIds,
        batch_size: int,
        batch_tokens: int = 0,
        origin: Origin = Origin(),
        numbers: Sequence[int] | None = None,
        held_out: bool = False,
        held_out_fraction: float = 0.005,
        cache: Path | None = None,
    ) -> None:
        _check(corpora, length, options, batch_size, held_out_fraction)
        self.length, self.batch_size, self.origin, self.held_out = length, batch_size, origin, held_out
        self._cuts = _Cuts(batch_tokens, origin, self._tokens) if batch_tokens and not held_out else None
        self._options, self._special = options, special
        self._numbers = tuple(range(len(corpora)) if numbers is None else numbers)
        self._taken = np.array([_at(origin.taken, number) for number in self._numbers])
        if held_out:
            seed = 0
        self._sample_key = derive(seed, _PURPOSE_SAMPLE)
        self._sources = [
            CorpusSamples(
                corpus,
                MapRecipe(
                    capacity=length - options.special_tokens,
                    short_sequence_probability=options.short_sequence_probability,
                    pairs=options.sop,
                    key=derive(seed, _PURPOSE_CORPUS, number),
                    held_out=held_out,
                    held_out_fraction=held_out_fraction,
                ),
                cache,
            )
            for number, (corpus, _) in zip(self._numbers, corpora, strict=True)
        ]
        self._epoch = tuple(len(source.map(0)) for source in self._sources)  # samples of each
        self._mixture = Mixture([weight for _, weight in corpora])
        self._once = each_once(self._epoch, self._mixture.shares) if held_out else None

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take as many samples as all corpora together hold, rounded up; all steps of held-out data."""
        return -(-sum(self._epoch) // self.batch_size)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Text tokens of each corpus in an epoch, on this side of the held-out split."""
        return tuple(int(source.map(0)[:, 1].sum()) for source in self._sources)

    @property
    def mean_tokens(self) -> float:
        """Tokens of a sample on average, corpora mixed by their weights and special tokens counted as in a pair."""
        means = [float(source.map(0)[:, 1].mean()) for source in self._sources]
        return float(np.dot(means, self._mixture.shares)) + self._options.special_tokens

    def origin_at(self, step: int) -> Origin:
        """Say where other steps would have to begin that go on after `step` steps."""
        sample = self._first_sample(step)
        taken = [
            _at(self.origin.taken, number) for number in range(max(len(self.origin.taken), 1 + max(self._numbers)))
        ]
        for number, count in zip(self._numbers, self._mixture.counts(sample - self.origin.sample), strict=True):
            taken[number] += int(count)
        return Origin(step, sample, tuple(taken))

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, micro_tokens: int = 0) -> list[Batch]:
        """Make one rank's share of a step, in micro-batches.

        Args:
            step: From 0 within the stage.
            rank: From 0 to ranks - 1.
            ranks: Processes among which the step is divided; any number gives the same samples.
            micro_tokens: Tokens of a micro-batch at most, counted as its samples times its longest one, so that the
                memory of a padded batch is bounded too; a longer sample stands alone. 0: no bound.
        """
        if step < self.origin.step or not 0 <= rank < ranks or micro_tokens < 0:
            raise ValueError(f"no batches for step {step}, rank {rank} of {ranks}, micro-batches of {micro_tokens}")
        numbers, corpora, entries = self._step(step)
        by_length = np.argsort(entries[:, 1], kind="stable")[rank::ranks]
        sizes = entries[by_length, 1] + self._options.special_tokens
        return [
            make_batch(
                [self._stretch(corpora[row], entries[row]) for row in rows],
                numbers[rows],
                self._sample_key,
                special=self._special,
                options=self._options,
            )
            for rows in (by_length[first:end] for first, end in _micro_batches(sizes, micro_tokens))
        ]

    def _first_sample(self, step: int) -> int:
        """Give the number of the sample with which a step begins."""
        if self._cuts is not None:
            return self._cuts.first_sample(step)
        return self.origin.sample + (step - self.origin.step) * self.batch_size

    def _step(self, step: int) -> tuple[Int64, Int64, Int64]:
        """Give the samples of a step: their numbers and corpora, (B,), and their map entries, (B, 2)."""
        numbers = np.arange(self._first_sample(step), self._first_sample(step + 1))
        if self._once is not None:
            numbers = numbers[numbers < len(self._once)]
        return numbers, *self._look_up(numbers)

    def _look_up(self, numbers: Int64) -> tuple[Int64, Int64]:
        """Give the corpora, (n,), and map entries, (n, 2), of samples."""
        if self._once is None:
            corpora, indices = self._mixture.locate(numbers - self.origin.sample)
            indices = indices + self._taken[corpora]
        else:
            corpora, indices = self._once[numbers].T
        entries = np.empty((len(numbers), 2), np.int64)
        for corpus in np.unique(corpora):
            here = corpora == corpus
            entries[here] = self._sources[corpus].entries(indices[here])
        return corpora, entries

    def _tokens(self, numbers: Int64) -> Int64:
        """Give the tokens of samples, (n,), special ones counted as in a pair."""
        return self._look_up(numbers)[1][:, 1] + self._options.special_tokens

    def _stretch(self, corpus: int, entry: Int64) -> Stretch:
        return self._sources[corpus].stretch(entry)


class _Cuts:
    """Where an endless row of samples is cut into steps of equal tokens: a step has the samples that begin in its part.

    Found by counting through, a few million samples a second, and kept.

    Args:
        budget: Tokens of a step.
        origin: The first step, and the sample with which it begins.
        tokens: Gives the tokens of samples by their numbers.
    """

    def __init__(self, budget: int, origin: Origin, tokens: Callable[[Int64], Int64]) -> None:
        self._budget = budget
        self._first_step, self._next_sample = origin.step, origin.sample
        self._tokens = tokens
        self._counted = 0  # tokens before the next sample
        self._samples: list[int] = [self._next_sample]

    def first_sample(self, step: int) -> int:
        """Give the number of the sample with which a step begins."""
        while len(self._samples) <= step - self._first_step:
            numbers = np.arange(self._next_sample, self._next_sample + _COUNTED)
            ends = self._counted + np.cumsum(self._tokens(numbers))
            # the sample before which the tokens reach a step's first one
            targets = np.arange(len(self._samples), int(ends[-1]) // self._budget + 1) * self._budget
            self._samples += (self._next_sample + 1 + np.searchsorted(ends, targets)).tolist()
            self._next_sample, self._counted = self._next_sample + _COUNTED, int(ends[-1])
        return self._samples[step - self._first_step]


def _micro_batches(sizes: Int64, budget: int) -> Iterator[tuple[int, int]]:
    """Cut samples of ascending sizes, in tokens, into runs (first, end) within the budget; 0 is no budget."""
    first = 0
    while first < len(sizes):
        end = len(sizes) if not budget else first + 1
        while end < len(sizes) and (end + 1 - first) * sizes[end] <= budget:
            end += 1
        yield first, end
        first = end


def _at(taken: Sequence[int], number: int) -> int:
    """Give the samples that were taken of a corpus; 0 of one that has come since."""
    return taken[number] if number < len(taken) else 0


def _check(
    corpora: Sequence[tuple[Corpus, float]],
    length: int,
    options: SamplingOptions,
    batch_size: int,
    held_out_fraction: float,
) -> None:
    wrong = []
    if not corpora:
        wrong.append("no corpus is given, want at least one")
    weights = [weight for _, weight in corpora]
    if not all(0 < weight < float("inf") for weight in weights):
        wrong.append(f"the corpora's weights are {weights}, want numbers above 0")
    elif weights and min(weights) * (1 << 16) < sum(weights):
        wrong.append(f"the corpora's weights are {weights}, want none below 1/65536 of their sum")
    if length < options.special_tokens + 2:
        wrong.append(f"length is {length}, want at least {options.special_tokens + 2}")
    if batch_size < 1:
        wrong.append(f"batch_size is {batch_size}, want at least 1")
    if not 0 <= held_out_fraction < 1:
        wrong.append(f"held_out_fraction is {held_out_fraction}, want 0 or more and less than 1")
    if wrong:
        raise ConvertError("; ".join(wrong))


class Prefetching:
    """Makes the next step's batches in a thread while the current one is computed; a context manager.

    The batches are those of :meth:`StageData.batches` to the bit; asking for another step than the next only waits
    longer.
    """

    def __init__(self, data: StageData, *, rank: int = 0, ranks: int = 1, micro_tokens: int = 0) -> None:
        self._data = data
        self._rank, self._ranks, self._micro_tokens = rank, ranks, micro_tokens
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def batches(self, step: int) -> list[Batch]:
        """Give the rank's batches of a step, and begin those of the step after it."""
        if self._next is None or self._next[0] != step:
            self._begin(step)
        assert self._next is not None
        batches = self._next[1].result()
        self._begin(step + 1)
        return batches

    def origin_at(self, step: int) -> Origin:
        """Do as :meth:`StageData.origin_at`, in the thread: two must not count through samples at once."""
        return self._thread.submit(self._data.origin_at, step).result()

    def _begin(self, step: int) -> None:
        make = self._data.batches
        future = self._thread.submit(make, step, rank=self._rank, ranks=self._ranks, micro_tokens=self._micro_tokens)
        self._next = (step, future)

    def __enter__(self) -> Prefetching:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
