"""The tokenizer against transformers' own, on thousands of strings that real text and bad luck produce."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_folders import TRAINED

from roformer_convert.converters.errors import ConvertError
from roformer_convert.models.processes.frameworks import MissingPackageError
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.models.text.tokenizer_files import read_settings, settings_of_rows

#: The ids of ``CARD`` in the 12,000 rows of Zhuiyi's character vocabulary, as the model cards print them.
CARD_IDS = [101, 317, 1466, 103, 2100, 1506, 7675, 2351, 103, 861, 585, 1253, 4041, 179, 102]
REPOSITORY = Path(__file__).resolve().parents[1]
SENTENCES = [REPOSITORY / "fixtures" / "sentences.txt", *sorted((REPOSITORY / "parity/data/sentences").glob("*.txt"))]
CARD = "今天[MASK]很好，我[MASK]去公园玩。"

SPECIAL = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = list(
    "今天很好我去公园玩气阳雨非常的，。！？、：「」《》…—abcdefghijklmnopqrstuvwxyz0123456789.,!?#%&-_'()@/:~$+éα"
)
PIECES = ["##" + one for one in "abcdefghijklmnopqrstuvwxyz0123456789éα天"] + ["##ing", "##ed", "##lo", "##22"]
MORE = [
    "hel",
    "hello",
    "play",
    "2021",
    "cafe",
    "straße",
    "한국",
    "ᄒ",
    "ᅡ",
    "ᆫ",
    "😀",
    "👨",
    "‍",
    "한",
    "Ａ",
    "ａ",
    "mask",
    "[mask]",
    "𠀀",
]
CHARACTER_ROWS = [*SPECIAL, *CHARACTERS, *PIECES, *MORE]
WORD_ROWS = [
    *CHARACTER_ROWS,
    "今天",
    "天气",
    "非常",
    "公园",
    "我们",
    "北京",
    "大学",
    "北京大学",
    "hello world",
    "3.14",
    "c++",
    "t恤",
    "中国",
]

SCRIPTS = [
    "今天天气非常好我们去北京大学公园玩中国的",
    "繁體漢字\uf900\uf901\ufa0e\ufa11\U0002f800\U0002fa1d",  # compatibility ideographs
    "\u3400\u4dbf\U00020000\U00020001\U0002a700\U0002b740\U0002b820\U0002ceb0\U00030000",  # extensions A to G
    "abcdefgHIJKLMNOPQRSTUVWXYZ",
    "ÀÉÎõüçŁøßŠžÆĲﬀﬁſİıΣσςΑάЁёЙй",
    "０１２３ａｂｃＡＢＣ！？，．［ＭＡＳＫ］～　",
    "1234567890.,%$€¥①Ⅳ½²",
    "，。！？、：；「」『』《》…—·～（）【】",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "ひらがなカタカナｶﾞー々〆",
    "한국어안녕하세요ᄒ\u1161\u11abㄱㅏ",
    "العربيةשלום\u064b\u0651فلسطين\u200f\u200e",
    "हिन्दीไทยภาษาதமிழ்",
    "\u0301\u0308\u0327\u20dd\u3099\ufe0f\u0345",
    "😀😂👍🏽❤️🇨🇳👨‍👩‍👧‍👦🏳️‍🌈🧑🏾‍🚀☺︎",
    " \t\n\r\u00a0\u1680\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000\x0b\x0c\x85",
    "\x00\x01\x07\x1b\x1c\x1f\x7f\x80\x9f\u00ad\u200b\u200c\u200d\u2060\ufeff\ufffd\ue000\ufffe\uffff\U000e0001\U0010ffff",
]
SNIPPETS = [
    "[MASK]", " [MASK] ", "[mask]", "[Mask]", "[MASK", "MASK]", "[ MASK ]", "[[MASK]]", "[CLS]", "[SEP]",
    "[PAD]", "[UNK]", "[unused1]", "##ing", "hello", "HELLO", "playing", "played", "hello world", "3.14", "C++",
    "T恤", "AA制", "it's", "PC机", "e-mail@x.cn", "https://a.cn/b?c=d&e=f", "2021年10月", "今天天气非常好",
    "北京大学", "我们去公园玩", "e\u0301", "한국어", "x" * 99, "x" * 100, "x" * 101, "今" * 120, "a1" * 60,
    "\r\n", "  ", "", "ﷺ", "㎏", "Ⅷ", "…", "——", "ΌΣΟΣ ΣΑΣ", "👨\u200d👩\u200d👧\u200d👦",
    "e\u0301\u0302\u0303", "İstanbul",
]  # fmt: skip


def odd_strings(seed: int, count: int) -> list[str]:
    """Strings of one script, of several, of snippets joined with and without white space."""
    rng = random.Random(seed)
    strings = ["", " ", "\n", "[MASK]", CARD, *SNIPPETS]
    while len(strings) < count:
        kind = rng.random()
        if kind < 0.3:
            pool = "".join(rng.sample(SCRIPTS, rng.randint(1, 3)))
            strings.append("".join(rng.choices(pool, k=rng.randint(1, 40))))
        elif kind < 0.8:
            parts = []
            for _ in range(rng.randint(1, 8)):
                pool = rng.choice(SCRIPTS)
                part = rng.choice(SNIPPETS) if rng.random() < 0.5 else "".join(rng.choices(pool, k=rng.randint(1, 6)))
                parts.append(part)
            strings.append(rng.choice(["", "", " ", "，", "\t", "\u3000"]).join(parts))
        else:  # any code point but the surrogates
            points = (rng.choice((rng.randrange(0x20, 0x3000), rng.randrange(0xE000, 0x110000))) for _ in range(12))
            strings.append("".join(map(chr, points)))
    return strings


def write(directory: Path, rows: list[str] | bytes = CHARACTER_ROWS, **files: object) -> Path:
    """Write a vocabulary and JSON files (``tokenizer_config={...}``) to ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    data = rows if isinstance(rows, bytes) else "".join(f"{row}\n" for row in rows).encode()
    (directory / "vocab.txt").write_bytes(data)
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return directory


