"""Whether an official participant serves what was compared: its load, parameters, ids, outputs and answers.

Each is held against one of ours, in float64: whoever agrees with that agrees with all of ours. Imports no framework.

Bounds. In float64 transformers and JunnYu's package compute with the rotary table in float64 too, which is put in their
model for that run: what is left is what is left between ours, and so is the bound. (As loaded, their table is float32,
half a unit of 2**-24 off, which moves the results of the shipped model by 4e-10. The table itself is held against the
right one, entry by entry.) In float32 they are run as loaded, and the bound is that of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import shown
from ...converters.table.rotary import embed_positions
from ...models.text.tokenizer import Tokenizer
from ..explaining.causes import Cause, explain_parameters
from ..judging.bounds import Bounds
from ..judging.divergence import Divergence
from ..judging.rankings import Ranking, asked, rank
from ..judging.verdicts import Verdict, judge_order, status_of
from ..participants.dumps import Dump, distance
from ..participants.participants import ComparedModel
from ..questions.cases import Case
from .asking import Official
from .causes import explain_files, explain_ids, explain_output, explain_rotary
from .expected import expected_of
from .ids import ids_as_it
from .outputs import Compared, compare_outputs

Array = NDArray[Any]
#: Fetches parameters as a participant holds them: its own names → their values, kernels as (out, in).
Fetch = Callable[[Sequence[str]], Mapping[str, Array]]

#: Half a unit in the last place of a rounded rotary table's largest entries, which are 1.
_HALF_UNIT = {"": 2.0**-25, "float16": 2.0**-12, "bfloat16": 2.0**-9}
_MOST_NAMED = 3


@dataclass(frozen=True)
class OfficialResult:
    """What came of one official participant.

    Attributes:
        official: What it was asked and answered.
        verdicts: One a check.
        causes: What most likely causes what differs.
        divergence: The first of its activations that differs; None where none does, or it exposes none.
        rankings: Its best answers beside ours.
        notes: What else is to be said.
    """

    official: Official
    verdicts: list[Verdict]
    causes: list[Cause]
    divergence: Divergence | None
    rankings: list[Ranking]
    notes: tuple[str, ...] = ()


def judge_official(
    official: Official,
    ours: Dump,
    cases: Sequence[Case],
    model: ComparedModel,
    tokenizer: Tokenizer | None,
    bounds: Bounds,
    top_k: int,
    right: Mapping[str, Array],
    fetch: Fetch,
) -> OfficialResult:
    """Judge one official participant.

    Args:
        official: What it answered.
        ours: One of our participants, which it is held against.
        cases: What both ran.
        model: What is compared.
        tokenizer: Ours; None where there is no vocabulary.
        bounds: What ours may differ by, which it is held to as well.
        top_k: Answers a question.
        right: The checkpoint's parameters by their canonical names, in float64.
        fetch: Fetches parameters as it holds them.
    """
    failed = official.facts.get("failed")
    about = (official.label,)
    if failed is not None:
        where = shown(str(failed), 300)
        verdict = Verdict("official: loaded whole", about, 1.0, 0.0, "differs", where)
        cause = Cause(official.label, "load", f"it cannot load or run it ({where})", "its files", False)
        causes = [] if official.software.dialect is None else explain_files(official, model)
        return OfficialResult(official, [verdict], causes or [cause], None, [])
    whole, causes = _loaded_whole(official)
    held, more, notes = _parameters(official, ours, model, right, fetch)
    verdicts = [whole, *held]
    causes += more
    ids, more = _ids(official, tokenizer)
    verdicts += ids
    causes += more
    compared = {case.name: Compared.of(official, case) for case in cases}
    expected = expected_of(official, ours, cases, model, right)
    if expected is not ours:
        epsilon = official.software.epsilon
        notes.append(
            f"{official.label}: it adds {epsilon:g} in the encoder's norms, whatever a file says; so does numpy here"
        )
    outputs, divergence, places = compare_outputs(official, expected, cases, compared, bounds)
    verdicts += outputs
    if divergence is not None and not any(cause.kind not in ("ids", "load") for cause in causes):
        causes += explain_output(official, cases, model, divergence, places, right)
    listed = [one for one in cases if compared[one.name].rows.any()]
    task = model.task
    scored = "logits" if task.mlm else "classifier"
    tie, scale = bounds.at_tap("float32", scored), bounds.measured.scales.get(scored)
    rankings = [
        one for one in rank([ours, official.dump], listed, task, tie, scale, top_k) if compared[one.case].whole(one.row)
    ]
    what = f"top {top_k}" if task.mlm else asked(task)
    verdicts += judge_order(f"official: {what} in order", (ours.label, official.label), rankings)
    if official.software.dialect is not None and not all(verdict.passed for verdict in verdicts):
        causes = _with_files(causes, explain_files(official, model))
    return OfficialResult(official, verdicts, causes, divergence, rankings, tuple(notes))


def _with_files(causes: list[Cause], files: list[Cause]) -> list[Cause]:
    """Put a configuration that differs first; what our reader says of the files is kept where nothing else is known."""
    known = any(cause.explains for cause in causes)
    return [*(cause for cause in files if cause.explains or not known), *causes]


def _loaded_whole(official: Official) -> tuple[Verdict, list[Cause]]:
    """Nothing is missing, newly initialised or of another shape, and what is not read was announced."""
    facts = official.facts
    wrong = {
        # a rotary table that no file has is made anew, and held against the right one like any other
        "missing in the file, so that it was set at random": [
            name for name in facts["missing"] if name not in {official.rotary, *official.idle}
        ],
        "of another shape in the file": list(facts["mismatched"]),
        "not read, which was not announced": [
            name for name in facts["unexpected"] if not _announced(name, official.announced)
        ],
    }
    causes = [
        Cause(official.label, "load report", f"{_listed(names)} {what}", "its files", True)
        for what, names in wrong.items()
        if names
    ]
    every = [name for names in wrong.values() for name in names]
    idle = [name for name in facts["missing"] if name in official.idle]
    notes = [f"announced, and not read: {_listed(facts['unexpected'])}"] if facts["unexpected"] and not every else []
    notes += [f"{_listed(idle)} set at random, which nothing compared reads"] if idle and not every else []
    note = "; ".join(notes)
    verdict = Verdict(
        "official: loaded whole", (official.label,), float(len(every)), 0.0, status_of(not every), _listed(every), note
    )
    return verdict, causes


def _announced(name: str, announced: frozenset[str]) -> bool:
    """Say whether a part was announced; transformers' TF classes name a whole layer of it."""
    return name in announced or any(one.startswith(f"{name}/") for one in announced)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return shown(", ".join(names[:_MOST_NAMED])) + more


