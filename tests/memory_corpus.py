"""Prepared corpora in memory, as training reads them, and the bound a chi-square sum has to keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roformer_convert.training.samples.masking import SpecialIds

#: [PAD] [UNK] [CLS] [SEP] [MASK], then ordinary ids.
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4, ordinary=np.arange(5, 105))

Words = Sequence[Sequence[int]]


class MemoryShard:
    """Documents, each a list of sentences, each a list of words, each a list of token ids."""

    def __init__(self, documents: Sequence[Sequence[Words]]) -> None:
        sentences = [sentence for document in documents for sentence in document]
        words = [word for sentence in sentences for word in sentence]
        tokens = [token for word in words for token in word]
        self.tokens = np.array(tokens, np.uint32 if max(tokens, default=0) >= 1 << 16 else np.uint16)
        self.sentence_ends = _ends([sum(map(len, sentence)) for sentence in sentences])
        self.document_ends = _ends([len(document) for document in documents])
        self._word_starts = np.zeros(len(self.tokens), np.bool_)
        self._word_starts[_ends([len(word) for word in words])[:-1]] = True

    def word_starts(self, start: int, end: int) -> NDArray[np.bool_]:
        starts: NDArray[np.bool_] = self._word_starts[start:end].copy()
        return starts


class MemoryCorpus:
    def __init__(self, *shards: MemoryShard) -> None:
        self.shards = shards


def _ends(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)


def random_shard(
    random: np.random.Generator,
    documents: int,
    *,
    sentences: int = 12,
    words: int = 12,
    word: int = 4,
    first: int = 5,
    ids: int = 100,
) -> MemoryShard:
    """Make documents of 1 … `sentences` sentences of 1 … `words` words of 1 … `word` tokens, drawn from `ids` ids."""
    return MemoryShard(
        [
            [
                [
                    random.integers(first, first + ids, random.integers(1, word + 1)).tolist()
                    for _ in range(random.integers(1, words + 1))
                ]
                for _ in range(random.integers(1, sentences + 1))
            ]
            for _ in range(documents)
        ]
    )


def numbered_shard(lengths: Sequence[Sequence[int]], first: int = 5) -> MemoryShard:
    """Make documents of sentences of the given lengths, in words of one token; tokens count up from `first`."""
    documents = []
    for document in lengths:
        sentences = []
        for length in document:
            sentences.append([[token] for token in range(first, first + length)])
            first += length
        documents.append(sentences)
    return MemoryShard(documents)


def chi_square(observed: NDArray[np.int64], shares: Sequence[float] | NDArray[np.float64]) -> float:
    """Give the chi-square sum of counts against expected shares, as a part of what chance exceeds once in 10,000.

    The bound is Wilson and Hilferty's (1931), which is a little too large for few degrees of freedom: 16.2 and not
    15.1 for one. Above 1 the counts are not what was claimed.
    """
    expected = observed.sum() * np.asarray(shares, np.float64) / np.sum(shares)
    assert expected.min() >= 5, "too few draws for the test to mean anything"
    freedom = len(observed) - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 3.719 * np.sqrt(2 / (9 * freedom))) ** 3
    return float(((observed - expected) ** 2 / expected).sum() / bound)
