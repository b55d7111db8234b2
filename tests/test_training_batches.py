"""From a step number to arrays: layout, sentence order, ranks, epochs, the held-out side, the same bits each time."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from memory_corpus import SPECIAL, MemoryCorpus, MemoryShard, chi_square, numbered_shard, random_shard

from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.samples.batches import NO_ORDER, Batch, Origin, Prefetching, SamplingOptions, StageData
from roformer_convert.training.samples.sampling import held_out_documents

Row = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


def stage(*corpora: MemoryCorpus, **changes: object) -> StageData:
    return stage_of([(corpus, 1.0) for corpus in corpora], **changes)


def stage_of(weighted: list[tuple[MemoryCorpus, float]], **changes: object) -> StageData:
    options = {name: changes.pop(name) for name in list(changes) if name in SamplingOptions.__dataclass_fields__}
    values: dict[str, object] = {
        "length": 48,
        "seed": 11,
        "batch_size": 12,
        "held_out_fraction": 0.0,
        "special": SPECIAL,
        **changes,
    }
    return StageData(weighted, options=SamplingOptions(**options), **values)  # type: ignore[arg-type]


def random_corpus(documents: int = 80, seed: int = 0) -> MemoryCorpus:
    random = np.random.default_rng(seed)
    return MemoryCorpus(random_shard(random, documents), random_shard(random, documents // 4, sentences=60))


def numbered_corpus(seed: int = 0, documents: int = 120) -> MemoryCorpus:
    """Every token of the corpus is another id, so that a token tells where it is from."""
    random = np.random.default_rng(seed)
    lengths = [random.integers(1, 14, random.integers(1, 20)).tolist() for _ in range(documents)]
    lengths += [[200, 3, 4], [1], [77], [2]]
    return MemoryCorpus(numbered_shard(lengths))


def rows_of(batches: list[Batch]) -> list[Row]:
    """Take the padding off: number, tokens, types, places of masks, labels and order of each row."""
    rows = []
    for batch in batches:
        length = batch.input_ids.shape[1]
        for row, number in enumerate(batch.samples):
            here = batch.positions // length == row
            size = int(batch.attention_mask[row].sum())
            rows.append(
                (
                    int(number),
                    tuple(batch.input_ids[row, :size].tolist()),
                    tuple(batch.token_type_ids[row, :size].tolist()),
                    tuple((batch.positions[here] % length).tolist()),
                    tuple(batch.labels[here].tolist()),
                    int(batch.order[row]),
                )
            )
    return rows


def plain(row: Row) -> list[int]:
    """Give a row's tokens with the masks undone."""
    tokens = list(row[1])
    for place, label in zip(row[3], row[4], strict=True):
        tokens[place] = label
    return tokens


def segments(row: Row) -> list[list[int]]:
    """Give a row's segments in the order of the text, masks undone and special tokens checked."""
    tokens, types, order = plain(row), row[2], row[5]
    assert tokens[0] == SPECIAL.cls
    assert tokens[-1] == SPECIAL.sep
    if order == NO_ORDER:
        assert set(types) == {0}
        return [tokens[1:-1]]
    second = types.index(1)
    assert tokens[second - 1] == SPECIAL.sep
    assert list(types) == [0] * second + [1] * (len(tokens) - second)
    halves = [tokens[1 : second - 1], tokens[second:-1]]
    return halves[::-1] if order == 1 else halves


def text_of(row: Row) -> list[int]:
    """Give a row's text in its own order, without masks and special tokens."""
    return [token for segment in segments(row) for token in segment]


def epoch_rows(data: StageData, first: int = 0, steps: int | None = None) -> list[Row]:
    steps = data.steps_per_epoch if steps is None else steps
    return [row for step in range(first, first + steps) for row in rows_of(data.batches(step, micro_tokens=240))]


# --- layout


