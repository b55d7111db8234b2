"""Which tokens are masked, and with what: the shares by chi-square over many samples, the rules token by token."""

from __future__ import annotations

import numpy as np
import pytest
from memory_corpus import SPECIAL, chi_square

from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.samples.masking import FlatSamples, SpecialIds, choose, replace
from roformer_convert.training.samples.splitmix import draw, uniform

UNK = SPECIAL.unk


def flat(
    rows: list[list[list[int]]], *, seed: int = 0, first: int = 0, segments: list[int] | None = None
) -> FlatSamples:
    """Lay samples of words of tokens end to end; `segments` gives each row's word with which its second half begins."""
    counts = np.array([sum(map(len, row)) for row in rows])
    words = [word for row in rows for word in row]
    word_starts = np.zeros(counts.sum(), np.bool_)
    word_starts[np.cumsum([0] + [len(word) for word in words])[:-1]] = True
    opens = np.cumsum(counts) - counts
    segment_starts = np.zeros(counts.sum(), np.bool_)
    segment_starts[opens] = True
    for row, second in enumerate(segments or []):
        segment_starts[opens[row] + sum(map(len, rows[row][:second]))] = True
    row_numbers = np.repeat(np.arange(len(rows)), counts)
    return FlatSamples(
        tokens=np.array([token for word in words for token in word]),
        rows=row_numbers,
        places=np.arange(counts.sum()) - opens[row_numbers],
        word_starts=word_starts,
        segment_starts=segment_starts,
        counts=counts,
        keys=draw(seed, np.arange(first, first + len(rows))),
    )


def random_rows(random: np.random.Generator, count: int, *, longest: int = 4, words: int = 40) -> list[list[list[int]]]:
    return [
        [random.integers(5, 105, random.integers(1, longest + 1)).tolist() for _ in range(random.integers(1, words))]
        for _ in range(count)
    ]


def chosen(samples: FlatSamples, *, probability: float = 0.15, ngrams: int = 1) -> np.ndarray:
    return choose(samples, samples.tokens != UNK, probability=probability, ngrams=ngrams)


@pytest.mark.parametrize("ngrams", [1, 3])
def test_whole_words_are_masked_whole_and_to_the_budget(ngrams: int) -> None:
    random = np.random.default_rng(1)
    samples = flat(random_rows(random, 400))
    mask = chosen(samples, ngrams=ngrams)
    word = np.cumsum(samples.word_starts) - 1
    of_word = np.bincount(word, mask)
    assert set(np.unique(of_word / np.bincount(word))) == {0.0, 1.0}, "a word is masked in part"
    masked = np.bincount(samples.rows, mask)
    assert masked.min() >= 1
    off = masked - 0.15 * samples.counts
    assert off.max() <= 4 * ngrams, "more above the budget than the longest group"
    assert off.min() > -4 * ngrams, "more below the budget than the longest group"


def test_words_are_taken_as_one_would_lay_them_round_a_circle() -> None:
    random = np.random.default_rng(2)
    rows = random_rows(random, 300, longest=7)
    samples = flat(rows)
    mask = chosen(samples)
    bits = samples.draw(np.uint64(1 << 56), np.arange(len(samples.tokens)))
    turns = uniform(draw(samples.keys ^ np.uint64(5 << 56), np.zeros(len(rows), np.int64)))
    first = 0
    for row, turn in zip(rows, turns, strict=True):
        begins = np.cumsum([0] + [len(word) for word in row])
        size = int(begins[-1])
        place, want = turn * size, []
        order = sorted(range(len(row)), key=lambda number: int(bits[first + begins[number]]))
        for number in order:
            if place % size < 0.15 * size:
                want.append(number)
            place += len(row[number])
        want = want or order[:1]
        expected = np.concatenate([np.full(len(word), number in want) for number, word in enumerate(row)])
        assert (mask[first : first + size] == expected).all()
        first += size


