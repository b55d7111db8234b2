"""Whether a vocabulary is one of words, into which jieba splits a text first, or of characters and pieces like BERT's.

A file may say so; otherwise the rows show it. The tokenizer of the models asks here too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import reading
from ..json_input import read_json

#: Tokenizer classes that split as BERT does, and those that put jieba's words first.
BERT_CLASSES = frozenset({"BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer"})
WORD_CLASSES = frozenset({"RoFormerTokenizer"})

#: A vocabulary that nobody describes is one of words when this share of its rows are words of two or more Chinese
#: characters. Character vocabularies have none (0 of Zhuiyi's 12,000), word vocabularies mostly such rows.
_WORD_SHARE = 0.01
CHINESE_WORD = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]{2,}"


@dataclass(frozen=True)
class Splitting:
    """How a text is split before pieces are looked up.

    Attributes:
        words: Whether jieba's words come first.
        because: Where that was read, or how it was decided.
    """

    words: bool
    because: str


def class_of(settings: Mapping[str, Any]) -> Any:
    """Return the tokenizer's class that a file names, without the word for a fast one, or None."""
    named = settings.get("tokenizer_class")
    return named.removesuffix("Fast") if isinstance(named, str) else named


def counted(rows: Iterable[str]) -> Splitting:
    """Decide by the rows themselves."""
    total = words = 0
    word = re.compile(CHINESE_WORD)  # 1 ms
    for row in rows:
        total += 1
        words += word.fullmatch(row) is not None
    because = f"{words:,} of {total:,} rows are words of two or more Chinese characters, and no file names a class"
    return Splitting(words > _WORD_SHARE * total, because)


def splitting_of(companions: Iterable[Path], config: Mapping[str, Any]) -> Splitting | None:
    """Decide by the files beside the weights: ``use_jieba`` (PaddleNLP's), a class, or the rows; None without any.

    Args:
        companions: The tokenizer's files.
        config: Keys of the model's configuration: old releases name the tokenizer's class there.

    Raises:
        FormatError: A file cannot be read or is no JSON.
    """
    by_name = {path.name: path for path in companions}
    path = by_name.get("tokenizer_config.json")
    settings = {} if path is None else read_json(path)
    use_jieba = settings.get("use_jieba")
    if isinstance(use_jieba, bool):
        return Splitting(use_jieba, f"use_jieba is {str(use_jieba).lower()} in tokenizer_config.json")
    for name, each in (("tokenizer_config.json", settings), ("the configuration", config)):
        named = class_of(each)
        if isinstance(named, str) and named in BERT_CLASSES | WORD_CLASSES:
            return Splitting(named in WORD_CLASSES, f"{name} names {named}")
    vocabulary = by_name.get("vocab.txt")
    if vocabulary is None:
        return None
    with reading(vocabulary), open(vocabulary, encoding="utf-8", errors="replace", newline="\n") as file:
        return counted(line.rstrip() for line in file)
