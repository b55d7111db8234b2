"""Texts that lie where a file should: what a download or a clone left there instead of it, and what to do."""

from __future__ import annotations

from typing import NamedTuple

#: So many first bytes are enough to know one.
START_BYTES = 512
_LFS = b"version https://git-lfs"
_WEB = (b"<!doctype", b"<html", b"<?xml")


class StandIn(NamedTuple):
    """What a download left in a file's place.

    Attributes:
        what: What lies there, as a sentence continues: "not the weights but …".
        step: What to do about it.
    """

    what: str
    step: str


LFS_POINTER = StandIn(
    "Git LFS's pointer", "Fetch what it points to with `git lfs pull` in the repository, or download the file itself."
)
_PAGE = StandIn("a web page, perhaps of an error or a login", "Read it in a browser, and download the file again.")


def stand_in(start: bytes) -> StandIn | None:
    """Say what stands in a file's place by its first bytes; None where that is not known, as of the file itself."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_LFS):
        return LFS_POINTER
    return _PAGE if text.startswith(_WEB) else None
