"""What happens to a file's tensors before whose they are is asked: some are left out, some get other names.

Each pass of :data:`PASSES` answers with the tensors under the names that the next one sees, and says what it did.
Nothing is refused here: what cannot be decided is a problem, which :mod:`.fitting` reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from ..errors import ConvertError, Problem, quoted, shown
from ..table.mapping import Dialect, ModelClass
from ..table.recognition import IGNORED, SLOT, TRAINING_STATE
from ..table.spellings import Respelled, respell
from ..tensors.stored import Index, StoredTensor
from . import bert_start
from .wrappers import see_through


@dataclass(frozen=True)
class Parts:
    """Which tensors of a file are meant, where a person says so.

    Attributes:
        prefix: What the names of the meant ones begin with in the file, or None for what is found.
        drop: Patterns of :mod:`fnmatch`: what matches one is left out. They are held against the file's names; one that
            matches none of them, against the names that messages have.
        encoder_only: Whether the encoder and its pooler alone are meant, without heads.
        bert: Whether they are a BERT's, with which a RoFormer is to begin (:mod:`.bert_start`).
    """

    prefix: str | None = None
    drop: tuple[str, ...] = ()
    encoder_only: bool = False
    bert: bool = False

    def __bool__(self) -> bool:
        return self != ALL

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Parts:
        """Make them of what JSON made of them."""
        return cls(**{**fields, "drop": tuple(fields["drop"])})


ALL = Parts()


@dataclass(frozen=True)
class Renamed:
    """What a pass, or all of them, made of a file's tensors.

    Attributes:
        tensors: Those that are left, under the names that they have from here on.
        notes: What was seen through or respelled, a sentence each.
        left_out: Names of the file that are not taken.
        problems: Why nothing decides which tensors are meant.
        next_step: What to do about the problems.
    """

    tensors: tuple[StoredTensor, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    next_step: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a pass may go by beside the tensors.

    Attributes:
        where: The file, for messages.
        dialects: Whose names the tensors may have.
        parts: Which of them are meant.
        nested: Prefixes of names that are dicts of the file rather than parts of a name: ``"optimizer."``.
        kind: The class that a person named.
    """

    where: object
    dialects: tuple[Dialect, ...]
    parts: Parts = ALL
    nested: frozenset[str] = frozenset()
    kind: ModelClass | None = None


#: How a TF2 checkpoint ends the name of what is no variable of a layer's; of which type the steps of a training are.
_OF_AN_OBJECT, _COUNTS = "/.ATTRIBUTES/VARIABLE_VALUE", ("int64", "int32")

#: TensorFlow's slot for a moving average, which is as good a model as the variables beside it.
_AVERAGE = "/ExponentialMovingAverage"
_OF_AVERAGES = (
    "the variables as they were trained are converted, and the moving averages of {} of them left out; to have those, "
    "restore them with ExponentialMovingAverage.variables_to_restore() in TensorFlow, and save that"
)

_OUTPUT = ":0"


def without_output_numbers(tensors: tuple[StoredTensor, ...], asked: Asked) -> Renamed:
    """Take TensorFlow's ``:0`` off, with which transformers' TF classes write their names into safetensors."""
    if not tensors or not all(tensor.name.endswith(_OUTPUT) for tensor in tensors):
        return Renamed(tensors)
    return Renamed(tuple(replace(tensor, name=tensor.name.removesuffix(_OUTPUT)) for tensor in tensors))


#: (the tensors, what is asked) → what became of them.
Pass = Callable[[tuple[StoredTensor, ...], Asked], Renamed]


def leave_out_dropped(tensors: tuple[StoredTensor, ...], asked: Asked) -> Renamed:
    """Leave out what ``--drop`` names."""
    return _without(tensors, {name for pattern in asked.parts.drop for name in _matching(tensors, pattern)})


def _matching(tensors: Iterable[StoredTensor], pattern: str) -> list[str]:
    return [tensor.name for tensor in tensors if fnmatchcase(tensor.name, pattern)]


def leave_out_state(tensors: tuple[StoredTensor, ...], asked: Asked) -> Renamed:
    """Leave out what optimizers of TensorFlow and Keras keep under names that are no dialect's."""
    if "tf1" not in asked.dialects:
        return Renamed(tensors)
    names = {tensor.name for tensor in tensors}
    known = {name for name in names if any(pattern.fullmatch(name) for pattern in IGNORED["tf1"])}
    slots = {name for name in names if (match := SLOT.fullmatch(name)) is not None and match[1] in names}
    counters = {each.name for each in tensors if each.name.endswith(_OF_AN_OBJECT) and each.dtype in _COUNTS}
    made = _without(tensors, (slots | counters | set(filter(TRAINING_STATE.fullmatch, names))) - known)
    averages = sum(name.endswith(_AVERAGE) for name in slots)
    return replace(made, notes=(_OF_AVERAGES.format(averages),)) if averages else made


