"""The sample map: which stretch of which document each sample of an epoch is.

A sample is consecutive sentences of one document, as many as fit. The map of a corpus is one array, (n, 2), of where
each sample begins and how many tokens it has; together the samples of one epoch hold every token of every document of
their side of the held-out split exactly once. :mod:`.mixture` strings epochs and corpora together, and :mod:`.examples`
turns a stretch into token ids.

The boundaries of samples differ from epoch to epoch: which samples are short is drawn anew, and long documents begin
with a sample of random length. There are :data:`VARIANTS` such maps, used in turn, so that finding the sample at any
position takes a bounded number of them; masks, swaps and the order are new in every epoch.

Sources: BERT's create_pretraining_data.py (``create_instances_from_document``: short sequences with probability 0.1,
sentences joined until the target length); Megatron-LM's helpers.cpp (``build_mapping``), which, unlike this, leaves out
documents of one sentence and with over-long sentences.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .splitmix import below, derive, draw, uniform

Int64 = NDArray[np.int64]

#: Maps with different sample boundaries before they repeat: epoch e uses map e % VARIANTS.
VARIANTS = 4

#: The split must not change with the training seed, or a second run on the same corpus would train on held-out text.
_SPLIT_SEED = 0

#: Documents (and sentences) of at least this many full samples begin with a sample of random length.
_LONG = 4

#: Sentences looked at together, which bounds the temporary arrays: about 100 MB.
_BLOCK = 1 << 20

_PURPOSE_SPLIT, _PURPOSE_SHORT, _PURPOSE_LENGTH, _PURPOSE_CUT = range(1, 5)

_SKIPPED, _PLAIN, _OVERLONG = 0, 1, 2


class Shard(Protocol):
    """What is needed of one shard of a prepared corpus; see :class:`..corpus.reading.Shard`."""

    @property
    def tokens(self) -> NDArray[Any]:
        """Token ids, no special tokens among them: (n,)."""

    @property
    def sentence_ends(self) -> NDArray[Any]:
        """The token with which each sentence begins, and n at the end: (s + 1,)."""

    @property
    def document_ends(self) -> NDArray[Any]:
        """The sentence with which each document begins, and s at the end: (d + 1,)."""

    def word_starts(self, start: int, end: int) -> NDArray[np.bool_]:
        """Say whether each token from start to end begins a word."""


class Corpus(Protocol):
    """What is needed of a prepared corpus; see :class:`..corpus.reading.Corpus`."""

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards in their order."""


@dataclass(frozen=True)
class MapRecipe:
    """What a sample map depends on beside the corpus.

    Attributes:
        capacity: Text tokens of a sample at most: the length less its special tokens.
        short_sequence_probability: Share of samples whose target is drawn from 2 … capacity tokens.
        pairs: Let a short sample have two sentences where they fit, so that there is an order to predict.
        key: Random key; the variant is hashed into it.
        held_out: The held-out documents instead of the others.
        held_out_fraction: Their share of the documents.
    """

    capacity: int
    short_sequence_probability: float
    pairs: bool
    key: int
    held_out: bool
    held_out_fraction: float


def held_out_documents(first: int, count: int, fraction: float) -> NDArray[np.bool_]:
    """Say of documents number `first` … of a corpus whether they are held out, (count,): a function of the number."""
    key = derive(_SPLIT_SEED, _PURPOSE_SPLIT)
    return uniform(draw(key, np.arange(first, first + count, dtype=np.uint64))) < fraction


def build_map(corpus: Corpus, recipe: MapRecipe, variant: int) -> Int64:
    """Make the map of one epoch, (n, 2): the first token, counted through all shards, and the number of tokens.

    Takes about as long as reading the sentence offsets: a minute for 4.5 G tokens.
    """
    parts, first_token, first_sentence, first_document = [], 0, 0, 0
    for shard in corpus.shards:
        walk = _ShardWalk(shard, recipe, variant, first_sentence, first_document)
        samples = walk.samples()
        samples[:, 0] += first_token
        parts.append(samples)
        first_token += len(shard.tokens)
        first_sentence += len(shard.sentence_ends) - 1
        first_document += len(shard.document_ends) - 1
    return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)


