"""Hold the tokenizer's words against the embedding: as many as it has rows, or what to do."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..encodings import decode
from ..errors import FormatError, Problem, quoted, reading
from ..json_input import read_json
from ..stand_ins import START_BYTES, stand_in

#: Embeddings are padded to a multiple of one of these.
_PADDING = (8, 16, 32, 64, 128, 256)
_CHUNK = 1 << 20
#: The row by which a vocabulary with more than words in its lines is known: every BERT's has it.
_UNKNOWN = b"[UNK]"


@dataclass(frozen=True)
class Misfit:
    """A vocabulary that does not fit the model.

    Attributes:
        problem: What does not fit.
        step: What to do about it.
    """

    problem: Problem
    step: str


@dataclass(frozen=True)
class _Words:
    """The words of a vocabulary, counted.

    Attributes:
        file: Which holds them.
        rows: Its lines, or in tokenizer.json the ids of its words.
        empty: How many of the last lines are empty.
        added: Words beyond these, and their ids.
        adding: Where those are.
    """

    file: str
    rows: int
    empty: int
    added: Mapping[str, int]
    adding: str

    @property
    def size(self) -> int:
        """Ids that there are: one more than the largest."""
        return 1 + max(self.added.values(), default=self.rows - 1)


def misfit(companions: Sequence[Path], vocab_size: int) -> Misfit | None:
    """Say how the tokenizer's files have another number of words than the model; None where they have not.

    Without vocab.txt and tokenizer.json there is nothing to count.

    Raises:
        FormatError: A file cannot be read, or an added word's id is no number.
    """
    named = {path.name: path for path in companions}
    if "vocab.txt" in named and (wrong := _no_lines_of_words(named["vocab.txt"])) is not None:
        return wrong
    try:
        words = _words(named)
    except UnicodeDecodeError:
        return _not_utf8(named["vocab.txt"])
    return None if words is None or words.size == vocab_size else _advise(words, vocab_size)


def added_words(companions: Sequence[Path]) -> Mapping[str, int]:
    """Return the words beyond the vocabulary, and their ids.

    Raises:
        FormatError: A file cannot be read, or an added word's id is no number.
    """
    try:
        words = _words({path.name: path for path in companions})
    except UnicodeDecodeError:  # what --any-vocab takes
        return {}
    return {} if words is None else words.added


def _words(named: Mapping[str, Path]) -> _Words | None:
    """Read the lines of vocab.txt, or without one the words of tokenizer.json, and what is added to them.

    transformers has written the added ones into added_tokens.json, into tokenizer_config.json, or into both.

    Raises:
        UnicodeDecodeError: vocab.txt is not UTF-8.
    """
    if "vocab.txt" in named:
        file, (rows, empty) = "vocab.txt", _count_rows(named["vocab.txt"])
        added = {name: read(named[name]) for name, read in _ADDING.items() if name in named}
    elif "tokenizer.json" in named and (counted := _of_tokenizer(named["tokenizer.json"])) is not None:
        file, rows, empty, added = "tokenizer.json", counted[0], 0, {"tokenizer.json": counted[1]}
    else:
        return None
    beyond = {name: {word: number for word, number in ids.items() if number >= rows} for name, ids in added.items()}
    every = {word: number for ids in beyond.values() for word, number in ids.items()}
    return _Words(file, rows, empty, every, " and ".join(name for name, ids in beyond.items() if ids))


def _advise(words: _Words, vocab_size: int) -> Misfit:
    got = f"got {words.rows:,} rows"
    if words.added:
        got += f", and {len(words.added):,} more in {words.adding} up to the id {words.size - 1:,}"
    problem = Problem("vocabulary", words.file, f"{got}, want vocab_size = {vocab_size:,}")
    return Misfit(problem, _step(words, vocab_size))


def _step(words: _Words, vocab_size: int) -> str:
    own = f"ut the model's own {words.file} there"
    if words.size > vocab_size:
        if words.added and words.rows <= vocab_size:
            return (
                "The embedding has no rows for the added words: it was not resized for them. Call "
                f"model.resize_token_embeddings({words.size}) and save it again, or take them out of {words.adding}."
            )
        if words.empty and words.size - words.empty <= vocab_size:
            last = "one is" if words.empty == 1 else f"{words.empty} are"
            return f"Every line is a word, and its last {last} empty: remove empty lines at its end."
        return (
            f"Words with an id of {vocab_size:,} or more have no row in the embedding, so it is another model's. "
            f"P{own}; where these words never occur, add --any-vocab."
        )
    unit = next((unit for unit in _PADDING if -(-words.size // unit) * unit == vocab_size), None)
    rest = vocab_size - words.size
    if unit is not None:
        return (
            f"The embedding's last {rest:,} rows make it a multiple of {unit}: where they are padding, "
            f"add --any-vocab. Otherwise it is another model's: p{own}."
        )
    return (
        f"The embedding's last {rest:,} rows are no word's: it is another model's {words.file}, or words were added "
        f"and added_tokens.json is missing. P{own}; where these rows are padding, add --any-vocab."
    )


def _no_lines_of_words(path: Path) -> Misfit | None:
    """Say what is in the place of lines of words, or what makes some software see other lines than other does.

    A byte-order mark is to all of them a part of the first word. A lone carriage return ends a line to Python's text
    files, which PaddleNLP, bert4keras and transformers 4 read, and not to the tokenizers library, which transformers 5
    reads with. White space behind a word is a part of it to PaddleNLP and transformers 4, and no other ends a word but
    to bert4keras.
    """
    with reading(path), open(path, "rb") as file:
        start = file.read(START_BYTES)
        instead = stand_in(start)
        if instead is not None:
            return Misfit(Problem("vocabulary", path.name, f"not the words but {instead.what}"), instead.step)
        if start.startswith(codecs.BOM_UTF8):
            said = "begins with a byte-order mark, which is taken for a part of its first word"
            return Misfit(Problem("vocabulary", path.name, said), f"Take it off: tail -c +4 {path} > vocab-utf8.txt")
        if b"\0" in start[:64]:  # UTF-16 of Chinese characters may be UTF-8, too
            return _not_utf8(path)
        file.seek(0)
        for number, line in enumerate(file, 1):
            word = line.removesuffix(b"\n").removesuffix(b"\r")
            if b"\r" in word:
                return _carriage_return(path, None if number == 1 and not line.endswith(b"\n") else number)
            if word.startswith(_UNKNOWN) and word[len(_UNKNOWN) :][:1].isspace():
                said = f"row {number - 1:,} is {quoted(word)}: more than a word, as some software reads it"
                step = f"Leave the words alone: sed 's/[[:space:]].*//' {path} > vocab-words.txt"
                return Misfit(Problem("vocabulary", path.name, said), step)
    return None


def _carriage_return(path: Path, line: int | None) -> Misfit:
    """Say that a carriage return ends every line (None) or that there is one alone in a line."""
    said = "a carriage return alone, which some software takes for a line's end and some does not"
    if line is None:
        step = f"Write every line's end as a line feed: tr '\\r' '\\n' < {path} > vocab-lines.txt"
        return Misfit(Problem("vocabulary", path.name, f"its lines end in {said}"), step)
    step = "Take it out, or write a line feed in its place, whichever gives as many lines as the model has words."
    return Misfit(Problem("vocabulary", path.name, f"line {line:,} has {said}"), step)


def _not_utf8(path: Path) -> Misfit:
    looks, encoding = "", "ENCODING"
    try:
        with reading(path):
            found = decode(path.read_bytes())
        if found.encoding != "UTF-8":  # with zero bytes in it
            looks = f"; it looks like {found.encoding}{found.doubt}"
            encoding = {"Latin-1": "ISO-8859-1"}.get(found.encoding, found.encoding)  # as iconv calls it
    except UnicodeDecodeError:
        pass
    step = f"Save it as UTF-8: iconv -f {encoding} -t UTF-8 {path} > vocab-utf8.txt"
    return Misfit(Problem("vocabulary", path.name, f"not UTF-8 text{looks}"), step)


def _of_added_tokens(path: Path) -> dict[str, int]:
    """Read added_tokens.json.

    Raises:
        FormatError: An id is no number from 0 up.
    """
    return {word: _id(path, word, number) for word, number in read_json(path).items()}


def _of_settings(path: Path) -> dict[str, int]:
    """Read the words that tokenizer_config.json adds, whose ids are its keys.

    Raises:
        FormatError: An id is no number from 0 up.
    """
    added = read_json(path).get("added_tokens_decoder")
    words: dict[str, int] = {}
    for key, each in added.items() if isinstance(added, dict) else ():
        word = str(each.get("content", key)) if isinstance(each, dict) else key
        words[word] = _id(path, word, int(key) if re.fullmatch(r"[0-9]{1,9}", key) else key)
    return words


#: Files with words beyond those of vocab.txt, and what reads them.
_ADDING: Mapping[str, Callable[[Path], dict[str, int]]] = {
    "added_tokens.json": _of_added_tokens,
    "tokenizer_config.json": _of_settings,
}


def _of_tokenizer(path: Path) -> tuple[int, dict[str, int]] | None:
    """Return how many ids the words of a tokenizer.json take, and those that it adds; None where none are listed."""
    try:
        content = read_json(path)
    except FormatError:
        return None
    model, added = content.get("model"), content.get("added_tokens")
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict) or not all(type(number) is int and number >= 0 for number in ids.values()):
        return None
    each = [word for word in added if isinstance(word, dict)] if isinstance(added, list) else []
    beside = {str(word.get("content")): number for word in each if type(number := word.get("id")) is int}
    return 1 + max(ids.values(), default=-1), beside


def _id(path: Path, word: str, number: object) -> int:
    if type(number) is not int or number < 0:
        raise FormatError(path, f"{quoted(word)} has the id {quoted(number)}; wanted a whole number from 0 up")
    return number


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
