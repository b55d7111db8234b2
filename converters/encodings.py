"""Text that is not UTF-8: which encoding it looks like. Nothing is guessed where it is UTF-8.

Text of two bytes a character decodes in several encodings, and in all but its own to characters that nobody writes. So
each is asked how many of the characters are among its common ones, which the standards have put first: GB 2312's and
JIS X 0208's first level, Big5's frequently used characters, and kana.

Sources: GB 2312-80, rows 16 to 55; Big5 (1984), A440 to C67E; JIS X 0208, rows 4, 5 and 16 to 47, as in Shift JIS.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
#: Codec, its name, its characters beyond ASCII, the common ones among them, and those that are no sign of any language.
#: In the order in which they are taken where they are as likely: that of what is seen beside these models.
_ENCODINGS = (
    ("gb18030", "GBK", rb"[\x81-\xfe][\x40-\xfe]", rb"[\xb0-\xd7][\xa1-\xfe]", rb"[\xa1\xa3][\xa1-\xfe]"),
    ("latin-1", "Latin-1", rb"[\x80-\xff]", rb"(?<![\x80-\xff])[\xc0-\xd6\xd8-\xf6\xf8-\xff](?![\x80-\xff])", rb"\xa0"),
    ("big5", "Big5", rb"[\xa1-\xf9][\x40-\xfe]", rb"[\xa4-\xc6][\x40-\xfe]", rb"[\xa1-\xa3][\x40-\xfe]"),
    (
        "shift_jis",
        "Shift_JIS",
        rb"[\x81-\x9f\xe0-\xfc][\x40-\xfc]|[\xa1-\xdf]",
        rb"\x82[\x9f-\xf1]|\x83[\x40-\x96]|[\x88-\x98][\x40-\xfc]",
        rb"\x81[\x40-\xfc]",
    ),
)
#: Less than this part of a text in common characters is no sign of an encoding.
_SIGN = 0.5


class Decoded(NamedTuple):
    """A file of text, decoded.

    Attributes:
        text: What it says.
        encoding: In which encoding, "UTF-8" wherever it is that.
        or_else: Other encodings that it looks like as much.
    """

    text: str
    encoding: str
    or_else: tuple[str, ...] = ()

    @property
    def doubt(self) -> str:
        """What else it looks like, as a sentence continues; nothing where there is no doubt."""
        return f"; it looks as much like {' and '.join(self.or_else)}" if self.or_else else ""


def decode(content: bytes) -> Decoded:
    """Decode text.

    Raises:
        UnicodeDecodeError: It is not UTF-8, and like nothing else that is known here.
    """
    for mark, codec, name in _MARKS:
        if content.startswith(mark):
            return Decoded(content.decode(codec), name)
    if b"\0" in content[:64] and len(content) % 2 == 0:  # ASCII letters in two bytes each
        codec = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        return Decoded(content.decode(codec), "UTF-16")
    try:
        return Decoded(content.decode(), "UTF-8")
    except UnicodeDecodeError as error:
        wrong = error
    found: dict[str, tuple[float, str]] = {}
    for codec, name, all_, common, neutral in _ENCODINGS:
        if codec == "latin-1" and re.search(rb"[\x80-\x9f]", content):  # control characters there, in no text
            continue
        try:
            found[name] = _common_part(content, all_, common, neutral), content.decode(codec)
        except UnicodeDecodeError:
            continue
    most = max((part for part, _ in found.values()), default=0.0)
    likely = [name for name, (part, _) in found.items() if part == most >= _SIGN]
    if likely:
        return Decoded(found[likely[0]][1], likely[0], tuple(likely[1:]))
    if "GBK" in found:  # rare characters, as names have them
        return Decoded(found["GBK"][1], "GBK")
    raise wrong


def _common_part(content: bytes, all_: bytes, common: bytes, neutral: bytes) -> float:
    """Return which part of the characters beyond ASCII is common, without those that are no sign; 0 of none."""
    # one pass from left to right: in two-byte encodings the second byte may look like the first of another character
    characters = [
        match.lastgroup
        for match in re.finditer(
            rb"(?P<neutral>" + neutral + rb")|(?P<common>" + common + rb")|(?P<other>" + all_ + rb")", content
        )
    ]
    told = [each for each in characters if each != "neutral"]
    return told.count("common") / len(told) if told else 0.0