def assert_same(ours: Tokenizer, theirs: Any, texts: list[str], pairs: list[str] | None = None, **limit: int) -> None:
    """Compare ids, token types, offsets and special tokens of single texts or pairs with transformers' tokenizer."""
    options = {"truncation": True, "max_length": limit["max_length"]} if limit else {}
    wanted = theirs(texts, pairs, return_offsets_mapping=True, return_token_type_ids=True, **options)
    batch = ours.encode_batch(texts, pairs, offsets=True, **limit)
    assert batch.offsets is not None
    for row, text in enumerate(texts):
        length = batch.lengths[row]
        where = (text, pairs and pairs[row])
        assert batch.input_ids[row, :length].tolist() == wanted["input_ids"][row], where
        assert batch.token_type_ids[row, :length].tolist() == wanted["token_type_ids"][row], where
        assert [tuple(pair) for pair in batch.offsets[row, :length].tolist()] == wanted["offset_mapping"][row], where
        assert batch.attention_mask[row].sum() == length == batch.attention_mask[row, :length].sum()
        assert (batch.input_ids[row, length:] == ours.pad_id).all()
    if not limit:
        fast = ours.encode_batch(texts, pairs)
        assert np.array_equal(fast.input_ids, batch.input_ids)
        assert np.array_equal(fast.token_type_ids, batch.token_type_ids)


@pytest.fixture(scope="module")
def bert_tokenizer() -> Any:
    return pytest.importorskip("transformers").BertTokenizer


def roformer_tokenizer(rows: list[str], **settings: Any) -> Any:
    """Build transformers' RoFormerTokenizer from a dict: from_pretrained takes the path for the vocabulary (5.23)."""
    pytest.importorskip("rjieba")
    ids = {row: number for number, row in enumerate(rows)}
    return pytest.importorskip("transformers").RoFormerTokenizer(vocab=ids, **settings)


# Against transformers ------------------------------------------------------------------------------------------------


