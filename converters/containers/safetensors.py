"""safetensors files: a JSON header in front of contiguous little-endian payloads.

``index`` refuses whatever the safetensors library refuses, and a little more: names given twice, fields the format does
not have, numbers that no array can have. The header is read by a scanner of its own whose grammar is the format's and
no wider, so that nesting cannot recurse and a header of junk cannot grow into a heap of Python objects. ``lay_out``
puts the tensors in the library's own order.

Source: README.md ("Format") and safetensors/src/tensor.rs of https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FETCH_AGAIN, FormatError, quoted, reading
from ..tensors.stored import ITEMSIZE, Extent, FileLayout, Fragment, Index, NewTensor, Slot, StoredTensor

#: The format's word for each dtype, in the order in which the library lays dtypes out: widest elements first.
_WORDS = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# PaddleNLP saves bfloat16 through numpy, which has none, as its bits: no weight of a model is an unsigned integer
_DTYPES = {word: dtype for dtype, word in _WORDS.items()} | {"U16": "bfloat16"}
_RANKS = {dtype: rank for rank, dtype in enumerate(_WORDS)}

_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")

#: Source: MAX_HEADER_SIZE in the library's tensor.rs.
_MAX_HEADER_BYTES = 100_000_000

#: Limits of ours, so that an index stays small in memory. HDF5, and numpy before 2.0, have 32 axes at most.
_MAX_ENTRIES = 100_000
_MAX_AXES = 32
_MAX_SIZE = 2**63 - 1

#: Payloads start at a multiple of this many bytes, a cache line. The library wants 8; the spaces in front are free.
_ALIGNMENT = 64

#: The next step for a file that no release of the library writes.
_DAMAGED = "It is damaged, or was put together by hand: fetch it again, or save it again with safetensors."


def index(path: Path) -> Index:
    """Read the header of ``path`` and check every tensor's extent against the file; no payload is read.

    Raises:
        FormatError: The header is too long, is no JSON of the format's shape, or does not cover the file exactly; a
            name occurs twice; a dtype is not one that we convert.
    """
    with reading(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(path, "not a regular file")
        with open(path, "rb") as file:
            prefix = file.read(_LENGTH.size)
            header_bytes = _header_bytes(path, prefix, status.st_size)
            header = file.read(header_bytes)
    if len(header) < header_bytes:
        what = f"the file ends inside its header of {header_bytes:,} bytes"
        raise FormatError(path, what, next_step=FETCH_AGAIN)
    described, metadata = _Scanner(path, header).header()
    payload = _LENGTH.size + header_bytes
    _check_cover(path, described, payload, status.st_size)
    tensors = (
        StoredTensor(each.name, each.dtype, each.shape, Extent(path, payload + each.begin, each.end - each.begin))
        for each in described
    )
    return _with_second_names({tensor.name: tensor for tensor in tensors}, metadata)


def _with_second_names(tensors: dict[str, StoredTensor], metadata: dict[str, str]) -> Index:
    """Give a tensor of several names all of them: ``save_model`` keeps the first one and notes the others beside it.

    Source: safetensors 0.8.0, safetensors/torch.py, save_model: ``metadata[to_remove_name] = kept_name``.
    """
    second = {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}
    others = (replace(tensors[kept], name=name) for name, kept in second.items())
    rest = {name: text for name, text in metadata.items() if name not in second}
    return Index((*tensors.values(), *others), rest)


def _header_bytes(path: Path, prefix: bytes, file_bytes: int) -> int:
    if len(prefix) < _LENGTH.size:
        what = f"the file has {len(prefix)} bytes, its header length alone takes {_LENGTH.size}"
        raise FormatError(path, what, next_step=FETCH_AGAIN)
    (header_bytes,) = _LENGTH.unpack(prefix)
    if header_bytes > _MAX_HEADER_BYTES:
        raise FormatError(
            path,
            f"header length {header_bytes:,} is above the format's limit of {_MAX_HEADER_BYTES:,}",
            offset=0,
            next_step=_DAMAGED,
        )
    if header_bytes > file_bytes - _LENGTH.size:
        what = f"header length {header_bytes:,} is more than the file of {file_bytes:,} bytes holds"
        raise FormatError(path, what, next_step=FETCH_AGAIN)
    return int(header_bytes)


@dataclass(frozen=True)
class _Described:
    """A tensor as the header describes it; ``begin`` and ``end`` count from the start of the payloads."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _check_cover(path: Path, described: list[_Described], payload: int, file_bytes: int) -> None:
    """Sort ``described`` by offset and check that it covers the file with no overlap, hole or rest."""
    described.sort(key=lambda each: (each.begin, each.end))
    end = 0
    for each in described:
        where = f"tensor {quoted(each.name)}"
        if each.begin != end:
            fault = "overlaps the tensor before it" if each.begin < end else "leaves a hole before it"
            what = f"{where} {fault}: it begins at {each.begin:,}, wanted {end:,}"
            raise FormatError(path, what, offset=payload + end, next_step=_DAMAGED)
        wanted = _size(path, each) * ITEMSIZE[each.dtype]
        if each.end - each.begin != wanted:
            raise FormatError(
                path,
                f"{where} has data_offsets [{each.begin}, {each.end}], which is {each.end - each.begin:,} bytes; "
                f"{each.dtype} of shape {each.shape} takes {wanted:,}",
                next_step=_DAMAGED,
            )
        end = each.end
    if payload + end != file_bytes:
        what = f"the header accounts for {payload + end:,} bytes, the file has {file_bytes:,}"
        raise FormatError(path, what, next_step=FETCH_AGAIN if payload + end > file_bytes else _DAMAGED)