@pytest.mark.parametrize("ngrams", [1, 3])
def test_rows_are_segments_with_special_tokens_in_order_of_the_text_once_unswapped(ngrams: int) -> None:
    data = stage(numbered_corpus(), ngrams=ngrams)
    kinds: Counter[int] = Counter()
    for row in epoch_rows(data):
        text = text_of(row)
        assert text == list(range(text[0], text[0] + len(text))), "not a stretch of the text"
        assert len(row[1]) <= 48
        assert all(segments(row))
        kinds[row[5]] += 1
    assert set(kinds) == {0, 1, NO_ORDER}


def test_padding_is_on_the_right_and_nowhere_else() -> None:
    data = stage(random_corpus())
    for step in range(6):
        for batch in data.batches(step, micro_tokens=192):
            lengths = batch.attention_mask.sum(axis=1)
            assert batch.input_ids.shape[1] == lengths.max()
            padding = np.arange(batch.input_ids.shape[1]) >= lengths[:, None]
            assert (batch.attention_mask == ~padding).all()
            assert (batch.input_ids[padding] == SPECIAL.pad).all()
            assert (batch.token_type_ids[padding] == 0).all()
            assert not (batch.input_ids[~padding] == SPECIAL.pad).any()
            for array in vars(batch).values():
                assert array.dtype == np.int64


def test_positions_ascend_and_hide_text_only() -> None:
    data = stage(random_corpus())
    for step in range(6):
        for batch in data.batches(step, micro_tokens=192):
            assert (np.diff(batch.positions) > 0).all()
            flat = batch.input_ids.reshape(-1)
            untouched = np.ones(flat.size, np.bool_)
            untouched[batch.positions] = False
            assert not (flat[untouched] == SPECIAL.mask).any(), "a mask without a label"
            assert (batch.labels >= 5).all(), "a special token is to be predicted"
            assert len(batch.labels) == len(batch.positions) > 0


def test_unknown_tokens_are_never_labels() -> None:
    random = np.random.default_rng(0)
    data = stage(MemoryCorpus(random_shard(random, 60, first=0, ids=8)))  # ids 0 to 7: special tokens too, [UNK] is 1
    for step in range(5):
        for batch in data.batches(step):
            assert not (batch.labels == SPECIAL.unk).any()
            assert len(batch.labels)


def test_without_mlm_nothing_is_masked() -> None:
    data = stage(numbered_corpus(), mlm=False)
    for step in range(5):
        for batch in data.batches(step):
            assert len(batch.positions) == len(batch.labels) == 0
            assert not (batch.input_ids == SPECIAL.mask).any()


def test_without_sop_a_sample_is_one_segment() -> None:
    data = stage(numbered_corpus(), sop=False)
    for row in epoch_rows(data):
        assert row[5] == NO_ORDER
        assert len(segments(row)) == 1
        assert len(row[1]) <= 48
    assert max(len(row[1]) for row in epoch_rows(data)) >= 45


def test_without_whole_words_tokens_are_masked_by_themselves() -> None:
    corpus = MemoryCorpus(MemoryShard([[[[5] * 8] * 4] * 6] * 40))
    whole = {len(row[3]) % 8 for row in epoch_rows(stage(corpus))}
    assert whole == {0}
    single = {len(row[3]) % 8 for row in epoch_rows(stage(corpus, whole_word=False))}
    assert 0 not in single


# --- sentence order


