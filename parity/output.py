"""Files that the gate writes for people: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ..converters.errors import ConvertError


def write_text(path: Path, text: str) -> None:
    """Write a text file and give it its name at the end.

    Raises:
        ConvertError: It cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConvertError(f"{path}: {error.strerror or error}", "Name a file that can be written.") from None
