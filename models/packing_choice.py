"""Whether a batch is computed packed or padded: what is faster, by the device and by how a packed batch is attended.

Asked by whoever does without the padding's results (:mod:`.answers.worker`, and a training step); a model that is told
``packed`` packs. Nothing here imports a framework.
"""

from __future__ import annotations

from typing import Literal

#: How a packed batch is attended: a row at a time; by one kernel for rows of different lengths; or laid out as its
#: padded batch, so that all but attention is spared the padding.
Way = Literal["rows", "kernel", "batch"]
Batching = Literal["packed", "padded"]

#: Share of real tokens up to which a GPU gains by packing where it lays every layer's queries, keys and values out.
#: Counted in bytes at hidden size 768, that costs 3 % (an H200 in float32) to 18 % (a T4 in float16) of the layer's
#: matrix products; not measured.
MOST_REAL = 0.75


def how_to_batch(device: str, way: Way, real: int, slots: int) -> Batching:
    """Choose how a batch is computed.

    Args:
        device: Its type: ``"cpu"``, ``"cuda"``.
        way: How the model attends a packed batch there.
        real: Tokens that are not masked.
        slots: Tokens with the masked ones, B * T.
    """
    if device == "cpu" or way == "kernel":
        return "packed"
    # a row at a time is a hundred small kernels a layer, which a GPU waits for
    return "packed" if way == "batch" and real <= MOST_REAL * slots else "padded"
