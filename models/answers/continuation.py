"""What a causal language model does with a text: the words that come next, and greedily those after them.

A causal model is given [CLS] and the text, without [SEP], token types 0, and ends at "。"; a UniLM is given [CLS] text
[SEP], writes a second text of token type 1, and ends at [SEP]. The configuration's ``eos_token_id`` ends both.

Source: Zhuiyi's scripts for roformer-gpt and roformer-sim (``ArticleCompletion`` and ``SynonymsGenerator`` on
bert4keras' ``AutoRegressiveDecoder``), which sample where this takes the best word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import RoFormerConfig
from ..text.text_windows import Item
from ..text.tokenizer import Encoding, Tokenizer
from .framework_processes import Row
from .guesses import Guess, bracketed, guesses, spelled
from .task import Ask, Prediction, Task, said

#: Why a continuation ended: at a token that ends texts, after the words that were asked for, at the longest sequence.
End = Literal["end", "words", "length"]


@dataclass(frozen=True)
class Continuation:
    """Words after a text.

    Attributes:
        ids: Their tokens.
        text: As they are read; tokens such as [SEP] are left out.
        ended_by: Why there are no more.
    """

    ids: tuple[int, ...]
    text: str
    ended_by: End


@dataclass(frozen=True)
class Continued(Prediction):
    """A text with the words that come next.

    Attributes:
        ids: What the model was given.
        top: The best next words, the best first.
        continuation: The words that follow, where some were asked for.
    """

    ids: list[int]
    top: tuple[Guess, ...]
    continuation: Continuation | None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        found: dict[str, Any] = {
            "framework": self.framework,
            "class": "causal-lm",
            "text": self.text,
            "input_ids": self.ids,
            "top": [guess.__dict__ for guess in self.top],
        }
        if self.continuation is not None:
            found["continuation"] = {**self.continuation.__dict__, "ids": list(self.continuation.ids)}
        return found


@dataclass
class _Growing:
    """A text while it grows."""

    ids: list[int]
    types: list[int]
    top: tuple[Guess, ...] = ()
    words: list[int] = field(default_factory=list)
    ended_by: End | None = None


class CausalLM(Task[Continued]):
    """Say which words come next.

    Args:
        tokenizer: The checkpoint's.
        config: The checkpoint's.
        top_k: Next words that are shown.
        words: Words that are added, one after the other.
    """

    request = "words"
    form = "Write one text a line."

    def __init__(self, tokenizer: Tokenizer, config: RoFormerConfig, top_k: int, words: int) -> None:
        super().__init__(tokenizer)
        self.top_k, self.words, self.limit = top_k, words, config.max_position_embeddings
        self.two_texts = config.attention == "unilm"
        stop = tokenizer.sep_id if self.two_texts else tokenizer.token_id("。")
        self.ends = {stop, config.eos_token_id} - {None}

    @property
    def options(self) -> dict[str, Any]:
        """The rest of the request."""
        return {**super().options, "top_k": self.top_k}

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn a text into tokens, with [SEP] where a second text follows."""
        whole = self.tokenizer.encode(text)
        if self.two_texts:
            return [whole], []
        return [Encoding(whole.ids[:-1], whole.token_type_ids[:-1], whole.tokens[:-1], whole.offsets[:-1])], []

    def results(self, frameworks: Sequence[str], items: Sequence[Item], ask: Ask) -> Iterator[Continued]:
        """Ask for the word after each text, and again with that word added until every text has ended."""
        growing = [
            [_Growing(list(one.ids), list(one.token_type_ids)) for item in items for one in item.encodings]
            for _ in frameworks
        ]
        while any(running := [[one for one in each if self._goes_on(one)] for each in growing]):
            rows = [[[Row(one.ids, one.types, [len(one.ids) - 1])] for one in each] for each in running]
            for each, answers in zip(running, ask(rows), strict=True):
                for one, ((ranked,),) in zip(each, answers, strict=True):
                    self._grow(one, guesses(ranked, self.tokenizer))
        for number, item in enumerate(items):
            for framework, each in zip(frameworks, growing, strict=True):
                yield self.result(framework, item, [each[number]])

    def _goes_on(self, one: _Growing) -> bool:
        return not one.top or (self.words > 0 and one.ended_by is None)

    def _grow(self, one: _Growing, top: tuple[Guess, ...]) -> None:
        one.top = one.top or top
        if not self.words:
            return
        word = top[0].id
        one.words.append(word)
        one.ids.append(word)
        one.types.append(int(self.two_texts))
        if word in self.ends:
            one.ended_by = "end"
        elif len(one.words) == self.words:
            one.ended_by = "words"
        elif len(one.ids) > self.limit:
            one.ended_by = "length"

    def result(self, framework: str, item: Item, answers: list[Any]) -> Continued:
        """Say what a text has grown by."""
        (encoding,), (one,) = item.encodings, answers
        if one.ended_by is None:
            before = [] if self.two_texts else encoding.ids
            line = spelled(before, {}, self.tokenizer) + bracketed(one.top)
            return Continued(framework, item.number, item.text, said(framework, line), encoding.ids, one.top, None)
        pieces = [
            self.tokenizer.token(word) or f"<{word}>" for word in one.words if word not in self.tokenizer.special_ids
        ]
        start = "" if self.two_texts else item.text
        text = joined(start, pieces)[len(start) :]
        continuation = Continuation(tuple(one.words), text, one.ended_by)
        return Continued(
            framework, item.number, item.text, said(framework, start + text), encoding.ids, one.top, continuation
        )


def joined(text: str, pieces: Sequence[str]) -> str:
    """Write pieces of words behind a text: ``##`` glues, and a space stands between two words of ASCII letters."""
    for piece in pieces:
        glued = piece.startswith("##") and len(piece) > 2
        word = piece[2:] if glued else piece
        apart = not glued and all(letter.isascii() and letter.isalnum() for letter in (text[-1:] or " ", word[0]))
        text += " " * apart + word
    return text
