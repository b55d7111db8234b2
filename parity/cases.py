"""The inputs of the gate: batches of sentences and of generated ids, the same arrays for every framework.

Made once by :mod:`.gate`, handed to each framework's process (:mod:`.dump`) as a file, and recomputed from by
:mod:`.causes`. Nothing here imports a framework. The built-in sentences are package data, one file a kind, one text a
line; a tab separates a pair, whose second text has token type 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.errors import ConvertError
from ..converters.table.config import RoFormerConfig
from ..models.fill_mask import TextsError
from ..models.tokenizer import Tokenizer, half_pair

Int64 = NDArray[np.int64]

#: Kinds of built-in sentences, in their order; each is a batch, padded to its longest.
KINDS = ("everyday", "news", "rare", "latin", "masks", "one-token", "pairs", "full-length")

_BATCH = 8
_MOST_SENTENCES = 2000
_MOST_CHARACTERS = 1 << 16
_LONGEST = 2048  # tokens of the full-length case, where the configuration allows more
_LARGEST_LOGITS = 4 << 20  # numbers of a case that are computed at every token; past it at chosen tokens
_CHOSEN = 64
_LARGEST_TAPS = 24 << 20  # numbers of a type that all cases' taps may take together


@dataclass(frozen=True)
class Case:
    """One batch.

    Attributes:
        name: E.g. ``everyday``.
        input_ids: (B, T).
        token_type_ids: (B, T), or None for type 0 throughout.
        attention_mask: (B, T), or None where every token is real.
        positions: (K,) tokens, row * T + column, at which words are scored; None for all of them.
        masks: Tokens, row * T + column, whose best words are compared; all among ``positions``.
        texts: What the rows say; empty for generated ids.
        taps: Whether every layer's activations are recorded, or the results alone.
    """

    name: str
    input_ids: Int64
    token_type_ids: Int64 | None = None
    attention_mask: Int64 | None = None
    positions: Int64 | None = None
    masks: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    taps: bool = True

    @property
    def scored(self) -> Int64:
        """The tokens at which words are scored, in the order of the logits' rows."""
        return np.arange(self.input_ids.size) if self.positions is None else self.positions

    def arrays(self) -> dict[str, Int64]:
        """Return what a framework computes from."""
        found = {
            "input_ids": self.input_ids,
            "token_type_ids": self.token_type_ids,
            "attention_mask": self.attention_mask,
            "positions": self.positions,
        }
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True)
class Training:
    """What the pretraining loss is taken of: words to guess at tokens of one batch, and the order of each row.

    Attributes:
        case: The batch; its ``positions`` are the tokens to guess.
        words: (K,) the right words.
        order: (B,) 0 or 1.
        weights: (K, H) what the hidden states are weighted with, for a checkpoint that has no masked-LM head.
    """

    case: Case
    words: Int64
    order: Int64
    weights: NDArray[np.float64]


