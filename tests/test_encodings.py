"""Configuration files that are not UTF-8: read as what they look like, and that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import CONFIG, write_random

from roformer_convert.converters import ConvertOptions, FormatError, convert, open_checkpoint
from roformer_convert.converters.encodings import decode
from roformer_convert.converters.inspection import inspect

CHINESE = {"id2label": {"0": "\u8d1f\u9762", "1": "\u6b63\u9762"}, "note": "\u4f53\u80b2"}
FRENCH = {"note": "mod\u00e8le entra\u00een\u00e9"}


def rewrite(directory: Path, extra: dict[str, Any], encoding: str) -> None:
    path = directory / "config.json"
    settings = {**json.loads(path.read_text()), **extra}
    path.write_bytes(json.dumps(settings, ensure_ascii=False).encode(encoding))


@pytest.mark.parametrize(
    ("encoding", "name", "extra"),
    [
        ("utf-16", "UTF-16", CHINESE),
        ("utf-16-le", "UTF-16", CHINESE),
        ("utf-16-be", "UTF-16", CHINESE),
        ("utf-32", "UTF-32", CHINESE),
        ("gbk", "GBK", CHINESE),
        ("gb18030", "GBK", {"note": "\u9555\u3400"}),
        ("latin-1", "Latin-1", FRENCH),
        ("big5", "Big5", {"note": "\u81fa\u7063\u570b\u969b\u65b0\u805e"}),
        ("big5", "Big5", {"note": "\u4e00\u4e00"}),  # each an accent's byte and @
        ("shift_jis", "Shift_JIS", {"note": "\u611f\u60c5\u5206\u6790\u30e2\u30c7\u30eb"}),
    ],
)
def test_another_encoding_is_guessed_and_named(tmp_path: Path, encoding: str, name: str, extra: dict[str, Any]) -> None:
    write_random(tmp_path / "ckpt", "torch")
    rewrite(tmp_path / "ckpt", extra, encoding)
    said = f"config.json is read as {name}, which it looks like: it is not UTF-8"
    assert said in inspect(tmp_path / "ckpt").notes
    report = convert(tmp_path / "ckpt", to="paddle")
    assert said in report.notes
    with open_checkpoint(report.target) as checkpoint:
        assert checkpoint.config.hidden_size == CONFIG.hidden_size
    assert json.loads((report.target / "config.json").read_bytes())["note"] == extra["note"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_said_nothing_of(tmp_path: Path, encoding: str) -> None:
    write_random(tmp_path / "ckpt", "torch")
    rewrite(tmp_path / "ckpt", CHINESE, encoding)
    assert not any("is read as" in note for note in inspect(tmp_path / "ckpt").notes)


@pytest.mark.parametrize("content", [b"\xff\xfe{\0", b"\xff\xfe{", b"\x81", b"{\xb5\x5c", b"\0\0\0\0", b"\0{", b""])
def test_what_no_encoding_makes_sense_of_is_one_error(tmp_path: Path, content: bytes) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "config.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"config\.json"):
        convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions())


def test_two_encodings_that_it_looks_like_alike_are_both_named(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    rewrite(tmp_path / "ckpt", {"note": "\u8d1f\u9762"}, "gbk")
    said = "config.json is read as GBK, which it looks like: it is not UTF-8; it looks as much like Big5"
    assert said in inspect(tmp_path / "ckpt").notes


LABELS = {
    "gbk": "负面 正面 体育 财经 房产 家居 教育 科技 情感分析",
    "big5": "負面 正面 體育 財經 房產 教育 臺灣 情緒分析 國際新聞",
    "shift_jis": "ポジティブ ネガティブ 肯定 否定 スポーツ 経済",
    "latin-1": "modèle négatif Époque naïve Über Straße ça",
}


@pytest.mark.parametrize("encoding", LABELS)
def test_a_single_label_is_enough_of_a_sign(encoding: str) -> None:
    for label in (*LABELS[encoding].split(), LABELS[encoding]):
        if not label.isascii():
            assert decode(f'{{"label": "{label}"}}'.encode(encoding)).text == f'{{"label": "{label}"}}'


def test_every_guess_decodes_to_the_text_that_was_written() -> None:
    for text, encoding in (("\u6d4b\u8bd5", "gbk"), ("caf\u00e9", "latin-1"), ("a\u6d4b", "utf-16")):
        assert decode(text.encode(encoding))[0] == text
