"""Embeddings that were resized after the configuration or the head was made: what to do about their other length."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import Problem
from ..table.mapping import Dialect
from ..tensors.stored import StoredTensor
from .checkpoint import Binding

#: How a shape that is wrong in the number of words alone ends, in the words of :mod:`.fitting`.
_WORDS_ALONE = re.compile(r"[^;]*; V is vocab_size in [^;]*")
#: How two copies of other types or shapes are told.
_SHAPES = re.compile(r"got \w+ (\([^)]*\)) beside \w+ (\([^)]*\))")


def advise(
    problems: Sequence[Problem], bindings: Mapping[str, Binding], copies: Sequence[StoredTensor], dialect: Dialect
) -> str | None:
    """Return the next step where the number of words is all that does not fit; None otherwise.

    Args:
        problems: Those of the tensors.
        bindings: Canonical name → its tensor.
        copies: Second copies of an embedding or a bias.
        dialect: Whose orientation the tensors have.
    """
    lengths = {name: length for name, item in bindings.items() if (length := _words(item, dialect)) is not None}
    words = lengths.get("embeddings.word.weight")
    if words is None or not problems or not all(map(_is_of_length, problems)):
        return None
    others = {*lengths.values(), *(copy.shape[0] for copy in copies if copy.shape)} - {words}
    if not others:
        return f"Every tensor has {words:,} words: if the embedding was resized, add --set vocab_size={words}."
    return (
        f"The word embeddings have {words:,} rows and the head has {min(others):,}: one was resized and the other was "
        f"not. Call model.resize_token_embeddings({words}) on the model with its head and save it again, or take the "
        "encoder alone with --encoder-only."
    )


def _words(item: Binding, dialect: Dialect) -> int | None:
    """Return a tensor's length along the axis of the words, or None where it has none."""
    shape = item.stored.shape[::-1] if item.tensor.transposed(dialect) else item.stored.shape
    axes = item.tensor.axes
    return shape[axes.index("V")] if "V" in axes and len(shape) == len(axes) else None


def _is_of_length(problem: Problem) -> bool:
    if problem.kind == "tied":  # of two shapes, not of two values or types
        shapes = _SHAPES.match(problem.detail)
        return shapes is not None and shapes[1] != shapes[2]
    if problem.kind != "shape" or not _WORDS_ALONE.fullmatch(problem.detail):
        return False
    got, _, want = problem.detail.partition(", want ")
    return len(re.findall(r"\d+", got)) == len(re.findall(r"\d+", want.partition(";")[0]))
