"""Open a checkpoint of any dialect, or say everything that keeps it from being one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..table.mapping import Dialect
from .checkpoint import Checkpoint
from .fitting import fit
from .identification import identify
from .renaming import ALL, Parts


def open_checkpoint(
    path: str | Path,
    *,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    model_class: str | None = None,
    parts: Parts = ALL,
) -> Checkpoint:
    """Open a checkpoint of any dialect without reading payloads, except where two copies of a tensor must be compared.

    Its vocabulary is not looked at: ``convert`` and ``inspect`` do that.

    Args:
        path: A checkpoint directory, one weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Overrule what the files look like.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of :class:`~..table.config.RoFormerConfig` → value, whatever the configuration says of it:
            ``{"pooler_activation": "linear"}``.
        model_class: Name of its class, where no file says it: ``"token-classification"``.
        parts: Which of the file's tensors are meant: ``Parts(prefix="student.")``.

    Raises:
        MisfitError: Tensors, table and configuration do not fit; every problem is listed.
        FormatError: A file is broken or hostile.
        ConvertError: Nothing there to open, a field that cannot be set, or a part that is not there.
    """
    return fit(
        identify(path, dialect=dialect, config=config, set=set, model_class=model_class, parts=parts), any_vocab=True
    ).require()
