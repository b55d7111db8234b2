"""Numbers of bytes as people write and read them: one notation for every option and every report.

``GB`` is 10⁹ bytes and ``GiB`` 2³⁰, as in the International System of Units and in transformers' ``max_shard_size``.
"""

from __future__ import annotations

import re

from .errors import ConvertError

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """``"5GB"`` → 5,000,000,000 and ``"5GiB"`` → 5 × 2³⁰.

    Raises:
        ConvertError: Not a size, or zero.
    """
    match = _SIZE.fullmatch(text)
    size = 0
    if match is not None:
        number, prefix, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _POWERS[prefix.upper()])
    if size <= 0:
        raise ConvertError(f"{text!r} is not a size", "Write it as 500MB, 5GB or 2GiB.")
    return size


def amount(nbytes: int) -> str:
    """Write a number of bytes for a person: ``497.9 MB``."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
