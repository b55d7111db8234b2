"""One shard of a corpus as one file: header, tokens, sentence and document boundaries, word bits.

Written by :mod:`.shard_writer`, mapped into memory here. Layout, little-endian:

| bytes       | what                                                                       |
|-------------|----------------------------------------------------------------------------|
| 128         | header, see :data:`_HEADER`, zeros to the end                              |
| n × width   | tokens, uint16 or uint32, then zeros up to a multiple of 8 bytes           |
| (s + 1) × 8 | token number where each sentence begins, then n                            |
| (d + 1) × 8 | sentence number where each document begins, then s                         |
| ⌈n / 8⌉     | one bit a token, lowest bit first: the token begins a word                 |

The arrangement (flat arrays and offsets) is that of Megatron's memory-mapped index.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import FormatError, reading

MAGIC = b"RoFoShrd"
VERSION = 1
HEADER_BYTES = 128
#: Magic, version, bytes a token, tokens, sentences, documents, vocabulary size, number of the shard, the corpus it
#: belongs to, SHA-256 of all that follows the header.
_HEADER = struct.Struct("<8sIIQQQQQ16s32s")
#: CRC-32 of the 128 bytes before it is in the last four of the header.
_CHECKSUM = struct.Struct("<I")

_COPY_BYTES = 1 << 20
_PREPARE_AGAIN = "Remove that file and run `roformer-pretrain prepare` again: it makes only what is missing."

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class ShardHeader:
    """What a shard's file says of itself.

    Attributes:
        width: Bytes a token, 2 or 4.
        tokens, sentences, documents: How many the shard has.
        vocabulary_size: One past the largest id that may occur.
        number: Number of the shard in its corpus, counted from 0.
        corpus: 32 hexadecimal digits that every shard of a corpus has.
        digest: SHA-256, in hexadecimal, of everything behind the header.
    """

    width: int
    tokens: int
    sentences: int
    documents: int
    vocabulary_size: int
    number: int
    corpus: str
    digest: str

    @property
    def sentences_at(self) -> int:
        """Byte where the sentence boundaries begin."""
        return HEADER_BYTES + -(-self.tokens * self.width // 8) * 8

    @property
    def documents_at(self) -> int:
        """Byte where the document boundaries begin."""
        return self.sentences_at + 8 * (self.sentences + 1)

    @property
    def words_at(self) -> int:
        """Byte where the word bits begin."""
        return self.documents_at + 8 * (self.documents + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return self.words_at + -(-self.tokens // 8)

    def pack(self) -> bytes:
        """Write the header's 128 bytes."""
        body = _HEADER.pack(
            MAGIC, VERSION, self.width, self.tokens, self.sentences, self.documents, self.vocabulary_size,
            self.number, bytes.fromhex(self.corpus), bytes.fromhex(self.digest),
        )  # fmt: skip
        body = body.ljust(HEADER_BYTES - _CHECKSUM.size, b"\0")
        return body + _CHECKSUM.pack(zlib.crc32(body))


def token_width(vocabulary_size: int) -> int:
    """Choose the bytes a token takes."""
    return 2 if vocabulary_size <= 1 << 16 else 4


def read_header(path: Path) -> ShardHeader:
    """Read a shard's header and compare it with the size of the file.

    Raises:
        FormatError: The file is not a shard, or it is damaged, truncated or of another version.
    """
    with reading(path, next_step=_PREPARE_AGAIN), open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    if head[:8] != MAGIC:
        raise FormatError(
            path,
            f"is not a shard of a prepared corpus: begins with {head[:8]!r}, want {MAGIC!r}",
            next_step=_PREPARE_AGAIN,
        )
    if len(head) < HEADER_BYTES:
        raise FormatError(
            path, f"truncated: {size:,} bytes; the header alone has {HEADER_BYTES}", next_step=_PREPARE_AGAIN
        )
    body, (checksum,) = head[: -_CHECKSUM.size], _CHECKSUM.unpack(head[-_CHECKSUM.size :])
    if zlib.crc32(body) != checksum:
        raise FormatError(path, "the header is damaged (its checksum does not match)", next_step=_PREPARE_AGAIN)
    _, version, width, tokens, sentences, documents, vocabulary_size, number, corpus, digest = _HEADER.unpack_from(body)
    if version != VERSION:
        raise FormatError(path, f"version {version} of the format; this program reads {VERSION}")
    # each count is bounded by the file's size before anything is computed from it
    if width not in (2, 4) or max(tokens, sentences, documents) > size or documents > sentences or sentences > tokens:
        raise FormatError(
            path,
            f"impossible header: {tokens:,} tokens of {width} bytes, {sentences:,} sentences, {documents:,} documents",
            next_step=_PREPARE_AGAIN,
        )
    header = ShardHeader(width, tokens, sentences, documents, vocabulary_size, number, corpus.hex(), digest.hex())
    if size != header.nbytes:
        what = "truncated" if size < header.nbytes else "too long"
        raise FormatError(path, f"{what}: {size:,} bytes, want {header.nbytes:,}", next_step=_PREPARE_AGAIN)
    return header


