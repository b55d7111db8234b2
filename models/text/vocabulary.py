"""The rows of a vocabulary, from ``vocab.txt`` or ``tokenizer.json``: untrusted, and read as transformers does.

Sources: ``WordPiece::read_file`` of the tokenizers library 0.23, ``TokenizersBackend.convert_to_native_format`` of
transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...converters.errors import FormatError, MisfitError, Problem, quoted, reading
from ...converters.json_input import Json

_LARGEST_VOCABULARY = 64 << 20  # bytes; a RoFormer's 50,000 rows are 0.5 MB, the largest multilingual BERT's 2 MB
_MOST_ROWS = 1 << 22

#: Unicode's White_Space, which the tokenizers library trims from the end of a row; str.rstrip() also takes U+001C…1F.
_WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)


def read_vocabulary(directory: Path, written: Json) -> tuple[dict[int, str], dict[str, int], Path]:
    """Read id → token, token → id and the file they came from.

    ``tokenizer.json`` is all that transformers 5 saves, so it is enough; where there is a ``vocab.txt`` too, both must
    agree. Of two rows with one spelling the last counts, as in transformers.

    Args:
        directory: Directory of the checkpoint.
        written: What ``tokenizer.json`` holds, empty where there is none.

    Raises:
        FormatError: A file is too large or damaged, or the two disagree.
        MisfitError: There is neither.
    """
    path, json_path = directory / "vocab.txt", directory / "tokenizer.json"
    if path.is_file():
        tokens = read_rows(path)
        ids = {token: i for i, token in enumerate(tokens)}
        if written:
            _compare(path, ids, json_path, _wordpiece_ids(json_path, written))
        return dict(enumerate(tokens)), ids, path
    if not written:
        problem = Problem("missing", "vocab.txt", "(or tokenizer.json)")
        raise MisfitError(
            directory, "a tokenizer", [problem], "Copy the vocabulary that came with the checkpoint there."
        )
    ids = _wordpiece_ids(json_path, written)
    return {number: token for token, number in ids.items()}, ids, json_path


def read_rows(path: Path) -> list[str]:
    """Split ``vocab.txt`` as the tokenizers library does: at line feeds, white space trimmed from the end of each."""
    with reading(path):
        size = path.stat().st_size
        if size > _LARGEST_VOCABULARY:
            raise FormatError(path, f"a vocabulary of {size:,} bytes; wanted at most {_LARGEST_VOCABULARY:,}")
        content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            path, "not UTF-8 text", offset=error.start, next_step="Save it as UTF-8, one token a line."
        ) from None
    if text.startswith("\ufeff"):
        # transformers keeps the mark as a part of row 0 and puts a second [PAD] past the last row, in silence
        raise FormatError(path, "begins with a byte-order mark", next_step="Save it as UTF-8 without one.")
    if "\r" in text.replace("\r\n", "\n"):
        # the end of a line to Python, and so to PaddleNLP, and not to the tokenizers library
        raise FormatError(
            path, "has a carriage return alone", next_step="Write every line's end as a line feed, one token a line."
        )
    rows = text.split("\n")
    if rows[-1] == "":
        rows.pop()
    if len(rows) > _MOST_ROWS:
        raise FormatError(path, f"a vocabulary of {len(rows):,} rows; wanted at most {_MOST_ROWS:,}")
    return [row.rstrip(_WHITE_SPACE) for row in rows]


def _wordpiece_ids(path: Path, written: Json) -> dict[str, int]:
    """Take token → id out of a ``tokenizer.json``, which must be a wordpiece model with BERT's prefix."""
    model = written.get("model")
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or model.get("type") not in ("WordPiece", None) or not isinstance(ids, dict):
        kind = model.get("type") if isinstance(model, dict) else model
        raise FormatError(path, f"holds the model {quoted(kind)}; wanted a WordPiece model with its vocab")
    if model.get("continuing_subword_prefix", "##") != "##":
        raise FormatError(
            path, f"continuing_subword_prefix is {quoted(model['continuing_subword_prefix'])}; wanted '##'"
        )
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < _MOST_ROWS:
            raise FormatError(path, f"the id of {quoted(token)} is {quoted(number)}; wanted 0 to {_MOST_ROWS - 1:,}")
    if len(set(ids.values())) != len(ids):
        raise FormatError(path, "two tokens of its vocabulary have one id")
    return ids


def _compare(path: Path, ids: Mapping[str, int], json_path: Path, other: Mapping[str, int]) -> None:
    """Refuse two vocabularies that differ: transformers 5 would take the second, transformers 4 the first."""
    trimmed = {token.rstrip(_WHITE_SPACE): number for token, number in other.items()}
    different = {token for token in ids.keys() | trimmed.keys() if ids.get(token) != trimmed.get(token)}
    if different:
        first = min(different, key=lambda token: (ids.get(token, _MOST_ROWS), trimmed.get(token, _MOST_ROWS)))
        raise FormatError(
            json_path,
            f"does not agree with {path.name} on {len(different):,} tokens, first {quoted(first)}: "
            f"id {trimmed.get(first, 'none')} here, {ids.get(first, 'none')} there",
            next_step="Remove the one that does not belong to the checkpoint.",
        )
