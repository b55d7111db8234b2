"""The inputs of the gate: batches of sentences and of generated ids, the same arrays for every framework.

Made once by :mod:`..gate`, handed to each framework's process (:mod:`..participants.dump`) as a file
(:mod:`.case_file`), and recomputed from by :mod:`..explaining.causes`. Nothing here imports a framework. The built-in
sentences are package data, one file a kind, one text a line; a tab separates a pair, whose second text has token type
1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...converters.table.config import RoFormerConfig
from ...models.text.text_windows import TextsError
from ...models.text.tokenizer import Tokenizer, half_pair
from .tasks import Task

Int64 = NDArray[np.int64]

#: Kinds of built-in sentences, in their order; each is a batch, padded to its longest.
KINDS = ("everyday", "news", "rare", "latin", "masks", "one-token", "pairs", "full-length")

_BATCH = 8
_MOST_SENTENCES = 2000
_MOST_CHARACTERS = 1 << 16
#: Tokens of the full-length case, where the configuration allows more.
LONGEST = 2048
_LARGEST_LOGITS = 4 << 20  # numbers of a case that are computed at every token; past it at chosen tokens
_CHOSEN = 64
_MOST_OPTIONS = 5  # of a question, where the configuration says more
_LARGEST_TAPS = 24 << 20  # numbers of a type that all cases' taps may take together


@dataclass(frozen=True)
class Case:
    """One batch.

    Attributes:
        name: E.g. ``everyday``.
        input_ids: (B, T); of multiple choice (B, options, T), whose rows B * options are counted as they lie.
        token_type_ids: As ``input_ids``, or None for type 0 throughout.
        attention_mask: As ``input_ids``, or None where every token is real.
        positions: (K,) tokens, row * T + column, at which words are scored; None for all of them.
        ranked: Tokens, row * T + column, whose best words are compared, all among ``positions``: the masks, or where
            the next word is predicted the last of each row.
        parts: What the rows say, one text or two each; empty for generated ids.
        taps: Whether every layer's activations are recorded, or the results alone.
        packed: Whether the real tokens are computed alone.
    """

    name: str
    input_ids: Int64
    token_type_ids: Int64 | None = None
    attention_mask: Int64 | None = None
    positions: Int64 | None = None
    ranked: tuple[int, ...] = ()
    parts: tuple[tuple[str, ...], ...] = ()
    taps: bool = True
    packed: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """What the rows say, for a person to read."""
        return tuple(" ‖ ".join(parts) for parts in self.parts)

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
    config: RoFormerConfig,
    task: Task,
    tokenizer: Tokenizer | None,
    sentences: Sequence[str] | None = None,
    longest: int = LONGEST,
) -> list[Case]:
    """Make every case for a checkpoint.

    Args:
        config: Its sizes and limits.
        task: What its class computes.
        tokenizer: None where the checkpoint has no vocabulary: then there are generated ids alone.
        sentences: The user's own, in place of the built-in ones.
        longest: Tokens of the full-length case, where the configuration allows more; of generated ids, where there are
            no built-in sentences.

    Raises:
        ConvertError: The user's sentences are unusable.
    """
    cases: list[Case] = []
    if tokenizer is not None:
        own = sentences is not None
        kinds = _own_kinds(sentences) if sentences is not None else _built_in_kinds()
        for name, lines in kinds:
            cases.append(_sentence_case(name, lines, config, task, tokenizer, own, longest))
    elif sentences is not None:
        raise ConvertError(
            "sentences are given, and the checkpoint has no vocabulary",
            "Put its vocab.txt or tokenizer.json beside it.",
        )
    cases += _generated(config, task)
    if not any(case.name == "full-length" for case in cases):
        cases.append(_at_full_length(config, task, min(config.max_position_embeddings, longest)))
    if task.head is None:
        cases = [_choose_positions(case, config) for case in cases]
    return _within_budget(cases, config)


def _built_in_kinds() -> Iterator[tuple[str, list[str]]]:
    directory = files(__package__.rpartition(".")[0]) / "data" / "sentences"
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


def _sentence_case(
    name: str,
    lines: Sequence[str],
    config: RoFormerConfig,
    task: Task,
    tokenizer: Tokenizer,
    own: bool,
    longest: int,
) -> Case:
    limit = config.max_position_embeddings
    longest = min(limit, longest)
    texts = [line.split("\t") for line in lines]
    options = count_options(config) if task.head == "options" else 1
    if options > 1:
        texts = [texts_of_option for row in range(len(texts)) for texts_of_option in _ask(texts, row, options)]
    if config.type_vocab_size == 1:
        texts = [["".join(pair)] for pair in texts]
    encoded = []
    for pair in texts:
        if not own and name == "full-length":
            pair = [pair[0] * (1 + longest // max(1, len(pair[0]) // 2)), *pair[1:]]
        encoded.append(tokenizer.encode(*pair, max_length=None if own else longest))
    problems = [
        (1 + row // options, f"{len(one.ids):,} tokens; the limit is {limit:,} (max_position_embeddings)")
        for row, one in enumerate(encoded)
        if len(one.ids) > limit
    ]
    if problems:
        most = max(len(one.ids) for one in encoded)
        raise TextsError(problems, f"Shorten the text, or raise the limit: --max-length {most}.")
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
    shape = (len(lines), options, width) if options > 1 else (len(lines), width)
    return Case(
        name,
        input_ids.reshape(shape),
        types.reshape(shape) if types.any() else None,
        None if mask.all() else mask.reshape(shape),
        ranked=_ranked((input_ids == tokenizer.mask_id) & (mask == 1), mask, task),
        parts=tuple(map(tuple, texts)),
    )


def count_options(config: RoFormerConfig) -> int:
    """Return how many options a question has: as many as the configuration says, within reason."""
    return min(max(2, config.num_choices), _MOST_OPTIONS)


def _ask(texts: Sequence[Sequence[str]], row: int, options: int) -> Iterator[list[str]]:
    """Take a line for a question; the lines after it, or the second texts of it and those after it, are its options."""
    first = 0 if len(texts[row]) > 1 else 1
    for option in range(first, first + options):
        yield [texts[row][0], texts[(row + option) % len(texts)][-1]]


def _ranked(masks: NDArray[np.bool_], real: Int64, task: Task) -> tuple[int, ...]:
    """Choose the tokens (B, T) whose best words are compared: the masks, or each row's last real one."""
    if not task.mlm:
        return ()
    if task.next_word:
        last = real.shape[1] - 1 - (real[:, ::-1] != 0).argmax(1)
        return tuple(int(token) for token in np.arange(len(real)) * real.shape[1] + last)
    return tuple(int(token) for token in np.flatnonzero(masks))


