"""Text for the tests of preparing a corpus: made up from a few words, so that none of it is anybody's."""

from __future__ import annotations

import random
from pathlib import Path

_WORDS = ["我们", "喜欢", "北京", "天气", "今天", "非常", "好", "的", "书", "看", "了", "一本"]
_WORDS += ["学习", "中文", "咖啡", "苹果", "iPhone6s", "2026", "café", "说", "他", "明天", "下雨"]
_ENDS = ["。", "。", "。", "？", "！", "；", "……", "！”", "。』"]


def sentence(dice: random.Random) -> str:
    """Make up a sentence."""
    return "".join(dice.choice(_WORDS) for _ in range(dice.randint(2, 14))) + dice.choice(_ENDS)


def documents(count: int, seed: int = 0) -> list[list[str]]:
    """Make up documents of paragraphs."""
    dice = random.Random(seed)
    return [
        ["".join(sentence(dice) for _ in range(dice.randint(1, 4))) for _ in range(dice.randint(1, 3))]
        for _ in range(count)
    ]


def as_text(found: list[list[str]]) -> str:
    """Write documents as plain text."""
    return "\n\n".join("\n".join(one) for one in found) + "\n"


def write_vocabulary(path: Path) -> Path:
    """Write a vocabulary in which most of that text is known."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    characters = sorted({letter for word in _WORDS + _ENDS for letter in word if ord(letter) > 0x2000} - {"雨"})
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters), "cafe"]
    path.write_text("".join(f"{row}\n" for row in [*rows, *characters, *"，、“"]), encoding="utf-8")
    return path