def test_bert_ids_and_offsets_are_those_of_transformers(tmp_path: Path, bert_tokenizer: Any) -> None:
    directory = write(tmp_path)
    assert_same(Tokenizer.from_pretrained(directory), bert_tokenizer.from_pretrained(directory), odd_strings(1, 3000))


def test_word_ids_and_offsets_are_those_of_transformers(tmp_path: Path) -> None:
    directory = write(tmp_path, WORD_ROWS)
    ours = Tokenizer.from_pretrained(directory)
    assert ours.settings.words
    assert_same(ours, roformer_tokenizer(WORD_ROWS), odd_strings(2, 2000))


def real_sentences() -> tuple[list[str], list[str], list[str]]:
    """Read the repository's sentences: every text, and the first and second texts of pairs."""
    lines = [line for path in SENTENCES for line in path.read_text("utf-8").splitlines()]
    pairs = [line.split("\t") for line in lines if "\t" in line]
    assert len(lines) > 30
    assert len(pairs) > 2
    firsts, seconds = [one for one, _ in pairs], [two for _, two in pairs]
    return [*lines, *firsts, *seconds], firsts, seconds


def jieba_rows(texts: list[str]) -> list[str]:
    """Make a vocabulary of four fifths of the words that jieba finds, and of four fifths of the characters."""
    rjieba = pytest.importorskip("rjieba")
    texts = [text.lower() for text in texts]
    words = sorted({word for text in texts for word, _, _ in rjieba.tokenize(text, hmm=False) if word.strip()})
    characters = sorted({character for text in texts for character in text if character.strip()})
    some = [row for rows in (characters, words) for i, row in enumerate(rows) if i % 5]
    return list(dict.fromkeys([*SPECIAL, *some, *PIECES]))


def ours_and_theirs(directory: Path, rows: list[str], words: bool, **settings: Any) -> tuple[Tokenizer, Any]:
    """Build a tokenizer of either kind, and transformers' of the same rows and settings."""
    named = "RoFormerTokenizer" if words else "BertTokenizer"
    write(directory, rows, tokenizer_config={"tokenizer_class": named, **settings})
    ours = Tokenizer.from_pretrained(directory)
    assert ours.settings.words is words
    if words:
        return ours, roformer_tokenizer(rows, **settings)
    return ours, pytest.importorskip("transformers").BertTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("words", [False, True])
def test_real_sentences_give_what_transformers_gives(tmp_path: Path, words: bool) -> None:
    texts, firsts, seconds = real_sentences()
    ours, theirs = ours_and_theirs(tmp_path, jieba_rows(texts), words)
    assert_same(ours, theirs, texts)
    assert_same(ours, theirs, firsts, seconds)
    assert_same(ours, theirs, texts, max_length=12)
    found = {token for text in texts for token in ours.encode(text).tokens}
    chinese = {token for token in found if len(token) > 1 and "\u4e00" <= token[0] <= "\u9fff"}
    assert len(chinese) > 80 if words else not chinese
    assert {"[UNK]", "[MASK]"} < found


def test_real_sentences_give_what_transformers_gives_with_the_fixtures_vocabulary(bert_tokenizer: Any) -> None:
    directory = REPOSITORY / "fixtures" / "tiny"
    texts, firsts, seconds = real_sentences()
    ours, theirs = Tokenizer.from_pretrained(directory), bert_tokenizer.from_pretrained(directory)
    assert not ours.settings.words
    assert_same(ours, theirs, texts)
    assert_same(ours, theirs, firsts, seconds)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"mask_token": "[unused1]", "unk_token": "a", "sep_token": "。"},
    ],
)
@pytest.mark.parametrize("words", [False, True])
def test_settings_of_tokenizer_config_are_honoured(tmp_path: Path, settings: dict[str, Any], words: bool) -> None:
    assert_same(*ours_and_theirs(tmp_path, WORD_ROWS, words, **settings), odd_strings(3, 400))


