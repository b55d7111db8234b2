"""``conversion.json``: lies beside a result and says how it was made, for whoever finds it later.

Its keys are described in ``docs/conversion-json.md``. It holds names and no paths of the machine, and no times, so that
one conversion run twice gives the same bytes. It belongs to its result alone: no later conversion reads it or carries
it along.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from .errors import reading
from .json_output import SCHEMA
from .source.checkpoint import Checkpoint
from .source.location import is_hub_name
from .table.config_writing import PROVENANCE
from .version import __version__

#: What is taken over as the report has it.
_OF_THE_REPORT = (
    "tensors",
    "transposed",
    "cast",
    "computed",
    "tied_in_source",
    "optimizer",
    "rewritten",
    "differences",
    "verified",
)
#: Options that say nothing of the result.
_OF_THE_RUN = ("force", "verify", "fsync", "dry_run")


def conversion_record(
    source: Path,
    checkpoint: Checkpoint,
    directory: Path,
    *,
    options: Mapping[str, Any],
    report: Mapping[str, Any],
    left_behind: tuple[str, ...],
    beside: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Describe a conversion.

    Args:
        source: What was named as the source.
        checkpoint: What was read.
        directory: The result, complete but for this record.
        options: What was asked for otherwise than by default.
        report: What ``--json`` gives.
        left_behind: Files of the source that did not travel.
        beside: Files that were read beside the checkpoint's own: an optimiser's state.
    """
    found, said = checkpoint.found, checkpoint.source_config
    return {
        "schema": SCHEMA,
        "made_by": {"roformer-convert": __version__},
        "source": {
            "name": str(source) if is_hub_name(source) else found.path.resolve().name,
            "dialect": checkpoint.dialect,
            "container": report["source"]["container"],
            "files": _files_read(checkpoint, beside),
            "written_by": {key: value for key, value in said.extra.items() if key in PROVENANCE},
        },
        "result": {
            "dialect": report["target"]["dialect"],
            "container": report["target"]["container"],
            "model_class": report["model_class"],
            "files": [
                {"name": entry.name, "bytes": entry.stat().st_size}
                for entry in sorted(os.scandir(directory), key=lambda each: each.name)
            ],
        },
        "options": dict(options),
        "assumed": sorted(said.assumed),
        **{key: report[key] for key in _OF_THE_REPORT},
        "left_out": {
            "tensors": [*report["left_out"], *checkpoint.ignored],
            "entries": list(found.index.metadata),
            "files": list(left_behind),
        },
        "notes": [note.replace(f"{checkpoint.directory}{os.sep}", "") for note in report["notes"]],
    }


def given(options: Any) -> dict[str, Any]:
    """Return the options of a record that are not the default ones, as data; of a configuration its name alone."""
    plain = type(options)()
    asked: dict[str, Any] = {}
    for name in (field.name for field in fields(options)):
        value = getattr(options, name)
        if value != getattr(plain, name) and name not in _OF_THE_RUN:
            asked[name] = given(value) if is_dataclass(value) else value
    if "config" in asked:
        asked["config"] = Path(asked["config"]).name
    return asked


def _files_read(checkpoint: Checkpoint, beside: tuple[Path, ...]) -> list[dict[str, Any]]:
    """List the source's files; small ones with their SHA-256, which of weights would take a second pass over them."""
    found = checkpoint.found
    assert found.weights is not None, "a source lies in files"
    small = (found.weights.shard_index, found.config_file, *found.companions)
    files: list[dict[str, Any]] = [
        {"name": path.name, "bytes": path.stat().st_size} for path in (*found.weights.parts, *beside)
    ]
    for path in small:
        if path is not None:
            files.append({"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)})
    return files


def _sha256(path: Path) -> str:
    import hashlib  # loads OpenSSL, which takes 3 ms

    digest = hashlib.sha256()
    with reading(path), open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
