"""Files in, files out: RoFormer checkpoints of four dialects under one table. Imports no framework.

``convert(src, dst, to="torch")`` turns a checkpoint directory into another dialect; ``open_checkpoint(dir)`` gives
lazily read arrays under canonical names; ``save_checkpoint`` writes such arrays as a directory of any dialect. The path
of a conversion: :mod:`.weight_files` finds and indexes, :mod:`.fitting` holds against :mod:`.mapping`, :mod:`.plan`
decides, :mod:`.engine` moves bytes, :mod:`.output` puts the result in place.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .config import RoFormerConfig
    from .conversion import Report, convert
    from .errors import ConvertError, FormatError, MisfitError, Problem
    from .opening import open_checkpoint
    from .saving import save_checkpoint

_HOME = {
    "Checkpoint": "checkpoint",
    "ConvertError": "errors",
    "FormatError": "errors",
    "MisfitError": "errors",
    "Problem": "errors",
    "Report": "conversion",
    "RoFormerConfig": "config",
    "convert": "conversion",
    "open_checkpoint": "opening",
    "save_checkpoint": "saving",
}

__all__ = [
    "Checkpoint",
    "ConvertError",
    "FormatError",
    "MisfitError",
    "Problem",
    "Report",
    "RoFormerConfig",
    "convert",
    "open_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is first asked for, so that ``--help`` does not pay for what it does not use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = found
    return found