@pytest.mark.parametrize("words", [False, True])
def test_pairs_and_truncation_are_those_of_transformers(tmp_path: Path, words: bool) -> None:
    ours, theirs = ours_and_theirs(tmp_path, WORD_ROWS, words)
    texts, pairs = odd_strings(4, 300), odd_strings(5, 300)[::-1]
    assert_same(ours, theirs, texts, pairs)
    for limit in (3, 4, 7, 16, 33):
        some = slice(limit * 7, limit * 7 + 60)  # transformers takes its time to build what it cuts off
        assert_same(ours, theirs, texts[some], max_length=limit)
        assert_same(ours, theirs, texts[some], pairs[some], max_length=limit)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("limit", [None, 3, 9, 20])
def test_a_batch_is_what_single_texts_are(ours: Tokenizer, limit: int | None, paired: bool) -> None:
    texts = odd_strings(12, 150)
    pairs = odd_strings(13, 150)[::-1] if paired else None
    batch = ours.encode_batch(texts, pairs, max_length=limit, offsets=True)
    assert batch.input_ids.dtype == batch.token_type_ids.dtype == batch.attention_mask.dtype == np.int64
    assert batch.offsets is not None
    assert limit is None or batch.lengths.max() == limit
    seconds: list[Any] = pairs or [None] * len(texts)
    for row, (text, pair) in enumerate(zip(texts, seconds, strict=True)):
        encoding, length = ours.encode(text, pair, max_length=limit), batch.lengths[row]
        assert encoding.ids == batch.input_ids[row, :length].tolist()
        assert encoding.token_type_ids == batch.token_type_ids[row, :length].tolist()
        assert encoding.offsets == [tuple(each) for each in batch.offsets[row, :length].tolist()]
        assert [ours.token(number) for number in encoding.ids] == encoding.tokens


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map": {"mask_token": {"content": "[MASK]", "lstrip": True, "normalized": False}}},
        {"special_tokens_map": {"mask_token": {"content": "[MASK]", "normalized": True, "single_word": True}}},
        {"special_tokens_map": {"mask_token": "[unused1]", "additional_special_tokens": ["hello", "很"]}},
        {"tokenizer_config": {"mask_token": "[unused1]", "additional_special_tokens": ["2021"], "bos_token": "α"}},
        {
            "tokenizer_config": {
                "mask_token": "<m>",
                "added_tokens_decoder": {
                    str(len(CHARACTER_ROWS)): {"content": "<m>", "rstrip": True, "special": True},
                    str(len(CHARACTER_ROWS) + 1): {"content": "Hello", "normalized": True, "special": False},
                    "7": {"content": "天", "normalized": False, "special": False},
                },
            },
            "special_tokens_map": {"mask_token": "ignored where added_tokens_decoder stands"},
        },
        {"added_tokens": {"<x>": len(CHARACTER_ROWS), "<y>": len(CHARACTER_ROWS) + 1}},
    ],
)
def test_special_and_added_tokens_are_found_as_in_transformers(
    tmp_path: Path, bert_tokenizer: Any, files: dict[str, Any]
) -> None:
    directory = write(tmp_path, **files)
    ours, theirs = Tokenizer.from_pretrained(directory), bert_tokenizer.from_pretrained(directory)
    assert (ours.mask_id, ours.size) == (theirs.mask_token_id, len(theirs))
    assert ours.special_ids == set(theirs.all_special_ids)
    extra = ["<m>", " <m> 天", "Hello<x>hello", "<Y><y>", "[unused1]2021公园", "ααbα"]
    texts = [*extra, *(one + two for one in extra for two in SNIPPETS), *odd_strings(6, 300)]
    assert_same(ours, theirs, texts)


def test_tokenizer_json_alone_is_enough(tmp_path: Path, bert_tokenizer: Any) -> None:
    saved = tmp_path / "saved"
    bert_tokenizer.from_pretrained(write(tmp_path)).save_pretrained(saved)
    (saved / "vocab.txt").unlink(missing_ok=True)
    ours = Tokenizer.from_pretrained(saved)
    assert ours.settings.source.name == "tokenizer.json"
    assert_same(ours, bert_tokenizer.from_pretrained(saved), odd_strings(7, 300))


