"""What a corpus is made of, written down before it is made, and its index once it is: ``plan.json``, ``corpus.json``.

A run with the same settings and inputs goes on with what is there; one with others is refused, and told what differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError, FormatError, quoted
from ...converters.target.whole_files import remove_abandoned, write_whole
from ..text.carried_tokenizer import read_tokenizer, tokenizer_files, what_decides
from ..text.files import TextFormat, expand
from ..text.segmentation import load_segmenter, segmenter_version
from .make_shard import Job
from .reading import FORMAT, INDEX, PLAN, VERSION, entry_of, read_index, read_object, shard_name, vocabulary_digest
from .shard_file import ShardHeader, read_header
from .work_units import as_json, describe, from_json, plan_units


def begin(
    inputs: Sequence[Path | str],
    directory: Path,
    tokenizer: Path,
    *,
    segmenter: str,
    fields: Sequence[str],
    file_format: str,
    shard_bytes: int,
) -> tuple[Job, dict[str, Any]]:
    """Make the directory with its plan and tokenizer, or find that it is there and the same.

    Raises:
        ConvertError: As for :func:`.prepare.prepare`.
    """
    if shard_bytes < 1:
        raise ConvertError(f"shards of {shard_bytes:,} bytes; wanted at least 1")
    load_segmenter(segmenter)  # whether it is there, before anything is written
    text_format = TextFormat(file_format, tuple(fields))
    loaded = read_tokenizer(tokenizer)
    paths = expand(inputs)
    for path in paths:
        if directory.resolve() in path.resolve().parents:
            raise ConvertError(f"{directory}: the output holds the input {path}", "Name another output with -o.")
    found = [describe(path) for path in paths]
    plan: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "vocabulary_digest": vocabulary_digest(loaded),
        "vocabulary_size": loaded.size,
        "settings": {
            "segmenter": segmenter_version(segmenter),
            "file_format": file_format,
            "fields": list(fields),
            "shard_bytes": shard_bytes,
            **what_decides(loaded.settings),
        },
        "inputs": [asdict(item) for item in found],
    }
    known = _known_plan(directory)
    if known is None:
        units = plan_units(found, text_format, shard_bytes)
        plan["units"] = as_json(units)
        plan["corpus"] = _identity(plan)
        _make_directory(directory)
        for name, data in tokenizer_files(loaded).items():
            write_whole(directory / name, data)
        write_whole(directory / PLAN, _dump(plan))
        known = _known_plan(directory)  # of several workers that begin at once, the last one's counts for all
        assert known is not None
    _refuse_changes(directory, known, plan)
    plan = known
    try:
        units = from_json(plan["units"])
        if plan["corpus"] != _identity(plan):
            raise ValueError("its identity does not match its contents")
    except (KeyError, TypeError, ValueError) as error:
        path = directory / (INDEX if "shards" in plan else PLAN)
        raise FormatError(path, f"damaged: {error}", next_step=f"Remove {directory}, and prepare again.") from None
    job = Job(directory, segmenter, text_format, tuple(found), tuple(units), plan["corpus"], loaded.size)
    return job, plan


def finish(job: Job, plan: dict[str, Any], headers: Sequence[ShardHeader]) -> bool:
    """Write the index, once every shard is there; tell whether it is.

    Raises:
        ConvertError: There is no text in any of them.
    """
    if len(headers) < len(job.units):
        return False
    if not any(header.documents for header in headers):
        raise ConvertError(
            f"{job.directory}: no text in {len(job.inputs)} input{'s' * (len(job.inputs) != 1)}",
            "Name other inputs, or the field of the JSON lines with --field.",
        )
    index = {**plan, "shards": [entry_of(header) for header in headers]}
    write_whole(job.directory / INDEX, _dump(index))
    with contextlib.suppress(OSError):
        (job.directory / PLAN).unlink()
    remove_abandoned(job.directory)
    return True


def is_made(job: Job, number: int) -> bool:
    """Tell whether shard ``number`` of this corpus is there and as long as it says; a damaged one is made again."""
    try:
        header = read_header(job.directory / shard_name(number))
    except FormatError:
        return False
    return header.corpus == job.corpus and header.number == number


def _known_plan(directory: Path) -> dict[str, Any] | None:
    if (directory / INDEX).is_file():
        return read_index(directory)
    if (directory / PLAN).is_file():
        return read_object(directory / PLAN)
    return None


def _identity(plan: dict[str, Any]) -> str:
    """Name a corpus by everything that decides its contents."""
    decides = {name: plan[name] for name in sorted(plan) if name not in ("corpus", "shards")}
    return hashlib.sha256(_dump(decides)).hexdigest()[:32]


def _refuse_changes(directory: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with other settings or inputs than a corpus was begun with, all of them named."""
    before, now = _flat(known), _flat(wanted)
    changes = [
        f"  {name}: was {quoted(before.get(name))}, now {quoted(now.get(name))}"
        for name in [*before, *(name for name in now if name not in before)]
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise ConvertError(
            "\n".join(
                [f"{directory} was begun with other settings ({len(changes)} differ):", *changes[:20]]
                + ([f"  … and {len(changes) - 20} more"] if len(changes) > 20 else [])
            ),
            "Use the same ones, name another directory with -o, or remove this one.",
        )


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    found = {"vocabulary": plan.get("vocabulary_digest"), "vocabulary_size": plan.get("vocabulary_size")}
    found.update(plan.get("settings") or {})
    for item in plan.get("inputs") or []:
        if isinstance(item, dict):
            for name in ("nbytes", "ends"):
                found[f"input {item.get('name')}, {'bytes' if name == 'nbytes' else 'contents'}"] = item.get(name)
    found["order of inputs"] = [item.get("name") for item in plan.get("inputs") or [] if isinstance(item, dict)]
    return found


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # a run killed before its plan was written leaves nothing else
        others = [
            entry.name for entry in os.scandir(directory)
            if entry.name not in ("vocab.txt", "tokenizer_config.json") and not entry.name.endswith(".part")
        ]  # fmt: skip
    except OSError as error:
        raise ConvertError(
            f"{directory}: cannot be made: {error.strerror or error}", "Name another directory with -o."
        ) from None
    if others:
        raise ConvertError(
            f"{directory} holds {others[0]} and is not a corpus that was begun here", "Name another directory with -o."
        )


def _dump(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")
