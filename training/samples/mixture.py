"""Which sample comes at which position of a stage: corpora mixed by weight, each in epochs of its own, each shuffled.

Positions are looked up, never counted through: any position of the stage can be asked for at once, which is what lets a
run go on from a step number alone and lets every rank find its own samples.

Source of the mixing: Megatron-LM's helpers.cpp (``build_blending_indices``), where the next sample comes from the
corpus furthest behind its weight, so that the shares hold at every position and not only on average. Here the same is
laid out once, as a pattern that repeats.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from .cache import cached_map
from .examples import Stretch
from .sampling import VARIANTS, Corpus, MapRecipe
from .splitmix import derive, permutation

Int64 = NDArray[np.int64]

#: Positions after which the pattern of corpora repeats; weights hold to one part in this.
_PATTERN = 1 << 16

#: Shuffled orders kept: a step touches two epochs where one ends and the next begins.
_KEPT_ORDERS = 2

#: Beside the purposes of :mod:`.sampling`, which hash under the same key with a variant first.
_PURPOSE_ORDER = 1 << 32


class CorpusSamples:
    """All samples of one corpus, one epoch after the other, each epoch in an order of its own.

    Args:
        corpus: The prepared text.
        recipe: How it is cut into samples.
        cache: Directory for sample maps; None makes them in memory.

    Raises:
        ConvertError: There is no text on this side of the held-out split.
    """

    def __init__(self, corpus: Corpus, recipe: MapRecipe, cache: Path | None) -> None:
        self._corpus = corpus
        self._recipe = recipe
        self._cache = cache
        self._maps: list[Int64] = []
        self._orders: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._variants = 1 if recipe.held_out else VARIANTS
        self._token_offsets = [0]
        for shard in corpus.shards:
            self._token_offsets.append(self._token_offsets[-1] + len(shard.tokens))
        if len(self.map(0)) == 0:
            raise _no_samples(corpus, recipe)

    def map(self, variant: int) -> Int64:
        """Give one of the sample maps, (n, 2), making it and those before it on first use."""
        while len(self._maps) <= variant:
            self._maps.append(cached_map(self._corpus, self._recipe, len(self._maps), self._cache))
        return self._maps[variant]

    def locate(self, indices: Int64) -> tuple[Int64, Int64]:
        """Say in which epoch the samples number `indices` (n,) of this corpus are, and which of the epoch each is."""
        ends = [0]
        furthest = int(indices.max())
        while len(ends) <= self._variants and ends[-1] <= furthest:
            ends.append(ends[-1] + len(self.map(len(ends) - 1)))
        rounds = np.zeros_like(indices)
        if len(ends) > self._variants:
            rounds, indices = np.divmod(indices, ends[-1])
        variants = np.searchsorted(np.array(ends), indices, "right") - 1
        return rounds * self._variants + variants, indices - np.array(ends)[variants]

    def entries(self, indices: Int64) -> Int64:
        """Give the map entries (n, 2) of the samples number `indices` (n,), shuffled within each epoch."""
        epochs, within = self.locate(indices)
        entries = np.empty((len(indices), 2), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            entries[here] = self.map(int(epoch) % self._variants)[self._order(int(epoch))[within[here]]]
        return entries

    def stretch(self, entry: Int64) -> Stretch:
        """Turn a map entry into a place in a shard."""
        begin, count = int(entry[0]), int(entry[1])
        shard = bisect_right(self._token_offsets, begin) - 1
        begin -= self._token_offsets[shard]
        return Stretch(self._corpus.shards[shard], begin, begin + count)

    def _order(self, epoch: int) -> NDArray[Any]:
        """Give the order of an epoch's samples."""
        if epoch not in self._orders:
            count = len(self.map(epoch % self._variants))
            order = permutation(derive(self._recipe.key, _PURPOSE_ORDER, epoch), count)
            self._orders[epoch] = order.astype(np.uint32) if count <= 1 << 32 else order
            while len(self._orders) > _KEPT_ORDERS:
                self._orders.popitem(last=False)
        self._orders.move_to_end(epoch)
        return self._orders[epoch]


