"""Stretches of text to the arrays a model trains on: segments, special tokens, masks.

A sample is [CLS] A [SEP] B [SEP]: consecutive sentences, cut at a random sentence boundary, with the two halves swapped
with probability one half (order 1; order 0 as found). A stretch without a boundary inside, such as a document of one
sentence, is [CLS] A [SEP] and has no order to predict (-100); cutting it at a word would teach that a half sentence
tells the order. Everything is a function of the sample's key alone.

Source: ALBERT's sentence order prediction (Lan et al. 2020, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from .masking import FlatSamples, SpecialIds, choose, replace
from .sampling import Shard
from .splitmix import UInt64, below, draw

Int64 = NDArray[np.int64]

#: The order label of a sample without a second segment; what cross-entropy ignores.
NO_ORDER = -100

_PURPOSE_SPLIT, _PURPOSE_SWAP = np.uint64(6 << 56), np.uint64(7 << 56)


@dataclass(frozen=True)
class SamplingOptions:
    """How samples are made from text.

    Attributes:
        masked_lm_probability: Share of a sample's tokens to predict.
        ngrams: Longest group of words that is masked together; 1 masks words.
        short_sequence_probability: Share of samples of a random shorter length.
        sop: Make pairs for sentence-order prediction; without it a sample is one segment.
        mlm: Mask; without it there are no positions to predict.
        whole_word: Mask whole words; without it each token by itself.
    """

    masked_lm_probability: float = 0.15
    ngrams: int = 1
    short_sequence_probability: float = 0.1
    sop: bool = True
    mlm: bool = True
    whole_word: bool = True

    def __post_init__(self) -> None:
        wrong = []
        if not 0 < self.masked_lm_probability < 1:
            wrong.append(f"masked_lm_probability is {self.masked_lm_probability}, want more than 0 and less than 1")
        if not 0 <= self.short_sequence_probability <= 1:
            wrong.append(f"short_sequence_probability is {self.short_sequence_probability}, want 0 to 1")
        if not 1 <= self.ngrams <= 16:
            wrong.append(f"ngrams is {self.ngrams}, want 1 to 16")
        if wrong:
            raise ConvertError("; ".join(wrong))

    @property
    def special_tokens(self) -> int:
        """Special tokens of a full sample: [CLS] A [SEP] B [SEP], or [CLS] A [SEP]."""
        return 3 if self.sop else 2


@dataclass(frozen=True)
class Stretch:
    """Where a sample's text is: tokens `begin` to `end` of a shard."""

    shard: Shard
    begin: int
    end: int


@dataclass(frozen=True)
class Batch:
    """B samples as arrays, padded on the right to the longest, T; all int64.

    Attributes:
        input_ids: (B, T) what the model sees, masks in place.
        token_type_ids: (B, T) 0 for [CLS] A [SEP] and padding, 1 for B [SEP].
        attention_mask: (B, T) 1 for tokens, 0 for padding.
        positions: (K,) the positions to predict in the batch read row by row, b * T + t, ascending.
        labels: (K,) the tokens that were there.
        order: (B,) 0 where the segments stand as found, 1 swapped, -100 without a second segment.
        samples: (B,) the samples' numbers in the stage, for messages.
    """

    input_ids: Int64
    token_type_ids: Int64
    attention_mask: Int64
    positions: Int64
    labels: Int64
    order: Int64
    samples: Int64


