"""The two checksums of HDF5: Jenkins' lookup3 over structures, Fletcher's over the chunks of a dataset.

Source: http://burtleburtle.net/bob/c/lookup3.c (public domain), which HDF5 File Format Specification 3.0 names; the
HDF5 library's ``H5_checksum_fletcher32`` for how it folds its sums.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MASK = 0xFFFFFFFF
#: 16-bit words summed at a time: the second sum of so many stays below 2^63.
_WORDS = 1 << 20


def lookup3(content: bytes) -> int:
    """Checksum of ``content``, 32 bits: ``hashlittle`` with an initial value of 0."""
    a = b = c = (0xDEADBEEF + len(content)) & _MASK
    if not content:
        return c
    padded = content + bytes(-len(content) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for at in range(0, len(words) - 3, 3):
        a, b, c = _mix((a + words[at]) & _MASK, (b + words[at + 1]) & _MASK, (c + words[at + 2]) & _MASK)
    return _final((a + words[-3]) & _MASK, (b + words[-2]) & _MASK, (c + words[-1]) & _MASK)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = ((a - c) ^ (c << 4 | c >> 28)) & _MASK
    c = (c + b) & _MASK
    b = ((b - a) ^ (a << 6 | a >> 26)) & _MASK
    a = (a + c) & _MASK
    c = ((c - b) ^ (b << 8 | b >> 24)) & _MASK
    b = (b + a) & _MASK
    a = ((a - c) ^ (c << 16 | c >> 16)) & _MASK
    c = (c + b) & _MASK
    b = ((b - a) ^ (a << 19 | a >> 13)) & _MASK
    a = (a + c) & _MASK
    c = ((c - b) ^ (b << 4 | b >> 28)) & _MASK
    b = (b + a) & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - (b << 14 | b >> 18)) & _MASK
    a = ((a ^ c) - (c << 11 | c >> 21)) & _MASK
    b = ((b ^ a) - (a << 25 | a >> 7)) & _MASK
    c = ((c ^ b) - (b << 16 | b >> 16)) & _MASK
    a = ((a ^ c) - (c << 4 | c >> 28)) & _MASK
    b = ((b ^ a) - (a << 14 | a >> 18)) & _MASK
    return ((c ^ b) - (b << 24 | b >> 8)) & _MASK


def fletcher32(content: bytes | bytearray) -> int:
    """Checksum of ``content``, 32 bits: sums of big-endian 16-bit words, an odd last byte is a word's upper half."""
    import numpy

    words = numpy.frombuffer(content + bytes(len(content) % 2), ">u2")
    first = second = 0
    for start in range(0, len(words), _WORDS):
        part: NDArray[numpy.int64] = words[start : start + _WORDS].astype(numpy.int64)
        # Each word counts in the second sum as often as the first one is added up from it on.
        second += len(part) * first + int(part @ numpy.arange(len(part), 0, -1))
        first += int(part.sum())
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    """Add the upper bits to the lower 16 until none are left: modulo 65535, but only nothing gives 0."""
    return (total - 1) % 0xFFFF + 1 if total else 0
