"""The front door: ``roformer_convert.convert(...)`` and the version; a command lives in each ``cmd_`` module beside."""

__version__ = "0.1.0"
