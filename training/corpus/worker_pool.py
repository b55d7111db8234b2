"""Shards made by several processes of this machine, for :mod:`.prepare`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ...converters.errors import ConvertError
from .make_shard import Job, Made, make_shard, open_encoder

_POLL_SECONDS = 0.2

#: What a worker process was started with: job, encoder, bytes read by all, whether to stop.
_worker: tuple[Job, Any, Any, Any] | None = None


class _StoppedError(Exception):
    """The work was stopped because another shard failed."""


def make_shards(job: Job, numbers: Sequence[int], processes: int, progress: Callable[[int], None]) -> list[Made]:
    """Make the shards ``numbers`` with ``processes`` processes.

    Raises:
        ConvertError: An input cannot be read or is not valid, or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    executor = ProcessPoolExecutor(processes, context, _start, (job, counter, stop))
    reported = 0
    try:
        waiting: set[Future[Made | tuple[str, str | None]]] = {executor.submit(_make, number) for number in numbers}
        made: list[Made] = []
        while waiting:
            done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
            with counter.get_lock():
                seen = counter.value
            progress(seen - reported)
            reported = seen
            for future in done:
                result = future.result()
                if not isinstance(result, Made):
                    raise ConvertError(*result)
                made.append(result)
        return sorted(made, key=lambda one: one.number)
    except BrokenProcessPool:
        raise ConvertError(
            "A process that made shards was killed, or could not start",
            "If memory ran out, use fewer --processes; the shards that are finished are kept.",
        ) from None
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _start(job: Job, counter: Any, stop: Any) -> None:
    global _worker
    # the parent ends its workers; an interrupt from the keyboard reaches all of them at once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a batch is encoded by one thread: there is a process for every core
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        _worker = (job, open_encoder(job), counter, stop)
    except ConvertError:
        _worker = (job, None, counter, stop)  # the first shard says what is wrong


def _follow_parent() -> None:
    """End with the parent, also when that was killed and could say nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(number: int) -> Made | tuple[str, str | None]:
    """Make one shard; an error comes back as its text, as exceptions with data do not survive the journey."""
    assert _worker is not None, "the pool starts every process with _start"
    job, encoder, counter, stop = _worker

    def progress(nbytes: int) -> None:
        if stop.is_set():
            raise _StoppedError
        with counter.get_lock():
            counter.value += nbytes

    try:
        return make_shard(job, number, encoder or open_encoder(job), progress)
    except _StoppedError:
        return ("stopped", None)
    except ConvertError as error:
        return (error.what, error.next_step)