def _size(path: Path, each: _Described) -> int:
    """Count the elements; the library multiplies from the left and refuses an overflow even where a 0 follows."""
    size = 1
    for axis in each.shape:
        size *= axis
        if size > _MAX_SIZE:
            what = f"tensor {quoted(each.name)} has shape {each.shape}: more than 2^63 - 1 elements"
            raise FormatError(path, what, next_step=_DAMAGED)
    return size


class _Scanner:
    """Reads the header token by token. The format nests three deep, so this grammar does and nothing recurses."""

    _SPACE = re.compile(rb"[ \t\n\r]*")
    _PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
    _NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,19})(?![0-9.eE])")

    def __init__(self, path: Path, text: bytes) -> None:
        self._path = path
        self._text = text
        self._position = 0

    def header(self) -> tuple[list[_Described], dict[str, str]]:
        """Read the whole header: its tensors in the order given, and its metadata."""
        # The library lets space come first, the format does not: the first byte is how a file is recognised.
        if not self._text.startswith(b"{"):
            raise self._wrong("the header does not begin with '{'")
        tensors: list[_Described] = []
        metadata: dict[str, str] = {}
        for name in self._members():
            if name == _METADATA:
                if self._accept_null():
                    continue
                for key in self._members():
                    metadata[key] = self._string()
            else:
                tensors.append(self._tensor(name))
        self._skip_space()
        if self._position < len(self._text):
            raise self._wrong("the header's JSON ends before the header does")
        return tensors, metadata

    def _tensor(self, name: str) -> _Described:
        dtype: str | None = None
        shape: list[int] | None = None
        offsets: list[int] | None = None
        for field in self._members():
            if field == "dtype":
                dtype = self._dtype(name)
            elif field == "shape":
                shape = self._integers(_MAX_AXES, f"tensor {quoted(name)} has more than {_MAX_AXES} axes")
            elif field == "data_offsets":
                offsets = self._integers(2, f"tensor {quoted(name)} has more than two data_offsets")
            else:
                raise self._wrong(f"tensor {quoted(name)} has a field {quoted(field)} that the format does not know")
        if dtype is None or shape is None or offsets is None or len(offsets) != 2:
            raise self._wrong(f"tensor {quoted(name)} needs a dtype, a shape and two data_offsets")
        return _Described(name, dtype, tuple(shape), *offsets)

    def _dtype(self, name: str) -> str:
        word = self._string()
        if word not in _DTYPES:
            raise FormatError(
                self._path,
                f"tensor {quoted(name)} has dtype {quoted(word)}, wanted one of {', '.join(_DTYPES)}",
                next_step="Save the weights as float32, float16 or bfloat16, or start from those that were quantized.",
            )
        return _DTYPES[word]

    def _members(self) -> Iterator[str]:
        """Yield an object's keys, each once, with the position at its value; the caller reads the value in between."""
        seen: set[str] = set()
        self._expect(b"{")
        if self._accept(b"}"):
            return
        while True:
            key = self._string()
            if key in seen:
                raise self._wrong(f"{quoted(key)} is given twice")
            if len(seen) == _MAX_ENTRIES:
                raise self._wrong(f"more than {_MAX_ENTRIES:,} entries")
            seen.add(key)
            self._expect(b":")
            yield key
            if not self._accept(b","):
                self._expect(b"}")
                return

    def _integers(self, most: int, too_many: str) -> list[int]:
        integers: list[int] = []
        self._expect(b"[")
        if self._accept(b"]"):
            return integers
        while True:
            if len(integers) == most:
                raise self._wrong(too_many)
            integers.append(self._integer())
            if not self._accept(b","):
                self._expect(b"]")
                return integers

    def _integer(self) -> int:
        self._skip_space()
        match = self._NUMBER.match(self._text, self._position)
        if match is None or int(match[0]) > _MAX_SIZE:
            raise self._wrong("wanted an integer from 0 to 2^63 - 1")
        self._position = match.end()
        return int(match[0])

    def _string(self) -> str:
        self._expect(b'"')
        start = self._position
        while True:
            match = self._PLAIN.match(self._text, self._position)
            assert match is not None, "the pattern matches an empty string"
            self._position = match.end()
            if self._text[self._position : self._position + 1] != b"\\":
                break
            self._position += 2
        end = self._position
        self._expect(b'"', space=False)
        try:
            # serde_json, the library's parser, refuses half of a surrogate pair, which Python's json lets through.
            text: str = json.loads(f'"{self._text[start:end].decode()}"')
            text.encode()
        except ValueError:
            self._position = start
            raise self._wrong("a string is not valid UTF-8 or has a wrong escape") from None
        return text

    def _skip_space(self) -> None:
        match = self._SPACE.match(self._text, self._position)
        assert match is not None, "the pattern matches an empty string"
        self._position = match.end()

    def _accept(self, token: bytes, *, space: bool = True) -> bool:
        if space:
            self._skip_space()
        if self._text[self._position : self._position + 1] != token:
            return False
        self._position += 1
        return True

    def _accept_null(self) -> bool:
        """Take metadata that is null, as the library does: to its parser that is one way to have none."""
        self._skip_space()
        if not self._text.startswith(b"null", self._position):
            return False
        self._position += len(b"null")
        return True

    def _expect(self, token: bytes, *, space: bool = True) -> None:
        if not self._accept(token, space=space):
            found = self._text[self._position : self._position + 1]
            raise self._wrong(
                f"the header is not the JSON that the format wants: got {found!r}, wanted {token!r}"
                if found
                else f"the header ends where {token!r} is wanted"
            )

    def _wrong(self, what: str) -> FormatError:
        return FormatError(self._path, what, offset=_LENGTH.size + self._position, next_step=_DAMAGED)