def respell_other_programs(tensors: tuple[StoredTensor, ...], asked: Asked) -> Renamed:
    """Give names of other programs in a dialect's spelling (:mod:`..table.spellings`)."""
    spelled, notes = respell(tensor.name for tensor in tensors)
    return Renamed(tuple(_respelled(tensor, spelled.get(tensor.name)) for tensor in tensors), notes)


def _respelled(tensor: StoredTensor, spelled: Respelled | None) -> StoredTensor:
    if spelled is None:
        return tensor
    if not spelled.turned or len(tensor.shape) != 2:
        return replace(tensor, name=spelled.name)
    order = "C" if tensor.order == "F" else "F"
    return replace(tensor, name=spelled.name, shape=tensor.shape[::-1], order=order)


def begin_with_bert(tensors: tuple[StoredTensor, ...], asked: Asked) -> Renamed:
    """Make of a BERT's tensors those of the RoFormer that begins with them, where that is asked for.

    Raises:
        ConvertError: It is no BERT.
    """
    if not asked.parts.bert:
        return Renamed(tensors)
    names = [tensor.name for tensor in tensors]
    if not bert_start.is_bert(names):
        raise ConvertError(
            f"{asked.where}: no tensor is a BERT's learned positions (embeddings.position_embeddings): it is no BERT",
            "A RoFormer is converted without --from bert; other models' weights begin none.",
        )
    own = bert_start.as_roformer(names)
    kept = tuple(replace(tensor, name=own[tensor.name]) for tensor in tensors if tensor.name in own)
    dropped = tuple(dict.fromkeys(name for name in names if name not in own))
    return Renamed(kept, (bert_start.note(dropped),), dropped)


def see_through_wrappers(tensors: tuple[StoredTensor, ...], asked: Asked) -> Renamed:
    """Take off what a training program put around a state dict (:mod:`.wrappers`)."""
    types = {tensor.name: tensor.dtype for tensor in tensors}
    seen = see_through(
        types,
        asked.dialects,
        asked.nested,
        asked.parts.prefix,
        asked.where,
        encoder_only=asked.parts.encoder_only,
        matrices={tensor.name for tensor in tensors if len(tensor.shape) == 2},
        kind=asked.kind,
    )
    return Renamed(
        tuple(replace(tensor, name=seen.names[tensor.name]) for tensor in tensors if tensor.name in seen.names),
        seen.notes,
        tuple(name for name in types if name not in seen.names),
        seen.problems,
        seen.next_step,
    )


#: In their order. What a file's own names are is known to the first ones alone.
PASSES: tuple[Pass, ...] = (
    leave_out_dropped,
    without_output_numbers,
    leave_out_state,
    respell_other_programs,
    begin_with_bert,
    see_through_wrappers,
)


def rename(index: Index, asked: Asked) -> Renamed:
    """Send a file's tensors through every pass, or up to the first that finds a problem.

    Raises:
        ConvertError: Something that was asked for is not there.
    """
    done = Renamed(index.tensors)
    for step in PASSES:
        made = step(done.tensors, asked)
        done = replace(made, notes=done.notes + made.notes, left_out=done.left_out + made.left_out)
        if done.problems:
            return done
    late = [pattern for pattern in asked.parts.drop if not _matching(index.tensors, pattern)]
    for pattern in late:  # messages have the names without what was seen through
        matched = _matching(done.tensors, pattern)
        if not matched:
            raise ConvertError(
                f"{asked.where}: no tensor's name matches --drop {quoted(pattern)}",
                "Patterns are held against the whole name, as in --drop 'classifier.*'; quote them.",
            )
        made = _without(done.tensors, set(matched))
        done = replace(done, tensors=made.tensors, left_out=done.left_out + made.left_out)
    return done


#: Names that a sentence lists one by one.
_MOST_NAMED = 8


def in_words(names: Sequence[str]) -> str:
    """List names in a sentence; of many, those that begin alike as one: ``optimizer.* (129)``.

    Slots of variables begin as these do; what they end with tells them apart: ``bert/*/Momentum (54)``.
    """
    if len(names) <= _MOST_NAMED:
        return ", ".join(map(shown, names))
    alike: dict[tuple[str, str], list[str]] = {}
    for name in names:
        slot = SLOT.fullmatch(name)
        ending = "" if slot is None else f"/{slot[2]}"
        alike.setdefault((re.split(r"[./]", name, maxsplit=1)[0], ending), []).append(name)
    said = [
        shown(same[0] if len(same) == 1 else f"{_beginning(same)}*{ending} ({len(same):,})")
        for (_, ending), same in alike.items()
    ]
    more = len(said) - _MOST_NAMED
    return ", ".join(said[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _beginning(names: Sequence[str]) -> str:
    """Return what all names begin with, up to a dot or slash."""
    first, last = min(names), max(names)  # what these two share, all do
    same = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    shared = first[:same]
    return shared[: max(shared.rfind("."), shared.rfind("/")) + 1]


def _without(tensors: Sequence[StoredTensor], names: set[str]) -> Renamed:
    return Renamed(
        tuple(tensor for tensor in tensors if tensor.name not in names),
        left_out=tuple(dict.fromkeys(tensor.name for tensor in tensors if tensor.name in names)),
    )
