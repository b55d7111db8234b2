"""The tokenizer of a corpus: read from a vocabulary or a checkpoint, and written beside the shards."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError
from ...models.text.tokenizer import Tokenizer
from ...models.text.tokenizer_files import TokenizerSettings, read_settings, settings_of_rows
from ...models.text.vocabulary import read_rows


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from a directory (of a checkpoint), or from a vocabulary file alone, with BERT's settings.

    Raises:
        ConvertError: As for :meth:`~...models.text.tokenizer.Tokenizer.from_pretrained`, or there is nothing.
    """
    if path.is_dir():
        return Tokenizer.from_pretrained(path)
    if not path.is_file():
        raise ConvertError(
            f"{path}: no such file or directory",
            "Name a vocab.txt with --vocab, or a checkpoint's directory with --tokenizer.",
        )
    settings_of_rows(read_rows(path), path)  # its errors name this file, not the copy
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder, "vocab.txt"))
        return Tokenizer(read_settings(Path(folder)))


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Write a tokenizer as the files of a checkpoint: ``vocab.txt`` and ``tokenizer_config.json``."""
    settings = tokenizer.settings
    rows = "".join(f"{settings.rows.get(number, '')}\n" for number in range(max(settings.rows) + 1))
    ids = {token.content: tokenizer.token_id(token.content) for token in settings.added}
    config: dict[str, Any] = {
        "tokenizer_class": "RoFormerTokenizer" if settings.words else "BertTokenizer",
        "do_lower_case": settings.lower_case,
        "strip_accents": settings.strip_accents,
        "tokenize_chinese_chars": settings.split_chinese,
        **{role: token.content for role, token in settings.special.items()},
    }
    further = sorted(settings.skipped - {token.content for token in settings.special.values()})
    if further:
        config["extra_special_tokens"] = further
    config["added_tokens_decoder"] = {
        str(ids[token.content]): asdict(token)
        for token in sorted(settings.added, key=lambda one: ids[one.content] or 0)
    }
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    return {"vocab.txt": rows.encode("utf-8"), "tokenizer_config.json": text.encode("utf-8")}


def what_decides(settings: TokenizerSettings) -> dict[str, Any]:
    """Take the settings, beside the vocabulary, that decide how a text becomes ids."""
    return {
        "lower_case": settings.lower_case,
        "strip_accents": settings.strip_accents,
        "split_chinese": settings.split_chinese,
        "words": settings.words,
    }