@pytest.mark.parametrize(
    "rows",
    [
        [*CHARACTER_ROWS, "今", "a", "z9"],
        [*CHARACTER_ROWS, "", "", "z9"],
        [*CHARACTER_ROWS, "z9  ", "\u3000", "z\x858", "z\x1c", "zz\x1c\u2003"],
        "".join(f"{row}\r\n" for row in CHARACTER_ROWS).encode(),
        "\n".join(CHARACTER_ROWS).encode(),
    ],
    ids=["duplicates", "blank", "white space", "CRLF", "no last line feed"],
)
def test_odd_vocabularies_are_read_as_transformers_reads_them(
    tmp_path: Path, bert_tokenizer: Any, rows: list[str] | bytes
) -> None:
    directory = write(tmp_path, rows)
    ours, theirs = Tokenizer.from_pretrained(directory), bert_tokenizer.from_pretrained(directory)
    assert dict(ours.settings.ids) == theirs.get_vocab()
    assert_same(ours, theirs, ["今 a z9 z z\x858", *odd_strings(8, 200)])
    for number in range(len(CHARACTER_ROWS)):
        assert ours.token(number) == CHARACTER_ROWS[number]  # also of a row that a later one hides


def test_published_ids_of_the_model_card(tmp_path: Path) -> None:
    """Zhuiyi's vocabulary is not shipped; the card's own rows are enough to see how it cuts its sentence."""
    rows = [f"[unused{number}]" for number in range(12_000)]
    for number, row in [(0, "[PAD]"), (100, "[UNK]")]:
        rows[number] = row
    words = ["[CLS]", *CARD.replace("[MASK]", "█"), "[SEP]"]
    for number, row in zip(CARD_IDS, words, strict=True):
        rows[number] = row.replace("█", "[MASK]")
    ours = Tokenizer.from_pretrained(write(tmp_path, rows))
    assert not ours.settings.words
    encoding = ours.encode(CARD)
    assert encoding.ids == CARD_IDS
    assert ours.mask_positions(encoding.ids) == [3, 8]
    assert [CARD[start:end] for start, end in encoding.offsets][3] == "[MASK]"


def test_a_vocabulary_of_real_text_gives_what_transformers_gives(bert_tokenizer: Any) -> None:
    assert_same(Tokenizer.from_pretrained(TRAINED), bert_tokenizer.from_pretrained(TRAINED), odd_strings(9, 3000))


def test_ids_that_paddlenlp_gave() -> None:
    ours = Tokenizer.from_pretrained(TRAINED)
    for sentence in json.loads((TRAINED / "expected.json").read_text("utf-8"))["sentences"]:
        ids = ours.encode(sentence["text"]).ids
        assert ids == sentence["input_ids"]
        assert ours.mask_positions(ids) == [mask["position"] for mask in sentence["masks"]]


# The parts of its own ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_pretrained(write(tmp_path_factory.mktemp("vocabulary")))


def test_a_batch_can_be_rounded_up_in_width(ours: Tokenizer) -> None:
    batch = ours.encode_batch(["今天", "很好很好很"], multiple_of=8)
    assert batch.input_ids.shape == (2, 8)
    assert batch.lengths.tolist() == [4, 7]
    assert batch.attention_mask.sum(1).tolist() == [4, 7]


def test_an_empty_batch_is_an_array_of_no_rows(ours: Tokenizer) -> None:
    assert ours.encode_batch([]).input_ids.shape == (0, 0)


def test_single_ids_are_spelled(ours: Tokenizer) -> None:
    assert ours.token(ours.mask_id) == "[MASK]"
    assert ours.token(ours.size) is None
    assert ours.token(-1) is None
    ending = ours.token_id("##ing")
    assert ending is not None
    assert ours.token(ending) == "##ing"
    assert ours.token_id("no such token") is None


