"""What most likely makes an official participant compute something else, by what is known of it.

Its ids are made anew with another setting of our tokenizer; its rotary table is held against wrong ones; what it
computes from its own activations is recomputed layer by layer with known mistakes; and failing that, the tokens at
which it differs tell padding, the mask, the token types and the last positions apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters import open_checkpoint
from ...converters.errors import ConvertError, shown
from ...converters.source.splitting import CHINESE_WORD
from ...models.config import supported
from ...models.text.tokenizer import Tokenizer
from ..explaining.causes import Cause
from ..explaining.mistakes import Candidate, candidates
from ..explaining.reference import Reference, Switches
from ..explaining.sampling import Sample, take_rows, work_of
from ..judging.divergence import Divergence
from ..judging.measure import BOUND
from ..participants.dumps import distance
from ..participants.participants import ComparedModel
from ..questions.cases import Case
from .asking import Official
from .ids import ids_as_it

Array = NDArray[Any]

_PARTS = ("attention.query", "attention.key", "attention.value", "attention.out", "attention_norm", "feed_forward")
#: Floating-point operations of the whole model in the rows of a case whose layer is recomputed with every mistake.
_WORK = 4e9


# Its files -----------------------------------------------------------------------------------------------------------


def explain_files(official: Official, model: ComparedModel) -> list[Cause]:
    """Say in which fields its configuration differs from ours, or why our own reader refuses its directory."""
    try:
        with open_checkpoint(official.dump.checkpoint) as checkpoint:
            theirs, mine = supported(checkpoint.config), supported(model.config)
    except ConvertError as error:
        said = " ".join(str(error).replace(f"{official.dump.checkpoint}{os.sep}", "").split())
        what = f"our own reader refuses its files: {shown(said, 300)}"
        return [Cause(official.label, "files", what, "its files", "failed" in official.facts)]
    return [
        Cause(
            official.label,
            "configuration",
            f"{each.name} is {getattr(theirs, each.name)!r} there, {getattr(mine, each.name)!r} here",
            "its configuration",
            True,
        )
        for each in fields(mine)
        if getattr(theirs, each.name) != getattr(mine, each.name)
    ]


# Ids -----------------------------------------------------------------------------------------------------------------


def explain_ids(official: Official, got: Sequence[Sequence[int]], ours: Tokenizer) -> Cause:
    """Find the setting of a tokenizer with which ours gives the ids ``got``, a list for each of the texts."""
    label, named = official.label, official.facts["tokenizer"]
    for what, other in _other_settings(ours):
        if ids_as_it(official.software, other, official.texts) == [list(ids) for ids in got]:
            return Cause(label, "ids", f"{what} ({named})", "its tokenizer", True)
    return Cause(label, "ids", f"no setting of ours explains its ids ({named})", "its tokenizer", False)


def _other_settings(ours: Tokenizer) -> Iterator[tuple[str, Tokenizer]]:
    settings = ours.settings
    if settings.words:
        yield (
            "it takes the words of the vocabulary apart into characters, as with use_jieba false or a BertTokenizer",
            Tokenizer(replace(settings, words=False)),
        )
        no_words = {token: row for token, row in settings.ids.items() if not re.fullmatch(CHINESE_WORD, token)}
        yield (
            "it splits into words and finds none of them in the vocabulary, as RoFormerTokenizer.from_pretrained of "
            "transformers 5 does: make it as RoFormerTokenizer(vocab={token: row, …}), or use transformers 4",
            Tokenizer(replace(settings, ids=no_words)),
        )
    else:
        with suppress(ConvertError):  # jieba is not installed
            yield (
                "it splits into words, as with use_jieba true or a RoFormerTokenizer",
                Tokenizer(replace(settings, words=True)),
            )
    lower = settings.lower_case
    yield (
        f"it {'does not lower' if lower else 'lowers'} the case of letters (do_lower_case)",
        Tokenizer(replace(settings, lower_case=not lower)),
    )
    for accents in (True, False):
        yield (
            f"it {'drops' if accents else 'keeps'} accents (strip_accents)",
            Tokenizer(replace(settings, strip_accents=accents)),
        )
    if settings.split_chinese:
        yield (
            "it does not take Chinese characters apart (tokenize_chinese_chars)",
            Tokenizer(replace(settings, split_chinese=False)),
        )


# The rotary table ----------------------------------------------------------------------------------------------------


def explain_rotary(label: str, name: str, table: Array, exact: Array, rounding: float) -> Cause:
    """Find what a wrong rotary table holds, of which an entry may be off by ``rounding``."""
    if table.shape != exact.shape:
        return Cause(label, "rotary table", f"its shape is {table.shape}, not {exact.shape}", name, True)
    half = exact.shape[1] // 2
    sine, cosine = exact[:, :half], exact[:, half:]
    known = {
        "its sines and cosines alternate, as for a half-split rotation, where they should stand in halves": np.stack(
            [sine, cosine], -1
        ).reshape(exact.shape),
        "its cosines stand before its sines": np.concatenate([cosine, sine], 1),
        "it turns the other way": np.concatenate([-sine, cosine], 1),
        "it starts at position 1": np.concatenate([exact[1:], table[-1:]]),
        "it is all zeros": np.zeros_like(exact),
    }
    for what, other in known.items():
        if np.abs(other - table).max() <= rounding:
            return Cause(label, "rotary table", what, name, True)
    apart = distance(exact, table)
    count = int((np.abs(table - exact) > rounding).sum())
    what = f"{count:,} of {table.size:,} entries differ, most at {list(apart.index)}"
    return Cause(label, "rotary table", f"{what}: {apart.values[1]:.9g} instead of {apart.values[0]:.9g}", name, True)


# What is computed ----------------------------------------------------------------------------------------------------


def explain_output(
    official: Official,
    cases: Sequence[Case],
    model: ComparedModel,
    divergence: Divergence,
    where: Mapping[str, NDArray[np.bool_]],
    right: Mapping[str, Array],
) -> list[Cause]:
    """Explain the first activation that differs though the parameters are right."""
    label, tap = official.label, divergence.tap
    found = None
    if divergence.dtype == "float64":
        reference = Reference(supported(model.config), right, model.task)
        found = _substituted(reference, official, list(_differing(cases, where, reference)), tap)
    if found is not None:
        return [Cause(label, found.kind, found.what, tap, True)]
    pattern = _pattern(cases, where)
    if pattern is not None:
        return [Cause(label, *pattern, tap, False)]
    return [Cause(label, "unknown", "no known mistake explains it", tap, False)]


def _differing(cases: Sequence[Case], where: Mapping[str, NDArray[np.bool_]], reference: Reference) -> Iterator[Sample]:
    """Choose rows that differ of the two smallest cases, as many as a fixed amount of work allows and one at least.

    Elsewhere every mistake that makes no difference would explain what was computed.
    """
    wrong = [case for case in cases if case.taps and case.name in where and where[case.name].any()]
    for case in sorted(wrong, key=lambda case: case.input_ids.size)[:2]:
        rows = np.flatnonzero(where[case.name].reshape(len(case.input_ids), -1).any(1))
        one = work_of(take_rows(case, rows[:1], reference.task).case, reference.config, reference.task)
        yield take_rows(case, rows[: max(1, int(_WORK // one))], reference.task)


def _substituted(reference: Reference, official: Official, samples: Sequence[Sample], tap: str) -> Candidate | None:
    """Recompute the layer of ``tap`` from the hidden states before it, with each mistake in each of its steps."""
    taps = [(sample.taps(official.dump), sample.case) for sample in samples]
    if not taps or any(tap not in found for found, _ in taps):
        return None
    steps = _steps(tap, reference)
    for step in steps:
        first, case = taps[0]
        partial = _computed(reference, first, case, steps, Switches())
        if partial is None:
            return None
        partial[tap] = first[tap]
        for candidate in candidates(reference, step, partial, case):
            if all(_explains(reference, found, each, steps, tap, candidate) for found, each in taps):
                return candidate
    return None


def _steps(tap: str, reference: Reference) -> list[str]:
    if tap.startswith("layers."):
        layer = ".".join(tap.split(".")[:2])
        return [*(f"{layer}.{part}" for part in _PARTS), tap]
    if tap == "logits" and reference.config.norm_type == "layer_norm":
        return ["mlm.transform", "mlm.norm", tap]
    if tap == "classifier" and "pooler.weight" in reference.parameters and reference.task.head in ("labels", "options"):
        return ["pooler", tap]
    return [tap]


def _computed(
    reference: Reference, taps: Mapping[str, Array], case: Case, steps: Sequence[str], switches: Switches
) -> dict[str, Array] | None:
    """Compute the steps one after the other from the hidden states before them; None where those are not there."""
    found = dict(taps)
    try:
        for step in steps:
            found[step] = reference.predict(step, found, case, switches)
    except KeyError:
        return None
    return found


def _explains(
    reference: Reference, taps: Mapping[str, Array], case: Case, steps: Sequence[str], tap: str, candidate: Candidate
) -> bool:
    found = _computed(reference, taps, case, steps, candidate.switches)
    return found is not None and distance(found[tap], taps[tap]).relative <= BOUND


def _pattern(cases: Sequence[Case], where: Mapping[str, NDArray[np.bool_]]) -> tuple[str, str] | None:
    """Tell padding, the mask, the token types and the last positions apart by the tokens that differ."""
    differ = at_real = unpadded = typed_alone = in_shorter = False
    padded_rows = typed_rows = shorter_rows = False
    longest = max(case.input_ids.shape[-1] for case in cases)
    for case in cases:
        tokens = where.get(case.name)
        if tokens is None:
            continue
        mask = np.ones_like(case.input_ids) if case.attention_mask is None else case.attention_mask
        types = np.zeros_like(case.input_ids) if case.token_type_ids is None else case.token_type_ids
        real = mask.reshape(tokens.shape) != 0
        full, plain = real.all(1), ~(types.reshape(tokens.shape) != 0).any(1)
        padded_rows |= bool((~full).any())
        typed_rows |= bool((~plain).any())
        differ |= bool(tokens.any())
        at_real |= bool((tokens & real).any())
        unpadded |= bool(tokens[full].any())
        shorter = real.sum(1) < longest
        shorter_rows |= bool(shorter.any())
        in_shorter |= bool(tokens[shorter].any())
        typed_alone |= bool(tokens[plain].any())
    if not differ:
        return None
    if not at_real:
        return "padding", "it differs at padding alone, whose results nobody reads"
    if padded_rows and not unpadded:
        return "mask", "it differs in rows with padding alone: the attention mask"
    if typed_rows and not typed_alone:
        return "token types", "it differs in rows with a second text alone: the token types"
    if shorter_rows and not in_shorter:
        return "position", "it differs in the longest rows alone: the last positions"
    return None
