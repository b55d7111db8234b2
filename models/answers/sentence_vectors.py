"""What a model without a head gives for a text: a vector, and for a pair of texts the cosine of theirs.

Source: roformer-sim's retrieval, where the vector is what the pooler gives for the first token; BERT-whitening and
others take the first token itself, which is what remains where there is no pooler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..text.text_windows import Item
from ..text.tokenizer import Encoding, Tokenizer
from .task import Prediction, Task, said

_SHOWN = 4  # numbers of a vector on a line


@dataclass(frozen=True)
class Vectors(Prediction):
    """The vectors of one text or of two.

    Attributes:
        source: What they are: ``"pooler"`` or ``"first token"``.
        texts: One text or two.
        vectors: Of each H numbers.
        cosine: Of the two vectors; None for one text.
    """

    source: str
    texts: tuple[str, ...]
    vectors: tuple[tuple[float, ...], ...]
    cosine: float | None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "framework": self.framework,
            "class": "base",
            "text": self.text,
            "texts": list(self.texts),
            "from": self.source,
            "vectors": [list(vector) for vector in self.vectors],
            "cosine": self.cosine,
        }


class SentenceVectors(Task[Vectors]):
    """Give the vector of a text, or compare two texts with a tab between them.

    Args:
        tokenizer: The checkpoint's.
        pooler: Whether the model has a pooler.
    """

    request = "vectors"
    form = "Write one text a line, or two with a tab between them to compare them."

    def __init__(self, tokenizer: Tokenizer, pooler: bool) -> None:
        super().__init__(tokenizer)
        self.source = "pooler" if pooler else "first token"

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn each of the texts into tokens by itself."""
        texts = text.split("\t")
        if len(texts) > 2:
            return [], [f"{len(texts)} texts with tabs between them; wanted one or two"]
        return [self.tokenizer.encode(one) for one in texts], []

    def result(self, framework: str, item: Item, answers: list[Any]) -> Vectors:
        """Compare two vectors, or show one."""
        vectors = tuple(map(tuple, answers))
        likeness = cosine(*vectors) if len(vectors) == 2 else None
        if likeness is None:
            numbers = " ".join(f"{number:.4f}" for number in vectors[0][:_SHOWN])
            words = f"{numbers} … ({len(vectors[0])} numbers)"
        else:
            words = f"cosine {likeness:.4f}"
        texts = tuple(item.text.split("\t"))
        return Vectors(framework, item.number, item.text, said(framework, words), self.source, texts, vectors, likeness)


def cosine(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """The cosine of the angle between two vectors; 0 where one has no length."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / lengths if lengths else 0.0
