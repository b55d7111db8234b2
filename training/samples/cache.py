"""Sample maps kept in files, so that ranks and resumed runs need not make them again.

A map is a function of the corpus and a recipe, and its file is named by a hash of both. What is read back is checked
against the corpus; a file that does not hold up is made again, since nothing but time was lost.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...converters.target.whole_files import whole_file
from .sampling import Corpus, MapRecipe, build_map

Int64 = NDArray[np.int64]

#: Raise this when a map of the same recipe comes out different.
_VERSION = 1

#: Bytes looked at from each end of a shard's offsets, and words' bits from its beginning, to tell corpora apart.
_ENDS = 1 << 16


def cached_map(corpus: Corpus, recipe: MapRecipe, variant: int, cache: Path | None) -> Int64:
    """Read a sample map (n, 2) from the directory `cache`, or make it and write it there.

    Raises:
        ConvertError: The directory cannot be written.
    """
    if cache is None:
        return build_map(corpus, recipe, variant)
    path = cache / f"samples-{_name(corpus, recipe, variant)}.npy"
    samples = _read(path, corpus, recipe)
    if samples is None:
        samples = build_map(corpus, recipe, variant)
        _write(path, samples)
    return samples


def _name(corpus: Corpus, recipe: MapRecipe, variant: int) -> str:
    digest = hashlib.sha256(repr((_VERSION, astuple(recipe), variant)).encode())
    for shard in corpus.shards:
        digest.update(f"shard {len(shard.tokens)}".encode())
        for offsets in (shard.sentence_ends, shard.document_ends):
            digest.update(f"offsets {len(offsets)}".encode())
            digest.update(np.ascontiguousarray(offsets[: _ENDS // 8], "<i8").tobytes())
            digest.update(np.ascontiguousarray(offsets[-_ENDS // 8 :], "<i8").tobytes())
        # the same text segmented otherwise has the same offsets, but over-long sentences are cut elsewhere
        digest.update(np.packbits(shard.word_starts(0, min(_ENDS, len(shard.tokens)))).tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path, corpus: Corpus, recipe: MapRecipe) -> Int64 | None:
    """Map the file into memory; None where there is none or it cannot be the map of this corpus."""
    try:
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if samples.dtype != np.dtype("<i8") or samples.ndim != 2 or samples.shape[1] != 2 or not len(samples):
        return None
    samples = np.asarray(samples)
    begins, counts = samples[:, 0], samples[:, 1]
    ends = begins + counts
    shards = np.cumsum([len(shard.tokens) for shard in corpus.shards])
    holds = (
        begins[0] >= 0
        and counts.min() >= 1
        and counts.max() <= recipe.capacity
        and bool((begins[1:] >= ends[:-1]).all())
        and ends[-1] <= shards[-1]
        and bool((np.searchsorted(shards, begins, "right") == np.searchsorted(shards, ends - 1, "right")).all())
    )
    return samples if holds else None


def _write(path: Path, samples: Int64) -> None:
    """Write the file whole or not at all; several ranks may do it at once, with the same bytes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.save(file, samples, allow_pickle=False)
    except OSError as error:
        raise ConvertError(
            f"{path.parent}: the sample map cannot be written: {error.strerror or error}",
            "Free some space there, or name another directory for sample maps.",
        ) from None
