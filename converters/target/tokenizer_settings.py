"""The settings that travel beside weights, so that the target's own tokenizer gives the source's ids.

Files travel as they are, unless a loader would be led astray: by a tokenizer's class that means another thing there, or
by keys that name what stays behind. Such a file is written anew, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..json_input import Json, read_json
from ..source.checkpoint import Checkpoint
from ..source.splitting import BERT_CLASSES, WORD_CLASSES, Splitting, class_of, splitting_of
from ..table.dialects import DIALECT_FILES
from ..table.mapping import Dialect

_TOKENIZER = "tokenizer_config.json"
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


def settings_for(source: Checkpoint, target: Dialect) -> tuple[dict[str, Json], list[str]]:
    """Return the settings that are written anew, file name → content, and what to say.

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
    how = splitting_of(source.companions, source.source_config.extra)
    if how is None:
        return written, notes
    settings = written.get(_TOKENIZER) or (read_json(by_name[_TOKENIZER]) if _TOKENIZER in by_name else {})
    changes = _changes(how, settings, target)
    if changes:
        written[_TOKENIZER] = {**settings, **changes}
        said = ", ".join(f"{key} = {value}" for key, value in changes.items())
        notes.append(f"{_TOKENIZER}: {said}, for the vocabulary is one of {_rows(how)} ({how.because})")
    software = DIALECT_FILES[target].software
    if target in ("paddle", "tf1") and "vocab.txt" not in by_name:
        notes.append(f"{software} reads no tokenizer.json, and there is no vocab.txt: it has no tokenizer here")
    elif how.words and target == "torch":
        notes.append(
            "transformers 5's RoFormerTokenizer.from_pretrained takes every word apart, so its ids are others: make it "
            "as RoFormerTokenizer(vocab={token: row, …}), or use transformers 4"
        )
    elif how.words and target == "tf1":
        notes.append(
            "bert4keras is told in code that the vocabulary is one of words: Tokenizer('vocab.txt', "
            "do_lower_case=True, pre_tokenize=lambda text: jieba.cut(text, HMM=False))"
        )
    return written, notes


def _rows(how: Splitting) -> str:
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