def fingerprint(cases: Sequence[Case]) -> str:
    """Hash what the frameworks compute from, so that a golden knows its inputs."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.name.encode())
        for name, array in case.arrays().items():
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    return digest.hexdigest()


def make_cases(
    config: RoFormerConfig, tokenizer: Tokenizer | None, sentences: Sequence[str] | None = None
) -> list[Case]:
    """Make every case for a checkpoint.

    Args:
        config: Its sizes and limits.
        tokenizer: None where the checkpoint has no vocabulary: then there are generated ids alone.
        sentences: The user's own, in place of the built-in ones.

    Raises:
        ConvertError: The user's sentences are unusable.
    """
    cases: list[Case] = []
    if tokenizer is not None:
        own = sentences is not None
        kinds = _own_kinds(sentences) if sentences is not None else _built_in_kinds()
        for name, lines in kinds:
            cases.append(_sentence_case(name, lines, config, tokenizer, own=own))
    elif sentences is not None:
        raise ConvertError("sentences are given, and the checkpoint has no vocabulary", "Put its vocab.txt beside it.")
    cases += _generated(config)
    cases = [_choose_positions(case, config) for case in cases]
    return _within_budget(cases, config)


def _built_in_kinds() -> Iterator[tuple[str, list[str]]]:
    directory = files(__package__) / "data" / "sentences"
    for kind in KINDS:
        yield kind, (directory / f"{kind}.txt").read_text(encoding="utf-8").splitlines()


def _own_kinds(sentences: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    problems = [(number, wrong) for number, text in enumerate(sentences, 1) if (wrong := _complaint(text))]
    if problems:
        raise TextsError(problems, "One text a line, in UTF-8; a tab separates the two texts of a pair.")
    if not sentences:
        raise ConvertError("there is no sentence", "Give one text a line, in UTF-8.")
    if len(sentences) > _MOST_SENTENCES:
        raise ConvertError(f"{len(sentences):,} sentences; wanted at most {_MOST_SENTENCES:,}", "A few hundred do.")
    for start in range(0, len(sentences), _BATCH):
        some = list(sentences[start : start + _BATCH])
        yield f"sentences {start + 1} to {start + len(some)}", some


def _complaint(text: str) -> str | None:
    if len(text) > _MOST_CHARACTERS:
        return f"{len(text):,} characters; wanted at most {_MOST_CHARACTERS:,}"
    if text.count("\t") > 1:
        return f"{text.count(chr(9))} tabs; wanted one, between the two texts of a pair"
    return half_pair(text)


def _sentence_case(name: str, lines: Sequence[str], config: RoFormerConfig, tokenizer: Tokenizer, *, own: bool) -> Case:
    limit = config.max_position_embeddings
    longest = min(limit, _LONGEST)
    pairs = [line.split("\t") if config.type_vocab_size > 1 else [line.replace("\t", "")] for line in lines]
    encoded = []
    for pair in pairs:
        if not own and name == "full-length":
            pair = [pair[0] * (1 + longest // max(1, len(pair[0]) // 2))]
        encoded.append(tokenizer.encode(*pair, max_length=None if own else longest))
    problems = [
        (number, f"{len(one.ids):,} tokens; the limit is {limit:,} (max_position_embeddings)")
        for number, one in enumerate(encoded, 1)
        if len(one.ids) > limit
    ]
    if problems:
        raise TextsError(problems, "Shorten the text.")
    if max(max(one.ids) for one in encoded) >= config.vocab_size:
        raise ConvertError(
            f"the vocabulary has a token {max(max(one.ids) for one in encoded)}, past the embedding's "
            f"{config.vocab_size:,} rows (vocab_size)",
            "Put the model's own vocab.txt beside it.",
        )
    width = max(len(one.ids) for one in encoded)
    input_ids = np.full((len(encoded), width), tokenizer.pad_id, np.int64)
    types = np.zeros_like(input_ids)
    mask = np.zeros_like(input_ids)
    for row, one in enumerate(encoded):
        input_ids[row, : len(one.ids)] = one.ids
        types[row, : len(one.ids)] = one.token_type_ids
        mask[row, : len(one.ids)] = 1
    masks = np.flatnonzero((input_ids == tokenizer.mask_id) & (mask == 1))
    return Case(
        name,
        input_ids,
        types if types.any() else None,
        None if mask.all() else mask,
        masks=tuple(int(place) for place in masks),
        texts=tuple(line.replace("\t", " ‖ ") for line in lines),
    )


def _generated(config: RoFormerConfig) -> list[Case]:
    """Batches of ids from the whole vocabulary: every token type, padding on both sides, holes, the token 0 unmasked.

    Sizes are odd so that no two axes agree.
    """
    random = np.random.Generator(np.random.PCG64(4))
    limit = config.max_position_embeddings
    wide, narrow = min(29, limit), min(13, limit)

    def ids(rows: int, columns: int) -> Int64:
        return random.integers(0, config.vocab_size, (rows, columns))

    plain = ids(3, narrow)
    plain[:, narrow // 2] = 0
    padded = ids(5, wide)
    lengths = random.integers(1, wide + 1, 5)
    mask = (np.arange(wide) < lengths[:, None]).astype(np.int64)
    mask[1] = mask[1, ::-1]  # padding before the text
    mask[2] = random.integers(0, 2, wide)  # and holes
    mask[2, 0] = 1
    types = random.integers(0, config.type_vocab_size, (5, wide))
    chosen = tuple(int(place) for place in np.flatnonzero(mask)[::7])
    return [
        Case("ids", plain, masks=tuple(range(0, plain.size, 5))),
        Case("ids with padding", padded, types, mask, masks=chosen),
    ]


def _choose_positions(case: Case, config: RoFormerConfig) -> Case:
    """Score words at chosen tokens alone where all would be too many numbers: the masks, and others evenly."""
    if case.input_ids.size * config.vocab_size <= _LARGEST_LOGITS:
        return case
    masks = case.masks[:_CHOSEN]
    spread = np.linspace(0, case.input_ids.size - 1, min(_CHOSEN, case.input_ids.size)).astype(np.int64)
    return replace(case, positions=np.unique(np.concatenate([spread, np.array(masks, np.int64)])), masks=masks)


def _within_budget(cases: Sequence[Case], config: RoFormerConfig) -> list[Case]:
    """Record the taps of the smallest cases that fit a fixed amount together, and at least of one."""
    width = config.num_hidden_layers * 7 * config.hidden_size + config.hidden_size + 2 * config.embedding_size
    left = _LARGEST_TAPS
    kept: set[str] = set()
    for case in sorted(cases, key=lambda case: case.input_ids.size):
        left -= case.input_ids.size * width
        if left >= 0 or not kept:
            kept.add(case.name)
    return [replace(case, taps=case.name in kept) for case in cases]


def make_training(config: RoFormerConfig) -> Training:
    """Make the batch of which the pretraining loss is taken: pairs with padding, a seventh of the tokens to guess."""
    random = np.random.Generator(np.random.PCG64(5))
    rows, columns = 3, min(19, config.max_position_embeddings)
    lengths = np.array([columns, max(1, columns - 5), max(1, columns // 2)])
    mask = (np.arange(columns) < lengths[:, None]).astype(np.int64)
    types = (np.arange(columns) >= lengths[:, None] // 2).astype(np.int64) * min(1, config.type_vocab_size - 1)
    positions = np.flatnonzero(mask)[::4]
    case = Case(
        "pretraining", random.integers(0, config.vocab_size, (rows, columns)), types, mask, positions, taps=False
    )
    return Training(
        case,
        random.integers(0, config.vocab_size, len(positions)),
        np.arange(rows) % 2,
        random.standard_normal((len(positions), config.hidden_size)),
    )


def write_cases(path: Path, cases: Sequence[Case], training: Training | None) -> list[dict[str, Any]]:
    """Lay the cases' arrays into a file for the frameworks' processes; return what it cannot hold, as JSON."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, case in enumerate(cases):
        arrays |= {f"{number}.{name}": array for name, array in case.arrays().items()}
    if training is not None:
        arrays |= {f"training.{name}": array for name, array in training.case.arrays().items()}
        arrays |= {"words": training.words, "order": training.order, "weights": training.weights}
    np.savez(path, allow_pickle=False, **arrays)
    return [{"name": case.name, "taps": case.taps} for case in cases]


def read_cases(path: Path, listed: Sequence[Mapping[str, Any]]) -> tuple[list[Case], Training | None]:
    """Read what :func:`write_cases` wrote."""
    with np.load(path) as arrays:

        def case(prefix: str, name: str, taps: bool) -> Case:
            found = {
                key: arrays[f"{prefix}.{key}"]
                for key in ("input_ids", "token_type_ids", "attention_mask", "positions")
                if f"{prefix}.{key}" in arrays
            }
            return Case(name, **found, taps=taps)

        cases = [case(str(number), one["name"], one["taps"]) for number, one in enumerate(listed)]
        if "words" not in arrays:
            return cases, None
        return cases, Training(
            case("training", "pretraining", False), arrays["words"], arrays["order"], arrays["weights"]
        )
