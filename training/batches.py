"""The batches of a training stage, by step: numpy arrays that are a function of settings, seed and step alone.

The stage is an endless row of samples; steps take `batch_size` of them each. So that a batch wastes little on padding,
the samples of a window of steps are sorted by length, cut into batches and the batches shuffled. A step's samples stand
in a fixed order, by length; rank r of R makes those at r, r + R, r + 2R, …, in micro-batches of consecutive ones, so
that ranks have equal shares of long samples. What a sample holds depends on neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..converters.errors import ConvertError
from .examples import NO_ORDER, Batch, SamplingOptions, Stretch, make_batch
from .masking import SpecialIds
from .mixture import CorpusSamples, Mixture
from .sampling import Corpus, MapRecipe
from .splitmix import derive, permutation

Int64 = NDArray[np.int64]

__all__ = ["NO_ORDER", "Batch", "Prefetching", "SamplingOptions", "SpecialIds", "StageData", "StageDescription"]

_PURPOSE_CORPUS, _PURPOSE_SAMPLE, _PURPOSE_BATCHES = 1, 2, 3


@dataclass(frozen=True)
class StageDescription:
    """What a stage's data come to.

    Attributes:
        samples: Samples of each corpus in its first epoch.
        tokens: Text tokens of each corpus in an epoch, on this side of the held-out split.
        steps_per_epoch: See :attr:`StageData.steps_per_epoch`.
        padding_share: Padding among all positions of the first window of steps, at the given micro-batch.
        paired_share: Samples with a second segment among those.
    """

    samples: tuple[int, ...]
    tokens: tuple[int, ...]
    steps_per_epoch: int
    padding_share: float
    paired_share: float


@dataclass(frozen=True)
class _Window:
    """The samples of consecutive steps: their numbers and corpora, (steps, B), and map entries, (steps, B, 2)."""

    first_step: int
    numbers: Int64
    corpora: Int64
    entries: Int64


class StageData:
    """One stage's data: random access by step, no state.

    Args:
        corpora: Prepared corpora with their weights, above 0; a sample's corpus is drawn in exact proportion.
        length: Longest sample in tokens, special tokens included.
        seed: Of the order, the masks, the swaps and the samples' boundaries. Held-out data do not depend on it.
        options: How samples are made.
        special: The vocabulary's special tokens.
        batch_size: Samples of a step over all ranks.
        bucket_steps: Steps whose samples are sorted by length together; 1 leaves them in random order. Less where the
            corpora have fewer samples than two such windows.
        held_out: The held-out documents instead of the training ones, with the same masks each time: after
            `steps_per_epoch` steps they begin again.
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
        bucket_steps: int = 64,
        held_out: bool = False,
        held_out_fraction: float = 0.005,
        cache: Path | None = None,
    ) -> None:
        _check(corpora, length, options, batch_size, bucket_steps, held_out_fraction)
        self.length, self.batch_size, self.held_out = length, batch_size, held_out
        self._options, self._special = options, special
        if held_out:
            seed = 0
        self._sample_key = derive(seed, _PURPOSE_SAMPLE)
        self._batches_key = derive(seed, _PURPOSE_BATCHES)
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
            for number, (corpus, _) in enumerate(corpora)
        ]
        self._mixture = Mixture([weight for _, weight in corpora])
        # no corpus comes round twice within a window, or sorting would put copies of a sample into one batch
        rarest = min(
            len(source.map(0)) / share for source, share in zip(self._sources, self._mixture.shares, strict=True)
        )
        self._window_steps = max(1, min(bucket_steps, int(rarest) // (2 * batch_size)))
        self._window: _Window | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take as many samples as all corpora together hold, rounded up; the period of held-out data."""
        return -(-sum(len(source.map(0)) for source in self._sources) // self.batch_size)

    def epoch_of(self, step: int) -> float:
        """Say how often the corpora, taken together, have been seen before `step`."""
        return step * self.batch_size / sum(len(source.map(0)) for source in self._sources)

    def corpus_epochs(self, step: int) -> tuple[float, ...]:
        """Say how often each corpus has been seen before `step`."""
        samples = step * self.batch_size * self._mixture.shares
        return tuple(float(seen) / len(source.map(0)) for seen, source in zip(samples, self._sources, strict=True))

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, micro_batch: int) -> list[Batch]:
        """Make one rank's share of a step, in micro-batches of at most `micro_batch` samples.

        Args:
            step: From 0 within the stage.
            rank: From 0 to ranks - 1.
            ranks: Processes among which the step is divided; any number gives the same samples.
            micro_batch: Samples in one forward pass.
        """
        if step < 0 or not 0 <= rank < ranks or micro_batch < 1:
            raise ValueError(f"no batches for step {step}, rank {rank} of {ranks}, micro-batches of {micro_batch}")
        numbers, stretches = self._rows(step, rank, ranks)
        return [
            make_batch(
                stretches[first : first + micro_batch],
                numbers[first : first + micro_batch],
                self._sample_key,
                special=self._special,
                options=self._options,
            )
            for first in range(0, len(stretches), micro_batch)
        ]

    def describe(self, micro_batch: int) -> StageDescription:
        """Count samples and tokens, and measure the padding of the first window of steps."""
        window = self._window_of(0)
        padded = present = paired = 0
        for step in range(len(window.numbers)):
            for batch in self.batches(step, micro_batch=micro_batch):
                padded += batch.attention_mask.size
                present += int(batch.attention_mask.sum())
                paired += int((batch.order != NO_ORDER).sum())
        return StageDescription(
            samples=tuple(len(source.map(0)) for source in self._sources),
            tokens=tuple(int(source.map(0)[:, 1].sum()) for source in self._sources),
            steps_per_epoch=self.steps_per_epoch,
            padding_share=1 - present / padded,
            paired_share=paired / window.numbers.size,
        )

    def _rows(self, step: int, rank: int, ranks: int) -> tuple[Int64, list[Stretch]]:
        """Give the samples of a rank's share of a step: their numbers and where their text is."""
        if self.held_out:
            step %= self.steps_per_epoch
        window = self._window_of(step)
        row = step - window.first_step
        corpora, entries = window.corpora[row, rank::ranks], window.entries[row, rank::ranks]
        stretches = [self._sources[corpus].stretch(entry) for corpus, entry in zip(corpora, entries, strict=True)]
        return window.numbers[row, rank::ranks], stretches

    def _window_of(self, step: int) -> _Window:
        """Lay out the window of steps that `step` is in."""
        first = step - step % self._window_steps
        window = self._window
        if window is not None and window.first_step == first:
            return window
        steps = self._window_steps
        if self.held_out:
            steps = min(steps, self.steps_per_epoch - first)
        numbers = np.arange(first * self.batch_size, (first + steps) * self.batch_size)
        corpora, indices = self._mixture.locate(numbers)
        entries = np.empty((len(numbers), 2), np.int64)
        for corpus in np.unique(corpora):
            here = corpora == corpus
            entries[here] = self._sources[corpus].entries(indices[here])
        if steps > 1:
            # equally long samples stay in random order: that is what the epoch's shuffle left them in
            by_length = np.argsort(entries[:, 1], kind="stable").reshape(steps, self.batch_size)
            order = by_length[permutation(derive(self._batches_key, first), steps)].reshape(-1)
            numbers, corpora, entries = numbers[order], corpora[order], entries[order]
        shape = (steps, self.batch_size)
        window = _Window(first, numbers.reshape(shape), corpora.reshape(shape), entries.reshape(*shape, 2))
        self._window = window
        return window


def _check(
    corpora: Sequence[tuple[Corpus, float]],
    length: int,
    options: SamplingOptions,
    batch_size: int,
    bucket_steps: int,
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
    if bucket_steps < 1:
        wrong.append(f"bucket_steps is {bucket_steps}, want at least 1")
    if not 0 <= held_out_fraction < 1:
        wrong.append(f"held_out_fraction is {held_out_fraction}, want 0 or more and less than 1")
    if wrong:
        raise ConvertError("; ".join(wrong))


class Prefetching:
    """Makes the next step's batches in a thread while the current one is computed; a context manager.

    The batches are those of :meth:`StageData.batches` to the bit; asking for another step than the next only waits
    longer.
    """

    def __init__(self, data: StageData, *, rank: int = 0, ranks: int = 1, micro_batch: int) -> None:
        self._data = data
        self._rank, self._ranks, self._micro_batch = rank, ranks, micro_batch
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

    def _begin(self, step: int) -> None:
        make = self._data.batches
        future = self._thread.submit(make, step, rank=self._rank, ranks=self._ranks, micro_batch=self._micro_batch)
        self._next = (step, future)

    def __enter__(self) -> Prefetching:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
