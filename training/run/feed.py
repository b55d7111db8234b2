"""The batches of a run by its steps: each stage's data in turn, made in a thread a step ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType

from ..samples.batches import Batch, Origin, Prefetching, SamplingOptions, SpecialIds, StageData
from ..samples.position import Position
from ..settings.tables import Settings
from ..start.sources import Sources

_BEGINNING = Position()


def in_sequences(
    settings: Settings, sources: Sources, position: Position = _BEGINNING, cache: Path | None = None
) -> Settings:
    """Say of every stage how many sequences a step has: where ``batch_tokens`` decides, on average.

    Args:
        settings: Settings of the run.
        sources: Corpora and vocabulary.
        position: The same as for :class:`Feed`.
        cache: The same as for :class:`Feed`.
    """
    feed = Feed(settings, sources, position, cache=cache)
    stages = [
        stage if stage.batch_size else replace(stage, batch_size=stage.sequences(feed.stage(number).mean_tokens))
        for number, stage in enumerate(settings.stages)
    ]
    return replace(settings, stages=tuple(stages))


class Feed:
    """One rank's batches. A context manager that ends its thread.

    Args:
        settings: Stages and how samples are made.
        sources: Corpora and vocabulary.
        position: From where the run goes on.
        rank: Rank of this process.
        ranks: How many there are.
        cache: Directory for sample maps, which are slow to make for large corpora; None keeps them in memory.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        position: Position = _BEGINNING,
        *,
        rank: int = 0,
        ranks: int = 1,
        cache: Path | None = None,
    ) -> None:
        self.settings = settings
        self.sources = sources
        self._position = position.with_corpora(sources.contents)
        self.rank, self.ranks = rank, ranks
        self.cache = cache
        self._stage = -1
        self._training: Prefetching | None = None
        self._held_out: tuple[int, StageData] | None = None

    def batches(self, step: int) -> Sequence[Batch]:
        """Give this rank's micro-batches of a step of the run, counted from 0."""
        number, index = self.settings.stage_at(step)
        return self._prefetching(number).batches(index)

    def position(self, step: int) -> Position:
        """Say how far the data are read when ``step`` steps of the run are taken, of which there is one at least."""
        number, index = self.settings.stage_at(step - 1)
        reached = self._prefetching(number).origin_at(index + 1)
        return replace(self._position, stage=number, begun=self._origin(number), reached=reached)

    def check(self) -> None:
        """Lay out every stage's data once, held-out ones where they are scored; the cache keeps what was made.

        Raises:
            ConvertError: There are none, of some corpus, or the cache cannot be written.
        """
        for number in range(len(self.settings.stages)):
            for held_out in (False, True) if self.settings.evaluates else (False,):
                self.stage(number, held_out=held_out)

    def held_out(self, number: int) -> StageData:
        """Held-out text as a stage has it."""
        if self._held_out is None or self._held_out[0] != number:
            self._held_out = (number, self.stage(number, held_out=True))
        return self._held_out[1]

    def stage(self, number: int, *, held_out: bool = False) -> StageData:
        """Return a stage's data, of the training side or the held-out one."""
        stage, data, tokenizer = self.settings.stages[number], self.settings.data, self.sources.tokenizer
        return StageData(
            self.sources.corpora,
            length=stage.length,
            # a stage must not repeat the samples and masks of the one before it
            seed=self.settings.run.seed + 1_000_003 * number,
            options=SamplingOptions(**{each.name: getattr(data, each.name) for each in fields(SamplingOptions)}),
            special=SpecialIds.of_vocabulary([tokenizer.token(row) or "" for row in range(tokenizer.size)]),
            batch_size=max(1, stage.batch_size),
            batch_tokens=stage.batch_tokens,
            origin=Origin() if held_out else self._origin(number),
            numbers=self._position.numbers(self.sources.contents),
            held_out=held_out,
            held_out_fraction=data.held_out_fraction,
            cache=self.cache,
        )

    def _origin(self, number: int) -> Origin:
        """Find where the steps of the batch and the corpora of now begin in a stage."""
        return self._position.begun if number == self._position.stage else Origin()

    def _prefetching(self, number: int) -> Prefetching:
        if self._training is None or self._stage != number:
            self.close()
            micro_tokens = self.settings.stages[number].micro_tokens
            self._training = Prefetching(
                self.stage(number), rank=self.rank, ranks=self.ranks, micro_tokens=micro_tokens
            )
            self._stage = number
        return self._training

    def close(self) -> None:
        """End the thread."""
        if self._training is not None:
            self._training.__exit__(None, None, None)
            self._training = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
