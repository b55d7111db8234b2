"""Start Paddle: what has to be said to it before and right after its import, in the one place that imports it.

``ops_paddle.py`` takes ``paddle`` from here. :data:`NOTES` says what was done, for ``--verbose``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Mapping, MutableMapping

from ...converters.errors import ConvertError
from .processor import processor

_MKL = "MKL_DEBUG_CPU_TYPE"
_MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
# glibc's malloc.h; the first is the largest that its 64-bit releases before 2.35 accept
_LARGEST_HEAP_BLOCK = 32 << 20
_KEPT_FREE = 1 << 30
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


class StartError(ConvertError):
    """Paddle cannot be started in this process."""


def choose_kernels(environment: MutableMapping[str, str], vendor: str, *, imported: bool) -> str | None:
    """Set MKL's processor type on AMD processors and say so.

    Paddle's CPU wheel carries MKL 2019, which on a processor that is not Intel's takes its slowest kernels unless told
    otherwise: matrix products run at half speed and less.

    Args:
        environment: The environment's variables, which are changed.
        vendor: The processor's maker, as it says itself.
        imported: Whether Paddle was imported already: then it is too late.
    """
    if vendor != "AuthenticAMD" or _MKL in environment:
        return None
    if imported:
        return f"paddle was imported before {_MKL}=5 could be set: its matrix products run at half speed here"
    environment[_MKL] = "5"
    return f"{_MKL}=5 is set, because Paddle's MKL takes slow kernels on AMD processors"


def keep_freed_memory(environment: MutableMapping[str, str]) -> str | None:
    """Tell glibc to keep freed blocks for the next one of their size, and say so.

    Paddle takes each activation from malloc. A temporary of some megabytes otherwise goes back to the system and is
    faulted in again page by page by the next operator, which costs gelu and the bias of a feed-forward block several
    times their arithmetic.
    """
    if sys.platform != "linux" or any(name in environment for name in _MALLOC):
        return None
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return None
    if not (mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)):
        return None
    return f"glibc keeps up to {_KEPT_FREE >> 20} MB of freed memory: asking the system for it again slows Paddle down"


def refuse_after_tensorflow(modules: Mapping[str, object]) -> None:
    """Refuse where TensorFlow is there and Paddle is not.

    Raises:
        StartError: Importing paddle 3.3.1 after tensorflow ends in a segmentation fault.
    """
    if "tensorflow" in modules and "paddle" not in modules:
        raise StartError(
            "TensorFlow is imported in this process, and importing Paddle after it crashes",
            "Use one process a framework, or import paddle before tensorflow.",
        )


refuse_after_tensorflow(sys.modules)
_notes = [
    choose_kernels(os.environ, processor().vendor, imported="paddle" in sys.modules),
    keep_freed_memory(os.environ),
]

#: What was done to start Paddle, a sentence each.
NOTES: tuple[str, ...] = tuple(note for note in _notes if note is not None)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="No ccache found")  # Paddle looks for a compiler cache on import
    import paddle
    from paddle.distributed.fleet.utils import recompute

__all__ = ["NOTES", "StartError", "paddle", "recompute"]