def _no_samples(corpus: Corpus, recipe: MapRecipe) -> ConvertError:
    where = getattr(corpus, "directory", "the corpus")
    documents = sum(len(shard.document_ends) - 1 for shard in corpus.shards)
    side = "held out" if recipe.held_out else "left for training"
    if recipe.held_out:
        step = "Raise held_out_fraction, prepare a corpus of more documents, or evaluate nothing: --eval-batches 0."
    else:
        step = "Lower held_out_fraction, or prepare a corpus of more documents."
    return ConvertError(
        f"{where}: none of its {documents:,} documents is {side} at held_out_fraction {recipe.held_out_fraction}", step
    )


class Mixture:
    """Positions of a stage → (corpus, number of the sample in it), in exact proportion to the weights.

    Args:
        weights: One for each corpus, above 0; their scale does not count.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.shares = np.array(weights, np.float64) / sum(weights)
        if len(weights) == 1:
            self._pattern = self._before = np.zeros(1, np.int64)
        else:
            self._pattern = _spread(_quotas(self.shares))
            self._before = _count_before(self._pattern, len(weights))
        self._quota = np.bincount(self._pattern, minlength=len(weights))

    def locate(self, positions: Int64) -> tuple[Int64, Int64]:
        """Say of which corpus the samples at `positions` (n,) are, and their numbers within that corpus."""
        rounds, places = np.divmod(positions, len(self._pattern))
        corpora = self._pattern[places]
        return corpora, rounds * self._quota[corpora] + self._before[places]

    def counts(self, positions: int) -> Int64:
        """Say how many of the first `positions` samples are of each corpus, (n,)."""
        rounds, rest = divmod(positions, len(self._pattern))
        counts: Int64 = rounds * self._quota + np.bincount(self._pattern[:rest], minlength=len(self._quota))
        return counts


def each_once(sizes: Sequence[int], shares: NDArray[np.float64]) -> Int64:
    """Lay out all samples of some corpora, each once: corpus and number of each, (n, 2).

    Corpora are mixed in proportion to their shares until one has no more, then the others go on.
    """
    corpora = np.repeat(np.arange(len(sizes)), sizes)
    numbers = np.concatenate([np.arange(size) for size in sizes])
    return np.stack([corpora, numbers], axis=1)[np.argsort((numbers + 0.5) / shares[corpora], kind="stable")]


def _quotas(shares: NDArray[np.float64]) -> Int64:
    """Divide a pattern among the corpora, each at least one, by largest remainder."""
    exact = shares * _PATTERN
    quotas: Int64 = np.maximum(np.floor(exact), 1).astype(np.int64)
    order = np.argsort(quotas - exact, kind="stable")
    for step in range(_PATTERN - int(quotas.sum())):
        quotas[order[step % len(order)]] += 1
    while quotas.sum() > _PATTERN:
        quotas[np.argmax(quotas)] -= 1
    return quotas


def _spread(quotas: Int64) -> Int64:
    """Lay out the pattern: sample k of a corpus with quota q belongs at (k + 1/2) / q of the way."""
    corpora = np.repeat(np.arange(len(quotas)), quotas)
    opens = np.cumsum(quotas) - quotas
    places: NDArray[np.float64] = (np.arange(len(corpora)) - opens[corpora] + 0.5) / quotas[corpora]
    pattern: Int64 = corpora[np.argsort(places, kind="stable")]
    return pattern


def _count_before(pattern: Int64, corpora: int) -> Int64:
    """Count for each place how often its corpus came before it."""
    before = np.empty(len(pattern), np.int64)
    for corpus in range(corpora):
        here = np.flatnonzero(pattern == corpus)
        before[here] = np.arange(len(here))
    return before
