"""Shards made by Ray Data, on this machine or a cluster, for :mod:`.prepare`.

The same :func:`~.make_shard.make_shard` makes them, so the bytes are the same. Every node needs this package, and the
inputs and the output under the same path (a shared file system).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ...converters.errors import ConvertError
from ...models.processes.frameworks import MissingPackageError, is_installed
from .make_shard import Job, Made, make_shard, open_encoder


def make_shards(job: Job, numbers: Sequence[int], processes: int, progress: Callable[[int], None]) -> list[Made]:
    """Make the shards ``numbers``, ``processes`` at a time, with the Ray that is running or one that is started here.

    Raises:
        ConvertError: An input cannot be read or is not valid, or Ray lost its workers.
        MissingPackageError: Ray is not installed.
    """
    if not is_installed("ray"):
        raise MissingPackageError("Preparing with Ray", {"ray": "ray"})
    import ray

    maker: Any = _ShardMaker  # a class whose instances take rows; Ray's annotation knows functions alone
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)  # joins the cluster that RAY_ADDRESS names
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=processes)
        shards = rows.map(maker, fn_constructor_args=(job,), compute=pool)
        made = []
        for row in shards.iter_rows():
            if row["error"]:
                raise ConvertError(row["error"], row["next_step"] or None)
            made.append(Made(int(row["number"]), int(row["characters"]), int(row["peak_bytes"])))
            progress(job.nbytes(made[-1].number))
        return sorted(made, key=lambda one: one.number)
    except ray.exceptions.RayError as error:
        raise ConvertError(
            f"Ray could not make the shards: {str(error).strip().splitlines()[-1]}",
            "Run the same command again: the shards that are finished are kept.",
        ) from None
    finally:
        if started_here:
            ray.shutdown()


class _ShardMaker:
    """A worker of Ray's: one tokenizer and segmenter for all its shards."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._encoder = open_encoder(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            made = make_shard(self._job, int(row["number"]), self._encoder, lambda _: None)
        except ConvertError as error:
            return {**row, "characters": 0, "peak_bytes": 0, "error": error.what, "next_step": error.next_step or ""}
        return {**row, "characters": made.characters, "peak_bytes": made.peak_bytes, "error": "", "next_step": ""}
