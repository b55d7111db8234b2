"""The front door: ``roformer_convert.convert(...)`` and the version; a command lives in each ``cmd_`` module beside.

Both are imported when they are asked for: a command begins here, and must be able to say that it was interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .converters.conversion import convert
    from .converters.version import __version__

__all__ = ["__version__", "convert"]


def __getattr__(name: str) -> Any:
    if name == "convert":
        from .converters.conversion import convert

        return convert
    if name == "__version__":
        from .converters.version import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
