"""The corpus's files: what is written is read, and what is damaged, truncated or foreign is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from chinese_text import as_text, documents, write_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.training.corpus.prepare import prepare
from roformer_convert.training.corpus.reading import Corpus, vocabulary_digest
from roformer_convert.training.corpus.shard_file import HEADER_BYTES, Shard, read_header
from roformer_convert.training.corpus.shard_writer import ShardWriter

CORPUS = "ab" * 16


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of several shards."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text(as_text(documents(60)), encoding="utf-8")
    prepare([folder / "text.txt"], folder / "corpus", write_vocabulary(folder / "v.txt"), processes=1, shard_bytes=4000)
    return folder / "corpus"


@pytest.fixture
def corpus(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "corpus"))


# One shard -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    found=st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=12),  # tokens of each sentence of each document
    batches=st.lists(st.integers(0, 12), max_size=4),
    size=st.sampled_from([9, 1 << 16, (1 << 16) + 1]),
)
def test_a_shard_holds_what_was_added_however_it_came(
    tmp_path_factory: pytest.TempPathFactory, found: list[list[int]], batches: list[int], size: int
) -> None:
    dice = np.random.default_rng(len(found))
    lengths = np.array([length for one in found for length in one], np.int64)
    ends = np.cumsum([len(one) for one in found])
    tokens = dice.integers(0, size, lengths.sum())
    words = dice.random(lengths.sum()) < 0.5
    path = tmp_path_factory.mktemp("shard") / "shard-00003.tokens"
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    cuts = [0, *sorted(min(cut, len(lengths)) for cut in batches), len(lengths)]
    with ShardWriter(path, size, 3, CORPUS) as writer:
        for begin, end in pairwise(cuts):
            part = slice(offsets[begin], offsets[end])
            # a document that ends at a cut ends in the batch before it
            inside = [int(one) - begin for one in ends if begin < one <= end]
            writer.add(tokens[part], lengths[begin:end], words[part], inside)
        writer.commit()
    shard = Shard(path)
    shard.check_boundaries()
    shard.check_contents()
    kept = [[length for length in one if length] for one in found]
    kept = [one for one in kept if one]
    assert shard.tokens.dtype.itemsize == (4 if size > 1 << 16 else 2)
    np.testing.assert_array_equal(shard.tokens, tokens)
    np.testing.assert_array_equal(shard.sentence_ends, np.cumsum([0, *(length for one in kept for length in one)]))
    np.testing.assert_array_equal(shard.document_ends, np.cumsum([0, *map(len, kept)]))
    for start, end in [
        (0, len(tokens)),
        (1, len(tokens)),
        *(sorted(dice.integers(0, len(tokens) + 1, (5, 2)).tolist())),
    ]:
        got = shard.word_starts(min(start, end), max(start, end))
        np.testing.assert_array_equal(got, words[min(start, end) : max(start, end)])
    again = pickle.loads(pickle.dumps(shard))
    np.testing.assert_array_equal(again.tokens, shard.tokens)
    assert len(pickle.dumps(shard)) < 2000


def test_a_shard_that_was_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard-00000.tokens", 9, 0, CORPUS) as writer:
        writer.add(np.arange(4), np.array([4]), np.ones(4, np.bool_), [1])
    assert list(tmp_path.iterdir()) == []


# A directory ---------------------------------------------------------------------------------------------------------


def test_a_corpus_opens_with_its_totals_and_its_tokenizer(corpus: Path) -> None:
    found = Corpus.open(corpus, full=True)
    assert len(found.shards) > 2
    assert found.documents == 60 == sum(len(shard.document_ends) - 1 for shard in found.shards)
    assert found.tokens == sum(len(shard.tokens) for shard in found.shards)
    assert found.sentences == sum(len(shard.sentence_ends) - 1 for shard in found.shards)
    assert vocabulary_digest(found.tokenizer()) == found.vocabulary_digest


def test_a_changed_vocabulary_is_refused(corpus: Path) -> None:
    path = corpus / "vocab.txt"
    path.write_text(path.read_text("utf-8") + "新\n", encoding="utf-8")
    with pytest.raises(FormatError, match="is not the vocabulary of this corpus"):
        Corpus.open(corpus).tokenizer()


def repacked(change: Callable[[bytearray], None]) -> Callable[[Path], None]:
    """Change a header and make its checksum fit again."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(data)
        data[HEADER_BYTES - 4 : HEADER_BYTES] = struct.pack("<I", zlib.crc32(data[: HEADER_BYTES - 4]))
        path.write_bytes(data)

    return damage


