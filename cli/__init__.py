"""The front door: ``roformer_convert.convert(...)`` and the version; a command lives in each ``cmd_`` module beside."""

from .converters.conversion import convert

__version__ = "0.1.0"
__all__ = ["__version__", "convert"]
