"""Raw text from files: plain text, JSON lines, either compressed with gzip or zstandard; read as a stream of lines.

First step of :mod:`..corpus.prepare`. A document comes as its paragraphs and then None: memory does not grow with its
length. A line is held whole, and :data:`LONGEST_LINE` bounds it. Plain files can be read from one byte to another.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...converters.errors import ConvertError, FormatError
from ...models.processes.frameworks import MissingPackageError, is_installed
from ...models.text.tokenizer import half_pair

#: Bytes of the longest line; a line is held in memory, with its tokens, all at once.
LONGEST_LINE = 8 << 20

FORMATS = ("auto", "text", "jsonl")
_COMPRESSED = (".gz", ".zst")
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextFormat:
    """How files are to be read.

    Attributes:
        format: ``text`` (a blank line between documents), ``jsonl`` (one object a line), or ``auto``: JSON lines where
            the name ends in .jsonl, .ndjson or .json (before .gz or .zst), else text.
        fields: The members of JSON lines that hold the text, each a paragraph or several.
    """

    format: str = "auto"
    fields: tuple[str, ...] = ("text",)

    def is_json_lines(self, path: Path) -> bool:
        """Tell whether ``path`` is read as JSON lines."""
        if self.format != "auto":
            return self.format == "jsonl"
        suffixes = [suffix.lower() for suffix in path.suffixes]
        while suffixes and suffixes[-1] in _COMPRESSED:
            suffixes.pop()
        return bool(suffixes) and suffixes[-1] in _JSON_LINES


def is_compressed(path: Path) -> bool:
    """Tell by its name whether a file can only be read from its beginning."""
    return path.suffix.lower() in _COMPRESSED


def expand(inputs: Sequence[Path | str]) -> list[Path]:
    """Find the files that inputs name: files, directories (every file below them), or patterns with ``*``.

    The files of one input come sorted by path; a file named twice counts once.

    Raises:
        ConvertError: An input that names no file.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(
                file for file in path.rglob("*")
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )  # fmt: skip
        else:
            files = sorted(Path(name) for name in glob.glob(str(item), recursive=True) if os.path.isfile(name))
        if not files:
            raise ConvertError(
                f"{item}: no such file, and no file matches it as a pattern",
                "Name text files, a directory of them, or a pattern in quotes: 'news/*.txt.gz'.",
            )
        for file in files:
            if not file.name.isprintable() or half_pair(str(file)):
                raise ConvertError(f"{str(file)!a}: its name is not printable text", "Rename the file.")
        found.update(dict.fromkeys(files))
    return list(found)


class LineReader:
    """Lines of a file as bytes, without their ends, and where each began.

    Attributes:
        path: The file.
        position: Bytes read so far; of a compressed file, bytes of the text within.
        progress: Bytes of the file itself that were read so far.
    """

    def __init__(self, path: Path, start: int = 0, stop: int | None = None) -> None:
        self.path = path
        self.position = start
        self.line_start = start
        self._start = start
        self._stop = stop
        self._compressed = is_compressed(path)

    def __iter__(self) -> Iterator[bytes]:
        try:
            with open(self.path, "rb") as raw:
                self._raw = raw
                raw.seek(self._start)
                with _decompressed(self.path, raw) as file:
                    yield from self._lines(file)
        except (OSError, EOFError, zlib.error) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise FormatError(
                self.path,
                f"{'damaged or truncated' if self._compressed else 'cannot be read'}: {what}{self._within()}",
                offset=self.position if self._compressed else None,
            ) from None

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        while self._stop is None or self.position < self._stop:
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            self.line_start = self.position
            if len(line) > LONGEST_LINE:
                raise FormatError(
                    self.path,
                    f"a line of more than {LONGEST_LINE:,} bytes{self._within()}",
                    offset=self.line_start,
                    next_step="Break it into lines; a blank line ends a document.",
                )
            self.position += len(line)
            if self.line_start == 0 and line.startswith(_MARK):
                line = line[len(_MARK) :]
                self.line_start = len(_MARK)
            yield line.rstrip(b"\r\n")

    @property
    def progress(self) -> int:
        """Bytes of the file itself read so far."""
        return self._raw.tell() if self._compressed else self.position - self._start

    def _within(self) -> str:
        return " (bytes of the text within)" if self._compressed else ""

    def decode(self, line: bytes) -> str:
        """Turn the line read last into text.

        Raises:
            FormatError: It is not UTF-8.
        """
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                self.path,
                f"not UTF-8 text: byte 0x{line[error.start]:02x}{self._within()}",
                offset=self.line_start + error.start,
                next_step="Convert it first, for example: iconv -f GB18030 -t UTF-8",
            ) from None


