"""A pickle machine that indexes: it follows a pickle's opcodes and never imports, never calls, never copies a payload.

``.pdparams`` and ``.bin`` files are pickles, and a pickle is a program: ``pickle.load``, ``paddle.load`` and
``torch.load`` run whatever it names. This machine knows the opcodes that make data, and a table of globals given by
its caller. A global is a symbol here (:class:`Global`); where the pickle would call it, the caller's own handler is
given the arguments and answers with a description of what would have been made. What a name outside the table would
make is an :class:`Unbuilt`, and other things that are not read an :class:`OpaqueLeaf`: a training program's own objects
lie beside the tensors, and nobody here needs them. Text and bytes stay in the file as a :class:`Span` until somebody
asks for them, so that an index of half a gigabyte costs milliseconds and no memory.

Everything is bounded: lengths by the file, opcodes by :data:`MAX_OPCODES`, decoded text by :data:`MAX_TEXT`. Nothing
recurses, and of what a pickle made only text is ever hashed, so that nesting costs nothing and no keys can be made to
collide.

Source: CPython's Lib/pickletools.py (what each opcode means) and Lib/pickle.py (stack, marks and memo).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ...errors import FETCH_AGAIN, FormatError, quoted
from ...tensors.stored import OpenFiles

#: A tensor takes about 30 opcodes, so this is some 33,000 tensors; a hostile file gets a second of time at the most.
MAX_OPCODES = 1_000_000
#: Bytes of text (names, keys) that are decoded from one pickle, and from one string.
MAX_TEXT = 32 << 20
MAX_NAME = 4096
#: Bytes of one integer; Python's own conversion of longer ones to text takes quadratic time.
MAX_INTEGER = 256

_WINDOW = 4096


@dataclass(slots=True, eq=False)
class Span:
    """Text or bytes left where they are.

    Attributes:
        offset: First byte, in the file.
        length: Bytes stored.
        kind: ``"bytes"``, ``"text"`` (UTF-8) or ``"string"`` (Python 2's ``str``, which may be either).
    """

    offset: int
    length: int
    kind: str


@dataclass(slots=True, eq=False)
class Global:
    """A name the pickle would import, whether or not it is in the caller's table."""

    module: str
    name: str

    def __str__(self) -> str:
        named = f"{self.module}.{self.name}"
        return named if len(named) < 200 and named.replace(".", "_").isidentifier() else quoted(named)


class OpaqueLeaf:
    """Something that is there and not read: ``str()`` says what it is."""

    __slots__ = ("note",)

    def __init__(self, note: str) -> None:
        self.note = note

    def __str__(self) -> str:
        return self.note


class Buildable:
    """What a handler answers when the pickle may hand the made object a state (BUILD) afterwards."""

    def set_state(self, machine: PickleMachine, state: object) -> None:
        """Take the state, or raise :class:`FormatError` through ``machine.fail``."""
        raise NotImplementedError


class Unbuilt(dict[str, object], Buildable):
    """An object that was not made, because no name of the caller's table makes it, and what the pickle puts into it.

    A state dict may be an attribute of somebody's own class. As a dict it holds items, under their keys or numbers.

    Attributes:
        maker: What the pickle calls for it.
        fields: Further objects that hold its attributes or a class's arguments: dicts, tuples. They are not copied, for
            a pickle may give one to any number of objects.
        arguments: What a function was to be called with. Its dicts and objects are parts of the result as likely as
            not (a compiled module is made of the module); of a tensor nobody knows what becomes of it.
    """

    __slots__ = ("arguments", "fields", "maker")

    def __init__(self, maker: Global | str, fields: object = (), arguments: object = ()) -> None:
        super().__init__()
        self.maker = maker
        self.fields: list[object] = [fields]
        self.arguments = arguments

    def __str__(self) -> str:
        return f"what {self.maker} makes, which was not run"

    def set_state(self, machine: PickleMachine, state: object) -> None:
        """Take attributes: a dict of them, or a pair of dicts where a class has slots. Any other state is unread."""
        self.fields.extend(state if type(state) is tuple and len(state) == 2 else (state,))


#: Answers for one call of an allowed global: (the machine, the call's arguments) → a description of the result, or
#: NotImplemented where it is called in another way than it knows: then the object is not made.
Handler = Callable[["PickleMachine", "tuple[object, ...]"], object]
#: (module, name) → its handler, or None for a global that may be named but not called (a type).
Allowed = Mapping["tuple[str, str]", "Handler | None"]


class PickleMachine:
    """Follow one pickle.

    Args:
        path: The file.
        files: Where it is (or will be) open.
        start, end: The bytes that belong to the pickle, or to whatever it is the beginning of.
        allowed: The globals that mean something here.
        persistent: Answers for a persistent id (torch's storages); without it they are refused.
        string_encoding: How the reader that the file was written for decodes Python 2's ``str``.
        strict: Refuse any other global, in a pickle that holds no state dict.
    """

    def __init__(
        self,
        path: Path,
        files: OpenFiles,
        start: int,
        end: int,
        allowed: Allowed,
        *,
        persistent: Callable[[PickleMachine, object], object] | None = None,
        string_encoding: str = "utf-8",
        strict: bool = False,
    ) -> None:
        self.path = path
        #: Where the next opcode is read; after :meth:`run`, the first byte behind the pickle.
        self.position = start
        #: Where the current opcode lies.
        self.offset = start
        #: Opcodes followed.
        self.opcodes = 0
        self._files = files
        self._end = end
        self._allowed = allowed
        self._persistent = persistent
        self._string_encoding = string_encoding
        self._strict = strict
        self._window = b""
        self._window_start = start
        self._text_left = MAX_TEXT
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Follow the opcodes up to STOP and return what the pickle describes.

        Dicts come back with text keys (numbers in decimal), lists, tuples and numbers as themselves, text and bytes as
        :class:`Span`, and calls as what their handlers answered, or as :class:`Unbuilt`.

        Raises:
            FormatError: Anything but a complete pickle.
        """
        while self.opcodes < MAX_OPCODES:
            self.opcodes += 1
            self.offset = self.position
            code = self._take(1)[0]
            if code == _STOP:
                if self._marks or len(self._stack) != 1:
                    self.fail(
                        f"the pickle stops with {len(self._stack)} objects and {len(self._marks)} marks, want one"
                    )
                return self._stack[0]
            action = _ACTIONS.get(code)
            if action is None:
                self.fail(f"{_REFUSED.get(code) or f'byte {code:#04x} is not a pickle opcode'}")
            action(self)
        self.fail(f"more than {MAX_OPCODES:,} pickle opcodes: a state dict takes some 30 for each tensor")

    # What handlers may ask for.

    def fail(self, what: str, next_step: str | None = None) -> NoReturn:
        """Raise a :class:`FormatError` that names the file and the current opcode's place."""
        raise FormatError(self.path, what, offset=self.offset, next_step=next_step)

    def text(self, value: object, what: str = "text", *, errors: str = "strict") -> str:
        """Read a short text that the pickle gave.

        Args:
            value: What the pickle gave.
            what: What was expected, for an error.
            errors: What becomes of bytes that are no text, as ``bytes.decode`` has it.
        """
        if type(value) is not Span or value.kind == "bytes":
            self.fail(f"{kind_of(value)} stands where {what} is wanted")
        if value.length > MAX_NAME:
            self.fail(f"{value.length:,} bytes of text stand where {what} is wanted, at most {MAX_NAME:,} are read")
        self._text_left -= value.length
        if self._text_left < 0:
            self.fail(f"more than {MAX_TEXT:,} bytes of names in one pickle")
        try:
            return self._read(value).decode("utf-8" if value.kind == "text" else self._string_encoding, errors)
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not valid {error.encoding}")

    def content(self, value: Span, limit: int) -> bytes:
        """Read the bytes of a span of at most ``limit`` bytes."""
        if value.length > limit:
            self.fail(f"{value.length:,} bytes stand where at most {limit} are wanted")
        return self._read(value)

    def size(self, value: object, what: str, *, most: int = (1 << 63) - 1) -> int:
        """Return a count that the pickle gave: an integer from 0 to ``most``."""
        if type(value) is not int:
            self.fail(f"{kind_of(value)} stands where {what} is wanted")
        if not 0 <= value <= most:
            self.fail(f"{what} is {value}, want 0 to {most:,}")
        return value

    def sizes(self, value: object, what: str) -> tuple[int, ...]:
        """Return a shape (or strides) that the pickle gave: a tuple of at most 32 counts."""
        if type(value) is not tuple:
            self.fail(f"{kind_of(value)} stands where {what} is wanted")
        if len(value) > 32:
            self.fail(f"{what} has {len(value):,} dimensions, at most 32 are read")
        return tuple(self.size(item, what) for item in value)

    def set_item(self, target: dict[str, object], key: object, value: object) -> None:
        """Put a value into a dict under the text of its key, once; an object that is not made may have it already."""
        name = self._key(key, target)
        if name in target and type(target) is not Unbuilt:
            self.fail(f"a dict holds the key {quoted(name)} twice")
        target[name] = value

    # The window on the file.

    def _read(self, span: Span) -> bytes:
        start = span.offset - self._window_start
        if start >= 0 and start + span.length <= len(self._window):
            return self._window[start : start + span.length]
        content = bytearray(span.length)
        self._files.read_into(self.path, span.offset, memoryview(content))
        return bytes(content)

    def _fill(self, count: int) -> None:
        """Move the window to the position, so that it holds at least ``count`` bytes from there."""
        left = self._end - self.position
        if count > left:
            self.fail(f"the pickle is cut short: {count:,} bytes wanted, {max(left, 0):,} left", FETCH_AGAIN)
        content = bytearray(min(max(count, _WINDOW), left))
        self._files.read_into(self.path, self.position, memoryview(content))
        self._window, self._window_start = bytes(content), self.position

    def _take(self, count: int) -> bytes:
        start = self.position - self._window_start
        if start + count > len(self._window):
            self._fill(count)
            start = 0
        self.position += count
        return self._window[start : start + count]

    def _line(self) -> str:
        limit = min(512, self._end - self.position)
        if self.position - self._window_start + limit > len(self._window):
            self._fill(limit)
        start = self.position - self._window_start
        stop = self._window.find(b"\n", start, start + limit)
        if stop < 0:
            self.fail("the name of a global does not end within 512 bytes")
        line = self._window[start:stop]
        self.position += stop - start + 1
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self.fail("the name of a global is not valid UTF-8")

    # The stack.

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self.fail("the pickle takes an object off an empty stack")
        return self._stack.pop()

    def _top(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self.fail("the pickle uses an object of an empty stack")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[object]:
        if not self._marks:
            self.fail("the pickle uses a mark that it did not set")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _key(self, value: object, target: dict[str, object]) -> str:
        """Turn a dict key into text: Python salts the hashes of text alone, so a file cannot make text keys collide.

        A key that is neither a short text nor a number is no tensor's name; it is called by its kind and its place.
        """
        if type(value) is Span and value.kind != "bytes" and value.length <= MAX_NAME:
            return self.text(value, "a dict key", errors="backslashreplace")
        if value is None or type(value) in (int, float, bool):
            return str(value)
        return f"<{kind_of(value)} {len(target)}>"

    def _set_items(self, items: list[object]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            self.fail(f"the pickle sets an item of {kind_of(target)}")
        if len(items) % 2:
            self.fail("the pickle sets a dict item that has a key and no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set_item(target, key, value)

    def _append(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is Unbuilt:
            target.update({str(number): item for number, item in enumerate(items, len(target))})
            return
        if type(target) is not list:
            self.fail(f"the pickle appends to {kind_of(target)}")
        target.extend(items)

    # Opcodes with more to them than one expression.

    def _span(self, length_bytes: int, kind: str, *, signed: bool = False) -> None:
        length = int.from_bytes(self._take(length_bytes), "little", signed=signed)
        left = self._end - self.position
        if not 0 <= length <= left:
            self.fail(f"the pickle is cut short: {kind} of {length:,} bytes, {left:,} left in the file", FETCH_AGAIN)
        self._stack.append(Span(self.position, length, kind))
        self.position += length

    def _frame(self) -> None:
        length = int.from_bytes(self._take(8), "little")
        left = self._end - self.position
        if length > left:
            self.fail(f"the pickle is cut short: a frame of {length:,} bytes, {left:,} left in the file", FETCH_AGAIN)

    def _protocol(self) -> None:
        protocol = self._take(1)[0]
        if protocol > 5:
            self.fail(f"pickle protocol {protocol}, at most 5 is read")

    def _integer(self, length: int) -> None:
        if length <= MAX_INTEGER:
            if length < 0:
                self.fail(f"an integer of {length} bytes")
            self._stack.append(int.from_bytes(self._take(length), "little", signed=True))
            return
        left = self._end - self.position
        if length > left:
            self.fail(f"the pickle is cut short: an integer of {length:,} bytes, {left:,} left", FETCH_AGAIN)
        self._stack.append(OpaqueLeaf(f"an integer of {length:,} bytes"))
        self.position += length

    def _pop_one(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _put(self, slot: int) -> None:
        if slot >= MAX_OPCODES:
            self.fail(f"memo slot {slot:,}, at most {MAX_OPCODES:,} are allowed")
        self._memo[slot] = self._top()

    def _get(self, slot: int) -> None:
        try:
            self._stack.append(self._memo[slot])
        except KeyError:
            self.fail(f"memo slot {slot:,} is read and was never written")

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def _name_global(self, module: str, name: str) -> None:
        if self._strict and (module, name) not in self._allowed:
            self.fail(
                f"the pickle names {Global(module, name)}, which would run code; it was not run",
                "Weights alone need no such name. Load the file only with software that you trust it to, and save the"
                " plain state dict.",
            )
        self._stack.append(Global(module, name))

    def _stack_global(self) -> None:
        name = self._pop()
        module = self._pop()
        self._name_global(self.text(module, "a module's name"), self.text(name, "a global's name"))

    def _reduce(self) -> None:
        arguments = self._pop()
        called = self._pop()
        self._call(called, arguments)

    def _make(self) -> None:
        """Answer for NEWOBJ, ``cls.__new__(cls, *arguments)``: of an unknown class the arguments are its fields."""
        arguments = self._pop()
        called = self._pop()
        self._call(called, arguments, fields=arguments)

    def _make_with_keywords(self) -> None:
        keywords = self._pop()
        arguments = self._pop()
        called = self._pop()
        if not isinstance(keywords, dict):
            self.fail(f"the pickle makes an object with {kind_of(keywords)} for keywords")
        self._call(called, arguments, fields=keywords, known=False)

    def _make_old(self) -> None:
        """Answer for OBJ: a class and its arguments, behind a mark."""
        items = self._pop_to_mark()
        if not items:
            self.fail("the pickle makes an object of no class")
        self._call(items[0], tuple(items[1:]), fields=items[1:], known=False)

    def _call(self, called: object, arguments: object, *, fields: object = (), known: bool = True) -> None:
        """Put on the stack what a call would have made.

        Args:
            called: What is called.
            arguments: With which arguments.
            fields: What an object that is not made holds at first.
            known: Whether a handler of the table may answer.
        """
        if not isinstance(called, Global | Unbuilt):
            self.fail(f"the pickle calls {kind_of(called)}; nothing was called")
        if type(arguments) is not tuple:
            self.fail(f"the pickle calls {called} with {kind_of(arguments)} for arguments")
        if type(called) is Global and (called.module, called.name) in self._allowed and known:
            handler = self._allowed[called.module, called.name]
            answer = NotImplemented if handler is None else handler(self, arguments)
            if answer is not NotImplemented:
                self._stack.append(answer)
                return
        maker = called.maker if isinstance(called, Unbuilt) else called
        self._stack.append(Unbuilt(maker, fields, () if fields else arguments))

    def _build(self) -> None:
        state = self._pop()
        built = self._top()
        if not isinstance(built, Buildable):
            self.fail(f"the pickle sets the state of {kind_of(built)}")
        built.set_state(self, state)

    def _persistent_id(self) -> None:
        if self._persistent is None:
            self.fail("a persistent id, which files of this kind do not have")
        self._stack.append(self._persistent(self, self._pop()))

    def _instance(self) -> None:
        """Answer for INST: the class is named here, its arguments lie behind a mark."""
        module = self._line()
        self._name_global(module, self._line())
        called = self._pop()
        arguments = tuple(self._pop_to_mark())
        self._call(called, arguments, fields=arguments, known=False)


def named_items(value: object) -> Iterator[tuple[str, object]]:
    """Give what a dict, a list or a tuple holds under its key or number; nothing else holds anything."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from ((str(number), item) for number, item in enumerate(value))


def kind_of(value: object) -> str:
    """Say in two or three words what the pickle put somewhere; never looks inside, so that no size or depth matters."""
    if type(value) is Span:
        return "bytes" if value.kind == "bytes" else "text"
    if type(value) is Global:
        return str(value)
    if value is None:
        return "None"
    if type(value) is Unbuilt:
        return str(value)
    words = {bool: "a truth value", int: "a number", float: "a number", list: "a list", tuple: "a tuple"}
    return words.get(type(value)) or ("a dict" if isinstance(value, dict) else str(value))


def _unsigned(machine: PickleMachine, length: int) -> int:
    return int.from_bytes(machine._take(length), "little")


def _push(make: Callable[[PickleMachine], object]) -> Callable[[PickleMachine], None]:
    def action(machine: PickleMachine) -> None:
        machine._stack.append(make(machine))

    return action


def _last(count: int) -> Callable[[PickleMachine], object]:
    def make(machine: PickleMachine) -> object:
        return tuple([machine._pop() for _ in range(count)][::-1])

    return make


_STOP = ord(".")

# fmt: off
_ACTIONS: dict[int, Callable[[PickleMachine], None]] = {
    0x80: lambda m: m._protocol(),
    0x95: lambda m: m._frame(),
    ord("("): lambda m: m._marks.append(len(m._stack)),
    ord("0"): lambda m: m._pop_one(),
    ord("1"): lambda m: m._pop_to_mark().clear(),                       # POP_MARK
    ord("2"): _push(lambda m: m._top()),                                # DUP
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("K"): _push(lambda m: m._take(1)[0]),                           # BININT1
    ord("M"): _push(lambda m: _unsigned(m, 2)),                         # BININT2
    ord("J"): _push(lambda m: int.from_bytes(m._take(4), "little", signed=True)),
    0x8A: lambda m: m._integer(_unsigned(m, 1)),                        # LONG1
    0x8B: lambda m: m._integer(int.from_bytes(m._take(4), "little", signed=True)),
    ord("G"): _push(lambda m: struct.unpack(">d", m._take(8))[0]),      # BINFLOAT
    0x8C: lambda m: m._span(1, "text"),                                 # SHORT_BINUNICODE
    ord("X"): lambda m: m._span(4, "text"),                             # BINUNICODE
    0x8D: lambda m: m._span(8, "text"),                                 # BINUNICODE8
    ord("U"): lambda m: m._span(1, "string"),                           # SHORT_BINSTRING
    ord("T"): lambda m: m._span(4, "string", signed=True),              # BINSTRING
    ord("C"): lambda m: m._span(1, "bytes"),                            # SHORT_BINBYTES
    ord("B"): lambda m: m._span(4, "bytes"),                            # BINBYTES
    0x8E: lambda m: m._span(8, "bytes"),                                # BINBYTES8
    0x96: lambda m: m._span(8, "bytes"),                                # BYTEARRAY8
    ord(")"): _push(lambda m: ()),
    0x85: _push(_last(1)),
    0x86: _push(_last(2)),
    0x87: _push(_last(3)),
    ord("t"): _push(lambda m: tuple(m._pop_to_mark())),
    ord("]"): _push(lambda m: []),
    ord("l"): _push(lambda m: m._pop_to_mark()),                        # LIST
    ord("a"): lambda m: m._append([m._pop()]),
    ord("e"): lambda m: m._append(m._pop_to_mark()),
    0x8F: _push(lambda m: []),                                          # EMPTY_SET: a list describes it as well
    0x90: lambda m: m._append(m._pop_to_mark()),                        # ADDITEMS
    0x91: _push(lambda m: tuple(m._pop_to_mark())),                     # FROZENSET
    ord("}"): _push(lambda m: {}),
    ord("d"): lambda m: m._dict(),
    ord("s"): lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    ord("u"): lambda m: m._set_items(m._pop_to_mark()),
    ord("q"): lambda m: m._put(_unsigned(m, 1)),                        # BINPUT
    ord("r"): lambda m: m._put(_unsigned(m, 4)),                        # LONG_BINPUT
    0x94: lambda m: m._put(len(m._memo)),                               # MEMOIZE
    ord("h"): lambda m: m._get(_unsigned(m, 1)),                        # BINGET
    ord("j"): lambda m: m._get(_unsigned(m, 4)),                        # LONG_BINGET
    ord("c"): lambda m: m._name_global(m._line(), m._line()),           # GLOBAL
    0x93: lambda m: m._stack_global(),
    ord("R"): lambda m: m._reduce(),
    0x81: lambda m: m._make(),                                          # NEWOBJ
    0x92: lambda m: m._make_with_keywords(),                            # NEWOBJ_EX
    ord("o"): lambda m: m._make_old(),                                  # OBJ
    ord("b"): lambda m: m._build(),
    ord("Q"): lambda m: m._persistent_id(),
    ord("i"): lambda m: m._instance(),
    0x97: _push(lambda m: OpaqueLeaf("a buffer that was kept outside the file (protocol 5)")),  # NEXT_BUFFER
    0x98: lambda m: m._stack.append(m._pop()),                          # READONLY_BUFFER: the same one
}
_TEXT_OPCODE = "a text opcode of pickle protocol 0, which holds no tensors; save the file with protocol 2 or later"
_EXTENSION = "a code of the copyreg extension registry, which stands for a global that the file does not name"
_REFUSED = {
    **{ord(code): _TEXT_OPCODE for code in "ILFSVgpP"},
    **dict.fromkeys((130, 131, 132), _EXTENSION),
}
# fmt: on
