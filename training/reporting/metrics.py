"""``metrics.jsonl``: what a run reports, one JSON object a line, written as it happens and read back whole.

Every object has ``kind`` (``stage``, ``step``, ``evaluation`` or ``fill_mask``) and ``step``; the rest are the fields
of that kind's record (:mod:`.records`). A number that is not finite is null, for JSON has none.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ...converters.errors import ConvertError, FormatError

#: The file in a run's directory.
METRICS = "metrics.jsonl"

#: What a stage's record is read for.
_STAGE_FIELDS = ("stage", "length", "batch_size")

#: What releases before 2026-11-27 called two fields: a run's picture must not lose half its lines without a word.
_RENAMED = {"mlm_loss": "lm_loss", "mlm_accuracy": "lm_accuracy"}

_LONGEST_LINE = 1 << 20  # bytes


class MetricsFile:
    """The file while a run writes it; opened when the first record comes.

    Args:
        path: The file; its directory is made with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[bytes] | None = None

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add a record and hand it to the system, so that a killed run loses none.

        Raises:
            ConvertError: The file cannot be written.
        """
        record = {"kind": kind, **{name: _finite(value) for name, value in fields.items()}}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.path.open("ab", buffering=0)
                self._drop_torn_line()
            self._stream.write(line.encode())
        except OSError as error:
            raise ConvertError(f"{self.path}: {error.strerror or error}", "Make room, then --resume.") from None

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop every record past ``step``, and a line that a killed run left unfinished; the file changes at once.

        A stage that begins after ``step`` steps is past it: a resumed run may begin it elsewhere or otherwise.

        Returns:
            What is left.

        Raises:
            FormatError: Another line is not a record.
            ConvertError: The file cannot be written.
        """
        self.close()
        if not self.path.exists():
            return []
        kept = [record for record in read_metrics(self.path) if record["step"] + (record["kind"] == "stage") <= step]
        beside = self.path.with_name(self.path.name + ".part")
        try:
            with beside.open("wb") as stream:
                for record in kept:
                    stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ConvertError(f"{self.path}: {error.strerror or error}", "Make room, then --resume.") from None
        return kept

    def sync(self) -> None:
        """Force what was written to the disk; before a checkpoint, so that none is newer than its records."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _drop_torn_line(self) -> None:
        # a killed run's unfinished last line: the first record must not be glued to it
        assert self._stream is not None
        with self.path.open("rb") as stream:
            stream.seek(max(0, self._stream.tell() - _LONGEST_LINE))
            start, end = stream.tell(), stream.read()
        if end and not end.endswith(b"\n"):
            self._stream.truncate(start + end.rfind(b"\n") + 1)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read every record; a last line without its end, which a killed run leaves, is passed over.

    Raises:
        ConvertError: The file cannot be read.
        FormatError: A line is not a record of a run.
    """
    try:
        with path.open("rb") as stream:
            return list(_records(path, stream))
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror or error}", "Name the directory of a training run.") from None


def _records(path: Path, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    offset = 0
    while line := stream.readline(_LONGEST_LINE):
        whole = line.endswith(b"\n")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not whole and len(line) < _LONGEST_LINE:
            return
        if not _is_record(record):
            raise FormatError(
                path,
                "this line is not a record of a training run; wanted a JSON object with kind and step",
                offset=offset,
                next_step=f"Remove the line, or name another {METRICS}.",
            )
        yield {_RENAMED.get(name, name): value for name, value in record.items()}
        offset += len(line)


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return False
    counts = ("step", *_STAGE_FIELDS) if record["kind"] == "stage" else ("step",)
    return all(_is_count(record.get(name)) for name in counts)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53  # below: also a float


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
