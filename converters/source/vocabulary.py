"""Hold the vocabulary beside the weights against the embedding: as many words as rows, or what to do."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..encodings import decode
from ..errors import FormatError, Problem, quoted, reading
from ..json_input import read_json
from ..stand_ins import START_BYTES, stand_in

#: Embeddings are padded to a multiple of one of these.
_PADDING = (8, 16, 32, 64, 128, 256)
_CHUNK = 1 << 20
_OWN = "Put the model's own vocab.txt there"


@dataclass(frozen=True)
class Misfit:
    """Attributes:
    problem: What does not fit.
    step: What to do about it.
    """

    problem: Problem
    step: str


@dataclass(frozen=True)
class _Words:
    """Attributes:
    rows: Lines of vocab.txt.
    empty: How many of the last ones are empty.
    added: Words of added_tokens.json beyond these lines.
    size: Ids that there are: one more than the largest.
    """

    rows: int
    empty: int
    added: int
    size: int


def misfit(companions: Sequence[Path], vocab_size: int) -> Misfit | None:
    """Say how vocab.txt and added_tokens.json have another number of words than the model; None where they have not.

    Without a vocab.txt there is nothing to count.

    Raises:
        FormatError: A file cannot be read, or added_tokens.json is not from words to numbers.
    """
    named = {path.name: path for path in companions}
    if "vocab.txt" not in named:
        return None
    with reading(named["vocab.txt"]), open(named["vocab.txt"], "rb") as file:
        instead = stand_in(file.read(START_BYTES))
    if instead is not None:
        return Misfit(Problem("vocabulary", "vocab.txt", f"not the words but {instead.what}"), instead.step)
    try:
        rows, empty = _count_rows(named["vocab.txt"])
    except UnicodeDecodeError:
        return _not_utf8(named["vocab.txt"])
    added = _ids(named["added_tokens.json"]) if "added_tokens.json" in named else {}
    beyond = [number for number in added.values() if number >= rows]
    words = _Words(rows, empty, len(beyond), 1 + max(beyond, default=rows - 1))
    return None if words.size == vocab_size else _advise(words, vocab_size)


def _advise(words: _Words, vocab_size: int) -> Misfit:
    got = f"got {words.rows:,} rows"
    if words.added:
        got += f", and {words.added:,} more words in added_tokens.json up to the id {words.size - 1:,}"
    problem = Problem("vocabulary", "vocab.txt", f"{got}, want vocab_size = {vocab_size:,}")
    return Misfit(problem, _step(words, vocab_size))


def _step(words: _Words, vocab_size: int) -> str:
    if words.size > vocab_size:
        if words.added and words.rows <= vocab_size:
            return (
                "The embedding has no rows for the added words: it was not resized for them. Call "
                f"model.resize_token_embeddings({words.size}) and save it again, or take added_tokens.json away."
            )
        if words.empty and words.size - words.empty <= vocab_size:
            last = "one is" if words.empty == 1 else f"{words.empty} are"
            return f"Every line is a word, and its last {last} empty: remove empty lines at its end."
        return (
            f"Words with an id of {vocab_size:,} or more have no row in the embedding, so it is another model's. "
            f"{_OWN}; where these words never occur, add --any-vocab."
        )
    unit = next((unit for unit in _PADDING if -(-words.size // unit) * unit == vocab_size), None)
    rest = vocab_size - words.size
    if unit is not None:
        return (
            f"The embedding's last {rest:,} rows make it a multiple of {unit}: where they are padding, "
            f"add --any-vocab. Otherwise it is another model's: {_OWN[0].lower()}{_OWN[1:]}."
        )
    return (
        f"The embedding's last {rest:,} rows are no word's: it is another model's vocab.txt, or words were added and "
        f"added_tokens.json is missing. {_OWN}; where these rows are padding, add --any-vocab."
    )


def _not_utf8(path: Path) -> Misfit:
    looks, encoding = "", "ENCODING"
    try:
        with reading(path):
            found = decode(path.read_bytes())
        looks = f"; it looks like {found.encoding}{found.doubt}"
        encoding = {"Latin-1": "ISO-8859-1"}.get(found.encoding, found.encoding)  # as iconv calls it
    except UnicodeDecodeError:
        pass
    step = f"Save it as UTF-8: iconv -f {encoding} -t UTF-8 {path} > vocab-utf8.txt"
    return Misfit(Problem("vocabulary", path.name, f"not UTF-8 text{looks}"), step)


def _ids(path: Path) -> dict[str, int]:
    """Read the words and their ids.

    Raises:
        FormatError: An id is no number from 0 up.
    """
    ids = read_json(path)
    for word, number in ids.items():
        if type(number) is not int or number < 0:
            raise FormatError(path, f"{quoted(word)} has the id {quoted(number)}; wanted a whole number from 0 up")
    return ids


def _count_rows(path: Path) -> tuple[int, int]:
    """Count a file's lines, the last one with or without its newline, and how many of the last ones are empty.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    rows, empty, last = 0, 0, b"\n"
    decoder = codecs.getincrementaldecoder("utf-8")()
    with reading(path), open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            decoder.decode(piece)
            rows += piece.count(b"\n")
            stripped = piece.rstrip(b"\r\n")
            ends = piece[len(stripped) :].count(b"\n")
            empty = max(0, ends - 1) if stripped else empty + ends
            last = piece[-1:]
        decoder.decode(b"", final=True)
    return rows + (last != b"\n"), empty