class Shard:
    """One shard, mapped into memory.

    Attributes:
        path: Its file.
        header: What the file says of itself.
        tokens: (n,) uint16 or uint32, no special tokens among them but the unknown one.
        sentence_ends: (s + 1,) token number where each sentence begins; the last entry is n.
        document_ends: (d + 1,) sentence number where each document begins; the last entry is s.

    Raises:
        FormatError: The file is damaged, truncated or foreign.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise FormatError(path, f"cannot be mapped into memory: {error}") from None
        if self._bytes.size != self.header.nbytes:  # it shrank since the header was read
            raise FormatError(path, f"truncated: {self._bytes.size:,} bytes, want {self.header.nbytes:,}")
        self._map()

    def _map(self) -> None:
        header = self.header
        kind = np.dtype("<u2" if header.width == 2 else "<u4")
        tokens = self._bytes[HEADER_BYTES : HEADER_BYTES + header.tokens * header.width]
        self.tokens: NDArray[Any] = tokens.view(kind)
        self.sentence_ends: Int64 = self._bytes[header.sentences_at : header.documents_at].view(np.dtype("<i8"))
        self.document_ends: Int64 = self._bytes[header.documents_at : header.words_at].view(np.dtype("<i8"))
        self._words = self._bytes[header.words_at :]

    def __getstate__(self) -> dict[str, Any]:
        """Send the path and not the contents to another process."""
        return {"path": self.path, "header": self.header}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.header = state["path"], state["header"]
        self._bytes = np.memmap(self.path, np.uint8, mode="r", shape=(self.header.nbytes,))
        self._map()

    def word_starts(self, start: int, end: int) -> NDArray[np.bool_]:
        """Tell for the tokens from ``start`` up to ``end`` whether each begins a word."""
        first = start // 8
        bits = np.unpackbits(self._words[first : -(-end // 8)], bitorder="little")
        return bits[start - 8 * first : end - 8 * first].view(np.bool_)

    def check_boundaries(self) -> None:
        """Check that sentences and documents lie in order, none empty, from the first token to the last.

        Raises:
            FormatError: One is empty, or they do not cover the tokens in order.
        """
        for name, ends, last in (
            ("sentence", self.sentence_ends, self.header.tokens),
            ("document", self.document_ends, self.header.sentences),
        ):
            if ends[0] != 0 or ends[-1] != last:
                raise FormatError(
                    self.path,
                    f"{name} boundaries run from {ends[0]:,} to {ends[-1]:,}, want 0 to {last:,}",
                    next_step=_PREPARE_AGAIN,
                )
            for start in range(0, len(ends) - 1, _COPY_BYTES):
                falling = np.flatnonzero(np.diff(ends[start : start + _COPY_BYTES + 1]) <= 0)
                if falling.size:
                    number = start + int(falling[0])
                    raise FormatError(
                        self.path,
                        f"{name} {number:,} runs from {ends[number]:,} to {ends[number + 1]:,}; want at least one step",
                        next_step=_PREPARE_AGAIN,
                    )

    def check_tokens(self, start: int, end: int) -> None:
        """Check that the tokens from ``start`` up to ``end`` are rows of the vocabulary.

        Raises:
            FormatError: A token is past the vocabulary's last row.
        """
        largest = int(self.tokens[start:end].max(initial=0))
        if largest >= self.header.vocabulary_size:
            raise FormatError(
                self.path,
                f"holds the token {largest:,}; the vocabulary has {self.header.vocabulary_size:,} rows",
                next_step=_PREPARE_AGAIN,
            )

    def check_contents(self) -> None:
        """Read all of it: the digest, and that every token is a row of the vocabulary.

        Raises:
            FormatError: The contents are not those that were written.
        """
        digest = hashlib.sha256()
        for start in range(HEADER_BYTES, self.header.nbytes, _COPY_BYTES):
            digest.update(self._bytes[start : start + _COPY_BYTES].tobytes())
        if digest.hexdigest() != self.header.digest:
            raise FormatError(
                self.path,
                f"damaged: SHA-256 of its contents is {digest.hexdigest()[:16]}…, want {self.header.digest[:16]}…",
                next_step=_PREPARE_AGAIN,
            )
        for start in range(0, self.header.tokens, _COPY_BYTES):
            self.check_tokens(start, start + _COPY_BYTES)
