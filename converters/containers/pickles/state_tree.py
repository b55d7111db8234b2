"""A pickled state dict as a tree: its tensors under flat names, everything else as a line of metadata.

Training checkpoints nest: ``{"model": {...}, "optimizer": {"state": {0: {...}}}, "epoch": 3}``. Whatever lies at
``k`` → ``inner`` is called ``k.inner``, be it in a dict, a list, or an object that was not made. The walk is a loop
with a budget: a pickle of a hundred bytes can describe a graph with more paths than there are atoms, and a dict that
contains itself. A program's own objects do refer to one another, and so do lists and dicts from which no tensor is
reached: each of them is entered once, and none is a reason to refuse the tensors.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from ...errors import FormatError, quoted
from ...tensors.stored import StoredTensor
from .machine import PickleMachine, Span, Unbuilt, kind_of, named_items

_DEEPEST = 32
#: What a torch module keeps its parts in: modules, parameters, buffers (torch/nn/modules/module.py).
_MODULE_DICTS = ("_modules", "_parameters", "_buffers")
_LONGEST_NAME = 512
_LONGEST_NAMES = 64 << 20
_LONGEST_NOTE = 200
_MOST_NOTES = 1000
_REPEATED = "the same dicts are nested in each other again and again, as in no state dict"
_TOO_DEEP = f"dicts and lists are nested deeper than {_DEEPEST} levels"


class TensorLeaf:
    """What a handler answers for a tensor: the one kind of leaf that is not metadata. ``str()`` says what it is."""

    __slots__ = ()

    @property
    def unread(self) -> str | None:
        """What it is, where it is not read: metadata like any other leaf."""
        return None


class Flat(NamedTuple):
    """A state dict without its nesting.

    Attributes:
        tensors: Its tensors under flat names, in file order.
        metadata: Everything else, a line each.
        nested: What the names of the tensors in a dict or a list begin with.
        unread: Names of metadata that are tensors or arrays of a kind that is not read.
    """

    tensors: list[tuple[str, TensorLeaf]]
    metadata: dict[str, str]
    nested: frozenset[str]
    unread: frozenset[str]


class _Place(NamedTuple):
    """Where a value lies.

    Attributes:
        name: What it is called.
        parent: What the names in the dict, list or object that holds it begin with; a torch module is one with all
            modules inside it, for their parameters are of one model.
        depth: How many dicts, lists and objects it lies in.
        inside: Whether one of them is an object that was not made.
    """

    name: str = ""
    parent: str = ""
    depth: int = 0
    inside: bool = False

    def below(self, key: str, value: object) -> _Place:
        """Return the place of what ``value``, which lies here, holds under a key."""
        above, _, own = self.name.rpartition(".")
        module = own in _MODULE_DICTS or (type(value) is Unbuilt and f".{above}".endswith(f".{_MODULE_DICTS[0]}"))
        parent = self.parent if module else f"{self.name}." if self.name else ""
        return _Place(_join(self.name, key), parent, self.depth + 1, self.inside or type(value) is Unbuilt)


def flatten(path: Path, machine: PickleMachine, tree: object) -> Flat:
    """Walk a state dict.

    Args:
        path: The file, for errors.
        machine: The machine that made ``tree``, at its end: it reads what texts are worth showing.
        tree: What its ``run`` returned.

    Raises:
        FormatError: No dict at the top, or tensors that lie too deep or again and again as in no state dict.
    """
    if type(tree) in (list, tuple) and any(isinstance(item, dict) for item in cast(list[object], tree)):
        tree = dict(named_items(cast(list[object], tree)))  # somebody's (weights, epoch)
    if not isinstance(tree, dict):
        raise FormatError(
            path,
            f"the file holds {kind_of(tree)}, want a state dict: names, each with its tensor",
            next_step="Save model.state_dict(), or a dict of the tensors under their names.",
        )
    walk = _Walk(path, machine, tree)
    walk.run(tree)
    if type(tree) is Unbuilt and not walk.tensors:
        raise FormatError(
            path,
            f"the file holds {tree}, want a state dict: names, each with its tensor",
            next_step="Load it only with software that you trust it to, and save the plain state dict.",
        )
    return Flat(list(walk.tensors.items()), walk.listed_notes(), frozenset(walk.nested), frozenset(walk.unread))


class _Walk:
    """A state dict being flattened, and what is left of its budget; arguments as :func:`flatten` has them."""

    def __init__(self, path: Path, machine: PickleMachine, tree: object) -> None:
        self._path, self._machine = path, machine
        self._budget = machine.opcodes + 1000
        self._holding = _holders_of_tensors(tree)
        self._entered: set[int] = set()
        self._characters = 0
        self._objects: list[str] = []
        self._unlisted = 0
        self.tensors: dict[str, TensorLeaf] = {}
        self.notes: dict[str, str] = {}
        self.nested: set[str] = set()
        self.unread: set[str] = set()

    def run(self, tree: object) -> None:
        waiting: list[tuple[_Place, object]] = [(_Place(), tree)]
        while waiting:
            place, value = waiting.pop()
            held = self._enter(place, value)
            if held is not None:
                waiting.extend(held[::-1])
            if held is None or type(value) is Unbuilt:
                self._take(place, value)

    def _enter(self, place: _Place, value: object) -> list[tuple[_Place, object]] | None:
        """Return what a dict, a list or an object holds; None of what is taken as it is, or was entered before."""
        once = type(value) is Unbuilt or place.inside or id(value) not in self._holding
        if not isinstance(value, dict | list | tuple) or (once and id(value) in self._entered):
            return None
        holders: list[object] = [value]
        if isinstance(value, Unbuilt):
            holders += [holder for holder in (*value.fields, value.arguments) if id(holder) not in self._entered]
        self._entered.update(map(id, holders))
        # Every object took an opcode; a walk that meets many more has met the same ones again and again.
        self._budget -= sum(len(holder) + 1 for holder in holders if isinstance(holder, dict | list | tuple))
        if self._budget < 0:
            raise FormatError(self._path, _REPEATED)
        if place.depth == _DEEPEST:
            if not once:
                raise FormatError(self._path, _TOO_DEEP)
            return None
        if isinstance(value, dict):
            # an empty dict is an entry like any other, below the top
            if not value and type(value) is not Unbuilt and place.depth:
                return None
        elif all(map(_is_plain, value)):
            return None
        return [
            (place.below(key, value), item)
            for holder in holders
            for key, item in named_items(holder)
            if not (isinstance(value, Unbuilt) and holder is value.arguments) or isinstance(item, dict)
        ]

    def _take(self, place: _Place, value: object) -> None:
        """Take a tensor, or make a note of anything else."""
        if isinstance(value, TensorLeaf) and value.unread is None:
            self._take_tensor(place, value)
        elif place.inside:
            return  # an object's attributes: the object is named, and is enough
        elif isinstance(value, TensorLeaf):
            self.notes[place.name] = _note(self._machine, value)
            self.unread.add(place.name)
        elif len(self.notes) < _MOST_NOTES:
            self.notes[place.name] = _note(self._machine, value)
            if type(value) is Unbuilt:
                self._objects.append(place.name)
        else:
            self._unlisted += 1

    def _take_tensor(self, place: _Place, tensor: TensorLeaf) -> None:
        name = place.name
        if len(name) > _LONGEST_NAME:
            raise FormatError(self._path, f"the name {quoted(name)} is longer than {_LONGEST_NAME} characters")
        self._characters += len(name)
        if self._characters > _LONGEST_NAMES:
            raise FormatError(self._path, f"the names of its tensors are longer than {_LONGEST_NAMES:,} characters")
        if name in self.tensors:
            what = f"two tensors are called {quoted(name)} once nested names are joined with '.'"
            raise FormatError(self._path, what)
        self.tensors[name] = tensor
        self.nested.add(place.parent)

    def listed_notes(self) -> dict[str, str]:
        """Return the notes, but of objects of which tensors are taken: those are not left out."""
        ordered = sorted(self.tensors)
        for name in self._objects:
            inside = f"{name}." if name else ""
            first = bisect_left(ordered, inside)
            if first < len(ordered) and ordered[first].startswith(inside):
                del self.notes[name]
        return {**self.notes, "…": f"and {self._unlisted:,} more"} if self._unlisted else self.notes


def _holders_of_tensors(tree: object) -> set[int]:
    """Return the identities of the dicts, lists and objects from which a tensor can be reached."""
    parents: dict[int, list[int]] = {id(tree): []}
    reached: list[int] = []
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        items = [item for _, item in named_items(value)]
        if isinstance(value, Unbuilt):
            items += [*value.fields, value.arguments]
        for item in items:
            if isinstance(item, TensorLeaf):
                reached.append(id(value))
            elif isinstance(item, dict | list | tuple):
                if id(item) not in parents:
                    parents[id(item)] = []
                    waiting.append(item)
                parents[id(item)].append(id(value))
    holding: set[int] = set()
    while reached:
        holder_id = reached.pop()
        if holder_id not in holding:
            holding.add(holder_id)
            reached += parents[holder_id]
    return holding


class _Tree:
    """A tree being made into plain data, and what is left of its budget; arguments as :func:`as_tree` has them."""

    def __init__(self, path: Path, machine: PickleMachine, place: Callable[[str, TensorLeaf], StoredTensor]) -> None:
        self._path, self._machine, self._place = path, machine, place
        self._budget = machine.opcodes + 1000

    def node(self, name: str, value: object, depth: int) -> object:
        if isinstance(value, dict | list | tuple) and type(value) is not Unbuilt:
            self._budget -= len(value) + 1
            if self._budget < 0:
                raise FormatError(self._path, _REPEATED)
            if depth == _DEEPEST:
                return kind_of(value)
            made = {key: self.node(_join(name, key), item, depth + 1) for key, item in named_items(value)}
            return made if isinstance(value, dict) else list(made.values())
        if isinstance(value, TensorLeaf) and value.unread is None:
            return self._place(name, value)
        if value is None or type(value) in (bool, int, float):
            return value
        return _note(self._machine, value)


def as_tree(
    path: Path, machine: PickleMachine, tree: object, place: Callable[[str, TensorLeaf], StoredTensor]
) -> dict[str, object]:
    """Return a state dict as it is nested: dicts with text keys, lists, and in them tensors, numbers and short texts.

    An object that was not made is a text that says so.

    Args:
        path: The file, for errors.
        machine: The machine that made ``tree``, at its end.
        tree: What its ``run`` returned.
        place: Says where a tensor lies, given its flat name.

    Raises:
        FormatError: No dict at the top, or a tree that repeats itself too often to be a state dict.
    """
    made = _Tree(path, machine, place).node("", tree, 0)
    if not isinstance(made, dict):
        raise FormatError(path, f"the file holds {kind_of(tree)}, want a dict")
    return made


def _join(prefix: str, key: str) -> str:
    """Join the names of a place and of what it holds; one that is longer than a tensor's may be grows no further."""
    return (f"{prefix}.{key}" if prefix else key)[: _LONGEST_NAME + 1]


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, Span)


def _note(machine: PickleMachine, value: object) -> str:
    if isinstance(value, list | tuple) and all(map(_is_plain, value)):
        inner = ", ".join(_note(machine, item) for item in value[:16])
        note = f"[{inner}, … {len(value):,} items]" if len(value) > 16 else f"[{inner}]"
    elif type(value) is Span and value.kind != "bytes" and value.length <= _LONGEST_NOTE * 4:
        note = machine.text(value, errors="backslashreplace")
    elif type(value) is Span:
        note = f"{value.length:,} bytes"
    elif isinstance(value, list | tuple | dict) and value and type(value) is not Unbuilt:
        note = kind_of(value)
    else:
        note = str(value)
    return note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…"
