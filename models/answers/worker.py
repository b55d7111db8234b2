"""The process that one framework runs in for fill-mask and predict: loads a model, answers for rows of tokens.

Started by :mod:`.framework_processes` through :mod:`..processes.process`; the only place there that imports
a framework.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...converters.source.stated import from_json
from ..processes.devices import CPU, DeviceName
from ..processes.frameworks import FRAMEWORKS
from ..processes.memory import FittingBatches, needing_memory
from ..processes.process import Json, serve
from .ranking import best_there, finite

Int64 = NDArray[np.int64]


def main(framework: str) -> None:
    """Serve one framework: a request to load, then rows of tokens."""
    serve(Worker(framework).answer)


class Batch(NamedTuple):
    """Rows padded to one length, each array int64 (B, T); ``real`` is 1 at tokens, 0 at padding."""

    ids: Int64
    types: Int64
    real: Int64


class Worker:
    """Answers ``{"load": …}`` and, once it is loaded, ``{"words": …}``, ``scores``, ``choices`` or ``vectors``.

    The methods of those names say what is in each. ``rows`` are those of :class:`~.framework_processes.Row`,
    and the answer has ``rows`` in the same order, and ``notes`` on what happened.
    """

    def __init__(self, framework: str) -> None:
        self.framework = FRAMEWORKS[framework]
        self.model: Any = None
        self.ops: Any = None
        self.graphed: Any = None
        self.device = CPU
        self.batches: FittingBatches | None = None

    def answer(self, request: Json) -> Json:
        """Answer one request: its name, and its arguments."""
        ((name, arguments),) = request.items()
        if name == "load":
            return self.load(**arguments)
        methods: dict[str, Callable[..., list[Any]]] = {
            "words": self.words,
            "scores": self.scores,
            "choices": self.choices,
            "vectors": self.vectors,
        }
        rows = arguments.pop("rows")
        compute = partial(methods[name], **arguments)
        assert self.batches is not None
        found, notes = self.batches.run(compute, rows, divisible=name != "choices")
        return {"rows": found, "notes": notes}

    def load(
        self,
        model_class: str,
        directory: str,
        extend_to: int | None,
        stated: Json,
        device: str,
    ) -> Json:
        """Import the framework and load the model in float32 on a device; say what was loaded, in how many seconds."""
        started = time.monotonic()
        module = self.framework.import_model()
        imported = time.monotonic()
        ops = self.framework.import_operations()
        self.device = DeviceName.of(device)
        ops.compute_on(self.device)
        with needing_memory(self.device, ops.ran_out, "the weights do not fit"):
            self.take(
                getattr(module, model_class).from_pretrained(
                    directory, dtype="float32", extend_to=extend_to, **from_json(stated)
                )
            )
        package = sys.modules[self.framework.package]
        return {
            "version": str(package.__version__),
            "import_seconds": round(imported - started, 2),
            "load_seconds": round(time.monotonic() - imported, 2),
            "notes": self.framework.told_at_start(),
        }

    def take(self, model: Any) -> None:
        """Answer with ``model`` from now on."""
        self.model = model
        self.ops = self.framework.import_operations()
        self.batches = FittingBatches(self.device, self.ops.ran_out)
        if self.framework.name == "paddle":
            from ..proving.choice_paddle import prove

            prove(model.config, ("float32",), training=False)
        if self.framework.name == "torch":
            from ..proving.graphs_torch import graphed

            self.graphed = graphed(model)

    def words(self, rows: list[Json], pad_id: int, top_k: int) -> list[Any]:
        """Rank words at the columns of each row: for each of them ids, logits and probabilities, the best first."""
        batch = padded(rows, pad_id)
        places = [row * batch.ids.shape[1] + column for row, one in enumerate(rows) for column in one["columns"]]
        logits, *_ = self.run(batch, np.array(places, np.int64))
        found = best_there(logits, top_k, self.ops)
        each = iter(zip(*(array.tolist() for array in found), strict=True))
        return [[next(each) for _ in one["columns"]] for one in rows]

    def scores(self, rows: list[Json], pad_id: int) -> list[Any]:
        """What a classifier gives for each row: C scores, or C scores for each of its tokens."""
        (scores,) = self.compute(padded(rows, pad_id))
        axes = ("row", "label") if scores.ndim == 2 else ("row", "token", "label")
        found = finite(scores, "the score", *axes)
        return [
            one if found.ndim == 2 else one[: len(row["ids"])] for row, one in zip(rows, found.tolist(), strict=True)
        ]

    def choices(self, rows: list[Json], pad_id: int) -> list[Any]:
        """What multiple choice gives for each row, all of them being the options of one question: a score.

        Nothing is packed, and nothing but these rows is in the batch: the score may be read at a column of padding.
        """
        batch = Batch(*(array[None] for array in padded(rows, pad_id)))
        (scores,) = self.compute(batch, packed=False)
        found: list[Any] = finite(scores[0], "the score", "option").tolist()
        return found

    def vectors(self, rows: list[Json], pad_id: int) -> list[Any]:
        """The vector of each row: what the pooler gives, or without one the hidden state of the first token."""
        batch = padded(rows, pad_id)
        hidden, pooled = self.compute(batch, np.arange(len(rows)) * batch.ids.shape[1])
        found: list[Any] = finite(hidden if pooled is None else pooled, "the vector", "row", "place").tolist()
        return found

    def compute(self, batch: Batch, positions: Int64 | None = None, packed: bool = True) -> list[NDArray[Any] | Any]:
        """Run the model, as :meth:`run` does: each of its outputs as a numpy array, or None."""
        return [None if output is None else self.ops.as_numpy(output) for output in self.run(batch, positions, packed)]

    def run(self, batch: Batch, positions: Int64 | None = None, packed: bool = True) -> tuple[Any, ...]:
        """Run the model: each of its outputs as the framework's tensor, or None.

        Args:
            batch: The batch.
            positions: (K,) where the result is wanted alone, in the batch read row by row.
            packed: Whether the batch may be computed in another way where that is faster: packed, or with more padding.
        """
        ops = self.ops
        given = {
            "input_ids": ops.to_tensor(batch.ids),
            "token_type_ids": ops.to_tensor(batch.types),
            "attention_mask": ops.on_host(batch.real),
            **({} if positions is None else {"positions": ops.on_host(positions)}),
        }
        with ops.inference():
            if packed and self.graphed is not None and self.graphed.shape(**given) is not None:
                outputs = self.graphed(**given)
            else:
                real, slots = int(batch.real.sum()), batch.real.size
                weight, config = self.model.embeddings.word.weight, self.model.config
                outputs = self.model(**given, packed=packed and ops.worth_packing(weight, config, real, slots))
            return outputs if isinstance(outputs, tuple) else (outputs,)


def padded(rows: list[Json], pad_id: int) -> Batch:
    """Pad rows on the right to the longest."""
    lengths = np.array([len(row["ids"]) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    ids, types = np.full(real.shape, pad_id, np.int64), np.zeros(real.shape, np.int64)
    ids[real] = [token for row in rows for token in row["ids"]]
    types[real] = [one for row in rows for one in row["types"]]
    return Batch(ids, types, real.astype(np.int64))


if __name__ == "__main__":
    main(*sys.argv[1:])
