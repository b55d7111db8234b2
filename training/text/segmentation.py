"""Where words begin: a segmenter's words in characters, and which tokens begin one.

For whole-word masking: the tokens of one word are masked together. The segmenter reads the text as it is; tokens are
found in it by their offsets, so that what the tokenizer does to the text (lower case, accents dropped, both of which
may change lengths) moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...models.processes.frameworks import MissingPackageError, is_installed

SEGMENTERS = ("rjieba", "jieba", "none")

#: Splits text into words that join to the text.
Cut = Callable[[str], Sequence[str]]


def load_segmenter(name: str) -> Cut | None:
    """Make the function that cuts words; None for ``none``.

    Raises:
        ConvertError: No such segmenter.
        MissingPackageError: Its package is not installed.
    """
    if name == "none":
        return None
    if name not in SEGMENTERS:
        raise ConvertError(f"segmenter {name!r}; wanted one of {', '.join(SEGMENTERS)}")
    if name == "rjieba":
        if not is_installed(name):
            raise MissingPackageError("The segmenter rjieba", {name: "pretrain"})
        import rjieba

        cut: Cut = rjieba.cut
        return cut
    if not is_installed(name):  # slower than rjieba, so no extra brings it
        raise ConvertError("The segmenter jieba is not installed", "Install it with: pip install jieba")
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()
    cut = jieba.lcut
    return cut


def segmenter_version(name: str) -> str:
    """Name a segmenter and its version, which decides the words; ``none`` has none."""
    if name == "none":
        return name
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name


def word_numbers(text: str, cut: Cut) -> NDArray[np.int64]:
    """Number the word that each of ``text``'s characters belongs to.

    Raises:
        ConvertError: The segmenter's words do not make up the text.
    """
    words = cut(text)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    if int(lengths.sum()) != len(text):
        raise ConvertError(
            f"The segmenter's words have {int(lengths.sum()):,} characters, but the text has {len(text):,}",
            "Use --segmenter none, or another version of the segmenter.",
        )
    return np.repeat(np.arange(len(words)), lengths)


def token_word_starts(
    begins: NDArray[np.int64], ends: NDArray[np.int64], words: NDArray[np.int64], continues: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which of n tokens begin a word.

    A token begins one if it starts in another word than the one in which the token before it ended, and is no
    continuation: neither a token in the middle of a word nor a ``##`` piece ever begins one.

    Args:
        begins: (n,) first character of each token.
        ends: (n,) one past its last character.
        words: Word number of every character of the text.
        continues: (n,) whether the token is a ``##`` piece.
    """
    starts = ~continues
    if len(begins):
        starts[0] = True
        starts[1:] &= words[begins[1:]] > words[np.maximum(ends[:-1] - 1, 0)]
    return starts