def _parameters(
    official: Official, ours: Dump, model: ComparedModel, right: Mapping[str, Array], fetch: Fetch
) -> tuple[list[Verdict], list[Cause], list[str]]:
    """Hold every parameter against ours by its bits, and the rotary table against the right one by its rounding."""
    held: Mapping[str, Any] = official.facts["parameters"]
    if not held and not official.expected:  # an exported graph shows none
        return [], [], []
    found = {official.names[name]: (name, each["sha256"]) for name, each in held.items() if name in official.names}
    lacking = sorted(name for name in official.expected if name in ours.digests and name not in found)
    wrong = [name for name, (_, digest) in found.items() if name in ours.digests and digest != ours.digests[name]]
    causes = [Cause(official.label, "corrupted", "a parameter that it does not have", name, True) for name in lacking]
    own = fetch([found[name][0] for name in wrong])
    values = {name: own[found[name][0]].astype(np.float64) for name in wrong if found[name][0] in own}
    if "float64" not in official.facts["types"]:  # it holds float32, whatever the file has
        wrong = [name for name in wrong if not _rounded(values.get(name), right[name])]
    causes += explain_parameters(
        official.label, {name: values[name] for name in wrong if name in values}, right, model.task
    )
    notes = []
    if official.rotary in held:
        table = fetch([official.rotary])[official.rotary]
        exact = embed_positions(model.config.max_position_embeddings, model.config.head_size)
        apart = distance(exact, table.astype(np.float64))
        # a half type's table is rounded from float32's
        rounding = (_HALF_UNIT[official.rounded] + (_HALF_UNIT[""] if official.rounded else 0.0)) * (1 + 1e-6)
        if apart.largest > rounding:
            wrong.append("the rotary table")
            causes.append(explain_rotary(official.label, official.rotary, table.astype(np.float64), exact, rounding))
        elif official.rounded:
            notes.append(
                f"{official.label}: its rotary table is rounded to {official.rounded} as the file is, up to "
                f"{apart.largest:.1e} off; it is compared with the table put right"
            )
    every = [*lacking, *wrong]
    note = f"{len(found)} by their bits" + ", the rotary table by its rounding" * (official.rotary in held)
    about = (ours.label, official.label)
    verdict = Verdict(
        "official: parameters as loaded", about, float(len(every)), 0.0, status_of(not every), _listed(every), note
    )
    return [verdict], causes, notes


def _rounded(held: Array | None, exact: Array) -> bool:
    return held is not None and np.array_equal(held, exact.astype(np.float32).astype(np.float64))


def _ids(official: Official, tokenizer: Tokenizer | None) -> tuple[list[Verdict], list[Cause]]:
    """Hold the ids of every sentence against those of our tokenizer."""
    facts, check = official.facts, "official: ids of the sentences"
    if tokenizer is None or not official.texts:
        return [], []
    if facts["ids"] is None:
        cause = Cause(
            official.label, "ids", f"its tokenizer cannot be loaded ({shown(facts['no_ids'], 300)})", "", False
        )
        where = shown(str(facts["no_ids"]), 300)
        return [Verdict(check, (official.label,), float(len(official.texts)), 0.0, "differs", where)], [cause]
    want = ids_as_it(official.software, tokenizer, official.texts)
    others = sum(tokenizer.encode(*parts).ids != ids for parts, ids in zip(official.texts, want, strict=True))
    note = f", {others} by its own rules for symbols and scripts" * bool(others)
    got = [*facts["ids"], *([[]] * len(want))][: len(want)]
    wrong = [place for place, (a, b) in enumerate(zip(want, got, strict=True)) if a != b]
    where = _first_token(official.texts[wrong[0]], want[wrong[0]], got[wrong[0]], tokenizer) if wrong else ""
    note = f"{len(want)} sentences{note}, {facts['tokenizer']}"
    about = (*(("ours",) if not wrong else ()), official.label)
    verdict = Verdict(check, about, float(len(wrong)), 0.0, status_of(not wrong), where, note)
    if not wrong:
        return [verdict], []
    return [verdict], [explain_ids(official, got, tokenizer)]


def _first_token(parts: Sequence[str], want: Sequence[int], got: Sequence[int], tokenizer: Tokenizer) -> str:
    place = next((at for at, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))  # noqa: B905

    def token(ids: Sequence[int]) -> str:
        return f"{ids[place]} {tokenizer.token(ids[place])!r}" if place < len(ids) else "nothing"

    text = shown(" ‖ ".join(parts), 60)
    return f"token {place} of {text!r}: {token(got)}, ours {token(want)}"
