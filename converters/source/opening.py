"""Open a checkpoint of any dialect, or say everything that keeps it from being one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .fitting import fit
from .identification import identify
from .stated import Stated

if TYPE_CHECKING:
    from typing_extensions import Unpack


def open_checkpoint(path: str | Path, **stated: Unpack[Stated]) -> Checkpoint:
    """Open a checkpoint of any dialect without reading payloads, except where two copies of a tensor must be compared.

    Its vocabulary is not looked at: ``convert`` and ``inspect`` do that.

    Args:
        path: A checkpoint directory, one weight file, a shard index, or a TF checkpoint's prefix.
        **stated: What is so whatever the files say: ``dialect``, ``config``, ``set``, ``model_class`` and ``parts`` of
            :class:`~.stated.Stated`.

    Raises:
        MisfitError: Tensors, table and configuration do not fit; every problem is listed.
        FormatError: A file is broken or hostile.
        ConvertError: Nothing there to open, a field that cannot be set, or a part that is not there.
    """
    return fit(identify(path, **stated), any_vocab=True).require()
