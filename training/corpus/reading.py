"""A prepared corpus: a directory of shards, mapped into memory and checked when it is opened.

Made by :mod:`.prepare`, read by training. Beside the shards (:mod:`.shard_file`) lie ``corpus.json``, which names them
and the settings, and the vocabulary (``vocab.txt`` and ``tokenizer_config.json``), so that it is never lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...converters.errors import FormatError, quoted, reading
from ...models.text.tokenizer import Tokenizer
from .shard_file import Shard, ShardHeader

__all__ = ["INDEX", "PLAN", "Corpus", "Shard", "shard_name", "vocabulary_digest"]

INDEX = "corpus.json"
#: Stands instead of the index while shards are being made.
PLAN = "plan.json"
FORMAT = "roformer-convert corpus"
VERSION = 1
_MOST_BYTES = 256 << 20
#: Of each shard, when a corpus is opened; all of them would be gigabytes.
_TOKENS_LOOKED_AT = 1 << 20


def shard_name(number: int) -> str:
    """Name the file of shard ``number``, counted from 0."""
    return f"shard-{number:05d}.tokens"


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """Digest a vocabulary: SHA-256 of its rows in the order of their ids, one a line, an unused id as a blank line."""
    rows = "".join(f"{tokenizer.token(number) or ''}\n" for number in range(tokenizer.size))
    return hashlib.sha256(rows.encode("utf-8")).hexdigest()


class Corpus:
    """A prepared corpus.

    Attributes:
        directory: Where it lies.
        index: The contents of ``corpus.json``.
        vocabulary_digest: What :func:`vocabulary_digest` returns of it; training refuses another vocabulary.
        vocabulary_size: One past the largest id.
        tokens, sentences, documents: Totals.
        shards: The shards in order, those without a document left out.
    """

    def __init__(self, directory: Path, index: dict[str, Any], shards: Sequence[Shard]) -> None:
        self.directory = directory
        self.index = index
        self.shards = shards
        self.vocabulary_digest: str = index["vocabulary_digest"]
        self.vocabulary_size: int = index["vocabulary_size"]
        self.tokens = sum(shard.header.tokens for shard in shards)
        self.sentences = sum(shard.header.sentences for shard in shards)
        self.documents = sum(shard.header.documents for shard in shards)

    @classmethod
    def open(cls, directory: Path, *, full: bool = False) -> Corpus:
        """Open and check a corpus: every shard's header, size, boundaries and place in the index.

        Args:
            directory: Made by ``roformer-pretrain prepare``.
            full: Also read every token and compare each shard's digest.

        Raises:
            FormatError: There is no corpus, it is not finished, or a file is truncated, damaged or another corpus's.
        """
        index = read_index(directory)
        shards = []
        for number, entry in enumerate(index["shards"]):
            shard = Shard(directory / shard_name(number))
            check_entry(shard.path, shard.header, entry, index, number)
            shard.check_boundaries()
            if full:
                shard.check_contents()
            else:
                shard.check_tokens(0, _TOKENS_LOOKED_AT)
            if shard.header.documents:
                shards.append(shard)
        return cls(directory, index, shards)

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer that the corpus was made with.

        Raises:
            FormatError: It has another vocabulary: a file beside the shards was changed.
        """
        tokenizer = Tokenizer.from_pretrained(self.directory)
        if vocabulary_digest(tokenizer) != self.vocabulary_digest:
            raise FormatError(
                self.directory / "vocab.txt",
                f"is not the vocabulary of this corpus: SHA-256 {vocabulary_digest(tokenizer)[:16]}…, "
                f"want {self.vocabulary_digest[:16]}…",
            )
        return tokenizer


def entry_of(header: ShardHeader) -> dict[str, Any]:
    """Describe a shard for the index."""
    return {
        "tokens": header.tokens,
        "sentences": header.sentences,
        "documents": header.documents,
        "sha256": header.digest,
    }


def check_entry(path: Path, header: ShardHeader, entry: dict[str, Any], index: dict[str, Any], number: int) -> None:
    """Compare a shard with its entry in the index.

    Raises:
        FormatError: They differ: the shard belongs to another corpus, or to another place in it.
    """
    got = {
        **entry_of(header),
        "vocabulary_size": header.vocabulary_size,
        "corpus": header.corpus,
        "number": header.number,
    }
    want = {**entry, "vocabulary_size": index["vocabulary_size"], "corpus": index["corpus"], "number": number}
    for name, value in got.items():
        if value != want.get(name):
            raise FormatError(
                path, f"does not belong here: its {name} is {value}, but {INDEX} says {quoted(want.get(name))}"
            )


def read_index(directory: Path) -> dict[str, Any]:
    """Read and check ``corpus.json``.

    Raises:
        FormatError: There is none, or it is damaged.
    """
    path = directory / INDEX
    if not path.is_file():
        if (directory / PLAN).is_file():
            raise FormatError(
                directory, "is not finished", next_step="Run `roformer-pretrain prepare` again: it goes on from there."
            )
        raise FormatError(
            directory, f"is not a prepared corpus: it has no {INDEX}", next_step="Make one: roformer-pretrain prepare"
        )
    index = read_object(path)
    wanted: dict[str, type] = {
        "corpus": str, "vocabulary_digest": str, "vocabulary_size": int, "settings": dict, "inputs": list,
        "shards": list,
    }  # fmt: skip
    for name, kind in wanted.items():
        if type(index.get(name)) is not kind:
            raise FormatError(path, f"{name} is {type(index.get(name)).__name__}, want {kind.__name__}")
    if not 0 < index["vocabulary_size"] < 1 << 32:
        raise FormatError(path, f"vocabulary_size is {index['vocabulary_size']}")
    for number, entry in enumerate(index["shards"]):
        if not isinstance(entry, dict):
            raise FormatError(path, f"shard {number} is {type(entry).__name__}, want an object")
    return index


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of this format and version.

    Raises:
        FormatError: It is not the index of a prepared corpus.
    """
    with reading(path):
        if path.stat().st_size > _MOST_BYTES:
            raise FormatError(path, f"{path.stat().st_size:,} bytes; wanted at most {_MOST_BYTES:,}")
        content = path.read_bytes()
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FormatError(path, "was not written by `roformer-pretrain prepare`")
    if found.get("version") != VERSION:
        raise FormatError(path, f"version {found.get('version')} of the format; this program reads {VERSION}")
    return found
