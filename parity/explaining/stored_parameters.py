"""A checkpoint's tensors in float64, each read when it is asked for, so that a large model need not lie in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from ...converters.source.checkpoint import Checkpoint

Array = NDArray[Any]

_NOTHING: Mapping[str, Array] = {}
_MOST_KEPT = 256 << 20  # bytes of those read last


class StoredParameters(Mapping[str, Array]):
    """Canonical name → array, kernels as (out, in).

    Args:
        checkpoint: Stays open as long as it is read from.
        rounded: What is made of each.
        others: What stands in place of some, and beside them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        rounded: Callable[[Array], Array] = lambda x: x,
        others: Mapping[str, Array] = _NOTHING,
    ) -> None:
        self._checkpoint = checkpoint
        self._others = others
        self._rounded = rounded
        self._kept: OrderedDict[str, Array] = OrderedDict()

    def __getitem__(self, name: str) -> Array:
        if name in self._others:
            return self._others[name]
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        array = self._rounded(self._checkpoint.read(name, "float64"))
        self._kept[name] = array
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._checkpoint, *self._others]))

    def __len__(self) -> int:
        return len(set(self._checkpoint) | set(self._others))

    def __contains__(self, name: object) -> bool:
        return name in self._others or name in self._checkpoint
