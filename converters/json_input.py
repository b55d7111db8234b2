"""JSON from an untrusted file: one object, every key once, numbers that are numbers, nothing large or deep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .encodings import Decoded, decode
from .errors import FormatError, reading
from .stand_ins import START_BYTES, stand_in

Json = dict[str, Any]

_LARGEST_FILE = 8 << 20  # bytes; real ones are under 2 kB, a token classification head with many labels 1 MB

_AGAIN = "Correct it, or fetch it again from where the weights are."
_SPELLING = "JSON has double quotes, no comments, and no comma after the last entry: correct that, or fetch it again."


def read_json(path: Path, *, any_encoding: bool = False) -> Json:
    """Read one JSON object from an untrusted file.

    Args:
        path: The file.
        any_encoding: Whether another encoding than UTF-8 is guessed; :func:`encoding_of` names it.

    Raises:
        FormatError: Not readable, not a JSON object, not UTF-8, a key given twice, something that is not a number,
            larger than 8 MiB, or nested too deeply.
    """
    with reading(path):
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            what = f"a JSON file of {size:,} bytes; wanted at most {_LARGEST_FILE:,}"
            raise FormatError(path, what, next_step=_AGAIN)
        content = path.read_bytes()
    instead = stand_in(content[:START_BYTES])
    if instead is not None:
        raise FormatError(path, f"not JSON but {instead.what}", next_step=instead.step)
    if not content.strip():
        raise FormatError(path, "not JSON: an empty file", next_step="Fetch it again, from where the weights are.")
    encoding = "UTF-8"
    try:
        if any_encoding:
            text, encoding, _ = decode(content)
        else:
            text = content.decode("utf-8-sig")
        value = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=finite,
            object_pairs_hook=_once,
        )
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
    except UnicodeDecodeError as error:
        raise FormatError(path, "not UTF-8 text", offset=error.start, next_step=_AGAIN) from None
    except UnicodeEncodeError:
        half = "not JSON: an escape that is half of a surrogate pair"
        raise FormatError(path, half, next_step=_AGAIN) from None
    except (ValueError, RecursionError) as error:
        guessed = "" if encoding == "UTF-8" else f", read as {encoding}, which it looks like"
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        step = _SPELLING if isinstance(error, json.JSONDecodeError) else _AGAIN
        raise FormatError(path, f"not JSON{guessed}: {what}", next_step=step) from None
    if not isinstance(value, dict):
        what = f"holds a JSON {type(value).__name__}; wanted an object of settings"
        raise FormatError(path, what, next_step=_AGAIN)
    return value


def encoding_of(path: Path) -> Decoded:
    """Say in which encoding :func:`read_json` reads a file, UTF-8 in all but strange cases.

    Raises:
        FormatError: It cannot be read.
    """
    with reading(path):
        return decode(path.read_bytes())


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> Json:
    """Refuse a key given twice: of two values each reader believes another."""
    value: Json = {}
    for name, each in pairs:
        if name in value:
            raise ValueError(f"the key {name[:80]!r} is given twice")
        value[name] = each
    return value


def parse_value(text: str) -> Any:
    """Read one JSON value.

    Raises:
        ValueError: It is not one.
    """
    return json.loads(text, parse_constant=refuse_constant, parse_float=finite)
