"""Convert a checkpoint directory into another dialect: open, plan, check, write, read back, rename, report.

The front of :mod:`roformer_convert.converters`; the command and the Python interface both come through here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config_fields, weight_files
from .checkpoint import Checkpoint, model_class
from .companions import copy_companion, vocabulary_problem
from .dialects import Container
from .errors import ConvertError, MisfitError
from .fitting import resolve
from .mapping import DIALECTS, Dialect
from .opening import open_checkpoint
from .output import OutputDirectory, check_room, check_target
from .plan import Plan, make_plan, parse_size

if TYPE_CHECKING:
    from .two_processes import Progress

#: Headers, index and configuration, roughly: the room asked for beside payload and companions.
_OVERHEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Report:
    """What a conversion did (or, in a dry run, would do).

    Attributes:
        source: What was read.
        target: The directory written.
        source_dialect: Its spelling.
        plan: Every tensor, its source and whether it was turned.
        duplicates: Second copies in the source, checked to be equal and not counted.
        verified: Whether the result was read back and compared.
        written: False in a dry run.
        seconds: Wall time.
        left_behind: Files of the source directory that did not travel.
    """

    source: Path
    target: Path
    source_dialect: Dialect
    source_container: Container
    plan: Plan
    duplicates: tuple[str, ...]
    verified: bool
    written: bool
    seconds: float
    left_behind: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that the reader of the result should know."""
        notes = list(self.plan.notes)
        if self.left_behind:
            notes.append(f"not copied: {', '.join(self.left_behind)}")
        return tuple(notes)

    def as_dict(self) -> dict[str, Any]:
        """Render the report as data for ``--json``."""
        stored = [step for step in self.plan.steps if step.new.alias_of is None]
        return {
            "source": {"path": str(self.source), "dialect": self.source_dialect, "container": self.source_container},
            "target": {
                "path": str(self.target),
                "dialect": self.plan.target,
                "container": self.plan.container,
                "files": [file.filename for file in self.plan.files],
            },
            "model_class": model_class(self.plan.groups),
            "tensors": len({step.held.tensor.canonical for step in stored}),
            # a tensor that some dialect wants under two names is one tensor
            "turned": len({step.held.tensor.canonical for step in stored if step.turn}),
            "cast": len({step.held.tensor.canonical for step in stored if step.casts}),
            "bytes": self.plan.nbytes,
            "tied_in_source": list(self.duplicates),
            "companions": [path.name for path in self.plan.companions],
            "notes": list(self.notes),
            "written": self.written,
            "verified": self.verified,
            "seconds": round(self.seconds, 3),
            "plan": [
                {
                    "canonical": step.held.tensor.canonical,
                    "source": step.held.stored.name,
                    "target": step.new.name,
                    "file": file.filename,
                    "shape": list(step.new.shape),
                    "dtype": step.new.dtype,
                    "turned": step.turn,
                    "alias_of": step.new.alias_of,
                    "bytes": 0 if step.new.alias_of is not None else step.new.nbytes,
                }
                for file in self.plan.files
                for step in file.steps
            ],
        }


def default_target(source: Path, to: str) -> Path:
    """``ckpt/`` → ``ckpt-torch/`` beside it; a file ``model.safetensors`` → ``model-torch/``."""
    resolved = Path(os.path.abspath(source))  # not through links: the name the person gave is the one to extend
    name = resolved.name if resolved.is_dir() else resolved.name.split(".")[0]
    if not name:
        raise ConvertError(f"{source}: no name to derive the output's from", "Name the output with -o.")
    return resolved.parent / f"{name}-{to}"


