"""Export a checkpoint for serving: a checkpoint directory of any dialect in, one directory for a runtime out.

The framework that makes the export runs in a process of its own (:mod:`.making`) with one small module a kind,
:mod:`.onnx`, :mod:`.savedmodel` and :mod:`.paddle_inference`, which writes it and tries it in its runtime
(:mod:`.trial`). This imports no framework; it checks what can be checked before one is started, and makes the
directory appear whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters import open_checkpoint
from ...converters.conversion import default_target
from ...converters.errors import ConvertError, all_or_nothing
from ...converters.source.stated import Stated, to_json
from ...converters.table.mapping import ModelClass
from ...converters.target.output import EXPORT_MANIFEST, OutputDirectory, Replaceable, check_room, check_target
from ..config import RoFormerConfig, supported, with_limit
from ..pretrained import assumptions
from ..processes.devices import CPU, ENVIRONMENT, DeviceName
from ..processes.frameworks import FRAMEWORKS, require_packages
from ..processes.process import Process
from .signature import INPUTS, input_axes, labels, outputs, pools, served

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Graph, signatures and metadata, roughly: the room asked for beside the weights.
_OVERHEAD_BYTES = 8 << 20
_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class Format:
    """A kind of export.

    Attributes:
        name: As ``--to`` takes it.
        framework: Who writes it, a key of :data:`~..processes.frameworks.FRAMEWORKS`.
        module: The module of this package that runs in that framework's process.
        opened_by: Who runs it.
        packages: What must be importable to write it, each with the extra that brings it.
    """

    name: str
    framework: str
    module: str
    opened_by: str
    packages: Mapping[str, str]


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(
            name="onnx",
            framework="torch",
            module="onnx",
            opened_by="onnxruntime.InferenceSession",
            packages={"torch": "torch", "onnx": "onnx", "onnxscript": "onnx"},
        ),
        Format(
            name="savedmodel",
            framework="tf",
            module="savedmodel",
            opened_by="tf.saved_model.load",
            packages={"tensorflow": "tensorflow"},
        ),
        Format(
            name="paddle-inference",
            framework="paddle",
            module="paddle_inference",
            opened_by="paddle.inference.Config",
            packages={"paddle": "paddle"},
        ),
    )
}


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        source: The checkpoint.
        target: The directory.
        format: Its kind.
        kind: The model's class.
        file: What the runtime opens, inside the directory; "." for the directory itself.
        nbytes: Bytes of all files.
        version: The framework's package and version.
        max_length: Longest sequence it takes, in tokens.
        runtime: What it was tried in, or None where it was not.
        difference: Largest difference of a logit from the model's own in that trial; of an encoder's value.
        largest: The largest there.
        notes: What the reader of the result should know.
        seconds: Wall time.
    """

    source: Path
    target: Path
    format: Format
    kind: ModelClass
    file: str
    nbytes: int
    version: str
    max_length: int
    runtime: str | None
    difference: float | None
    largest: float | None
    notes: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": self.format.name,
            "class": self.kind.name,
            "file": self.file,
            "bytes": self.nbytes,
            "made_with": self.version,
            "max_length": self.max_length,
            "tried_in": self.runtime,
            "largest_difference": self.difference,
            "largest_logit": self.largest,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


