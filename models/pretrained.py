"""From a checkpoint directory to a model's parameters and back: what the three models' loaders share.

``from_pretrained`` opens a directory of any dialect with :func:`opened`, builds its model and fills each parameter from
:meth:`Source.read`; ``save_pretrained`` hands its parameters to :func:`save`. A framework whose Linear holds its kernel
(in, out) says so by naming the dialect whose files do the same, and the converter's table does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters import open_checkpoint, save_checkpoint
from ..converters.table.mapping import PRETRAINING, Dialect, Table
from ..converters.tensors.stored import FLOATS
from .config import ModelError, RoFormerConfig, supported, with_limit

_log = logging.getLogger(__name__)

#: What a head's absence means for the person who loads the file.
_HEADS = {"pooler.": "pooler", "mlm.": "masked-LM head", "sop.": "sentence-order head"}


@dataclass(frozen=True)
class Source:
    """An opened checkpoint, as a model's loader sees it.

    Attributes:
        config: With the raised limit and activations under the table's names.
        dtype: Type to build the model in.
        pooler: Whether the file has a pooler.
    """

    config: RoFormerConfig
    dtype: str
    pooler: bool
    _checkpoint: Any
    _tensors: Mapping[str, Any]
    _layout: Dialect
    _fresh: bool
    _name: str

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def read(self, name: str) -> NDArray[Any] | None:
        """Read one parameter as the framework lays it out, bfloat16 as uint16 bit patterns.

        Returns None where the file has no such head and the caller asked for a fresh one.

        Raises:
            ModelError: The file has no such head.
        """
        if name not in self._checkpoint:
            if self._fresh:
                return None
            head = next((words for start, words in _HEADS.items() if name.startswith(start)), "module")
            raise ModelError(
                f"{self._checkpoint.path} has no {head} ({name}), which {self._name} needs",
                "Load a class without that head, or start it at random with fresh_heads=True.",
            )
        array: NDArray[Any] = self._checkpoint.read(name, self.dtype)
        return np.ascontiguousarray(array.T) if self._tensors[name].transposed(self._layout) else array


@contextmanager
def opened(
    name: str,
    directory: str | Path,
    *,
    layout: Dialect,
    dtype: str | None,
    dialect: Dialect | None,
    config: str | Path | None,
    extend_to: int | None,
    fresh_heads: bool,
    computes: Callable[[str], bool],
) -> Iterator[Source]:
    """Open a checkpoint of any dialect for the class ``name``.

    Args:
        name: The class, for messages.
        directory: What ``open_checkpoint`` takes.
        layout: The dialect whose files hold kernels as the framework does.
        dtype: Type to build the model in; None for the stored one.
        dialect: Overrules what the files look like.
        config: A configuration file that does not lie beside the weights.
        extend_to: Raises ``max_position_embeddings``, in tokens.
        fresh_heads: Whether a head that the file lacks starts at random; otherwise that is an error.
        computes: Says whether the framework's current device computes in a type. Stored half types that it does not
            compute in are widened to float32; one that was asked for is an error.
    """
    if dtype is not None and dtype not in FLOATS:
        raise ModelError(f"dtype = {dtype!r} is not one of {', '.join(FLOATS)}")
    if dtype is not None and not computes(dtype):
        raise ModelError(f"this framework does not compute in {dtype} on the current device", "Choose dtype='float32'.")
    with open_checkpoint(directory, dialect=dialect, config=config) as checkpoint:
        stored = stored_dtype(checkpoint)
        if dtype is None and not computes(stored):
            _log.warning(
                "%s: stored %s is computed in float32, for this device does not compute in it", directory, stored
            )
        yield Source(
            config=supported(with_limit(checkpoint.config, extend_to)),
            dtype=dtype or (stored if computes(stored) else "float32"),
            pooler="pooler.weight" in checkpoint,
            _checkpoint=checkpoint,
            _tensors=Table.of(checkpoint.config, PRETRAINING).by_canonical,
            _layout=layout,
            _fresh=fresh_heads,
            _name=name,
        )


def stored_dtype(checkpoint: Any) -> str:
    """The type of a checkpoint's tensors; of several the one that holds them all."""
    found = {checkpoint.dtype(name) for name in checkpoint}
    if len(found) == 1:
        return str(found.pop())
    return "float64" if "float64" in found else "float32"


def save(
    directory: str | Path,
    parameters: Iterable[tuple[str, NDArray[Any]]],
    config: RoFormerConfig,
    *,
    dialect: Dialect,
    dtype: str,
    force: bool,
    companions: Iterable[str | Path],
) -> None:
    """Write parameters (name, array as ``dialect``'s framework lays it out) as a whole checkpoint directory."""
    table = Table.of(config, PRETRAINING).by_canonical
    tensors = {name: array.T if table[name].transposed(dialect) else array for name, array in parameters}
    save_checkpoint(
        directory,
        tensors,
        config,
        dialect=dialect,
        dtypes=dict.fromkeys(tensors, dtype),
        force=force,
        companions=[Path(path) for path in companions],
    )
