"""Files in, files out: RoFormer checkpoints of four dialects under one table. Imports no framework.

``convert(src, dst, to="torch")`` turns a checkpoint directory into another dialect; ``open_checkpoint(dir)`` gives
lazily read arrays under canonical names; ``save_checkpoint`` writes such arrays as a directory of any dialect. The path
of a conversion: :mod:`.source.identification` finds and indexes, :mod:`.source.fitting` holds against
:mod:`.table.mapping`, :mod:`.target.plan` decides, :mod:`.target.engine` moves bytes, :mod:`.target.output` puts the
result in place.
"""

from .conversion import ConvertOptions, Watcher, convert
from .errors import ConvertError, FormatError, MisfitError, Problem
from .report import ConversionReport
from .saving import save_checkpoint
from .source.checkpoint import Checkpoint
from .source.opening import open_checkpoint
from .table.config import RoFormerConfig

__all__ = [
    "Checkpoint",
    "ConversionReport",
    "ConvertError",
    "ConvertOptions",
    "FormatError",
    "MisfitError",
    "Problem",
    "RoFormerConfig",
    "Watcher",
    "convert",
    "open_checkpoint",
    "save_checkpoint",
]
