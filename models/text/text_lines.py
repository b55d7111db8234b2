"""Read texts from a file or from stdin, one a line in UTF-8."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ...converters.errors import ConvertError

_LONGEST_LINE = 4 << 20  # bytes


def read_lines(path: Path | None) -> Iterator[str]:
    """Yield the lines of a file, or of stdin for None and ``-``; empty ones are passed over."""
    if path is None or str(path) == "-":
        yield from _decoded("stdin", sys.stdin.buffer)
        return
    try:
        with path.open("rb") as stream:
            yield from _decoded(str(path), stream)
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror or error}", "Name a text file, one text a line.") from None


def _decoded(name: str, stream: IO[bytes]) -> Iterator[str]:
    number = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise ConvertError(f"{name}: line {number} is longer than {_LONGEST_LINE:,} bytes", "Give one text a line.")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConvertError(
                f"{name}: line {number} is not UTF-8, at its byte {error.start}", "Save the file as UTF-8."
            ) from None
        if text.strip():
            yield text
