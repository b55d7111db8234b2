"""The batches of a run by its steps: each stage's data in turn, made in a thread a step ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType

from .batches import Batch, Prefetching, SamplingOptions, SpecialIds, StageData
from .settings import Settings
from .start import Sources


class Feed:
    """One rank's batches. A context manager that ends its thread.

    Args:
        settings: Stages and how samples are made.
        sources: Corpora and vocabulary.
        rank: Of this process.
        ranks: How many there are.
        cache: Directory for sample maps, which are slow to make for large corpora; None keeps them in memory.
    """

    def __init__(
        self, settings: Settings, sources: Sources, *, rank: int = 0, ranks: int = 1, cache: Path | None = None
    ) -> None:
        self.settings = settings
        self.sources = sources
        self.rank, self.ranks = rank, ranks
        self.cache = cache
        self._stage = -1
        self._training: Prefetching | None = None
        self._held_out: tuple[int, StageData] | None = None

    def batches(self, step: int) -> Sequence[Batch]:
        """Give this rank's micro-batches of a step of the run, counted from 0."""
        number, index = self.settings.stage_at(step)
        if self._training is None or self._stage != number:
            self.close()
            data = self._data(number, held_out=False)
            micro_batch = self.micro_batch(number)
            self._training = Prefetching(data, rank=self.rank, ranks=self.ranks, micro_batch=micro_batch)
            self._stage = number
        return self._training.batches(index)

    def check(self) -> None:
        """Lay out every stage's data once, held-out ones where they are scored; the cache keeps what was made.

        Raises:
            ConvertError: There are none, of some corpus, or the cache cannot be written.
        """
        for number in range(len(self.settings.stages)):
            for held_out in (False, True) if self.settings.evaluates else (False,):
                self._data(number, held_out=held_out)

    def held_out(self, number: int) -> StageData:
        """Held-out text as a stage has it."""
        if self._held_out is None or self._held_out[0] != number:
            self._held_out = (number, self._data(number, held_out=True))
        return self._held_out[1]

    def micro_batch(self, number: int) -> int:
        """Sequences that this rank computes at once in a stage."""
        stage = self.settings.stages[number]
        return stage.micro_batch or -(-stage.batch_size // self.ranks)

    def close(self) -> None:
        """End the thread."""
        if self._training is not None:
            self._training.__exit__(None, None, None)
            self._training = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _data(self, number: int, *, held_out: bool) -> StageData:
        stage, data, tokenizer = self.settings.stages[number], self.settings.data, self.sources.tokenizer
        return StageData(
            self.sources.corpora,
            length=stage.length,
            # a stage must not repeat the samples and masks of the one before it
            seed=self.settings.run.seed + 1_000_003 * number,
            options=SamplingOptions(**{each.name: getattr(data, each.name) for each in fields(SamplingOptions)}),
            special=SpecialIds.of_vocabulary([tokenizer.token(row) or "" for row in range(tokenizer.size)]),
            batch_size=stage.batch_size,
            bucket_steps=data.bucket_steps,
            held_out=held_out,
            held_out_fraction=data.held_out_fraction,
            cache=self.cache,
        )
