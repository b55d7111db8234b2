"""Text into sentences, words and tokens."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chinese_text import as_text, documents, write_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.models.text.tokenizer_files import settings_of_rows
from roformer_convert.training.text import files as text_module
from roformer_convert.training.text.carried_tokenizer import read_tokenizer, tokenizer_files
from roformer_convert.training.text.encode_text import TextEncoder
from roformer_convert.training.text.files import LineReader, TextFormat, expand, paragraphs
from roformer_convert.training.text.segmentation import load_segmenter, token_word_starts, word_numbers
from roformer_convert.training.text.sentences import LONGEST_SENTENCE, split_sentences

AUTO = TextFormat()


def read(path: Path, text_format: TextFormat = AUTO, start: int = 0, stop: int | None = None) -> list[str | None]:
    return list(paragraphs(LineReader(path, start, stop), text_format))


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_blank_line_ends_a_document_and_many_end_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff\n\n 一 \r\n二\n\n \t\n\u3000\n三".encode())
    assert read(path) == ["一", "二", None, "三", None]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_text_reads_as_the_plain_text_does(tmp_path: Path, suffix: str) -> None:
    data = as_text(documents(300)).encode()
    plain, packed = tmp_path / "a.txt", tmp_path / f"a.txt{suffix}"
    plain.write_bytes(data)
    packed.write_bytes(compress(data[:5000], suffix) + compress(data[5000:], suffix))  # two members, or frames
    assert read(packed) == read(plain)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_compressed_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    data = compress(as_text(documents(300)).encode(), suffix)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(FormatError, match=r"a\.txt\.(gz|zst) at byte .*damaged or truncated"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_text("这不是压缩文件\n", encoding="utf-8")
    with pytest.raises(FormatError, match="damaged or truncated"):
        read(path)


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    zstandard = pytest.importorskip("zstandard")
    packed: bytes = zstandard.ZstdCompressor().compress(data)
    return packed


def test_bytes_that_are_not_utf8_are_named_with_their_place_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    good = "你好\n".encode()
    path.write_bytes(good * 7 + "中".encode() + b"\xff\n" + good)
    with pytest.raises(FormatError, match="not UTF-8") as caught:
        read(path)
    assert caught.value.offset == 7 * len(good) + 3
    with pytest.raises(FormatError) as caught:  # also where reading begins in the middle
        read(path, start=len(good) * 3)
    assert caught.value.offset == 7 * len(good) + 3


def test_a_line_longer_than_memory_should_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "LONGEST_LINE", 100)
    path = tmp_path / "a.txt"
    path.write_text("短\n" + "长" * 40, encoding="utf-8")
    with pytest.raises(FormatError, match="a line of more than 100 bytes") as caught:
        read(path)
    assert caught.value.offset == 4


def test_json_lines_give_the_fields_in_the_order_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"body": "一。\n\n二。", "title": "题"}, {"title": None, "body": "三"}, {"title": "", "body": " "}]
    path.write_text("\n\n".join(json.dumps(one) for one in records), encoding="utf-8")
    assert read(path, TextFormat("auto", ("title", "body"))) == ["题", "一。", "二。", None, "三", None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "not a JSON line"),
        ("[1]", "a JSON list, want an object with the field"),
        ('{"txt": "a"}', r"field 'text' is missing, want text; the line has 'txt'"),
        ('{"text": 1}', "is of type int"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "not a JSON line"),
    ],
)
def test_a_json_line_without_text_is_named_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "好"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(FormatError, match=message) as caught:
        read(path)
    assert caught.value.offset == len('{"text": "好"}\n'.encode())


def test_the_format_comes_from_the_name_without_its_compression() -> None:
    auto = TextFormat()
    assert [auto.is_json_lines(Path(name)) for name in ("a.jsonl.gz", "a.JSON", "a.txt.zst", "a", "jsonl.gz")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert TextFormat("jsonl").is_json_lines(Path("a.txt"))


def test_files_directories_and_patterns_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "b/c/3.txt", "b/.hidden", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = expand([tmp_path / "b", str(tmp_path / "*.txt"), tmp_path / "b" / "1.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b/1.txt", "b/2.txt", "b/c/3.txt", "a.txt"]
    with pytest.raises(ConvertError, match=r"no such file, and no file matches it"):
        expand([tmp_path / "*.gz"])


# Sentences -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        ["今天好。", "明天？", "是！", "一；", "二……", "三"],
        ["他说：“好！”", "她笑了。", "『真的？』", "（是。）", "完"],
        ["真的吗？！”。", "嗯。。。", "好"],
        ['他说:"好!"', '她说:"来。"', "完。"],
        ["走了。", '"你好"她说。'],
        ["3.14和www.a.cn都是。", "好"],
    ],
)
def test_sentences_end_where_their_quotes_close(parts: list[str]) -> None:
    assert split_sentences("".join(parts)) == parts


@given(st.text(alphabet='中文，。！？；…”』"!;) a', max_size=60))
def test_nothing_but_white_space_is_lost_between_sentences(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


def test_a_text_without_ends_is_cut_at_commas() -> None:
    found = split_sentences("一二三四五六七，" * 1000 + "八" * 3000)
    assert "".join(found) == "一二三四五六七，" * 1000 + "八" * 3000
    assert max(map(len, found)) <= LONGEST_SENTENCE
    assert all(one.endswith("，") for one in found[:7])


# Tokens and words ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return read_tokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt"))


def show(encoder: TextEncoder, sentences: Sequence[str]) -> list[str]:
    """Write tokens with a bar before each word."""
    found = encoder.encode(sentences)
    bounds = [0, *np.cumsum(found.lengths).tolist()]
    return [
        "".join(
            ("|" if found.word_starts[place] else " ") + str(encoder.tokenizer.token(int(found.tokens[place])))
            for place in range(start, end)
        )
        for start, end in pairwise(bounds)
    ]


def test_tokens_in_the_middle_of_a_segmenters_word_begin_none(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(tokenizer, "rjieba")
    assert show(encoder, ["我们喜欢北京的天气。"]) == ["|我 们|喜 欢|北 京|的|天 气|。"]


def test_without_a_segmenter_every_chinese_character_begins_a_word_and_pieces_continue_it(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(tokenizer, "none")
    assert show(encoder, ["我们看iPhone6s"]) == ["|我|们|看|i ##p ##h ##o ##n ##e ##6 ##s"]


def test_words_are_found_in_the_text_before_lower_case_and_accents_change_its_length(tokenizer: Tokenizer) -> None:
    """İ becomes two characters, é written as two becomes one, and the soft hyphen none."""
    encoder = TextEncoder(tokenizer, "rjieba")
    decomposed = unicodedata.normalize("NFD", "é")
    for prefix in ("İİİ", f"caf{decomposed}" * 3, "\u00ad\u200b", "ﬁ", "가나"):
        shown = show(encoder, [f"{prefix}我们喜欢北京"])[0]
        assert shown.endswith("|我 们|喜 欢|北 京"), (prefix, shown)


def test_a_segmenters_cut_inside_of_a_latin_word_begins_no_word(tokenizer: Tokenizer) -> None:
    """Jieba knows no é, so that café is two words to it, and one token to the vocabulary."""
    encoder = TextEncoder(tokenizer, "rjieba")
    assert show(encoder, ["他看cafés书"]) == ["|他|看|cafe ##s|书"]


def test_a_token_that_starts_in_the_word_in_which_the_last_one_ended_begins_none() -> None:
    """Words A and BC, tokens AB and C, then D, of which the second token is a ## piece."""
    words = np.array([0, 1, 1, 2, 3])
    starts = token_word_starts(
        np.array([0, 2, 3, 4]), np.array([2, 3, 4, 5]), words, np.array([False, False, False, True])
    )
    assert starts.tolist() == [True, False, True, False]


