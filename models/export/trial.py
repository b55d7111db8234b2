"""Try an export in its runtime: the batches it is run on, and how far from the model's own logits it may be.

Runs in the framework's process, after the export was written (:mod:`.onnx`, :mod:`.savedmodel`,
:mod:`.paddle_inference`). The batches have other sizes than the one that a tracer saw, padding and token types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.table.mapping import ModelClass
from ..config import ModelError, RoFormerConfig
from .signature import input_axes

Int64 = NDArray[np.int64]
#: input_ids, token_type_ids and attention_mask, each (B, T) or (B, A, T), to the outputs in their order.
Run = Callable[[Int64, Int64, Int64], tuple[NDArray[Any], ...]]

#: Largest difference of a value, in units of the largest: float32 through 12 layers of another library's kernels is
#: off by 1e-6 to 1e-5, and a wrong graph by 1e-1.
_TOLERANCE = 1e-4
_SIZES = ((1, 1), (3, 17), (2, 40))
_CHOICES = (2, 3, 5)  # of each size


@dataclass(frozen=True)
class Trial:
    """How far an export is from the model.

    Attributes:
        runtime: What ran it, with its version.
        difference: Largest difference of an output's value; of tokens' values those of real tokens.
        largest: The model's largest value.
    """

    runtime: str
    difference: float
    largest: float


def trial_batches(config: RoFormerConfig, kind: ModelClass) -> Iterator[tuple[Int64, Int64, Int64]]:
    """Yield batches of every kind: one token, padding at the end and in the middle, every token type."""
    random = np.random.default_rng(0)
    for (rows, columns), choices in zip(_SIZES, _CHOICES, strict=True):
        columns = min(columns, config.max_position_embeddings)
        shape = (rows, choices, columns) if "choices" in input_axes(kind) else (rows, columns)
        mask = (random.random(shape) < 0.8).astype(np.int64)
        mask[..., 0] = 1
        mask[-1, ..., columns // 2 :] = 0 if columns > 1 else 1
        ids = random.integers(0, config.vocab_size, shape)
        yield ids, random.integers(0, config.type_vocab_size, shape), mask


def compare(model: Run, exported: Run, config: RoFormerConfig, kind: ModelClass, runtime: str) -> Trial:
    """Run model and export on every batch.

    Raises:
        ModelError: They disagree by more than rounding explains.
    """
    difference = largest = 0.0
    for ids, types, mask in trial_batches(config, kind):
        for want, got in zip_longest(model(ids, types, mask), exported(ids, types, mask), fillvalue=np.empty(0)):
            if want.shape != got.shape:
                raise ModelError(
                    f"{runtime} gives an output {got.shape} on a batch {ids.shape}; the model gives {want.shape}"
                )
            if want.shape[:2] == mask.shape:  # of tokens
                want, got = want[mask != 0], got[mask != 0]
            # a NaN on either side must not pass as small
            difference = float(np.fmax(difference, np.nan_to_num(abs(want - got), nan=np.inf).max()))
            largest = max(largest, float(np.nan_to_num(abs(want), nan=np.inf).max()))
    if not difference <= _TOLERANCE * max(1.0, largest) < np.inf:
        raise ModelError(
            f"the export run in {runtime} differs from the model by {difference:.2g} (largest value {largest:.3g}, "
            f"allowed {_TOLERANCE * max(1.0, largest):.2g}); nothing was written",
            "Weights that hold NaN or infinity do this too. To have the export nevertheless, add --no-trial.",
        )
    return Trial(runtime, difference, largest)
