"""The ids that a software's tokenizer gives by its own rules: PaddleNLP's, for odd characters, are not BERT's.

PaddleNLP makes a word of every symbol (😀, ①), where BERT's leaves it in the word that it stands in. With jieba it sets
apart the words that the vocabulary has and Chinese characters, and leaves what is neither together (ｆｕｌｌ), where
transformers takes it apart as jieba does. Sources: PaddleNLP 2.8.1 (``_is_symbol`` in transformers/tokenizer_utils.py,
``BasicTokenizer`` in transformers/bert/tokenizer.py, ``JiebaBasicTokenizer`` in transformers/roformer/tokenizer.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenizers.normalizers import BertNormalizer

from ...models.text.tokenizer import Tokenizer
from .software import Software

#: Symbols to PaddleNLP beside those of Unicode.
_SYMBOLS = "\u00ad\u00b2\u00ba\u3007\u00b5\u00d8\u014b\u01b1"
_CHARACTERS = BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)


def ids_as_it(software: Software, ours: Tokenizer, texts: Sequence[Sequence[str]]) -> list[list[int]]:
    """Turn texts, one or two each, into the ids that a software gives them with our vocabulary and settings."""
    settings = ours.settings
    if software.name != "paddlenlp":
        return [ours.encode(*parts).ids for parts in texts]
    plain = Tokenizer(replace(settings, words=False, split_chinese=settings.split_chinese and not settings.words))
    special = "|".join(re.escape(token.content) for token in settings.added)

    def respaced(text: str) -> str:
        pieces = re.split(f"({special})", text)  # every second one is a special token
        return "".join(
            piece if number % 2 else _apart(piece, settings.ids, words=settings.words)
            for number, piece in enumerate(pieces)
        )

    return [plain.encode(*map(respaced, parts)).ids for parts in texts]


def _apart(text: str, vocabulary: Mapping[str, int], *, words: bool) -> str:
    """Put spaces around what becomes a word of its own."""
    if words:
        import rjieba

        text = "".join(
            f" {word} " if word in vocabulary else _CHARACTERS.normalize_str(word)
            for word in rjieba.cut(text, hmm=False)
        )
    return "".join(f" {one} " if unicodedata.category(one)[0] == "S" or one in _SYMBOLS else one for one in text)