def convert(
    source: str | Path,
    target: str | Path | None = None,
    *,
    to: Dialect,
    dialect: Dialect | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    container: str | None = None,
    max_shard_size: int | str | None = None,
    force: bool = False,
    verify: bool = True,
    fsync: bool = False,
    dry_run: bool = False,
    any_vocab: bool = False,
    may_fork: bool = False,
    progress: Progress | None = None,
    started: Callable[[Plan], None] | None = None,
    finishing: Callable[[], None] | None = None,
) -> Report:
    """Convert a checkpoint into ``to``'s dialect.

    Args:
        source: A checkpoint directory of any dialect, or one weight file.
        target: Directory to make; by default ``SOURCE-to`` beside the source.
        to: Dialect to write: ``"paddle"``, ``"torch"``, ``"tf"`` or ``"tf1"``.
        dialect: The source's dialect, where the files do not decide it.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of the configuration → value, whatever its file says: ``{"pooler_activation": "linear"}``.
        dtype: Cast every tensor: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"float64"``.
        container: Format of the weight files; by default the dialect's usual one.
        max_shard_size: Largest weight file in bytes of payload, or a text like ``"5GB"``.
        force: Replace an existing checkpoint directory.
        verify: Read the result back and compare it bit by bit.
        fsync: Force the result to disk before it gets its name.
        dry_run: Plan and check everything, write nothing.
        any_vocab: Accept a vocab.txt whose number of rows is not ``vocab_size``.
        may_fork: Share the work with a forked process where there is another core for it. For a program that is nothing
            but this conversion: a fork copies the locks of whatever else is loaded.
        progress: Called with bytes just written, then (verifying) just compared.
        started: Called once with the plan, before the first byte.
        finishing: Called once when all is written and compared, right before the result gets its name.

    Returns:
        What was done.

    Raises:
        ConvertError: As its message says; nothing was left behind.
    """
    began = time.perf_counter()
    source = Path(source)
    for name in (to, dialect):
        if name is not None and name not in DIALECTS:
            raise ConvertError(f"dialect {name!r} is not known; wanted {', '.join(DIALECTS)}")
    shard_size = None if max_shard_size is None else parse_size(str(max_shard_size))
    goal = default_target(source, to) if target is None else Path(target)
    with open_checkpoint(source, dialect=dialect, config=config, any_vocab=any_vocab, set=set) as checkpoint:
        before = _stamps(checkpoint)
        plan = make_plan(checkpoint, to, container=container, dtype=dtype, max_shard_size=shard_size)
        if not any_vocab:
            _check_vocabulary(checkpoint)
        # a weight file's output lies beside it, so in its directory; a directory's must not lie in it
        read_from = checkpoint.directory if source.is_dir() else source
        real_goal = Path(os.path.realpath(goal))
        check_target(real_goal, source=read_from, files=checkpoint.paths, force=force)
        check_room(real_goal, needed_room(plan))
        if not dry_run:
            # not later: Python makes another error of a signal that falls into a class being made
            from . import engine  # noqa: F401

            if started is not None:
                started(plan)
            try:
                with OutputDirectory(goal, source=read_from, files=checkpoint.paths, force=force) as output:
                    write_directory(
                        plan, checkpoint, output.path, verify=verify, fsync=fsync, may_fork=may_fork, progress=progress
                    )
                    _require_unchanged(checkpoint, before)
                    if finishing is not None:
                        finishing()
                    output.commit(fsync=fsync)
            except ConvertError:
                _require_unchanged(checkpoint, before)  # which explains whatever was found
                raise
        return Report(
            source=source,
            target=goal,
            source_dialect=checkpoint.dialect,
            source_container=checkpoint.container,
            plan=plan,
            duplicates=checkpoint.duplicates,
            verified=verify and not dry_run,
            written=not dry_run,
            seconds=time.perf_counter() - began,
            left_behind=_left_behind(checkpoint),
        )


