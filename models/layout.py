"""How the tokens of a run lie in their batch: what the three models hand to every layer, and attention reads.

Tokens are computed as one run (P, H) from the embeddings to the heads; only attention knows rows. P is B * T, or the
real tokens alone when the batch is packed (:mod:`.packing`).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Layout(NamedTuple):
    """How the P tokens of a run lie in their batch, made once for all layers. Tensors are the framework's own.

    Attributes:
        rows: B.
        columns: T.
        turns: (P, 1 or N, D / 2, 2) cosine and sine of each token's angles.
        mask: (B or 1, 1, 1 or T, T) added to the scores of whole rows, or None where that adds nothing.
        lengths: Tokens of each row in a packed run, or None.
        tokens: (P,) index in the batch of each token of a packed run, or None.
        slots: (B * T,) place in a packed run of each of the batch's tokens, P where it is masked, or None.
        host_slots: The same as an array, so that places can be looked up without waiting for a device.
        order: (P,) number of each token of a packed run in the order in which its row is read: a key is hidden from
            queries whose number is lower. None where every token sees every key.
        causal: Whether a key is hidden from the tokens before it in its row, and nothing else is hidden: what a kernel
            with a causal mode can do without a mask.
    """

    rows: int
    columns: int
    turns: Any
    mask: Any = None
    lengths: tuple[int, ...] | None = None
    tokens: Any = None
    slots: Any = None
    host_slots: Any = None
    order: Any = None
    causal: bool = False
