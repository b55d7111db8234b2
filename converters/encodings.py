"""Text that is not UTF-8: which encoding it looks like. Nothing is guessed where it is UTF-8."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
#: Letters beyond ASCII that stand alone, as accented ones do between others; Chinese takes two bytes and more.
_SINGLE = re.compile(rb"(?:[\x00-\x7f]|(?<![\x80-\xff])[\xa0-\xff](?![\x80-\xff]))*")


def decode(content: bytes) -> tuple[str, str]:
    """Decode text, and name the encoding: ``"UTF-8"`` wherever it is that.

    Raises:
        UnicodeDecodeError: It is not UTF-8, and like nothing else that is known here.
    """
    for mark, codec, name in _MARKS:
        if content.startswith(mark):
            return content.decode(codec), name
    if b"\0" in content[:64] and len(content) % 2 == 0:  # ASCII letters in two bytes each
        codec = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        return content.decode(codec), "UTF-16"
    try:
        return content.decode(), "UTF-8"
    except UnicodeDecodeError as error:
        wrong = error
    for codec, name in (("gb2312", "GBK"), ("latin-1", "Latin-1"), ("gb18030", "GBK")):
        if name == "Latin-1" and _SINGLE.fullmatch(content) is None:
            continue
        try:
            return content.decode(codec), name
        except UnicodeDecodeError:
            continue
    raise wrong
