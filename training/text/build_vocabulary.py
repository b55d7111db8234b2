"""A vocabulary from text: characters by count, and pieces so that every Latin word and number can be spelled.

A WordPiece trainer learns Latin junk from Chinese text, as runs of letters are the only words of many pieces in it, and
no ``##`` piece of a Chinese character, which no tokenizer here would use anyway. So characters are counted instead.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...converters.errors import ConvertError
from ...models.text.tokenizer_files import ROLES
from .files import LineReader, TextFormat, expand, paragraphs

#: Lower-cased text has no others.
_LETTERS = string.ascii_lowercase + string.digits
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary and how well it covers the text it was made from.

    Attributes:
        tokens: Row by row, the special ones first.
        characters: Characters that were counted, white space left out.
        unknown: How many of those have no row.
        distinct: Number of different characters.
    """

    tokens: list[str]
    characters: int
    unknown: int
    distinct: int


def build(
    inputs: Sequence[Path | str],
    size: int,
    *,
    fields: Sequence[str] = ("text",),
    file_format: str = "auto",
    minimum_count: int = 1,
    progress: Callable[[int], None] = lambda _: None,
    started: Callable[[int], None] = lambda _: None,
) -> Vocabulary:
    """Make a vocabulary of at most ``size`` rows.

    First BERT's special tokens, then a-z, 0-9 and ``##a``-``##9``, then the characters by count (those of one count by
    code point), of text that was lower-cased and stripped of accents as the tokenizer does it.

    Args:
        inputs: Files, directories or patterns.
        size: Rows, at most.
        fields: The members of JSON lines that hold the text.
        file_format: See :class:`~.files.TextFormat`.
        minimum_count: A character that occurs less often gets no row.
        progress: Called with the bytes of input read since the last call.
        started: Called once with the bytes of input that are to be read.

    Raises:
        ConvertError: An input cannot be read or is not valid, or ``size`` has no room for the pieces.
    """
    first = [*ROLES.values(), *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    if size < len(first):
        raise ConvertError(
            f"a vocabulary of {size:,} rows; wanted at least {len(first)}",
            "Special tokens, letters and digits alone take that many.",
        )
    counts = count_characters(inputs, TextFormat(file_format, tuple(fields)), progress, started)
    rest = sorted((-count, letter) for letter, count in counts.items() if letter not in _LETTERS)
    tokens = first + [letter for count, letter in rest if -count >= minimum_count][: size - len(first)]
    known = set(tokens)
    return Vocabulary(
        tokens,
        counts.total(),
        sum(count for letter, count in counts.items() if letter not in known),
        len(counts),
    )


def count_characters(
    inputs: Sequence[Path | str],
    text_format: TextFormat,
    progress: Callable[[int], None],
    started: Callable[[int], None],
) -> Counter[str]:
    """Count the characters of normalised text, white space left out.

    Raises:
        ConvertError: An input cannot be read or is not valid, or there is no text.
    """
    from tokenizers.normalizers import BertNormalizer

    normalizer = BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=True, lowercase=True)
    raw: Counter[str] = Counter()
    paths = expand(inputs)
    started(sum(path.stat().st_size for path in paths))
    for path in paths:
        reader = LineReader(path)
        waiting: list[str] = []
        characters = reported = 0
        for paragraph in paragraphs(reader, text_format):
            if paragraph is None:
                continue
            waiting.append(paragraph)
            characters += len(paragraph)
            if characters > _BATCH_CHARACTERS:
                raw.update("".join(waiting))
                waiting, characters = [], 0
                progress(reader.progress - reported)
                reported = reader.progress
        raw.update("".join(waiting))
        progress(path.stat().st_size - reported)
    counts: Counter[str] = Counter()
    for letter, count in raw.items():
        for part in normalizer.normalize_str(letter):
            if not part.isspace():
                counts[part] += count
    if not counts:
        raise ConvertError(f"no text in {len(paths)} input{'s' * (len(paths) != 1)}", "Name other inputs.")
    return counts
