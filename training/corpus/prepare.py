"""Prepare a corpus: text files into shards of tokens, with any number of processes and the same bytes each time.

:func:`prepare` writes the plan (:mod:`.plan`), has the shards made that are missing (:mod:`.make_shard`), and
writes the index once all are there. A shard appears whole or not at all: a killed run goes on where it was, and workers
that share a directory can each make a part of the shards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...converters.errors import ConvertError
from .make_shard import Job, Made, make_shard, open_encoder
from .plan import begin, finish, is_made
from .reading import Corpus, shard_name
from .shard_file import read_header
from .work_units import SHARD_BYTES

ENGINES = ("processes", "ray")


@dataclass(frozen=True)
class PreparationReport:
    """The outcome of a run of ``prepare``.

    Attributes:
        directory: Directory of the corpus.
        finished: Whether the index was written.
        verified: Whether all of it was read back.
        shards: How many the corpus has.
        present: How many of them are there.
        made: How many of them this run made.
        tokens, sentences, documents: Totals of the shards that are there.
        characters: Characters of the text that this run read.
        seconds: Wall time of this run.
        peak_bytes: The most memory one process held.
        processes: How many processes worked.
    """

    directory: Path
    finished: bool
    verified: bool
    shards: int
    present: int
    made: int
    tokens: int
    sentences: int
    documents: int
    characters: int
    seconds: float
    peak_bytes: int
    processes: int


def prepare(
    inputs: Sequence[Path | str],
    directory: Path,
    tokenizer: Path,
    *,
    segmenter: str = "rjieba",
    fields: Sequence[str] = ("text",),
    file_format: str = "auto",
    processes: int | None = None,
    engine: str = "processes",
    shard_bytes: int = SHARD_BYTES,
    only: tuple[int, int] | None = None,
    verify: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    started: Callable[[int], None] = lambda _: None,
) -> PreparationReport:
    """Make, or go on making, the corpus in ``directory``.

    Args:
        inputs: Files, directories or patterns.
        directory: The directory to make; one that an earlier run with the same settings began is gone on with.
        tokenizer: A checkpoint's directory or a vocabulary file.
        segmenter: What finds words, for whole-word masking.
        fields: The members of JSON lines that hold the text.
        file_format: See :class:`~..text.files.TextFormat`.
        processes: How many work; by default as many as there are cores.
        engine: What runs them: ``processes`` of this machine, or ``ray``.
        shard_bytes: Bytes of input that one shard is made of, about.
        only: (i, n): make each n-th shard from the i-th on, counted from 1, and do not finish.
        verify: Read all of a finished corpus back and compare its checksums.
        progress: Called with the bytes of input read since the last call.
        started: Called once with the bytes of input that are to be read.

    Raises:
        ConvertError: An input, the tokenizer or the directory cannot be used.
    """
    begun = time.monotonic()
    job, plan = begin(
        inputs, directory, tokenizer, segmenter=segmenter, fields=fields, file_format=file_format,
        shard_bytes=shard_bytes,
    )  # fmt: skip
    missing = [number for number in range(len(job.units)) if not is_made(job, number)]
    if only is not None:
        missing = [number for number in missing if number % only[1] == only[0] - 1]
    started(sum(map(job.nbytes, missing)))
    count = max(1, min(len(missing), processes or cores()))
    made = _maker(engine, count)(job, missing, count, progress) if missing else []
    headers = [read_header(directory / shard_name(number)) for number in range(len(job.units)) if is_made(job, number)]
    finished = only is None and finish(job, plan, headers)
    if verify and finished:
        Corpus.open(directory, full=True)
    return PreparationReport(
        directory=directory,
        finished=finished,
        verified=verify and finished,
        shards=len(job.units),
        present=len(headers),
        made=len(made),
        tokens=sum(header.tokens for header in headers),
        sentences=sum(header.sentences for header in headers),
        documents=sum(header.documents for header in headers),
        characters=sum(one.characters for one in made),
        seconds=time.monotonic() - begun,
        peak_bytes=max((one.peak_bytes for one in made), default=0),
        processes=count,
    )


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_here(job: Job, numbers: Sequence[int], processes: int, progress: Callable[[int], None]) -> list[Made]:
    """Make the shards ``numbers`` in this process.

    Raises:
        ConvertError: As for :func:`make_shard`.
    """
    encoder = open_encoder(job)
    return [make_shard(job, number, encoder, progress) for number in numbers]


def _maker(engine: str, processes: int) -> Callable[..., list[Made]]:
    if engine == "ray":
        from .ray_prepare import make_shards as make_with_ray

        return make_with_ray
    if engine != "processes":
        raise ConvertError(f"engine {engine!r}; wanted one of {', '.join(ENGINES)}")
    if processes == 1:
        return make_here
    from .worker_pool import make_shards

    return make_shards