def put(place: int, kind: str, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(kind, data, place, value)


def set_boundary(name: str, number: int, value: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        header = read_header(path)
        with open(path, "r+b") as file:
            file.seek({"sentence": header.sentences_at, "document": header.documents_at}[name] + 8 * number)
            file.write(struct.pack("<q", value))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.write_bytes(b""), "is not a shard of a prepared corpus"),
        (lambda path: path.write_bytes(b"PK\3\4" + path.read_bytes()[4:]), "is not a shard of a prepared corpus"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "truncated: 60 bytes; the header alone has 128"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated: [0-9,]+ bytes, want"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "too long"),
        (lambda path: path.write_bytes(path.read_bytes()[:20] + b"\xff" + path.read_bytes()[21:]), "header is damaged"),
        (repacked(put(8, "<I", 2)), "version 2 of the format; this program reads 1"),
        (repacked(put(12, "<I", 3)), "impossible header: .* of 3 bytes"),
        (repacked(put(16, "<Q", (1 << 64) - 1)), "impossible header"),
        (repacked(put(24, "<Q", 1 << 62)), "impossible header"),
        (repacked(put(48, "<Q", 0)), "does not belong here: its number is 0"),
        (repacked(put(56, "<Q", 0)), "does not belong here: its corpus is"),
        (repacked(put(40, "<Q", 5)), "does not belong here: its vocabulary_size is 5"),
        (repacked(put(80, "<Q", 5)), "does not belong here: its sha256 is"),
        (set_boundary("sentence", 0, 1), "sentence boundaries run from 1 to"),
        (set_boundary("sentence", 3, 1 << 60), "sentence 3 runs from 1,152,921,504,606,846,976 to"),
        (set_boundary("sentence", 3, -5), "sentence 2 runs from [0-9]+ to -5"),
        (set_boundary("document", 2, 0), "document 1 runs from"),
    ],
)
def test_a_damaged_or_foreign_shard_is_named_when_the_corpus_is_opened(
    corpus: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(corpus / "shard-00001.tokens")
    with pytest.raises(FormatError, match=message) as caught:
        Corpus.open(corpus)
    assert caught.value.path == corpus / "shard-00001.tokens"


def test_two_shards_that_changed_places_are_named(corpus: Path) -> None:
    (corpus / "shard-00000.tokens").rename(corpus / "x")
    (corpus / "shard-00001.tokens").rename(corpus / "shard-00000.tokens")
    (corpus / "x").rename(corpus / "shard-00001.tokens")
    with pytest.raises(FormatError, match=r"shard-00000\.tokens: does not belong here"):
        Corpus.open(corpus)


def test_a_flipped_bit_anywhere_is_found_by_the_full_check(corpus: Path) -> None:
    path = corpus / "shard-00001.tokens"
    data = bytearray(path.read_bytes())
    for place in (HEADER_BYTES, HEADER_BYTES + 51, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(FormatError, match=r"shard-00001.tokens: damaged: SHA-256"):
            Corpus.open(corpus, full=True)


def test_a_token_that_is_no_row_is_named_when_the_corpus_is_opened(corpus: Path) -> None:
    path = corpus / "shard-00001.tokens"
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, HEADER_BYTES + 20, 60000)
    path.write_bytes(data)
    with pytest.raises(FormatError, match="holds the token 60,000; the vocabulary has"):
        Corpus.open(corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a prepared corpus: it has no corpus.json"),
        ("{", "not JSON"),
        ("[]", "was not written by"),
        ('{"format": "roformer-convert corpus", "version": 9}', "version 9"),
        ('{"format": "roformer-convert corpus", "version": 1}', "corpus is NoneType, want str"),
    ],
)
def test_an_index_that_is_none_is_named(corpus: Path, text: str | None, message: str) -> None:
    if text is None:
        (corpus / "corpus.json").unlink()
    else:
        (corpus / "corpus.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        Corpus.open(corpus)


def test_every_field_of_the_index_is_checked(corpus: Path) -> None:
    path = corpus / "corpus.json"
    index = json.loads(path.read_text("utf-8"))
    for name in ("corpus", "vocabulary_digest", "vocabulary_size", "settings", "inputs", "shards"):
        for value in (None, 1.5, True, [None]):
            path.write_text(json.dumps({**index, name: value}), encoding="utf-8")
            if name == "inputs" and value == [None]:
                continue  # what it says of the inputs is for people
            with pytest.raises(ConvertError, match=r"corpus\.json"):
                Corpus.open(corpus)


def test_the_index_names_shards_by_digests_of_their_contents(original: Path) -> None:
    index = json.loads((original / "corpus.json").read_text("utf-8"))
    for number, entry in enumerate(index["shards"]):
        data = (original / f"shard-{number:05d}.tokens").read_bytes()
        assert entry["sha256"] == hashlib.sha256(data[HEADER_BYTES:]).hexdigest()