@pytest.mark.parametrize("ngrams", [1, 3])
def test_fifteen_percent_of_the_tokens_are_masked(ngrams: int) -> None:
    random = np.random.default_rng(3)
    samples = flat([row for row in random_rows(random, 1500, words=120) if sum(map(len, row)) >= 40])
    # a sample's share is off by a word at most, in either direction: 2 tokens in 110, in 1,300 samples
    assert abs(chosen(samples, ngrams=ngrams).mean() - 0.15) < 0.001


@pytest.mark.parametrize("ngrams", [1, 3])
def test_every_place_is_masked_equally_often(ngrams: int) -> None:
    # two-token words, and a second half that begins in the middle
    rows = [[[5, 6]] * 40] * 5000
    samples = flat(rows, segments=[17] * len(rows))
    mask = chosen(samples, ngrams=ngrams)
    assert chi_square(np.bincount(samples.places, mask).astype(np.int64), np.ones(80)) < 1


@pytest.mark.parametrize("ngrams", [1, 3])
def test_long_and_short_words_are_masked_equally_often(ngrams: int) -> None:
    samples = flat([[[5], [6, 7], [8, 9, 10]] * 12] * 4000)
    mask = chosen(samples, ngrams=ngrams)
    places = samples.places % 6
    counts = np.array([mask[places == place].sum() for place in (0, 1, 3)])
    assert chi_square(counts, np.ones(3)) < 1
    shares = counts / (places == 0).sum()
    assert np.abs(shares - 0.15).max() < 0.006


def test_ngrams_have_lengths_with_p_proportional_to_one_over_n() -> None:
    # so few are chosen that two n-grams hardly ever touch
    mask = chosen(flat([[[5]] * 3000] * 400), probability=0.002, ngrams=3)
    begins = np.flatnonzero(mask & ~np.append(False, mask[:-1]))
    lengths = np.flatnonzero(mask & ~np.append(mask[1:], False)) - begins + 1
    counts = np.bincount(lengths, minlength=4)[1:4]
    assert counts.sum() / len(lengths) > 0.99
    assert chi_square(counts, [1, 1 / 2, 1 / 3]) < 1


def test_ngrams_do_not_reach_from_one_segment_or_sample_into_the_next() -> None:
    # every word an n-gram could join across is in a segment or a sample of its own
    rows = [[[5], [6]]] * 3000
    mask = chosen(flat(rows, segments=[1] * len(rows)), ngrams=3)
    assert (mask.reshape(-1, 2).sum(axis=1) == 1).all()
    assert 0.4 < mask.reshape(-1, 2)[:, 0].mean() < 0.6


def test_unknown_tokens_and_the_words_that_hold_them_are_left_alone() -> None:
    random = np.random.default_rng(4)
    rows = random_rows(random, 300)
    for row in rows:
        for word in row:
            if random.random() < 0.2:
                word[random.integers(len(word))] = UNK
    samples = flat(rows)
    words = np.cumsum(samples.word_starts) - 1
    unknown = np.bincount(words, samples.tokens == UNK)[words] > 0
    for ngrams in (1, 3):
        mask = chosen(samples, ngrams=ngrams)
        assert not mask[unknown].any()
        assert mask.any()


@pytest.mark.parametrize("ngrams", [1, 3])
def test_words_beside_an_unknown_one_are_masked_as_often_as_others(ngrams: int) -> None:
    row = [[5]] * 40
    row[20] = [UNK]
    samples = flat([row] * 8000)
    places = np.bincount(samples.places, chosen(samples, ngrams=ngrams)).astype(np.int64)
    assert places[20] == 0
    assert chi_square(np.delete(places, 20), np.ones(39)) < 1


def test_a_sample_of_unknown_tokens_has_nothing_masked() -> None:
    samples = flat([[[UNK], [UNK, 7]], [[5], [6]], [[UNK]]])
    for ngrams in (1, 3):
        assert np.bincount(samples.rows, chosen(samples, ngrams=ngrams)).astype(bool).tolist() == [False, True, False]
        assert not chosen(flat([[[UNK], [UNK, 7]], [[UNK]]]), ngrams=ngrams).any()


