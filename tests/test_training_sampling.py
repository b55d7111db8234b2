"""The sample map, its cache, the mixture of corpora, and the random numbers under them."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_corpus import MemoryCorpus, MemoryShard, chi_square, numbered_shard, random_shard
from numpy.typing import NDArray

from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.samples import cache as sample_cache
from roformer_convert.training.samples import sampling
from roformer_convert.training.samples.cache import cached_map
from roformer_convert.training.samples.mixture import CorpusSamples, Mixture
from roformer_convert.training.samples.sampling import VARIANTS, MapRecipe, build_map, held_out_documents
from roformer_convert.training.samples.splitmix import below, derive, draw, permutation, uniform

Map = NDArray[Any]


def recipe(capacity: int = 13, **changes: object) -> MapRecipe:
    values: dict[str, object] = {
        "capacity": capacity,
        "short_sequence_probability": 0.1,
        "pairs": True,
        "key": 7,
        "held_out": False,
        "held_out_fraction": 0.0,
        **changes,
    }
    return MapRecipe(**values)  # type: ignore[arg-type]


def random_corpus(seed: int = 0, documents: int = 60) -> MemoryCorpus:
    random = np.random.default_rng(seed)
    long = [[[[5, 6, 7]] * 90, [[8]] * 3], [[[9] * 70]], [[[9]], [[5] * 40, [6] * 2], [[7]]]]
    return MemoryCorpus(
        random_shard(random, documents),
        MemoryShard([[[[5]]] * 500, *long]),
        random_shard(random, documents, sentences=60, words=3),
    )


def totals(corpus: MemoryCorpus) -> int:
    return sum(len(shard.tokens) for shard in corpus.shards)


def covered(corpus: MemoryCorpus, samples: np.ndarray) -> np.ndarray:
    """Count how often each token of the corpus is in a sample."""
    steps = np.zeros(totals(corpus) + 1, np.int64)
    np.add.at(steps, samples[:, 0], 1)
    np.add.at(steps, samples.sum(axis=1), -1)
    return np.cumsum(steps)[:-1]


# --- random numbers


def test_the_sequence_is_that_of_the_reference_splitmix64() -> None:
    # the first outputs for seed 1234567 of https://prng.di.unimi.it/splitmix64.c
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert draw(1234567, np.arange(5)).tolist() == want
    assert draw(np.full(5, 1234567, np.uint64), np.arange(5)).tolist() == want


def test_derived_keys_depend_on_every_number_and_their_order() -> None:
    keys = {derive(1, 2, 3), derive(2, 1, 3), derive(1, 2), derive(1, 2, 4), derive(0, 2, 3), derive(1, 2, 3, 0)}
    assert len(keys) == 6
    assert all(0 <= key < 1 << 64 for key in keys)


def test_uniform_and_below_are_uniform_and_in_range() -> None:
    bits = draw(3, np.arange(200_000))
    tenths = np.bincount((uniform(bits) * 10).astype(np.int64), minlength=10)
    assert chi_square(tenths, np.ones(10)) < 1
    assert chi_square(np.bincount(below(bits, 7), minlength=7), np.ones(7)) < 1
    extremes = np.array([0, (1 << 64) - 1], np.uint64)
    assert below(extremes, 7).tolist() == [0, 6]
    assert uniform(extremes)[0] == 0
    assert uniform(extremes)[1] < 1


def test_every_permutation_is_equally_likely() -> None:
    orders = Counter(tuple(permutation(derive(5, key), 4).tolist()) for key in range(12_000))
    assert len(orders) == 24
    assert chi_square(np.array(list(orders.values())), np.ones(24)) < 1


# --- the map


@pytest.mark.parametrize("capacity", [2, 3, 13, 61])
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("short", [0.0, 0.1, 1.0])
def test_every_token_is_in_exactly_one_sample_of_an_epoch(capacity: int, pairs: bool, short: float) -> None:
    corpus = random_corpus()
    for variant in range(VARIANTS):
        samples = build_map(corpus, recipe(capacity, pairs=pairs, short_sequence_probability=short), variant)
        assert (covered(corpus, samples) == 1).all()
        assert samples[:, 1].min() >= 1
        assert samples[:, 1].max() <= capacity


def test_samples_lie_in_one_document_and_end_with_sentences() -> None:
    corpus = random_corpus()
    first = 0
    sample_ends = set(build_map(corpus, recipe(40), 0).sum(axis=1).tolist())
    for shard in corpus.shards:
        ends = shard.sentence_ends + first
        assert set(ends[shard.document_ends][1:].tolist()) <= sample_ends, "a sample runs across a document's end"
        overlong = np.flatnonzero(np.diff(ends) > 40)
        inside = {place for sentence in overlong for place in range(ends[sentence] + 1, ends[sentence + 1])}
        own = {end for end in sample_ends if first < end <= first + len(shard.tokens)}
        assert own - set(ends.tolist()) <= inside
        first += len(shard.tokens)


def test_samples_are_as_full_as_sentences_allow() -> None:
    corpus = MemoryCorpus(numbered_shard([[4] * 30]))
    samples = build_map(corpus, recipe(50, short_sequence_probability=0.0), 0)
    assert samples.tolist() == [[0, 48], [48, 48], [96, 24]]


def test_overlong_sentences_are_cut_where_words_begin() -> None:
    words = [[5] * length for length in [3, 2, 4, 1, 4, 4, 2, 3] * 5]
    corpus = MemoryCorpus(MemoryShard([[[[6]], words, [[7]], [[8]]]]))
    begins = {1 + sum(map(len, words[:count])) for count in range(len(words) + 1)} | {117}
    cuts = set()
    for variant in range(VARIANTS):
        samples = build_map(corpus, recipe(10, short_sequence_probability=0.0), variant)
        assert (covered(corpus, samples) == 1).all()
        assert set(samples[1:, 0].tolist()) <= begins
        assert samples[:, 1].max() <= 10
        cuts.add(tuple(samples[:, 0].tolist()))
    assert len(cuts) > 1, "long sentences are cut at the same places in every epoch"


def test_a_sentence_is_not_cut_inside_a_word_that_would_fit() -> None:
    corpus = MemoryCorpus(MemoryShard([[[[5] * 6] * 20]]))
    for key in range(20):  # most first pieces are to be shorter than a word
        samples = build_map(corpus, recipe(10, key=key), 0)
        assert (samples % 6 == 0).all()


def test_what_remains_of_an_overlong_sentence_goes_on_with_the_next_sentences() -> None:
    corpus = MemoryCorpus(numbered_shard([[23, 3, 3, 3]]))
    samples = build_map(corpus, recipe(10, short_sequence_probability=0.0), 0)
    assert samples.tolist() == [[0, 10], [10, 10], [20, 9], [29, 3]]


def test_a_word_longer_than_a_sample_is_cut_inside() -> None:
    corpus = MemoryCorpus(MemoryShard([[[[5] * 2, [6] * 25, [7]]]]))
    samples = build_map(corpus, recipe(10), 0)
    assert (covered(corpus, samples) == 1).all()
    assert samples[:, 1].max() <= 10


def test_the_share_and_lengths_of_short_samples_are_as_asked() -> None:
    capacity, short = 30, 0.25
    corpus = MemoryCorpus(MemoryShard([[[[5]]] * 200_000]))  # sentences of one token: a sample is as long as its target
    lengths = build_map(corpus, recipe(capacity, short_sequence_probability=short), 0)[1:-1, 1]
    shares = np.full(capacity - 1, short / (capacity - 1))
    shares[-1] += 1 - short
    assert chi_square(np.bincount(lengths, minlength=capacity + 1)[2:], shares) < 1


def test_a_short_sample_keeps_two_sentences_where_they_fit() -> None:
    corpus = MemoryCorpus(numbered_shard([[4] * 30]))
    paired = build_map(corpus, recipe(50, short_sequence_probability=1.0), 0)
    assert paired[:-1, 1].min() >= 8
    single = build_map(corpus, recipe(50, short_sequence_probability=1.0, pairs=False), 0)
    assert single[:, 1].min() == 4


def test_boundaries_differ_between_epochs_and_are_the_same_each_time() -> None:
    corpus = MemoryCorpus(numbered_shard([[5] * 200] * 4))
    maps = [build_map(corpus, recipe(50, short_sequence_probability=0.0), variant) for variant in range(VARIANTS)]
    assert len({samples.tobytes() for samples in maps}) == VARIANTS
    for variant, samples in enumerate(maps):
        assert (build_map(corpus, recipe(50, short_sequence_probability=0.0), variant) == samples).all()


def test_which_samples_are_short_differs_between_epochs() -> None:
    corpus = MemoryCorpus(numbered_shard([[5] * 15] * 40))  # too short to begin with a sample of random length
    begun = [build_map(corpus, recipe(50), variant) for variant in range(VARIANTS)]
    short = [set(samples[(samples[:, 1] < 50) & (samples[:, 0] % 75 == 0), 0].tolist()) for samples in begun]
    assert all(short)
    assert all(one != other for one in short for other in short if one is not other)


def test_the_map_does_not_depend_on_how_many_sentences_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = random_corpus()
    whole = build_map(corpus, recipe(), 1)
    for block in (1, 7, 100):
        monkeypatch.setattr(sampling, "_BLOCK", block)
        assert (build_map(corpus, recipe(), 1) == whole).all()


def test_documents_and_sentences_may_be_empty() -> None:
    corpus = MemoryCorpus(MemoryShard([]), MemoryShard([[], [[], [[5]], []], [], [[[6], [7]]], [[]]]))
    assert build_map(corpus, recipe(), 0).tolist() == [[0, 1], [1, 2]]


# --- the held-out split


def test_the_two_sides_of_the_split_share_no_document_and_miss_none() -> None:
    corpus = random_corpus()
    train = build_map(corpus, recipe(held_out_fraction=0.3), 0)
    held_out = build_map(corpus, recipe(held_out_fraction=0.3, held_out=True, key=99), 0)
    assert len(train)
    assert len(held_out)
    on_train, on_held_out = covered(corpus, train), covered(corpus, held_out)
    assert (on_train + on_held_out == 1).all()
    first_token = first_document = 0
    for shard in corpus.shards:
        count = len(shard.document_ends) - 1
        sides = held_out_documents(first_document, count, 0.3)
        bounds = shard.sentence_ends[shard.document_ends] + first_token
        for side, begin, end in zip(sides, bounds[:-1], bounds[1:], strict=True):
            assert (on_held_out[begin:end] == side).all(), "a document is on both sides"
        first_token += len(shard.tokens)
        first_document += count


def test_the_split_is_a_function_of_the_document_number_alone() -> None:
    whole = held_out_documents(0, 200_000, 0.005)
    assert (held_out_documents(150_000, 1_000, 0.005) == whole[150_000:151_000]).all()
    counts = np.array([whole.sum(), (~whole).sum()])
    assert chi_square(counts, [0.005, 0.995]) < 1
    # pinned: a run that goes on later must not train on what it was evaluated on
    assert np.flatnonzero(whole)[:4].tolist() == [170, 944, 1212, 1501]


# --- the cache


def test_a_cached_map_is_read_back_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = random_corpus()
    made = cached_map(corpus, recipe(), 2, tmp_path)
    monkeypatch.setattr(sample_cache, "build_map", None)
    read = cached_map(corpus, recipe(), 2, tmp_path)
    assert (read == made).all()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_recipes_variants_and_corpora_have_files_of_their_own(tmp_path: Path) -> None:
    plain = MemoryShard([[[[5], [6]], [[7, 8]]]])
    segmented = MemoryShard([[[[5, 6]], [[7, 8]]]])
    for shard in (plain, segmented):
        for variant in range(2):
            for capacity in (4, 5):
                cached_map(MemoryCorpus(shard), recipe(capacity), variant, tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def across_shards(samples: Map, corpus: MemoryCorpus) -> Map:
    border = len(corpus.shards[0].tokens)
    keep = (samples[:, 0] >= border + 5) | (samples.sum(axis=1) <= border - 5)
    return np.insert(samples[keep], np.count_nonzero(samples[keep, 0] < border), [border - 2, 4], axis=0)


#: What is done to a map (n, 2) of a corpus.
DAMAGES: dict[str, Callable[[Map, MemoryCorpus], Map]] = {
    "pickled": lambda samples, corpus: np.array([[0, {}]], dtype=object),
    "shape": lambda samples, corpus: samples[:, :1],
    "type": lambda samples, corpus: samples.astype(np.float64),
    "beyond the end": lambda samples, corpus: np.concatenate([samples[:-1], [[totals(corpus), samples[-1, 1]]]]),
    "across shards": across_shards,
    "overlap": lambda samples, corpus: samples[[0, 1, 2, 2, *range(4, len(samples))]],
}


@pytest.mark.parametrize("damage", ["truncated", "empty", *DAMAGES])
def test_a_damaged_cache_file_is_made_again(tmp_path: Path, damage: str) -> None:
    corpus = random_corpus()
    made = cached_map(corpus, recipe(), 0, tmp_path)
    (path,) = tmp_path.iterdir()
    if damage in DAMAGES:
        np.save(path, DAMAGES[damage](np.load(path), corpus))
    else:
        path.write_bytes(path.read_bytes()[:-24] if damage == "truncated" else b"")
    again = cached_map(corpus, recipe(), 0, tmp_path)
    assert (again == made).all()
    assert (np.load(path) == made).all()


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvertError, match="sample map cannot be written"):
        cached_map(random_corpus(), recipe(), 0, tmp_path / "file")


def test_nothing_partial_stays_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ConvertError, match="No space left"):
        cached_map(random_corpus(), recipe(), 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_cache_is_readable_for_others_as_other_files_are(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    cached_map(random_corpus(), recipe(), 0, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


# --- epochs and mixtures


def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own() -> None:
    source = CorpusSamples(random_corpus(), recipe(), None)
    sizes = [len(source.map(variant)) for variant in range(VARIANTS)]
    first, orders = 0, []
    for epoch in range(2 * VARIANTS + 1):
        size = sizes[epoch % VARIANTS]
        entries = source.entries(np.arange(first, first + size))
        want = source.map(epoch % VARIANTS)
        assert (entries[np.argsort(entries[:, 0])] == want).all()
        orders.append(entries.tobytes())
        first += size
    assert len(set(orders)) == len(orders), "an epoch's order came twice"


def test_any_position_can_be_asked_for_at_once() -> None:
    corpus = random_corpus()
    count = len(CorpusSamples(corpus, recipe(), None).map(0))
    walked = CorpusSamples(corpus, recipe(), None)
    in_turn = np.concatenate([walked.entries(np.arange(first, first + 50)) for first in range(0, 9 * count, 50)])
    for first in (7 * count, 3, 2 * count + 1):
        fresh = CorpusSamples(corpus, recipe(), None)
        assert (fresh.entries(np.arange(first, first + 70)) == in_turn[first : first + 70]).all()


def test_a_corpus_without_text_on_a_side_is_an_error_that_says_so() -> None:
    corpus = MemoryCorpus(numbered_shard([[5, 5]]))
    with pytest.raises(ConvertError, match=r"none of its 1 documents is held out at held_out_fraction 0\.005"):
        CorpusSamples(corpus, recipe(held_out=True, held_out_fraction=0.005), None)
    with pytest.raises(ConvertError, match="left for training"):
        CorpusSamples(corpus, recipe(held_out_fraction=1.0), None)


@pytest.mark.parametrize("weights", [[1.0], [1, 1], [0.7, 0.2, 0.1], [1, 1e-4], [3, 5, 7, 11, 2**-5]])
def test_weights_hold_at_every_position(weights: list[float]) -> None:
    mixture = Mixture(weights)
    positions = np.arange(150_000)
    corpora, indices = mixture.locate(positions)
    for corpus, share in enumerate(np.array(weights) / sum(weights)):
        here = corpora == corpus
        # 150,000 / 65,536 patterns of shares rounded to whole samples, and at most a sample for each other corpus
        assert np.abs(np.cumsum(here) - share * (positions + 1)).max() < len(weights) + 2.3
        assert (indices[here] == np.arange(here.sum())).all(), "samples of a corpus are skipped or repeated"


def test_a_mixture_can_be_asked_for_any_position_at_once() -> None:
    mixture = Mixture([2, 1, 4])
    corpora, indices = mixture.locate(np.arange(200_000))
    for position in (0, 65_535, 65_536, 131_073, 199_999):
        corpus, index = mixture.locate(np.array([position]))
        assert (corpus[0], index[0]) == (corpora[position], indices[position])
