"""The process that one framework runs in for fill-mask: loads a model, scores masks, answers with the best words.

Started by :mod:`.fill_mask` through :mod:`.process`; the only place there that imports a framework.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .frameworks import FRAMEWORKS, Framework
from .process import Json, serve
from .ranking import best

Int64 = NDArray[np.int64]
#: input_ids (B, T), attention_mask (B, T) and positions (K,) to logits (K, V).
Score = Callable[[Int64, Int64, Int64], NDArray[Any]]


def main(framework: str) -> None:
    """Serve one framework: a request to load, then batches of ids."""
    serve(Worker(framework).answer)


class Worker:
    """Answers ``{"load": ...}`` and ``{"ids": ..., "mask_id": ..., "top_k": ...}``."""

    def __init__(self, framework: str) -> None:
        self.framework = FRAMEWORKS[framework]
        self.score: Score | None = None

    def answer(self, request: Json) -> Json:
        """Answer one request."""
        return self.load(**request["load"]) if "load" in request else self.fill(**request)

    def load(self, directory: str, dialect: str | None, config: str | None, extend_to: int | None) -> Json:
        """Import the framework and load the model in float32; say what was loaded, and in how many seconds."""
        started = time.monotonic()
        module = importlib.import_module(f".{self.framework.model}", __package__)
        imported = time.monotonic()
        model = module.RoFormerForMaskedLM.from_pretrained(
            directory, dtype="float32", dialect=dialect, config=config, extend_to=extend_to
        )
        self.score = scorer(model, self.framework)
        package = sys.modules[self.framework.package]
        start = sys.modules.get(f"{__package__}.start_{self.framework.name}")
        return {
            "version": str(package.__version__),
            "import_seconds": round(imported - started, 2),
            "load_seconds": round(time.monotonic() - imported, 2),
            "notes": list(getattr(start, "NOTES", ())),  # what was done to start it
        }

    def fill(self, ids: list[list[int]], mask_id: int, pad_id: int, top_k: int) -> Json:
        """Rank words at every mask of B texts: for each text and each of its masks, ids, logits and probabilities."""
        assert self.score is not None
        lengths = np.array([len(one) for one in ids])
        input_ids = np.full((len(ids), lengths.max()), pad_id, np.int64)
        for row, one in enumerate(ids):
            input_ids[row, : len(one)] = one
        real = np.arange(input_ids.shape[1]) < lengths[:, None]
        masks = (input_ids == mask_id) & real
        positions = np.flatnonzero(masks)
        found = best(self.score(input_ids, real.astype(np.int64), positions), top_k)
        each = list(zip(*(array.tolist() for array in found), strict=True))
        ends = np.cumsum(masks.sum(axis=1)).tolist()
        return {"texts": [each[start:end] for start, end in zip([0, *ends], ends, strict=False)]}


def scorer(model: Any, framework: Framework) -> Score:
    """Return what scores the masks of a batch with a model."""
    ops = importlib.import_module(f".{framework.operations}", __package__)
    if framework.name == "paddle":
        from .kernel_choice_paddle import prove

        prove(model.config, ("float32",))

    def score(input_ids: Int64, attention_mask: Int64, positions: Int64) -> NDArray[Any]:
        with ops.inference():
            logits = model(
                ops.to_tensor(input_ids),
                attention_mask=ops.to_tensor(attention_mask),
                positions=ops.to_tensor(positions),
                packed=True,
            )
            found: NDArray[Any] = ops.as_numpy(logits)
            return found

    return score


if __name__ == "__main__":
    main(*sys.argv[1:])