def test_half_a_surrogate_pair_is_named(ours: Tokenizer) -> None:
    with pytest.raises(ConvertError, match=r"text 2 holds half of .*U\+DC80.*character 1"):
        ours.encode_batch(["今天", "a\udc80"])
    with pytest.raises(ConvertError, match=r"text 1 .*U\+D83D"):
        ours.encode("a", "\ud83d")


@pytest.mark.parametrize(("pair", "limit"), [(None, 1), ("b", 2), ("b", -5)])
def test_a_limit_without_room_for_the_ends_is_refused(ours: Tokenizer, pair: str | None, limit: int) -> None:
    with pytest.raises(ConvertError, match="max_length"):
        ours.encode("a", pair, max_length=limit)


def test_words_of_a_long_text_take_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rjieba")
    from roformer_convert.models.text import tokenizer

    sliced = []

    class Counted:
        def __init__(self, length: int) -> None:
            self.length = length

        def __getitem__(self, part: slice) -> Counted:
            sliced.append(self.length)
            return Counted(part.stop - part.start)

    spans = [(i, i + 1) for i in range(4096)]
    assert len(list(tokenizer._slices(Counted(4096), 0, spans))) == 4096
    assert sum(sliced) < 4096 * 64  # every slice costs its text's length; from the whole text it would be 4096²