def _generated(config: RoFormerConfig, task: Task) -> list[Case]:
    """Batches of ids from the whole vocabulary: every token type, padding on both sides, holes, the token 0 unmasked.

    Sizes are odd so that no two axes agree.
    """
    random = np.random.Generator(np.random.PCG64(4))
    limit = config.max_position_embeddings
    wide, narrow = min(29, limit), min(13, limit)
    options = (count_options(config),) if task.head == "options" else ()

    plain = random.integers(0, config.vocab_size, (3, *options, narrow))
    plain[..., narrow // 2] = 0
    padded = random.integers(0, config.vocab_size, (5, *options, wide))
    lengths = random.integers(1, wide + 1, padded.shape[:-1])
    mask = (np.arange(wide) < lengths[..., None]).astype(np.int64)
    mask[1] = mask[1, ..., ::-1]  # padding before the text
    mask[2] = random.integers(0, 2, mask[2].shape)  # and holes
    mask[2, ..., 0] = 1
    if config.attention != "bidirectional":
        # a query that sees no key is computed from what float32 leaves of a score beside MASKED: 1e-4 of rounding, by
        # which no result should be measured
        mask[..., 0] = 1
    types = random.integers(0, config.type_vocab_size, padded.shape)
    every_fifth, some = np.zeros(plain.shape, bool), np.zeros(padded.shape, bool)
    every_fifth.flat[::5] = True
    some.flat[np.flatnonzero(mask)[::7]] = True
    return [
        Case("ids", plain, ranked=_ranked(every_fifth, np.ones_like(plain), task)),
        Case("ids with padding", padded, types, mask, ranked=_ranked(some, mask, task)),
    ]


def _at_full_length(config: RoFormerConfig, task: Task, longest: int) -> Case:
    """Make a row of generated ids as long as rows may be: software that counts positions otherwise ends before it."""
    random = np.random.Generator(np.random.PCG64(7))
    options = (count_options(config),) if task.head == "options" else ()
    ids = random.integers(0, config.vocab_size, (1, *options, longest))
    last = np.zeros(ids.shape, bool)
    last[..., -1] = True
    return Case("ids at full length", ids, ranked=_ranked(last, np.ones_like(ids), task))


def _choose_positions(case: Case, config: RoFormerConfig) -> Case:
    """Score words at chosen tokens alone where all would be too many numbers: the ranked ones, and others evenly."""
    if case.input_ids.size * config.vocab_size <= _LARGEST_LOGITS:
        return case
    ranked = case.ranked[:_CHOSEN]
    spread = np.linspace(0, case.input_ids.size - 1, min(_CHOSEN, case.input_ids.size)).astype(np.int64)
    return replace(case, positions=np.unique(np.concatenate([spread, np.array(ranked, np.int64)])), ranked=ranked)


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
