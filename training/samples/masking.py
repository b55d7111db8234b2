"""Whole-word masking: which tokens a sample hides, and what stands in their place.

Works on the tokens of many samples at once, laid end to end, so that nothing is done token by token in Python. All
draws are functions of the sample's key and the token's place in it, see :mod:`.splitmix`.

Which words: not by BERT's loop, which takes words in random order and leaves out those that no longer fit a budget. Its
last places go to short words, so that punctuation and particles are masked more often than words of three characters
(16.5 against 14.5 % in samples of 240 tokens). Here every word has the same chance, by systematic sampling in random
order. N-grams of words with p ∝ 1/n are those of Megatron-LM's dataset_utils.py and PaddleNLP's ernie-1.0 example.

What replaces them: ``create_masked_lm_predictions`` of
https://github.com/google-research/bert/blob/eedf5716ce1268e56f0a50264a88cafad334ac61/create_pretraining_data.py:
80 % [MASK], 10 % kept, 10 % random, drawn for each token and not for each word. Labels are the plain tokens: in a
prepared corpus no Chinese character carries ``##``, where words begin is marked beside the tokens.

Source: W. G. Madow, "On the theory of systematic sampling, II" (1949), for the arc of :func:`choose`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from .splitmix import UInt64, below, draw, uniform

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

#: In the key's top byte; :mod:`.examples` has 6 and 7.
_PURPOSE_WORD, _PURPOSE_NGRAM, _PURPOSE_REPLACE, _PURPOSE_TOKEN, _PURPOSE_TURN = (
    np.uint64(purpose << 56) for purpose in range(1, 6)
)

_NOT_ORDINARY = re.compile(r"\[.+\]|<.+>|##[\u3400-\u9fff]")


@dataclass(frozen=True)
class SpecialIds:
    """The tokens of a vocabulary that examples treat in a way of their own.

    Attributes:
        ordinary: (n,) ids that a token may be replaced with at random.
    """

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    ordinary: Int64

    @classmethod
    def of_vocabulary(cls, tokens: Sequence[str]) -> SpecialIds:
        """Find the special tokens in a vocabulary, its tokens in the order of their ids; "" where an id has none.

        Ordinary is every token but those in brackets ([CLS], [unused1]) and ``##`` before a Chinese character, which
        BERT's Chinese vocabulary has and no text gives.

        Raises:
            ConvertError: A special token is missing, or nothing is ordinary.
        """
        ids = {token: number for number, token in enumerate(tokens)}
        missing = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name not in ids]
        if missing:
            raise ConvertError(
                f"the vocabulary of {len(tokens):,} tokens lacks {', '.join(missing)}",
                "Pretraining needs all five special tokens; roformer-pretrain vocab makes a vocabulary with them.",
            )
        ordinary = [number for number, token in enumerate(tokens) if token and not _NOT_ORDINARY.fullmatch(token)]
        if not ordinary:
            raise ConvertError(
                f"the vocabulary of {len(tokens):,} tokens has no tokens besides the special ones",
                "roformer-pretrain vocab makes one of text.",
            )
        return cls(
            pad=ids["[PAD]"],
            unk=ids["[UNK]"],
            cls=ids["[CLS]"],
            sep=ids["[SEP]"],
            mask=ids["[MASK]"],
            ordinary=np.array(ordinary, np.int64),
        )


@dataclass(frozen=True)
class FlatSamples:
    """The text tokens of B samples laid end to end, M in all, without special tokens.

    Attributes:
        tokens: (M,) ids.
        rows: (M,) which sample each belongs to, ascending.
        places: (M,) its place in that sample, from 0.
        word_starts: (M,) whether it begins a word; true where a segment begins.
        segment_starts: (M,) whether it begins a segment.
        counts: (B,) tokens of each sample, at least 1.
        keys: (B,) random key of each sample.
    """

    tokens: Int64
    rows: Int64
    places: Int64
    word_starts: Bool
    segment_starts: Bool
    counts: Int64
    keys: UInt64

    def draw(self, purpose: np.uint64, where: Int64) -> UInt64:
        """Draw random bits for the tokens at `where`: functions of their sample's key, the purpose and their place."""
        return draw((self.keys ^ purpose)[self.rows[where]], self.places[where])