class _ShardWalk:
    """Walks through one shard's sentences and cuts them into samples."""

    def __init__(self, shard: Shard, recipe: MapRecipe, variant: int, first_sentence: int, first_document: int) -> None:
        self.shard = shard
        self.recipe = recipe
        self.sentences = np.asarray(shard.sentence_ends)  # a memmap's own methods are slower, its memory is shared
        self.documents = np.asarray(shard.document_ends)
        self.first_sentence = first_sentence
        self.first_document = first_document
        self.short_key = derive(recipe.key, variant, _PURPOSE_SHORT)
        self.length_key = derive(recipe.key, variant, _PURPOSE_LENGTH)
        self.cut_key = derive(recipe.key, variant, _PURPOSE_CUT)
        self.begins, self.ends = array("q"), array("q")

    def samples(self) -> Int64:
        """Give (n, 2): first token in the shard and number of tokens, in the text's order."""
        sentence, count = 0, len(self.sentences) - 1
        while sentence < count:
            sentence = self._walk(sentence, min(sentence + _BLOCK, count))
        begins = np.frombuffer(self.begins, np.int64) if self.begins else np.empty(0, np.int64)
        ends = np.frombuffer(self.ends, np.int64) if self.ends else np.empty(0, np.int64)
        samples = np.stack([begins, ends - begins], axis=1)
        return samples[samples[:, 1] > 0]

    def _walk(self, start: int, stop: int) -> int:
        """Cut from sentence `start`, where a sample begins, until one begins at `stop` or later; say where."""
        kinds, following = self._plan(start, stop)
        # only this chain depends on what went before; memoryviews index several times faster than arrays
        kind, after = kinds.data, following.data
        tokens = np.ascontiguousarray(self.sentences[start : int(following.max()) + 1], np.int64).data
        begins, ends = self.begins, self.ends
        sentence = start
        while sentence < stop:
            here = kind[sentence - start]
            if here == _OVERLONG:
                sentence = self._cut(sentence)
                continue
            successor = after[sentence - start]
            if here == _PLAIN:
                begins.append(tokens[sentence - start])
                ends.append(tokens[successor - start])
            sentence = successor
        return sentence

    def _plan(self, start: int, stop: int) -> tuple[NDArray[np.uint8], Int64]:
        """Say of each sentence what it is, and where the next sample would begin if one began with it."""
        recipe, capacity = self.recipe, self.recipe.capacity
        numbers = np.arange(start, stop)
        begins = self.sentences[start:stop]
        documents = np.searchsorted(self.documents, numbers, "right") - 1
        first, last = int(documents[0]), int(documents[-1]) + 1
        bounds = self.documents[first : last + 1]
        own = documents - first
        limits = bounds[own + 1]
        sizes = np.diff(self.sentences[bounds])
        opens_long = (sizes >= _LONG * capacity)[own] & (numbers == bounds[own])

        counters = (numbers + self.first_sentence).astype(np.uint64)
        short = opens_long | (uniform(draw(self.short_key, counters)) < recipe.short_sequence_probability)
        targets = np.full(len(numbers), capacity)
        targets[short] = 2 + below(draw(self.length_key, counters[short]), capacity - 1)
        following = np.searchsorted(self.sentences, begins + targets, "right") - 1
        following = np.maximum(following, numbers + 1)
        if recipe.pairs:
            second = np.minimum(numbers + 2, limits)
            fits = self.sentences[second] - begins <= capacity
            following = np.where(fits, np.maximum(following, second), following)
        following = np.minimum(following, limits)

        kinds = np.full(len(numbers), _PLAIN, np.uint8)
        kinds[self.sentences[start + 1 : stop + 1] - begins > capacity] = _OVERLONG
        held_out = held_out_documents(self.first_document + first, last - first, recipe.held_out_fraction)
        other = (held_out != recipe.held_out)[own]
        kinds[other] = _SKIPPED
        following[other] = limits[other]
        return kinds, following.astype(np.int64)

    def _cut(self, sentence: int) -> int:
        """Cut an over-long sentence at word starts; what remains of it begins a sample that goes on after it."""
        capacity = self.recipe.capacity
        begin, end = int(self.sentences[sentence]), int(self.sentences[sentence + 1])
        target = capacity
        if end - begin >= _LONG * capacity:
            counter = np.array([self.first_sentence + sentence], np.uint64)
            target = 1 + int(below(draw(self.cut_key, counter), capacity)[0])
        while end - begin > capacity:
            # a word longer than a whole sample has to be cut inside
            cut = self._last_word(begin, target) or self._last_word(begin, capacity) or begin + capacity
            self.begins.append(begin)
            self.ends.append(cut)
            begin, target = cut, capacity
        document = int(np.searchsorted(self.documents, sentence, "right"))
        after = int(np.searchsorted(self.sentences, begin + capacity, "right")) - 1
        after = min(max(after, sentence + 1), int(self.documents[document]))
        self.begins.append(begin)
        self.ends.append(int(self.sentences[after]))
        return after

    def _last_word(self, begin: int, target: int) -> int:
        """Find where the last word begins after `begin` that is at most `target` tokens on; 0 where there is none."""
        words = np.flatnonzero(self.shard.word_starts(begin + 1, begin + target + 1))
        return begin + 1 + int(words[-1]) if len(words) else 0