def test_words_without_jieba_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roformer_convert.models.text import tokenizer

    monkeypatch.setattr(tokenizer, "is_installed", lambda package: False)
    with pytest.raises(MissingPackageError, match=r"'\.\[jieba\]'"):
        Tokenizer.from_pretrained(write(tmp_path, WORD_ROWS))


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, roformer_convert.models.text.tokenizer, roformer_convert.models.answers.fill_mask; "
        "print([n for n in ('torch', 'paddle', 'tensorflow', 'transformers', 'rjieba') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Which kind a vocabulary is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "files", "words", "because"),
    [
        (WORD_ROWS, {}, True, "9 of"),
        (CHARACTER_ROWS, {}, False, "0 of"),
        ([*CHARACTER_ROWS, "今天", *(f"w{i}" for i in range(200))], {}, False, "1 of"),
        (WORD_ROWS, {"tokenizer_config": {"tokenizer_class": "BertTokenizerFast"}}, False, "names BertTokenizerFast"),
        (CHARACTER_ROWS, {"tokenizer_config": {"tokenizer_class": "RoFormerTokenizer"}}, True, "tokenizer_config.json"),
        (WORD_ROWS, {"config": {"tokenizer_class": "BertTokenizer"}}, False, "config.json names"),
        (WORD_ROWS, {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}}, True, "9 of"),
        (
            CHARACTER_ROWS,
            {"tokenizer_config": {"tokenizer_class": "RoFormerTokenizer", "use_jieba": False}},
            False,
            "use_jieba is false",
        ),
    ],
)
def test_words_are_recognised(
    tmp_path: Path, rows: list[str] | bytes, files: dict[str, Any], words: bool, because: str
) -> None:
    settings = read_settings(write(tmp_path, rows, **files))
    assert settings.words is words
    assert because in settings.words_because


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "files", "message"),
    [
        ([row for row in CHARACTER_ROWS if row != "[MASK]"], {}, r"\[MASK\].*mask_token has no row"),
        (["a", "b"], {}, r"5 problems(?s:.)*\[PAD\](?s:.)*\[UNK\](?s:.)*\[CLS\](?s:.)*\[SEP\](?s:.)*\[MASK\]"),
        (b"", {}, "5 problems"),
        (CHARACTER_ROWS, {"tokenizer_config": {"mask_token": "<mask>"}}, "<mask>.*mask_token has no row"),
        (b"\xef\xbb\xbf[PAD]\n", {}, "byte-order mark"),
        (b"[PAD]\n\xff\xfe\n", {}, "byte 6: not UTF-8"),
        (CHARACTER_ROWS, {"tokenizer_config": ["a"]}, "tokenizer_config.json.*wanted an object"),
        (CHARACTER_ROWS, {"tokenizer_config": {"do_lower_case": "yes"}}, "do_lower_case.*got 'yes'"),
        (CHARACTER_ROWS, {"tokenizer_config": {"strip_accents": 1}}, "strip_accents"),
        (CHARACTER_ROWS, {"tokenizer_config": {"do_basic_tokenize": False}}, "do_basic_tokenize"),
        (CHARACTER_ROWS, {"tokenizer_config": {"tokenizer_class": "T5Tokenizer"}}, "T5Tokenizer.*want BertTokenizer"),
        (CHARACTER_ROWS, {"tokenizer_config": {"tokenizer_class": ["BertTokenizer"]}}, "tokenizer_class"),
        (CHARACTER_ROWS, {"tokenizer_config": {"mask_token": 5}}, "mask_token.*got 5"),
        (CHARACTER_ROWS, {"tokenizer_config": {"mask_token": {"content": "[MASK]", "lstrip": "no"}}}, "mask_token"),
        (CHARACTER_ROWS, {"tokenizer_config": {"added_tokens_decoder": {"x": "[MASK]"}}}, "key 'x'"),
        (CHARACTER_ROWS, {"tokenizer_config": {"added_tokens_decoder": {"2": "[MASK]"}}}, "declared as 2, but it is 5"),
        (CHARACTER_ROWS, {"tokenizer_config": {"added_tokens_decoder": 7}}, "added_tokens_decoder"),
        (CHARACTER_ROWS, {"added_tokens": {"<x>": 3}}, "declared as 3"),
        (CHARACTER_ROWS, {"added_tokens": {"<x>": "3"}}, "added_tokens.json"),
        (CHARACTER_ROWS, {"special_tokens_map": {"additional_special_tokens": ["<none>"]}}, "<none>.*has no row"),
        (CHARACTER_ROWS, {"special_tokens_map": {"additional_special_tokens": "x"}}, "extra_special_tokens"),
        (CHARACTER_ROWS, {"special_tokens_map": {"mask_token": "\ud800"}}, "surrogate"),
        (CHARACTER_ROWS, {"tokenizer": {"model": {"type": "BPE", "vocab": {}}}}, "'BPE'; wanted a WordPiece"),
        (CHARACTER_ROWS, {"tokenizer": {"model": 5}}, "WordPiece"),
        (CHARACTER_ROWS, {"tokenizer": {"model": {"type": "WordPiece", "vocab": {"a": -1}}}}, "the id of 'a' is -1"),
        (CHARACTER_ROWS, {"tokenizer": {"model": {"vocab": {"a": 10**18}}}}, "the id of 'a'"),
        (CHARACTER_ROWS, {"tokenizer": {"model": {"vocab": {"a": 1, "b": 1}}}}, "two tokens"),
        (CHARACTER_ROWS, {"tokenizer": {"model": {"vocab": {"[PAD]": 0, "q": 1}}}}, "does not agree.*id none here"),
        (CHARACTER_ROWS, {"tokenizer": {"model": {"vocab": {}, "continuing_subword_prefix": "@@"}}}, "'@@'"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_their_reason(
    tmp_path: Path, rows: list[str] | bytes, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConvertError, match=message):
        Tokenizer.from_pretrained(write(tmp_path, rows, **files))


def test_a_directory_without_a_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"(?s)missing +vocab.txt.*Copy the vocabulary"):
        Tokenizer.from_pretrained(tmp_path)


def test_an_enormous_vocabulary_is_not_read(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "vocab.txt").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ConvertError, match="1,099,511,627,776 bytes"):
        Tokenizer.from_pretrained(tmp_path)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"a":' + "[" * 100_000, encoding="utf-8")
    with pytest.raises(ConvertError, match="not JSON"):
        Tokenizer.from_pretrained(tmp_path)


def test_settings_can_be_made_from_rows_at_hand() -> None:
    made = Tokenizer(settings_of_rows(CHARACTER_ROWS, lower_case=False))
    assert made.encode("今A").tokens == ["[CLS]", "今", "[UNK]", "[SEP]"]
    with pytest.raises(ConvertError, match=r"\[MASK\].*mask_token has no row"):
        settings_of_rows(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
