"""Sentences into token ids and word starts: the third step of :mod:`..corpus.prepare`, one object a process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.text.tokenizer import Tokenizer
from .character_tokens import CharacterTokens, Tokens
from .segmentation import load_segmenter, token_word_starts, word_numbers


class Encoded(NamedTuple):
    """s sentences as arrays.

    Attributes:
        tokens: (n,) ids.
        lengths: (s,) tokens of each sentence, 0 where nothing of it is left.
        word_starts: (n,) whether each token begins a word.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    word_starts: NDArray[np.bool_]


class TextEncoder:
    """Turns sentences into ids with one tokenizer and one segmenter.

    Args:
        tokenizer: Tokenizer of the model.
        segmenter: One of :data:`~.segmentation.SEGMENTERS`.
    """

    def __init__(self, tokenizer: Tokenizer, segmenter: str) -> None:
        self.tokenizer = tokenizer
        self._cut = load_segmenter(segmenter)
        rows = [tokenizer.token(number) or "" for number in range(tokenizer.size)]
        self._continues = np.array([row.startswith("##") and len(row) > 2 for row in rows], np.bool_)
        # the words of a word vocabulary are found in a whole sentence, not character by character
        self._characters = None if tokenizer.settings.words else CharacterTokens(tokenizer, self._continues)
        # what stands for each id: a text that spells [MASK] must not put one into the corpus
        self._allowed = np.arange(tokenizer.size)
        self._allowed[[tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]] = tokenizer.unk_id

    def encode(self, sentences: Sequence[str]) -> Encoded:
        """Encode sentences, none of which may hold a line feed."""
        sizes = np.fromiter(map(len, sentences), np.int64, len(sentences))
        text = "\n".join(sentences)
        firsts = np.cumsum(sizes + 1) - (sizes + 1)  # first character of each sentence in the text
        if self._characters is not None:
            tokens = self._characters.tokenize(text)
        else:
            tokens = self._sentence_by_sentence(sentences, firsts)
        bounds = np.searchsorted(tokens.begins, np.append(firsts, len(text) + 1))
        lengths = np.diff(bounds)
        continues = self._continues[tokens.ids]
        if self._cut is None or not text:
            starts = ~continues
        else:
            starts = token_word_starts(tokens.begins, tokens.ends, word_numbers(text, self._cut), continues)
        starts[bounds[:-1][lengths > 0]] = True
        return Encoded(self._allowed[tokens.ids], lengths, starts)

    def _sentence_by_sentence(self, sentences: Sequence[str], firsts: NDArray[np.int64]) -> Tokens:
        found = self.tokenizer.pieces(sentences)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        total = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(one.ids for one in found), np.int64, total)
        spans = chain.from_iterable(chain.from_iterable(one.offsets for one in found))
        offsets = np.fromiter(spans, np.int64, 2 * total).reshape(total, 2) + np.repeat(firsts, lengths)[:, None]
        return Tokens(ids, offsets[:, 0], offsets[:, 1])
