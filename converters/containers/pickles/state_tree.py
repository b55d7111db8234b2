"""A pickled state dict as a tree: its tensors under flat names, everything else as a line of metadata.

A global that stands there as a value is metadata if it is a type and refused if it is a function, which is no data.

Training checkpoints nest: ``{"model": {...}, "optimizer": {"state": {0: {...}}}, "epoch": 3}``. Whatever lies at
``k`` → ``inner`` is called ``k.inner``. The walk is a loop with a budget: a pickle of a hundred bytes can describe a
graph with more paths than there are atoms, and a dict that contains itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import FormatError, quoted
from .machine import Global, PickleMachine, Span, kind_of

_DEEPEST = 32
_LONGEST_NAME = 512
_LONGEST_NAMES = 64 << 20
_LONGEST_NOTE = 200
_MOST_NOTES = 1000


class TensorLeaf:
    """What a handler answers for a tensor: the one kind of leaf that is not metadata. ``str()`` says what it is."""

    __slots__ = ()


class OpaqueLeaf:
    """What a handler answers for an object that is neither tensor nor container: ``str()`` is its line of metadata."""

    __slots__ = ("note",)

    def __init__(self, note: str) -> None:
        self.note = note

    def __str__(self) -> str:
        return self.note


def flatten(path: Path, machine: PickleMachine, tree: object) -> tuple[list[tuple[str, TensorLeaf]], dict[str, str]]:
    """Return the tensors of a state dict under flat names, in file order, and the metadata.

    Args:
        path: The file, for errors.
        machine: The machine that made ``tree``, at its end: it reads what texts are worth showing.
        tree: What its ``run`` returned.

    Raises:
        FormatError: No dict at the top, a tree that is too deep or repeats itself too often to be a state dict, or a
            function in it.
    """
    if not isinstance(tree, dict):
        raise FormatError(
            path,
            f"the file holds {kind_of(tree)}, want a state dict: names, each with its tensor",
            next_step="Save model.state_dict(), or a dict of the tensors under their names.",
        )
    tensors: list[tuple[str, TensorLeaf]] = []
    notes: dict[str, str] = {}
    unlisted = 0
    names: set[str] = set()
    characters = 0
    budget = machine.opcodes + 1000
    waiting: list[tuple[str, object, int]] = [("", tree, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, dict | list | tuple):
            # Every object took an opcode; a walk that meets many more has met the same ones again and again.
            budget -= len(value) + 1
            if budget < 0:
                raise FormatError(path, "the same dicts are nested in each other again and again, as in no state dict")
            if depth == _DEEPEST:
                raise FormatError(path, f"dicts and lists are nested deeper than {_DEEPEST} levels")
            # an empty dict is an entry like any other, below the top
            if (isinstance(value, dict) and (value or depth == 0)) or not all(map(_is_plain, value)):
                waiting.extend([(_join(path, name, key), item, depth + 1) for key, item in _items(value)][::-1])
                continue
        if type(value) is Global and machine.is_function(value):
            raise FormatError(
                path,
                f"the pickle holds {value} under {quoted(name)}: a function, which no state dict has; it was not run",
                next_step="Load the file only with software that you trust it to, and save the plain state dict.",
            )
        if isinstance(value, TensorLeaf):
            characters += len(name)
            if characters > _LONGEST_NAMES:
                raise FormatError(path, f"the names of its tensors are longer than {_LONGEST_NAMES:,} characters")
            if name in names:
                raise FormatError(path, f"two tensors are called {quoted(name)} once nested names are joined with '.'")
            names.add(name)
            tensors.append((name, value))
        elif len(notes) < _MOST_NOTES:
            notes[name] = _note(machine, value)
        else:
            unlisted += 1
    if unlisted:
        notes["…"] = f"and {unlisted:,} more"
    return tensors, notes


def _items(value: dict[str, object] | list[object] | tuple[object, ...]) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from value.items()
    else:
        yield from ((str(position), item) for position, item in enumerate(value))


def _join(path: Path, prefix: str, key: str) -> str:
    name = f"{prefix}.{key}" if prefix else key
    if len(name) > _LONGEST_NAME:
        raise FormatError(path, f"the name {quoted(name)} is longer than {_LONGEST_NAME} characters")
    return name


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, Span)


def _note(machine: PickleMachine, value: object) -> str:
    if isinstance(value, list | tuple):
        inner = ", ".join(_note(machine, item) for item in value[:16])
        note = f"[{inner}, … {len(value):,} items]" if len(value) > 16 else f"[{inner}]"
    elif type(value) is Span and value.kind != "bytes" and value.length <= _LONGEST_NOTE * 4:
        note = machine.text(value, "a text")
    elif type(value) is Span:
        note = f"{value.length:,} bytes"
    else:
        note = str(value)
    return note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…"