def test_half_the_pairs_are_swapped_and_the_split_is_at_a_random_sentence() -> None:
    # documents of eight sentences of four tokens make one sample each, split after one to seven of them
    corpus = MemoryCorpus(numbered_shard([[4] * 8] * 3000))
    rows = epoch_rows(stage(corpus, short_sequence_probability=0.0, batch_size=60))
    orders = Counter(row[5] for row in rows)
    assert set(orders) == {0, 1}
    assert chi_square(np.array([orders[0], orders[1]]), [1, 1]) < 1
    splits = [len(segments(row)[0]) for row in rows]
    assert {split % 4 for split in splits} == {0}
    assert chi_square(np.bincount(np.array(splits) // 4, minlength=8)[1:], np.ones(7)) < 1
    both = Counter((row[5], len(segments(row)[0])) for row in rows)
    assert chi_square(np.array(list(both.values())), np.ones(14)) < 1


def test_masks_fall_on_both_segments_alike() -> None:
    corpus = MemoryCorpus(numbered_shard([[15, 15]] * 3000))
    rows = epoch_rows(stage(corpus, short_sequence_probability=0.0, batch_size=60))
    places = np.bincount(np.concatenate([row[3] for row in rows]), minlength=33)
    assert places[[0, 16, 32]].sum() == 0
    assert chi_square(np.delete(places, [0, 16, 32]), np.ones(30)) < 1
    share = places.sum() / (30 * len(rows))
    assert abs(share - 0.15) < 0.004


def test_ngrams_do_not_reach_across_the_split() -> None:
    corpus = MemoryCorpus(numbered_shard([[1, 1]] * 300))
    assert {len(row[3]) for row in epoch_rows(stage(corpus, ngrams=3))} == {1}


def test_a_corpus_of_single_sentences_has_no_order_to_predict_and_does_not_hang() -> None:
    data = stage(MemoryCorpus(numbered_shard([[5]] * 30 + [[1]] * 5 + [[300]])))
    rows = epoch_rows(data, steps=3 * data.steps_per_epoch)
    assert {row[5] for row in rows} == {NO_ORDER}


def test_one_token_is_enough_for_a_corpus() -> None:
    data = stage(MemoryCorpus(numbered_shard([[1]])), batch_size=3)
    for step in (0, 1, 10**6):
        rows = rows_of(data.batches(step))
        assert [plain(row) for row in rows] == [[SPECIAL.cls, 5, SPECIAL.sep]] * 3
        assert [row[3] for row in rows] == [(1,)] * 3


# --- epochs


def test_an_epoch_holds_every_token_once_through_all_the_machinery() -> None:
    corpus = numbered_corpus()
    data = stage(corpus, batch_size=1)
    first = 0
    for variant in range(3):
        size = len(data._sources[0].map(variant))
        rows = epoch_rows(data, first, size)
        text = sorted(token for row in rows for token in text_of(row))
        assert text == sorted(corpus.shards[0].tokens.tolist())
        first += size


def test_masks_swaps_and_order_are_new_in_each_epoch() -> None:
    # short documents and no short samples: the stretches are the same in every epoch
    corpus = MemoryCorpus(numbered_shard([[7, 7, 7, 7]] * 40))
    data = stage(corpus, batch_size=10, short_sequence_probability=0.0)
    epochs = [epoch_rows(data, epoch * data.steps_per_epoch) for epoch in range(6)]
    by_text = [{min(segments(row)[0]): row for row in rows} for rows in epochs]
    assert all(len(rows) == 40 for rows in by_text)
    masks = {tuple(by_text[epoch][text][3] for text in sorted(by_text[epoch])) for epoch in range(6)}
    orders = {tuple(by_text[epoch][text][5] for text in sorted(by_text[epoch])) for epoch in range(6)}
    sequence = {tuple(min(segments(row)[0]) for row in rows) for rows in epochs}
    assert len(masks) == len(orders) == len(sequence) == 6


def test_another_seed_gives_other_data() -> None:
    corpus = random_corpus()
    one, other = (
        rows_of(stage(corpus).batches(0)),
        rows_of(stage(corpus, seed=12).batches(0)),
    )
    assert not {row[1] for row in one} & {row[1] for row in other}


def test_epochs_are_counted() -> None:
    data = stage(MemoryCorpus(numbered_shard([[5, 5]] * 48)), short_sequence_probability=0.0)
    assert data.steps_per_epoch == 4
    assert data.origin_at(6).taken == (72,)


def test_corpora_are_mixed_by_weight_and_each_cycles_by_itself() -> None:
    small, large = MemoryCorpus(numbered_shard([[5]] * 40)), MemoryCorpus(numbered_shard([[5]] * 800, first=1000))
    data = stage_of([(small, 1.0), (large, 3.0)], batch_size=16)
    seen: Counter[int] = Counter()
    for step in range(60):
        rows = rows_of(data.batches(step))
        counts = Counter(plain(row)[1] for row in rows)
        assert sum(count for token, count in counts.items() if token < 1000) in (3, 4, 5)
        seen += counts
    assert {count for token, count in seen.items() if token < 1000} == {6}, (
        "240 samples are six epochs of the small one"
    )
    assert {count for token, count in seen.items() if token >= 1000} == {1}
    assert data.origin_at(60).taken == (240, 720)


# --- steps, ranks and micro-batches


@pytest.mark.parametrize("micro_tokens", [0, 1, 100, 240])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_step_is_the_same_samples_whatever_divides_it(ranks: int, micro_tokens: int) -> None:
    corpus = random_corpus()
    whole, divided = stage(corpus), stage(corpus)
    for step in (0, 1, 30):
        want = rows_of(whole.batches(step))
        assert sorted(row[0] for row in want) == list(range(12 * step, 12 * step + 12))
        got: list[Row | None] = [None] * 12
        for rank in range(ranks):
            got[rank::ranks] = rows_of(divided.batches(step, rank=rank, ranks=ranks, micro_tokens=micro_tokens))
        assert got == want


def test_micro_batches_keep_to_their_budget_and_use_it() -> None:
    data = stage(random_corpus(400), batch_size=200)
    for step in range(3):
        batches = data.batches(step, micro_tokens=240)
        sizes = [batch.input_ids.size for batch in batches]
        assert max(sizes) <= 240
        assert len(batches) > 10
        assert np.mean(sizes) > 200
        lengths = np.concatenate([batch.attention_mask.sum(axis=1) for batch in batches])
        assert (np.diff(lengths) >= -1).all(), "a pair has one special token more: else samples ascend"
        # a sample above the budget stands alone
        assert all(len(batch.samples) == 1 for batch in data.batches(step, micro_tokens=1))


# --- a step is a random draw


def kinds_of_text() -> MemoryCorpus:
    """Short documents with low ids and long ones with high ids: text of two kinds, and of many lengths."""
    random = np.random.default_rng(5)
    short = random_shard(random, 4000, sentences=2, words=4, first=5, ids=40)
    return MemoryCorpus(short, random_shard(random, 700, sentences=40, first=60, ids=40))


def test_a_step_is_a_random_draw_of_lengths_and_kinds_of_text() -> None:
    # Pearson's test of independence: were samples sorted, or only nearly so, lengths would depend on the step
    data = stage(kinds_of_text(), length=64, batch_size=60)
    steps = [rows_of(data.batches(step)) for step in range(60)]
    lengths = np.array([[len(row[1]) for row in rows] for rows in steps])
    edges = np.quantile(lengths, [0.25, 0.5, 0.75])
    for what in (np.searchsorted(edges, lengths), np.array([[max(row[1]) >= 60 for row in rows] for rows in steps])):
        counts = np.stack([np.bincount(each, minlength=what.max() + 1) for each in what.astype(np.int64)])
        assert counts.shape[1] > 1
        shares = np.outer(counts.sum(1), counts.sum(0)).reshape(-1)
        assert chi_square(counts.reshape(-1), shares) < 1
        by_hand = np.sort(what.reshape(-1)).reshape(what.shape)
        in_order = np.stack([np.bincount(each, minlength=what.max() + 1) for each in by_hand.astype(np.int64)])
        assert chi_square(in_order.reshape(-1), shares) > 10, "sorted samples would pass: the test means nothing"


def test_tokens_of_every_length_weigh_alike() -> None:
    # a masked token's weight in the objective is one over its step's count, which varies by a tenth: the step of a long
    # sample has the more tokens, and that leaves one part in a hundred. Sorted by length it was 2.7 times and more.
    data = stage(kinds_of_text(), length=64, batch_size=60)
    weights: dict[bool, list[float]] = {True: [], False: []}
    for step in range(80):
        rows = rows_of(data.batches(step))
        count = sum(len(row[3]) for row in rows)
        for row in rows:
            weights[len(row[1]) < 16] += [1 / count] * len(row[3])
    assert min(len(each) for each in weights.values()) > 1000
    assert abs(np.mean(weights[True]) / np.mean(weights[False]) - 1) < 0.03


def test_steps_of_a_token_budget_hold_it_to_within_a_sample_and_lose_no_sample() -> None:
    data = stage(kinds_of_text(), length=64, batch_size=1, batch_tokens=3000)
    steps = [rows_of(data.batches(step)) for step in range(100)]
    before = 0
    for number, rows in enumerate(steps):
        assert 3000 * number <= before < 3000 * number + 64, "its first sample is the first that begins in its part"
        # special tokens are counted as in a pair, one more than a single segment has
        before += sum(len(row[1]) + (row[5] == NO_ORDER) for row in rows)
    numbers = [number for rows in steps for number in sorted(row[0] for row in rows)]
    assert numbers == list(range(len(numbers)))
    assert rows_of(stage(kinds_of_text(), length=64, batch_size=1, batch_tokens=3000).batches(77)) == steps[77]


@pytest.mark.parametrize("batch_tokens", [0, 500])
def test_an_origin_goes_on_from_a_sample_at_a_step(batch_tokens: int) -> None:
    corpus = random_corpus()
    before = stage(corpus, batch_size=12, batch_tokens=batch_tokens)
    seen = sum(len(rows_of(before.batches(step))) for step in range(5))
    after = stage(corpus, batch_size=7, batch_tokens=batch_tokens // 2, origin=before.origin_at(5))
    assert before.origin_at(5) == Origin(5, seen, (seen,))
    numbers = [number for step in range(5, 9) for number in sorted(row[0] for row in rows_of(after.batches(step)))]
    assert numbers == list(range(seen, seen + len(numbers)))
    assert batch_tokens or len(numbers) == 28
    every = {row[0]: row for step in range(20) for row in rows_of(before.batches(step))}
    assert all(row == every[row[0]] for row in rows_of(after.batches(6))), "a sample is what it would have been"
    with pytest.raises(ValueError, match="step 4"):
        after.batches(4)


def places_of(data: StageData, steps: range) -> list[tuple[int, int, int]]:
    """Corpus, first token and number of tokens of every sample of some steps."""
    places = []
    for step in steps:
        _, corpora, entries = data._step(step)
        for corpus, (begin, count) in zip(corpora, entries, strict=True):
            places.append((int(corpus), int(begin), int(count)))
    return places


def test_another_batch_neither_repeats_nor_leaves_out_a_sample_of_the_epoch() -> None:
    corpus = random_corpus()
    whole = stage(corpus, batch_size=1)
    epoch = whole.steps_per_epoch
    origin, taken, first, places = Origin(), 0, 0, []
    for batch in (7, 12, 5, 1):  # the last to the epoch's end
        data = stage(corpus, batch_size=batch, origin=origin)
        steps = range(first, first + (4 if batch > 1 else epoch - taken))
        places += places_of(data, steps)
        first, taken, origin = steps.stop, taken + len(steps) * batch, data.origin_at(steps.stop)
    assert len(places) == len(set(places)) == epoch
    assert places == places_of(whole, range(epoch)), "in the order of the epoch"
    assert origin == Origin(first, epoch, (epoch,))


@pytest.mark.parametrize("batch_tokens", [0, 500])
def test_corpora_that_come_and_go_lose_and_repeat_none_of_their_samples(batch_tokens: int) -> None:
    one, two, three = (random_corpus(seed=seed) for seed in (1, 2, 3))
    begun = stage_of([(one, 1.0), (two, 2.0)], batch_size=7, batch_tokens=batch_tokens)
    more = stage_of(
        [(two, 1.0), (three, 3.0)], batch_size=5, batch_tokens=batch_tokens, numbers=(1, 2), origin=begun.origin_at(6)
    )
    back = stage_of([(one, 1.0), (two, 1.0)], batch_size=4, numbers=(0, 1), origin=more.origin_at(11))
    assert back.origin.taken[2] == len([1 for corpus, *_ in places_of(more, range(6, 11)) if corpus == 1])
    whole = [places_of(stage_of([(corpus, 1.0)], batch_size=1, numbers=(number,)), range(200))
             for number, corpus in enumerate((one, two, three))]  # fmt: skip
    seen: list[list[tuple[int, int]]] = [[], [], []]
    for data, steps, numbers in (
        (begun, range(6), (0, 1)),
        (more, range(6, 11), (1, 2)),
        (back, range(11, 16), (0, 1)),
    ):
        for corpus, begin, count in places_of(data, steps):
            seen[numbers[corpus]].append((begin, count))
    for mine, alone in zip(seen, whole, strict=True):
        assert len(mine) > 10
        assert mine == [place[1:] for place in alone[: len(mine)]]
    drawn = [int(each) for data, steps in ((begun, range(6)), (more, range(6, 11)), (back, range(11, 16)))
               for step in steps for each in data._step(step)[0]]  # fmt: skip
    assert drawn == list(range(len(drawn))), "masks are drawn by the number: none comes twice"


def test_any_step_can_be_asked_for_at_once() -> None:
    corpus = random_corpus()
    walked = stage(corpus)
    in_turn = {step: rows_of(walked.batches(step)) for step in range(40)}
    for step in (39, 17, 0, 18):
        assert rows_of(stage(corpus).batches(step)) == in_turn[step]
        assert rows_of(walked.batches(step)) == in_turn[step]


def test_a_stage_counts_what_is_there() -> None:
    corpus = MemoryCorpus(numbered_shard([[5, 5]] * 30 + [[8]] * 10))
    data = stage(corpus, batch_size=10, short_sequence_probability=0.0)
    assert data.tokens == (380,)
    assert data.steps_per_epoch == 4
    batches = [batch for step in range(4) for batch in data.batches(step)]
    assert sum(int(batch.attention_mask.sum()) for batch in batches) == 380 + 30 * 3 + 10 * 2
    assert sum(int((batch.order != NO_ORDER).sum()) for batch in batches) == 30


def test_prefetching_gives_the_same_batches() -> None:
    corpus = random_corpus()
    plain_data = stage(corpus)
    with Prefetching(stage(corpus), rank=1, ranks=2, micro_tokens=192) as ahead:
        for step in (0, 1, 2, 9, 3, 4):
            want = plain_data.batches(step, rank=1, ranks=2, micro_tokens=192)
            assert rows_of(ahead.batches(step)) == rows_of(want)


def test_prefetching_passes_errors_on() -> None:
    with (
        Prefetching(stage(random_corpus()), rank=0, ranks=1, micro_tokens=192) as ahead,
        pytest.raises(ValueError, match="step -1"),
    ):
        ahead.batches(-1)


# --- held out


def test_training_never_sees_a_held_out_document_and_evaluation_no_other() -> None:
    corpus = numbered_corpus(documents=300)
    shard = corpus.shards[0]
    sides = held_out_documents(0, len(shard.document_ends) - 1, 0.1)
    document = np.repeat(np.arange(len(sides)), np.diff(shard.sentence_ends[shard.document_ends]))
    held_out_tokens = set(shard.tokens[sides[document]].tolist())
    assert held_out_tokens
    for seed in (1, 2):
        train = stage(corpus, seed=seed, held_out_fraction=0.1)
        seen = {token for row in epoch_rows(train, steps=2 * train.steps_per_epoch) for token in text_of(row)}
        assert seen == set(shard.tokens.tolist()) - held_out_tokens
    evaluation = stage(corpus, held_out=True, held_out_fraction=0.1)
    assert {token for row in epoch_rows(evaluation) for token in text_of(row)} == held_out_tokens


def test_each_held_out_sample_comes_once_in_a_random_order() -> None:
    data = stage(kinds_of_text(), length=64, held_out=True, held_out_fraction=0.5, batch_size=50)
    steps = [rows_of(data.batches(step)) for step in range(data.steps_per_epoch + 2)]
    assert not steps[-1]
    assert not steps[-2]
    numbers = [number for rows in steps for number in sorted(row[0] for row in rows)]
    assert numbers == list(range(len(data._sources[0].map(0))))
    assert 0 < len(steps[-3]) <= 50
    # what an evaluation of a few steps scores is a fair sample of all
    kinds = [np.array([max(row[1]) >= 60 for row in rows]) for rows in steps if rows]
    first, every = np.concatenate(kinds[:8]), np.concatenate(kinds)
    assert len(every) > 1000
    assert chi_square(np.bincount(first, minlength=2), np.bincount(every).astype(np.float64)) < 1


def test_held_out_samples_of_several_corpora_come_once_each_whatever_their_weights() -> None:
    small, large = MemoryCorpus(numbered_shard([[5]] * 40)), MemoryCorpus(numbered_shard([[5]] * 800, first=1000))
    data = stage_of([(small, 30.0), (large, 1.0)], batch_size=16, held_out=True, held_out_fraction=0.5)
    texts = [tuple(plain(row)) for row in epoch_rows(data)]
    assert len(set(texts)) == len(texts) == sum(len(source.map(0)) for source in data._sources)
    assert sum(text[1] < 1000 for text in texts[:16]) >= 14, "the weights hold while there is text of both"


def test_held_out_data_are_the_same_each_time_whatever_the_seed() -> None:
    corpus = random_corpus(200)
    one, other = (stage(corpus, seed=seed, held_out=True, held_out_fraction=0.2) for seed in (1, 2))
    for step in range(one.steps_per_epoch):
        assert rows_of(other.batches(step)) == rows_of(one.batches(step))


# --- errors and bits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 4}, "length is 4, want at least 5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"held_out_fraction": 1.0}, r"held_out_fraction is 1\.0"),
        ({"masked_lm_probability": 0.0}, r"masked_lm_probability is 0\.0"),
        ({"masked_lm_probability": 1.0}, r"masked_lm_probability is 1\.0"),
        ({"ngrams": 0}, "ngrams is 0"),
        ({"ngrams": 17}, "ngrams is 17"),
        ({"short_sequence_probability": 1.5}, r"short_sequence_probability is 1\.5"),
        ({"held_out": True}, "none of its .* documents is held out"),
    ],
)
def test_impossible_values_are_errors_that_name_them(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        stage(random_corpus(), **changes)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [float("nan")], [1.0, 1e-9]])
def test_impossible_weights_are_errors(weights: list[float]) -> None:
    with pytest.raises(ConvertError, match=r"corpora's weights|no corpus"):
        stage_of([(random_corpus(), weight) for weight in weights])


def test_data_read_from_the_cache_are_the_same(tmp_path: Path) -> None:
    corpus = random_corpus()
    want = epoch_rows(stage(corpus), steps=40)
    for _ in range(2):
        assert epoch_rows(stage(corpus, cache=tmp_path), steps=40) == want


def test_the_data_are_the_same_to_the_bit_on_every_machine() -> None:
    # pinned: a run that is resumed with another version must go on with the same data. Changing this on purpose
    # means saying so in the changelog and refusing to resume older runs.
    digest = hashlib.sha256()
    words = [
        [[5 + (7 * word + letter) % 90 for letter in range(1 + word % 3)] for word in range(2 + k % 9)]
        for k in range(60)
    ]
    corpus = MemoryCorpus(MemoryShard([words[first : first + 1 + first % 17] for first in range(50)]))
    for ngrams in (1, 3):
        data = stage(corpus, ngrams=ngrams)
        for step in (0, 1, 77, 12_345):
            for batch in data.batches(step, micro_tokens=240):
                for name, array in vars(batch).items():
                    digest.update(f"{name} {array.shape}".encode() + array.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "51b4967ab49a2568"