def _stamps(checkpoint: Checkpoint) -> dict[Path, tuple[int, int] | None]:
    """Size and time of change of every file that is read; None for one that is gone."""

    def stamp(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    return {path: stamp(path) for path in checkpoint.paths}


def _require_unchanged(checkpoint: Checkpoint, before: Mapping[Path, tuple[int, int] | None]) -> None:
    """Refuse what was made of files that somebody wrote to meanwhile.

    Raises:
        ConvertError: A file has another size or time than before.
    """
    changed = [path for path, stamp in _stamps(checkpoint).items() if stamp != before[path]]
    if changed:
        raise ConvertError(
            f"{changed[0]}: changed while it was read; nothing was kept",
            "Wait until whatever writes it has finished, and convert again.",
        )


def needed_room(plan: Plan) -> int:
    """Bytes that the result takes, roughly from above."""
    return plan.nbytes + sum(path.stat().st_size for path in plan.companions) + _OVERHEAD_BYTES


def write_directory(
    plan: Plan,
    source: Checkpoint,
    directory: Path,
    *,
    verify: bool,
    fsync: bool,
    may_fork: bool = False,
    progress: Progress | None,
) -> None:
    """Write everything of a checkpoint into an empty directory, weights first and the configuration last.

    Raises:
        ConvertError: It cannot be written, or what was read back differs.
    """
    from . import engine

    watch = engine.nothing if progress is None else progress
    written = engine.run(plan, directory, verify=verify, fsync=fsync, may_fork=may_fork, progress=watch)
    try:
        if plan.shard_index is not None:
            _write_json(directory / plan.shard_index, _shard_map(plan), fsync)
        if verify:
            with reopen(plan, directory) as found:
                engine.check_index(written, found)
        for companion in plan.companions:
            copy_companion(companion, directory / companion.name, fsync=fsync)
        _write_json(directory / plan.config_name, plan.config, fsync)
    except OSError as error:
        raise engine.writing_failed(directory, error) from error
    if verify:
        _verify_config(directory / plan.config_name, plan)


def reopen(plan: Plan, directory: Path) -> Checkpoint:
    """Open what was just written through its own reader, with the configuration that is still to be written."""
    names = [file.filename + (".index" if plan.container == "ckpt" else "") for file in plan.files]
    weights = weight_files.WeightSet(
        plan.container,
        tuple(directory / name for name in names),
        None if plan.shard_index is None else directory / plan.shard_index,
        (plan.target,),
    )
    stored = weight_files.index(weights)
    return resolve(directory, weights, stored, plan.target, plan.source_config)


def _verify_config(path: Path, plan: Plan) -> None:
    """Read the configuration back: every field must mean what it meant in the source."""
    back = config_fields.read(path, plan.target, {}, where=path.parent).config
    if back != plan.source_config.config:
        raise ConvertError(
            f"{path}: the configuration read back differs: {back} instead of {plan.source_config.config}"
        )


def _write_json(path: Path, content: Mapping[str, Any], fsync: bool) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(content, file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")
        if fsync:
            file.flush()
            os.fsync(file.fileno())


def _shard_map(plan: Plan) -> dict[str, Any]:
    return {
        "metadata": {"total_size": plan.nbytes},
        "weight_map": {step.new.name: file.filename for file in plan.files for step in file.steps},
    }


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    """Refuse a vocab.txt that is of another model.

    Raises:
        MisfitError: Its number of rows is not ``vocab_size``.
    """
    problem = vocabulary_problem(checkpoint.companions, checkpoint.config.vocab_size)
    if problem is not None:
        raise MisfitError(
            checkpoint.directory,
            "its own vocabulary",
            [problem],
            "Put the model's own vocab.txt there; where the extra rows are padding, add --any-vocab.",
        )


def _left_behind(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Files of the source directory that neither were converted nor travel, where a directory was named."""
    if not checkpoint.path.is_dir():
        return ()
    used = {path.name for path in (*checkpoint.weights.files, *checkpoint.companions)}
    used |= {path.name for path in (checkpoint.config_path, checkpoint.weights.shard_index) if path is not None}
    if checkpoint.container == "ckpt":
        prefix = checkpoint.weights.files[0].name.removesuffix(".index")
        used |= {"checkpoint", f"{prefix}.meta"}
        names = (e.name for e in checkpoint.path.iterdir() if not e.name.startswith(f"{prefix}.data-"))
    else:
        names = (entry.name for entry in checkpoint.path.iterdir())
    return tuple(sorted(name for name in names if name not in used and not name.startswith(".")))
