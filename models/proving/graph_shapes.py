"""Which shape a batch is padded to so that a CUDA graph of it can be replayed, and up to which size that pays.

A graph spares the host its work for each kernel and is made for one shape alone, so shapes must be few. Nothing here
imports a framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..config import RoFormerConfig

#: Fewer columns, and fewer chosen positions, are not worth a shape of their own.
LEAST = 16

#: Floating-point operations that a multiprocessor does in a clock, by compute capability: in float32, and in half types
#: with sums in float32. The newest at or below a card's own counts; older ones have no graphs.
#: Source: NVIDIA's data sheets of V100, T4, A100, RTX 3090, RTX 4090, H100, B200: peak rate / multiprocessors / clock.
_A_CLOCK: Mapping[tuple[int, int], tuple[int, int]] = {
    (7, 0): (128, 1024),
    (8, 0): (128, 2048),
    (8, 6): (256, 512),
    (9, 0): (256, 4096),
    (10, 0): (256, 8192),
    (12, 0): (256, 512),
}
_CLOCK = 1.5e9  # hertz
_SHARE = 0.4  # of the peak that a model's layers reach: 370 of 989 TFLOP/s were measured on an H200
_HOST_SECONDS = 0.3e-3  # that the host takes for a layer: 0.37 ms and more were measured there


class Shape(NamedTuple):
    """What a graph is made for.

    Attributes:
        rows: B.
        columns: T.
        positions: K, or None where the result is wanted at every token.
        masked: Whether there is a mask.
    """

    rows: int
    columns: int
    positions: int | None
    masked: bool


def most_tokens(capability: tuple[int, int], multiprocessors: int, dtype: str, config: RoFormerConfig) -> int:
    """Return the size, in tokens with padding, up to which a GPU waits for the host; beyond it a graph gains nothing.

    Args:
        capability: Of the card.
        multiprocessors: How many it has.
        dtype: Name of the type that the model computes in.
        config: Of the model.
    """
    known = [rates for lowest, rates in _A_CLOCK.items() if lowest <= capability]
    if not known or dtype == "float64":
        return 0
    rate = known[-1][0 if dtype == "float32" else 1] * multiprocessors * _CLOCK * _SHARE
    a_token = config.hidden_size * (8 * config.hidden_size + 4 * config.intermediate_size)  # of a layer
    return int(_HOST_SECONDS * rate / a_token)


def fit(rows: int, columns: int, positions: int | None, masked: bool, limit: int, most: int) -> Shape | None:
    """Return the shape to pad a batch to, or None where it had better be computed as it is.

    Args:
        rows: B.
        columns: T.
        positions: K, or None where the result is wanted at every token.
        masked: Whether tokens of the batch may be masked.
        limit: ``max_position_embeddings``, which no shape passes.
        most: As :func:`most_tokens` returns it.
    """
    if not rows or not columns or columns > limit or positions == 0:
        return None
    wide = min(max(LEAST, _step(columns)), limit)
    tall = _power(rows)
    if wide * tall > most:
        return None
    chosen = None if positions is None else max(LEAST, _power(positions))
    return Shape(tall, wide, chosen, masked or (tall, wide) != (rows, columns))


def _power(number: int) -> int:
    """Return the next power of two."""
    return 1 << (number - 1).bit_length()


def _step(number: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    power = _power(number)
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power