@all_or_nothing()
def export(
    directory: str | Path,
    target: str | Path | None = None,
    *,
    to: str,
    force: bool = False,
    extend_to: int | None = None,
    follow_links: bool = False,
    trial: bool = True,
    device: DeviceName = CPU,
    report: Callable[[str], None] = lambda line: None,
    **stated: Unpack[Stated],
) -> Export:
    """Export a checkpoint in float32, with free batch and length axes.

    Inputs are ``input_ids``, ``token_type_ids`` and ``attention_mask``, int64 (B, T), of multiple choice (B, A, T). The
    output is ``logits``, float32, and what they score is the class's: words at each token (B, T, V), labels of texts
    (B, C) or of tokens (B, T, C), choices (B, A). Without a head there are ``hidden`` (B, T, H) and, with a pooler,
    ``pooled`` (B, H). Tokenizer files travel along, and ``export.json`` says what the directory holds.

    Args:
        directory: A checkpoint of any dialect.
        target: Directory to make; by default ``DIRECTORY-to`` beside it.
        to: A key of :data:`FORMATS`.
        force: Replace an existing export.
        extend_to: Longest sequence in tokens, where the configuration allows less.
        follow_links: Copy tokenizer files that are links out of the directory, too.
        trial: Run the export in its runtime and compare it with the model.
        device: Where both run then. The export is the same from everywhere.
        report: Called with a line on what happens, for ``--verbose``.
        **stated: What is so of the checkpoint whatever its files say.

    Raises:
        ConvertError: As its message says; nothing was left behind.
    """
    began = time.perf_counter()
    if to not in FORMATS:
        raise ConvertError(f"no export is called {to!r}", f"Known: {', '.join(FORMATS)}.")
    kind = FORMATS[to]
    require_packages(f"export --to {to}", kind.packages)
    source = Path(directory)
    goal = Path(os.path.realpath(default_target(source, to) if target is None else Path(target)))
    # The framework's own process opens the checkpoint again: here, what is wrong with it costs no import.
    with open_checkpoint(source, **stated) as checkpoint:
        exported = served(checkpoint.kind)
        limits = supported(with_limit(checkpoint.config, extend_to))
        pooler = pools(exported) and "pooler.weight" in checkpoint
        found = checkpoint.found.with_links_followed() if follow_links else checkpoint.found
        read_from, companions = checkpoint.directory, found.companions
        widths = checkpoint.dtypes()
        room = 4 * sum(math.prod(checkpoint.shape(name)) for name in checkpoint)
        notes = [*assumptions(checkpoint), *found.stray_notes]
    load = {"directory": str(source), "extend_to": extend_to, "stated": to_json(stated)}
    check_target(goal, source=read_from, force=force, replaces=EXPORT)
    check_room(goal, room + 4 * limits.max_position_embeddings * limits.head_size + _OVERHEAD_BYTES)
    with OutputDirectory(goal, source=read_from, force=force, replaces=EXPORT) as output:
        made = _make(kind, exported, load, output.path, trial, device, report)
        for companion in companions:
            shutil.copyfile(companion, output.path / companion.name)
        notes += made["notes"]
        tried = made["trial"] or dict.fromkeys(("runtime", "difference", "largest"))
        if widths.keys() != {"float32"}:
            notes.append(f"float32 throughout; the checkpoint holds {' and '.join(sorted(widths))}")
        done = Export(
            source=source,
            target=goal,
            format=kind,
            kind=exported,
            file=made["file"],
            nbytes=sum(path.stat().st_size for path in output.path.rglob("*") if path.is_file()),
            version=made["version"],
            max_length=limits.max_position_embeddings,
            **tried,
            notes=tuple(notes),
            seconds=time.perf_counter() - began,
        )
        _write_manifest(output.path, done, limits, pooler)
        output.commit()
    return done


def _make(
    kind: Format,
    exported: ModelClass,
    load: Mapping[str, Any],
    into: Path,
    trial: bool,
    device: DeviceName,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Have the framework's process write the export into a directory and try it."""
    with Process(kind.framework, f"{__package__}.making", [kind.framework, kind.module], ENVIRONMENT) as process:
        report(f"{kind.framework}: {FRAMEWORKS[kind.framework].package} writes the export in a process of its own")
        request = {"load": load, "kind": exported.name, "into": str(into), "trial": trial, "device": str(device)}
        process.ask(request)
        made = process.answer()
        for line in process.words().splitlines():
            report(f"{kind.framework}: {line}")
    return made


def _write_manifest(path: Path, done: Export, config: RoFormerConfig, pooler: bool) -> None:
    """Say what the directory holds, in the file that also marks it as ours to replace."""
    content = {
        "roformer_export": 1,
        "format": done.format.name,
        "open": {"with": done.format.opened_by, "file": done.file},
        "class": done.kind.name,
        "inputs": {name: {"dtype": "int64", "shape": input_axes(done.kind)} for name in INPUTS},
        "outputs": {
            name: {"dtype": "float32", "shape": axes}
            for name, axes in outputs(done.kind, config, pooler=pooler).items()
        },
        "labels": labels(done.kind, config),
        "max_length": done.max_length,
        "made_with": done.version,
        "tried_in": done.runtime,
        "largest_difference": done.difference,
        "largest_logit": done.largest,
        "entries": sorted([*(entry.name for entry in path.iterdir()), EXPORT_MANIFEST]),
    }
    with open(path / EXPORT_MANIFEST, "w", encoding="utf-8", newline="\n") as file:
        json.dump(content, file, ensure_ascii=False, indent=2)
        file.write("\n")


def _foreign(target: Path) -> str:
    """Say why ``target`` does not look like an export, or nothing where it does: each entry is in its own list."""
    if not target.is_dir():
        return "it is a file"
    entries = sorted(os.listdir(target))
    if not entries:
        return ""
    manifest = target / EXPORT_MANIFEST
    try:
        if manifest.stat().st_size > _LARGEST_MANIFEST:
            return f"its {EXPORT_MANIFEST} is too large to be ours"
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return f"it holds no readable {EXPORT_MANIFEST}"
    if (
        not isinstance(content, dict)
        or "roformer_export" not in content
        or not isinstance(content.get("entries"), list)
    ):
        return f"its {EXPORT_MANIFEST} is not ours"
    others = [name for name in entries if name not in content["entries"]]
    return f"it holds {others[0]}, which its {EXPORT_MANIFEST} does not list" if others else ""


#: What ``export --force`` may replace.
EXPORT = Replaceable("an export", _foreign)