def make_batch(
    stretches: Sequence[Stretch], numbers: Int64, key: int, *, special: SpecialIds, options: SamplingOptions
) -> Batch:
    """Make one batch of the samples `numbers` (B,) at their stretches; `key` is that of the whole stage."""
    keys = draw(key, numbers)
    texts, splits = _read(stretches, keys, options)
    rows, places, counts = texts.rows, texts.places, texts.counts

    paired = splits > 0
    swapped = paired & (draw(keys ^ _PURPOSE_SWAP, np.zeros(len(keys), np.uint64)) >> np.uint64(63) == 1)
    in_second = (places >= splits[rows]) & paired[rows]
    first_counts = np.where(swapped, counts - splits, np.where(paired, splits, counts))
    # the half of the text that comes later in the row stands behind the other half, its [SEP] and [CLS]
    offsets = np.where(in_second, -splits[rows], 0) + np.where(in_second != swapped[rows], first_counts[rows] + 2, 1)
    columns = places + offsets

    totals = counts + np.where(paired, 3, 2)
    length = int(totals.max())
    shape = (len(stretches), length)
    column = np.arange(length)
    present = column < totals[:, None]
    input_ids = np.full(shape, special.pad, np.int64)
    input_ids[:, 0] = special.cls
    input_ids[rows, columns] = texts.tokens
    every = np.arange(len(stretches))
    input_ids[every, first_counts + 1] = special.sep
    input_ids[every, totals - 1] = special.sep

    positions = labels = np.empty(0, np.int64)
    if options.mlm:
        # [UNK] is no answer worth learning, and a word that holds one is left alone
        chosen = choose(
            texts,
            texts.tokens != special.unk,
            probability=options.masked_lm_probability,
            ngrams=options.ngrams,
        )
        where = np.flatnonzero(chosen)
        positions = rows[where] * length + columns[where]
        in_order = np.argsort(positions, kind="stable")
        where, positions = where[in_order], positions[in_order]
        labels = texts.tokens[where]
        input_ids.reshape(-1)[positions] = replace(texts, where, special)
    return Batch(
        input_ids=input_ids,
        token_type_ids=((column >= first_counts[:, None] + 2) & present).astype(np.int64),
        attention_mask=present.astype(np.int64),
        positions=positions,
        labels=labels,
        order=np.where(paired, swapped.astype(np.int64), NO_ORDER),
        samples=np.asarray(numbers, np.int64),
    )


def _read(stretches: Sequence[Stretch], keys: UInt64, options: SamplingOptions) -> tuple[FlatSamples, Int64]:
    """Read the text of the samples, and say after how many tokens each is split, (B,); 0 where it is not."""
    counts = np.array([stretch.end - stretch.begin for stretch in stretches], np.int64)
    opens = np.cumsum(counts) - counts
    tokens = np.concatenate([stretch.shard.tokens[stretch.begin : stretch.end] for stretch in stretches])
    splits = np.zeros(len(stretches), np.int64)
    if options.sop:
        random = draw(keys ^ _PURPOSE_SPLIT, np.zeros(len(keys), np.uint64))
        boundaries = [_boundaries(stretch) for stretch in stretches]
        which = below(random, np.array([len(inner) for inner in boundaries], np.int64))
        for row, inner in enumerate(boundaries):
            if len(inner):
                splits[row] = int(inner[which[row]]) - stretches[row].begin
    if options.whole_word and options.mlm:
        words = np.concatenate([stretch.shard.word_starts(stretch.begin, stretch.end) for stretch in stretches])
    else:
        words = np.ones(len(tokens), np.bool_)
    rows = np.repeat(np.arange(len(stretches)), counts)
    segment_starts = np.zeros(len(tokens), np.bool_)
    segment_starts[opens] = True
    segment_starts[opens + splits] = True
    return (
        FlatSamples(
            tokens=tokens.astype(np.int64),
            rows=rows,
            places=np.arange(len(tokens)) - opens[rows],
            word_starts=words | segment_starts,
            segment_starts=segment_starts,
            counts=counts,
            keys=keys,
        ),
        splits,
    )


def _boundaries(stretch: Stretch) -> NDArray[np.int64]:
    """Give the tokens inside the stretch with which a sentence begins."""
    sentences = np.asarray(stretch.shard.sentence_ends)
    first = np.searchsorted(sentences, stretch.begin, "right")
    last = np.searchsorted(sentences, stretch.end, "left")
    inner: NDArray[np.int64] = sentences[first:last]
    return inner
