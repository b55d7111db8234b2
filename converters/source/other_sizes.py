"""Widths in which all tensors agree with one another and not with the configuration: said once, not for each tensor."""

from __future__ import annotations

from collections.abc import Iterable

from ..table.config import RoFormerConfig
from ..table.mapping import SYMBOLS, Tensor

#: Axes that many tensors have. The number of words may be a resized embedding's (:mod:`.resized`), and that of segments
#: is one tensor's.
_WIDTHS = frozenset("EHF")


def agreed_widths(shapes: Iterable[tuple[Tensor, tuple[int, ...]]], config: RoFormerConfig) -> dict[str, int]:
    """Return field → width, of those that the configuration has otherwise; none where two tensors do not agree.

    Args:
        shapes: Rows of the table and the shapes of their tensors, out first.
        config: What the configuration says.
    """
    shown: dict[str, int] = {}
    for tensor, shape in shapes:
        if len(shape) != len(tensor.axes):
            return {}
        for axis, size in zip(tensor.axes, shape, strict=True):
            if axis in _WIDTHS and shown.setdefault(axis, size) != size:
                return {}
    return {SYMBOLS[axis]: size for axis, size in shown.items() if size != config.sizes[axis]}