def test_a_segmenters_word_never_goes_on_in_the_next_sentence(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(tokenizer, "rjieba")
    encoder._cut = lambda text: [text]
    assert show(encoder, ["我们", "喜欢", "北京"]) == ["|我 们", "|喜 欢", "|北 京"]


def test_every_sentence_begins_a_word_and_empty_ones_have_no_token(tokenizer: Tokenizer) -> None:
    for segmenter in ("rjieba", "none"):
        encoder = TextEncoder(tokenizer, segmenter)
        assert show(encoder, ["\u200b", "我", "", "们"]) == ["", "|我", "", "|们"]
        assert encoder.encode([]).lengths.tolist() == []


def test_a_special_token_that_the_text_spells_is_text(tokenizer: Tokenizer) -> None:
    found = TextEncoder(tokenizer, "none").encode(["[MASK][CLS]我[SEP][PAD]"])
    assert not set(found.tokens.tolist()) & {
        tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id,
    }  # fmt: skip
    assert [tokenizer.token(number) for number in found.tokens.tolist()].count("我") == 1
    # where the tokenizer sees the whole sentence and finds the special tokens, they are unknown
    unknown = tokenizer.unk_id
    assert slow(tokenizer, "none").encode(["[MASK][SEP]"]).tokens.tolist() == [unknown, unknown]


def slow(tokenizer: Tokenizer, segmenter: str) -> TextEncoder:
    """An encoder that gives the tokenizer whole sentences."""
    encoder = TextEncoder(tokenizer, segmenter)
    encoder._characters = None
    return encoder


_ANY = st.one_of(
    st.text(
        alphabet="我们喜欢 aé\u0301İßﬁ3０Ａ。，!\"'#[-\u00a0\u3000\u200b\t가か\u3099\uf900\u2f00𠀀😀≠\u0338",
        max_size=40,
    ),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n"), max_size=40),
)


@settings(max_examples=150, deadline=None)
@given(sentences=st.lists(_ANY, max_size=4))
@pytest.mark.parametrize("flags", [{}, {"lower_case": False}, {"strip_accents": False}, {"split_chinese": False}])
def test_the_table_of_characters_gives_what_the_tokenizer_gives(
    tokenizer: Tokenizer, flags: dict[str, Any], sentences: list[str]
) -> None:
    rows = [tokenizer.token(number) or "" for number in range(tokenizer.size)]
    varied = Tokenizer(settings_of_rows(rows, **flags))
    sentences = [one for one in sentences if "]" not in one]
    for got, want in zip(
        TextEncoder(varied, "rjieba").encode(sentences), slow(varied, "rjieba").encode(sentences), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_runs_that_are_forgotten_are_found_again(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roformer_convert.training.text.character_tokens._MOST_RUNS", 3)
    encoder = TextEncoder(tokenizer, "none")
    for number in range(20):
        assert show(encoder, [f"我ab{number}cd们x"]) == show(slow(tokenizer, "none"), [f"我ab{number}cd们x"])


def test_jieba_and_rjieba_make_the_same_words(tokenizer: Tokenizer) -> None:
    pytest.importorskip("jieba")
    text = as_text(documents(30)).replace("\n", "")
    rust, python = load_segmenter("rjieba"), load_segmenter("jieba")
    assert rust is not None
    assert python is not None
    np.testing.assert_array_equal(word_numbers(text, rust), word_numbers(text, python))


def test_a_segmenter_that_drops_characters_is_refused() -> None:
    with pytest.raises(ConvertError, match="words have 2 characters, but the text has 3"):
        word_numbers("我们好", lambda text: [text[:2]])


def test_a_word_vocabulary_keeps_its_words() -> None:
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我们喜欢北京", "北京", "喜欢"]
    encoder = TextEncoder(Tokenizer(settings_of_rows(rows, words=True)), "rjieba")
    assert show(encoder, ["我们喜欢北京"]) == ["|我 们|喜欢|北京"]


@pytest.mark.parametrize(
    "flags", [{}, {"lower_case": False, "split_chinese": False}, {"strip_accents": True}, {"words": True}]
)
def test_the_tokenizer_beside_the_shards_is_the_one_that_was_read(tmp_path: Path, flags: dict[str, Any]) -> None:
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我们喜欢北京", "##a", "北京"]
    before = Tokenizer(settings_of_rows(rows, **flags))
    for name, data in tokenizer_files(before).items():
        (tmp_path / name).write_bytes(data)
    after = Tokenizer.from_pretrained(tmp_path)
    for name in ("rows", "ids", "lower_case", "strip_accents", "split_chinese", "words", "skipped", "special"):
        assert getattr(after.settings, name) == getattr(before.settings, name), name
    assert set(after.settings.added) == set(before.settings.added)
