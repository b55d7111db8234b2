"""Files in, files out: RoFormer checkpoints of four dialects under one table. Imports no framework.

``convert(src, dst, to="torch")`` turns a checkpoint directory into another dialect; ``open_checkpoint(dir)`` gives
lazily read arrays under canonical names; ``save_checkpoint`` writes such arrays as a directory of any dialect. The path
of a conversion: :mod:`.identification` finds and indexes, :mod:`.fitting` holds against :mod:`.mapping`, :mod:`.plan`
decides, :mod:`.engine` moves bytes, :mod:`.output` puts the result in place.
"""

from .checkpoint import Checkpoint
from .config import RoFormerConfig
from .conversion import ConvertOptions, Report, Watcher, convert
from .errors import ConvertError, FormatError, MisfitError, Problem
from .opening import open_checkpoint
from .saving import save_checkpoint

__all__ = [
    "Checkpoint",
    "ConvertError",
    "ConvertOptions",
    "FormatError",
    "MisfitError",
    "Problem",
    "Report",
    "RoFormerConfig",
    "Watcher",
    "convert",
    "open_checkpoint",
    "save_checkpoint",
]
