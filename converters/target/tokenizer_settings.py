"""The settings that travel beside weights, so that the target's own tokenizer gives the source's ids.

Files travel as they are, unless a loader would be led astray: by a tokenizer's class that means another thing there, or
by keys that name what stays behind. Such a file is written anew, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError, quoted, reading
from ..json_input import Json, read_json
from ..source.checkpoint import Checkpoint
from ..source.splitting import BERT_CLASSES, WORD_CLASSES, Splitting, class_of, splitting_of
from ..source.vocabulary import added_words
from ..table.dialects import DIALECT_FILES
from ..table.mapping import Dialect

_TOKENIZER = "tokenizer_config.json"
_ADDED = "added_tokens.json"
#: Files of settings among the companions; the others hold tokens, whose spelling is anybody's.
_SETTINGS = (_TOKENIZER, "generation_config.json")
#: Keys that name code, files or places of the source, which do not travel.
_STAYS_BEHIND = (
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "_name_or_path",
    "name_or_path",
    "tokenizer_file",
    "vocab_file",
    "special_tokens_map_file",
)


def settings_for(source: Checkpoint, target: Dialect) -> tuple[dict[str, str], list[str]]:
    """Return the files beside the weights that are written anew, name → text, and what to say.

    Args:
        source: What is converted.
        target: Whose software will read it.

    Raises:
        FormatError: A file of settings cannot be read.
    """
    by_name = {path.name: path for path in source.companions}
    written: dict[str, Json] = {}
    notes: list[str] = []
    for name in _SETTINGS:
        if name in by_name:
            settings = read_json(by_name[name])
            left = [key for key in _STAYS_BEHIND if settings.get(key)]
            if left:
                written[name] = {key: value for key, value in settings.items() if key not in left}
                notes.append(f"{name}: {', '.join(left)} left out: code, files or places of the source do not travel")
    texts, vocabulary_notes = _vocabulary(by_name, target)
    added = added_words(source.companions) if target == "paddle" and _ADDED not in by_name else {}
    if added:
        texts[_ADDED] = json.dumps(added, ensure_ascii=False, indent=2) + "\n"
        vocabulary_notes.append(f"{_ADDED} is written with the {len(added):,} added words: PaddleNLP reads them there")
    if "tf1" in (source.dialect, target) and target != source.dialect and "vocab.txt" in by_name:
        vocabulary_notes += _repeated(by_name["vocab.txt"])
    notes += vocabulary_notes
    how = splitting_of(source.companions, source.source_config.extra)
    if how is None:
        return {**texts, **_rendered(written)}, notes
    settings = written.get(_TOKENIZER) or (read_json(by_name[_TOKENIZER]) if _TOKENIZER in by_name else {})
    changes = _changes(how, settings, target)
    if changes:
        written[_TOKENIZER] = {**settings, **changes}
        said = ", ".join(f"{key} = {value}" for key, value in changes.items())
        notes.append(f"{_TOKENIZER}: {said}, for the vocabulary is one of {_kind(how)} ({how.because})")
    if how.words and target == "torch":
        notes.append(
            "transformers 5's RoFormerTokenizer.from_pretrained takes every word apart, so its ids are others: make it "
            "as RoFormerTokenizer(vocab={token: row, …}), or use transformers 4"
        )
    elif how.words and target == "tf1":
        notes.append(
            "bert4keras is told in code that the vocabulary is one of words: Tokenizer('vocab.txt', "
            "do_lower_case=True, pre_tokenize=lambda text: jieba.cut(text, HMM=False))"
        )
    return {**texts, **_rendered(written)}, notes


def _rendered(written: Mapping[str, Json]) -> dict[str, str]:
    return {name: json.dumps(content, ensure_ascii=False, indent=2) + "\n" for name, content in written.items()}


def _vocabulary(by_name: Mapping[str, Path], target: Dialect) -> tuple[dict[str, str], list[str]]:
    """Write vocab.txt for software that reads nothing else, from the tokenizer.json that transformers 5 saves alone."""
    path = by_name.get("tokenizer.json")
    if target == "torch" or path is None or "vocab.txt" in by_name:
        return {}, []
    rows = _rows_of(path)
    software = DIALECT_FILES[target].software
    if rows is None:
        return {}, [f"{software} reads vocab.txt, and tokenizer.json holds no rows for one: it has no tokenizer here"]
    note = f"vocab.txt is written with the {len(rows):,} rows of tokenizer.json, which {software} does not read"
    return {"vocab.txt": "".join(f"{row}\n" for row in rows)}, [note]


def _repeated(path: Path) -> list[str]:
    """Say that bert4keras numbers the rows of a vocabulary otherwise, for a token is there twice.

    Source: bert4keras 0.11.5, tokenizers.py, load_vocab: ``token_dict[token] = len(token_dict)``, and of a row with
    spaces in it the first part is the token.
    """
    rows: dict[str, int] = {}
    with reading(path), open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            token = next(iter(line.split()), "")
            if token in rows:
                return [
                    f"vocab.txt has {quoted(token)} in the rows {rows[token]:,} and {number:,}: bert4keras numbers the "
                    "rows after it one less than others do"
                ]
            rows[token] = number
    return []


def _rows_of(path: Path) -> list[str] | None:
    """Return the tokens of a tokenizer.json in their order; None where they cannot be the lines of a file."""
    try:
        model = read_json(path).get("model")
    except FormatError:
        return None
    ids = model.get("vocab") if isinstance(model, dict) and model.get("type") == "WordPiece" else None
    if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
        return None
    rows = sorted(ids, key=ids.__getitem__)
    lines = all(row and row == row.strip() and not {"\n", "\r"} & set(row) for row in rows)
    return rows if lines and [ids[row] for row in rows] == list(range(len(rows))) else None


def _kind(how: Splitting) -> str:
    return "words" if how.words else "characters"


def _changes(how: Splitting, settings: Mapping[str, Any], target: Dialect) -> Json:
    """Return the settings by which the target's software would choose, where it would choose otherwise."""
    named = class_of(settings)
    if target == "paddle":  # one class for both kinds, and this setting, which is false unless it says otherwise
        wanted: Json = {"use_jieba": True, "tokenizer_class": "RoFormerTokenizer"} if how.words else {}
    elif target == "tf1":
        return {}
    elif how.words:
        wanted = {} if named in WORD_CLASSES else {"tokenizer_class": "RoFormerTokenizer"}
    else:  # a RoFormer's tokenizer is jieba's there, unless a file names BERT's
        wanted = {} if named in BERT_CLASSES else {"tokenizer_class": "BertTokenizer"}
    return {key: value for key, value in wanted.items() if settings.get(key) != value}