def test_a_sample_of_one_long_word_has_it_masked() -> None:
    assert chosen(flat([[[5] * 9]])).all()
    masks = chosen(flat([[[5] * 9, [6] * 7]] * 200)).reshape(200, 16)
    assert (masks.any(axis=1) & ~masks.all(axis=1)).all()
    assert 0.35 < masks[:, 0].mean() < 0.65


def test_eighty_ten_ten_is_drawn_for_each_token() -> None:
    samples = flat([[[7]] * 100] * 600)
    where = np.arange(len(samples.tokens))
    seen = replace(samples, where, SPECIAL)
    masked, kept = (seen == SPECIAL.mask).sum(), (seen == 7).sum()
    other = len(seen) - masked - kept
    ordinary = len(SPECIAL.ordinary)
    shares = [0.8, 0.1 + 0.1 / ordinary, 0.1 * (1 - 1 / ordinary)]
    assert chi_square(np.array([masked, kept, other]), shares) < 1
    drawn = seen[(seen != SPECIAL.mask) & (seen != 7)]
    ids = SPECIAL.ordinary[SPECIAL.ordinary != 7]
    assert chi_square(np.bincount(drawn, minlength=105)[ids], np.ones(len(ids))) < 1
    assert np.isin(drawn, ids).all(), "a special token was drawn"
    # neighbours, as of one word, are drawn independently: both masked 0.64, one 0.32, none 0.04
    pairs = (seen == SPECIAL.mask).reshape(-1, 2).sum(axis=1)
    assert chi_square(np.bincount(pairs, minlength=3), [0.04, 0.32, 0.64]) < 1


def test_the_choice_and_the_replacement_are_independent() -> None:
    samples = flat([[[7]] * 50] * 3000)
    where = np.flatnonzero(chosen(samples))
    seen = replace(samples, where, SPECIAL)
    counts = np.array([(seen == SPECIAL.mask).sum(), (seen == 7).sum()])
    assert chi_square(np.append(counts, len(seen) - counts.sum()), [0.8, 0.101, 0.099]) < 1


def test_a_sample_is_masked_the_same_beside_any_others() -> None:
    random = np.random.default_rng(5)
    rows = random_rows(random, 20)
    for ngrams in (1, 3):
        together = flat(rows)
        mask = chosen(together, ngrams=ngrams)
        seen = replace(together, np.flatnonzero(mask), SPECIAL)
        alone_masks, alone_seen = [], []
        for number, row in enumerate(rows):
            alone = flat([row], first=number)
            alone_masks.append(chosen(alone, ngrams=ngrams))
            alone_seen.append(replace(alone, np.flatnonzero(alone_masks[-1]), SPECIAL))
        assert (np.concatenate(alone_masks) == mask).all()
        assert (np.concatenate(alone_seen) == seen).all()


def test_masks_differ_from_sample_to_sample_of_the_same_text() -> None:
    samples = flat([[[5]] * 100] * 50)
    masks = {row.tobytes() for row in chosen(samples).reshape(50, 100)}
    assert len(masks) == 50


def test_ordinary_ids_are_what_text_can_give() -> None:
    tokens = [
        "[PAD]",
        "[unused1]",
        "",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "<S>",
        "我",
        "##我",
        "##ing",
        "a",
        "[",
        "<",
    ]
    special = SpecialIds.of_vocabulary(tokens)
    assert [tokens[number] for number in special.ordinary] == ["我", "##ing", "a", "[", "<"]
    assert (special.pad, special.unk, special.cls, special.sep, special.mask) == (0, 3, 4, 5, 6)


def test_a_vocabulary_without_a_special_token_is_an_error_that_names_it() -> None:
    with pytest.raises(ConvertError, match=r"lacks \[CLS\], \[MASK\]"):
        SpecialIds.of_vocabulary(["[PAD]", "[UNK]", "[SEP]", "我"])
    with pytest.raises(ConvertError, match="no tokens besides the special ones"):
        SpecialIds.of_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##我"])
