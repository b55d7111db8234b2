"""The front door: ``roformer_convert.convert(...)`` and the version; a command lives in each ``cmd_`` module beside."""

from .converters.conversion import convert
from .converters.version import __version__

__all__ = ["__version__", "convert"]