def _decompressed(path: Path, raw: IO[bytes]) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if suffix == ".zst":
        if not is_installed("zstandard"):
            raise MissingPackageError(f"{path} is compressed with zstandard; reading it", {"zstandard": "pretrain"})
        return io.BufferedReader(_ZstandardStream(raw), 1 << 18)
    return raw


class _ZstandardStream(io.RawIOBase):
    """The frames of a zstandard file, one behind another; the library's own reader takes a cut file for a whole one."""

    # a block of 128 KiB can be as short as 4 bytes: few are fed at a time, so that no file can fill the memory
    _FEED_BYTES = 1 << 10

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__()
        import zstandard

        self._error: type[Exception] = zstandard.ZstdError
        self._frames = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._raw = raw
        self._input = b""
        self._output = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Decompress at least a byte into ``buffer``, unless the file is at its end."""
        while not self._output:
            data = self._input or self._raw.read(self._FEED_BYTES)
            self._input = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends in the middle of a frame")
                return 0
            try:
                self._frame = self._frame or self._frames.decompressobj()
                self._output = self._frame.decompress(data)
            except self._error as error:
                raise OSError(str(error)) from None
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


def paragraphs(reader: LineReader, text_format: TextFormat) -> Iterator[str | None]:
    """Yield the paragraphs of each document, and None behind each document; neither blank ones nor empty documents.

    Raises:
        FormatError: Not UTF-8, not JSON, a field that is missing or no text, a line that is too long.
    """
    if text_format.is_json_lines(reader.path):
        yield from _json_paragraphs(reader, text_format.fields)
        return
    inside = False
    for line in reader:
        text = reader.decode(line).strip()
        if text:
            yield text
            inside = True
        elif inside:
            yield None
            inside = False
    if inside:
        yield None


def _json_paragraphs(reader: LineReader, fields: Sequence[str]) -> Iterator[str | None]:
    for line in reader:
        if not line.strip():
            continue
        inside = False
        for text in _fields(reader, line, fields):
            for part in text.splitlines():
                if part := part.strip():
                    yield part
                    inside = True
        if inside:
            yield None


def _fields(reader: LineReader, line: bytes, fields: Sequence[str]) -> list[str]:
    try:
        found = json.loads(reader.decode(line))
    except (ValueError, RecursionError) as error:
        raise FormatError(reader.path, f"not a JSON line: {error}", offset=reader.line_start) from None
    if not isinstance(found, dict):
        what = f"a JSON {type(found).__name__}, want an object with the field {fields[0]!r}"
        raise FormatError(reader.path, what, offset=reader.line_start)
    texts = []
    for name in fields:
        value = found.get(name)
        if value is None and name in found:
            continue  # null: this record has none
        if not isinstance(value, str):
            kind = "missing" if value is None else f"of type {type(value).__name__}"
            raise FormatError(
                reader.path,
                f"field {name!r} is {kind}, want text; the line has {', '.join(map(repr, list(found)[:8]))}",
                offset=reader.line_start,
                next_step="Name the field that holds the text with --field.",
            )
        wrong = half_pair(value)
        if wrong:  # JSON can spell it
            raise FormatError(reader.path, f"field {name!r} holds {wrong}", offset=reader.line_start)
        texts.append(value)
    return texts
