"""Files in, files out: RoFormer checkpoints of four dialects under one table. Imports no framework.

``convert(src, dst, to="torch")`` turns a checkpoint directory into another dialect; ``open_checkpoint(dir)`` gives
lazily read arrays under canonical names; ``save_checkpoint`` writes such arrays as a directory of any dialect. The path
of a conversion: :mod:`.weight_files` finds and indexes, :mod:`.checkpoint` holds against :mod:`.mapping`, :mod:`.plan`
decides, :mod:`.engine` moves bytes, :mod:`.output` puts the result in place.
"""

from .checkpoint import Checkpoint, open_checkpoint
from .config import RoFormerConfig
from .convert import Report, convert, save_checkpoint
from .errors import ConvertError, FormatError, MisfitError, Problem

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