def choose(samples: FlatSamples, maskable: Bool, *, probability: float, ngrams: int) -> Bool:
    """Choose the tokens to predict, (M,): whole words, or n-grams of 1 to `ngrams` words, each with `probability`.

    A sample's words in random order are laid round a circle of as many places as they have tokens; those are chosen
    that begin on a random arc of probability × places. So every word has exactly the same chance, and a sample's share
    is off by less than its longest word. A sample of which nothing is chosen gives one word; one with no word that is
    `maskable` throughout gives none.
    """
    firsts = np.flatnonzero(samples.word_starts)
    barred = np.logical_or.reduceat(~maskable, firsts)
    if ngrams > 1:
        groups = _join_words(samples, firsts, barred, ngrams)
        firsts, barred = firsts[groups], barred[groups]
    lengths = np.diff(firsts, append=len(samples.tokens))
    is_taken = np.zeros(len(firsts), np.bool_)

    rows = samples.rows[firsts]
    order = np.lexsort((samples.draw(_PURPOSE_WORD, firsts), rows))
    order = order[~barred[order]]
    own, sizes = rows[order], lengths[order]
    opens = np.flatnonzero(np.diff(own, prepend=-1))
    present = own[opens]
    before = np.cumsum(sizes) - sizes
    places = np.add.reduceat(sizes, opens) if len(opens) else np.empty(0, np.int64)
    words = np.diff(opens, append=len(own))
    turn = uniform(draw(samples.keys[present] ^ _PURPOSE_TURN, np.zeros(len(present), np.uint64))) * places
    # whole numbers first: rounding must not depend on which samples stand before this one
    begin = (before - np.repeat(before[opens], words)) + np.repeat(turn, words)
    circle = np.repeat(places, words)
    taken = np.where(begin < circle, begin, begin - circle) < probability * circle
    lacking = ~np.logical_or.reduceat(taken, opens) if len(opens) else np.empty(0, np.bool_)
    taken[opens[lacking]] = True  # the first of a random order

    is_taken[order[taken]] = True
    return np.repeat(is_taken, lengths)


def _join_words(samples: FlatSamples, firsts: Int64, barred: Bool, ngrams: int) -> Bool:
    """Cut each segment's words into consecutive n-grams, n from 1 to `ngrams` with p ∝ 1/n: (words,) where one begins.

    Cutting everything first, unlike drawing n-grams that may overlap, gives every word the same chance wherever it is.
    """
    count = len(firsts)
    shares = np.cumsum(1 / np.arange(1, ngrams + 1))
    sizes = 1 + np.searchsorted(shares / shares[-1], uniform(samples.draw(_PURPOSE_NGRAM, firsts)), "right")
    # an n-gram ends where a segment does, and beside a word that must not be masked
    barriers = samples.segment_starts[firsts] | barred
    barriers[1:] |= barred[:-1]
    at_or_after = np.minimum.accumulate(np.where(barriers, np.arange(count), count)[::-1])[::-1]
    jump = np.append(np.minimum(np.arange(count) + sizes, np.append(at_or_after[1:], count)), count)
    begins = np.append(barriers, True)
    # follow the chain of jumps from every barrier at once, twice as far each time
    for _ in range(int(samples.counts.max()).bit_length()):
        begins[jump[begins]] = True
        jump = jump[jump]
    return begins[:-1]


def replace(samples: FlatSamples, where: Int64, special: SpecialIds) -> Int64:
    """Give what the model sees at the chosen tokens, (K,): [MASK] for 80 %, the token for 10 %, any token for 10 %."""
    share = uniform(samples.draw(_PURPOSE_REPLACE, where))
    drawn = special.ordinary[below(samples.draw(_PURPOSE_TOKEN, where), len(special.ordinary))]
    return np.where(share < 0.8, special.mask, np.where(share < 0.9, samples.tokens[where], drawn))
