"""Whether a run can go on from a checkpoint with the settings and corpora of now, and what that changes.

What fixes the model's sizes, what is minimised and what a sample holds must be as it was; how steps are taken, watched
and fed may be another. Weights, moments and the place in the data stay. Every change is written to the log and to
the checkpoints that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError
from ..samples.position import Position
from ..settings.tables import TABLES, Settings, Stage
from ..start.sources import Sources
from .schedule import learning_rate
from .state import TrainingState


@dataclass(frozen=True)
class Change:
    """What a resumed run has another value of.

    Attributes:
        key: Table and key of the settings, or a corpus.
        before: Its value until then, as JSON has it.
        now: From then on.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} → {_shown(self.now)}"


def go_on(directory: Path, state: TrainingState, settings: Settings, sources: Sources) -> tuple[Position, list[Change]]:
    """Compare what a checkpoint was trained with and what shall go on.

    Args:
        directory: The checkpoint.
        state: What it holds beside the weights.
        settings: The settings of this run.
        sources: The corpora of now.

    Returns:
        The position to go on from, and what is changed.

    Raises:
        ConvertError: Something is another that must not be; all of it is named.
    """
    before, position = state.settings, state.position
    stage, taken = last_stage(before, state.step)
    changes = changed_corpora(sources, state.corpora, before.data.corpora)
    problems = ["the vocabulary has changed"] if state.vocabulary != sources.vocabulary else []
    for key, was, now, free in _compared(before, settings):
        if free:
            changes.append(Change(key, was, now))
        else:
            problems.append(f"{key} = {now!r}, but {was!r} in the checkpoint")
    changes += _changed_stages(before, settings)
    problems += _impossible_stages(before, settings, stage, taken)
    if problems:
        count = f"{len(problems)} difference{'s' * (len(problems) != 1)}"
        raise ConvertError(
            "\n  ".join([f"{directory} was written with another configuration ({count})", *problems]),
            "Resume with the values of the run, or start a new one from these weights: --init with another --output.",
        )
    other_data = sources.contents != state.corpora or _batch(settings, stage) != _batch(before, stage)
    begun = position.reached if other_data else position.begun
    return replace(position.with_corpora(sources.contents), begun=begun), changes


def last_stage(settings: Settings, step: int) -> tuple[int, int]:
    """Return the stage of the last of ``step`` steps that were taken, and how many of them were of it."""
    if step == 0:
        return 0, 0
    stage, index = settings.stage_at(step - 1)
    return stage, index + 1


def change_lines(changes: Sequence[Change], state: TrainingState, settings: Settings) -> list[str]:
    """Say what is another after a checkpoint's step, for the log, and the learning rate that follows from it."""
    was, now = learning_rate(state.settings, state.step), learning_rate(settings, state.step)
    rate = [] if was == now else [f"learning rate at step {state.step:,}: {was:.5e} → {now:.5e}"]
    return [*(f"changed: {change}" for change in changes), *rate]


def _compared(before: Settings, settings: Settings) -> Iterator[tuple[str, Any, Any, bool]]:
    """Give the keys with two values, both values, and whether they may differ; stages are another matter."""
    there, here = before.as_tree(), settings.as_tree()
    for name, kind in TABLES.items():
        for each in fields(kind):
            key = each.name
            # where a run and its corpora lie is no matter; the latter go by their contents
            if (name, key) not in (("run", "output"), ("data", "corpora")) and there[name][key] != here[name][key]:
                yield f"{name}.{key}", there[name][key], here[name][key], each.metadata["free"]


def _changed_stages(before: Settings, settings: Settings) -> Iterator[Change]:
    there, here = before.as_tree()["stages"], settings.as_tree()["stages"]
    for number in range(max(len(there), len(here))):
        if number >= len(there) or number >= len(here):
            yield Change(f"stages[{number}]", *(each[number] if number < len(each) else None for each in (there, here)))
            continue
        for each in fields(Stage):
            was, now = (tree[number].get(each.name) for tree in (there, here))
            if was != now:
                yield Change(f"stages[{number}].{each.name}", was, now)


def _impossible_stages(before: Settings, settings: Settings, stage: int, taken: int) -> Iterator[str]:
    """Say what of the stages cannot be another, ``taken`` steps of number ``stage`` being the last that were taken."""
    for number in range(stage + 1):
        where, there = f"stages[{number}]", before.stages[number]
        if number >= len(settings.stages):
            yield f"{where} is missing, but steps of it were already taken"
            continue
        here = settings.stages[number]
        least = taken if number == stage else there.steps
        if here.steps < least or (here.steps > least and number < stage):
            yield f"{where}.steps = {here.steps}, but {least} of its steps were already taken"
        if here.length != there.length and least:
            yield (
                f"{where}.length = {here.length}, but {least} of its steps were taken with {there.length}: "
                "end the stage there, and add one of another length"
            )


def _batch(settings: Settings, stage: int) -> tuple[int, int]:
    """Return what decides how many samples a step of a stage takes."""
    tree = settings.as_tree()["stages"][stage]
    return tree["batch_size"], tree["batch_tokens"]


def changed_corpora(sources: Sources, contents: Sequence[list[Any]], entries: Sequence[str]) -> list[Change]:
    """Name the corpora that a run's checkpoint knows and these are not, and the other way round, and other weights.

    Args:
        sources: The corpora of now.
        contents: The contents that the checkpoint has, as :attr:`..start.sources.Sources.contents` gave them.
        entries: What they were called there: ``DIR`` or ``DIR=WEIGHT``.
    """
    out: list[Change] = []
    left = [(digest, weight, _named(entry, weight)) for (digest, weight), entry in zip(contents, entries, strict=True)]
    added: list[tuple[str, float]] = []
    for (corpus, weight), (digest, _) in zip(sources.corpora, sources.contents, strict=True):
        same = next((each for each in left if each[0] == digest), None)
        if same is None:
            added.append((str(corpus.directory), weight))
            continue
        left.remove(same)
        if weight != same[1]:
            out.append(Change(f"corpus {corpus.directory}", f"weight {same[1]:g}", f"weight {weight:g}"))
    names = {name for name, _ in added}
    out += [
        Change(f"corpus {name}", f"weight {weight:g} of other text" if name in names else f"weight {weight:g}", None)
        for _, weight, name in left
    ]
    out += [Change(f"corpus {name}", None, f"weight {weight:g}") for name, weight in added]
    if not out and sources.contents != contents:
        out.append(Change("corpora", "their order", "another order"))
    return out


def _named(entry: str, weight: float) -> str:
    """Take the weight off an entry whose directory may be gone by now."""
    path, sign, written = entry.rpartition("=")
    try:
        return path if sign and float(written) == weight else entry
    except ValueError:
        return entry


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value}"
