"""Writes one shard of a corpus, in the format of :mod:`.shard_file`, for :mod:`.make_shard`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...converters.target.whole_files import lock, partial_path
from .shard_file import HEADER_BYTES, Int64, ShardHeader, token_width

_COPY_BYTES = 1 << 20
#: The next step where a shard cannot be written.
MAKE_ROOM = "Make room there, or name another directory with -o; shards that are finished stay."


class ShardWriter:
    """Writes one shard; a context manager that leaves nothing unless :meth:`commit` was called.

    Memory does not grow with the shard: what the file holds behind the tokens waits in unnamed files on the same disk.

    Args:
        path: The file to make.
        vocabulary_size: One past the largest id.
        number, corpus: As in :class:`ShardHeader`.
    """

    def __init__(self, path: Path, vocabulary_size: int, number: int, corpus: str) -> None:
        self.path = path
        self.number = number
        self.corpus = corpus
        self.vocabulary_size = vocabulary_size
        self.width = token_width(vocabulary_size)
        self.tokens = self.sentences = self.documents = 0
        self._document_begins = 0
        self._bits: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._digest = hashlib.sha256()
        self._stack = contextlib.ExitStack()
        self._partial: Path | None = None

    def __enter__(self) -> ShardWriter:
        folder = self.path.parent
        try:
            self._partial = partial_path(self.path)
            self._file = self._stack.enter_context(open(self._partial, "x+b"))
            lock(self._file)
            self._sentence_file = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self._document_file = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self._word_file = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self._file.write(b"\0" * HEADER_BYTES)
        except OSError as error:
            self._clear()
            raise ConvertError(f"{folder}: cannot be written: {error.strerror or error}", MAKE_ROOM) from None
        _append(self._sentence_file, np.zeros(1, "<i8"))
        _append(self._document_file, np.zeros(1, "<i8"))
        return self

    def add(
        self, tokens: NDArray[Any], lengths: Int64, word_starts: NDArray[np.bool_], document_ends: Sequence[int] = ()
    ) -> None:
        """Add sentences, first of all to the document at hand.

        Args:
            tokens: (n,) ids.
            lengths: (s,) tokens of each sentence; they sum to n, and one of 0 is left out.
            word_starts: (n,) whether each token begins a word.
            document_ends: After how many of these sentences a document ends, rising from 0 to s; a document without
                a token is left out.
        """
        data = np.ascontiguousarray(tokens, "<u2" if self.width == 2 else "<u4").tobytes()
        self._file.write(data)
        self._digest.update(data)
        there = lengths > 0
        _append(self._sentence_file, self.tokens + np.cumsum(lengths[there], dtype="<i8"))
        bits = np.concatenate([self._bits, word_starts])
        whole = len(bits) // 8 * 8
        self._word_file.write(np.packbits(bits[:whole], bitorder="little").tobytes())
        self._bits = bits[whole:]
        counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(there)])  # sentences that are there, up to each
        self._end_documents(self.sentences + counts[np.asarray(document_ends, np.int64)])
        self.tokens += len(tokens)
        self.sentences += int(counts[-1])

    def _end_documents(self, ends: Int64) -> None:
        ends = np.unique(ends)
        ends = ends[ends > self._document_begins]
        if len(ends):
            _append(self._document_file, ends)
            self.documents += len(ends)
            self._document_begins = int(ends[-1])

    def commit(self) -> ShardHeader:
        """Give the file its name.

        Raises:
            ConvertError: The disk is full, or refuses.
        """
        assert self._partial is not None, "the file is made on entering the context"
        self._end_documents(np.array([self.sentences]))
        self._word_file.write(np.packbits(self._bits, bitorder="little").tobytes())
        padding = b"\0" * (-self.tokens * self.width % 8)
        self._file.write(padding)
        self._digest.update(padding)
        for part in (self._sentence_file, self._document_file, self._word_file):
            for data in _blocks(part):
                self._file.write(data)
                self._digest.update(data)
        header = ShardHeader(
            self.width, self.tokens, self.sentences, self.documents, self.vocabulary_size,
            self.number, self.corpus, self._digest.hexdigest(),
        )  # fmt: skip
        self._file.seek(0)
        self._file.write(header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._partial, self.path)
        self._partial = None
        return header

    def _clear(self) -> None:
        self._stack.close()
        if self._partial is not None:
            with contextlib.suppress(OSError):
                self._partial.unlink()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._clear()


def _append(file: IO[bytes], numbers: NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(numbers, "<i8").tobytes())


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while data := file.read(_COPY_BYTES):
        yield data
