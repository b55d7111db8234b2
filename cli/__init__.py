"""The front door: ``roformer_convert.convert(...)`` and the version; a command lives in each ``cmd_`` module beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .converters.conversion import convert

__all__ = ["__version__", "convert"]


def __getattr__(name: str) -> Any:
    """Load ``convert`` when it is first asked for, so that ``--help`` and ``__version__`` cost nothing."""
    if name == "convert":
        from .converters.conversion import convert

        return convert
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