def lay_out(filename: str, tensors: Sequence[NewTensor], metadata: dict[str, str]) -> FileLayout:
    """Lay ``tensors`` out in one file, widest elements first, so that each is aligned to its own element.

    The header comes last, and until then its length reads 0, which every reader refuses.

    Raises:
        ValueError: A tensor is an alias (two names for one payload overlap, which the format forbids: the caller leaves
            one out), a name occurs twice or is ``__metadata__``, or the header is above the format's limit.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    extents: list[tuple[str, int, int]] = []
    end = 0
    for tensor in sorted(tensors, key=lambda each: (_RANKS[each.dtype], each.name)):
        if tensor.alias_of is not None:
            raise ValueError(f"{tensor.name} shares the bytes of {tensor.alias_of}: safetensors cannot store that")
        if tensor.name == _METADATA or tensor.name in header:
            raise ValueError(f"safetensors cannot hold a second tensor called {tensor.name}")
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _WORDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        extents.append((tensor.name, begin, end))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _ALIGNMENT)
    if len(text) > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text):,} bytes is above the format's limit of {_MAX_HEADER_BYTES:,}")
    payload = _LENGTH.size + len(text)
    slots = {name: Slot(filename, payload + begin, end - begin) for name, begin, end in extents}
    beginning = Fragment(filename, 0, _LENGTH.pack(len(text)) + text)
    return FileLayout({filename: payload + end}, slots, lambda checksums: [beginning])
