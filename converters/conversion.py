"""Convert a checkpoint directory into another dialect: open, plan, check, write, read back, rename, report.

The front of :mod:`roformer_convert.converters`; the command and the Python interface both come through here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .amounts import parse_size
from .errors import ConvertError, all_or_nothing
from .record import conversion_record, given
from .report import ConversionReport
from .source.checkpoint import Checkpoint
from .source.fitting import fit
from .source.identification import Found, identify
from .source.location import shown_name
from .source.renaming import ALL, Parts
from .source.weight_set import WeightSet
from .table.mapping import DIALECTS, Dialect
from .target.only_read import only_read
from .target.output import CONVERSION_RECORD, OutputDirectory, check_room, check_target
from .target.plan import Plan, make_plan
from .writing import needed_room, write_directory, write_json

if TYPE_CHECKING:
    from .optimizer.state import OptimizerState


def default_target(source: Path, to: str) -> Path:
    """Name the output: ``ckpt/`` → ``ckpt-torch/`` beside it, ``a.bin`` → ``a-torch/``, ``hub:o/n`` → ``n-torch``."""
    of_hub = shown_name(source)
    if of_hub is not None:
        return Path(f"{of_hub}-{to}")
    resolved = Path(os.path.abspath(source))  # not through links: the name the person gave is the one to extend
    name = resolved.name if resolved.is_dir() else resolved.name.split(".")[0]
    if not name:
        raise ConvertError(f"{source}: there is no name to derive the output's name from", "Name the output with -o.")
    return resolved.parent / f"{name}-{to}"


@dataclass(frozen=True)
class ConvertOptions:
    """How to read a source, what to write, and with how much care.

    Attributes:
        dialect: The source's dialect, where the files do not decide it.
        config: Configuration file, where it does not lie beside the weights.
        set: Field of the configuration → value, whatever its file says: ``{"pooler_activation": "linear"}``.
        model_class: Name of the model's class, where no file says it: ``"token-classification"``.
        parts: Which of the source's tensors are meant.
        only_read: Leave out what the target's own software would report as unexpected.
        allow_different: Write it though the target's own software would compute another function; what differs is
            recorded in the result.
        positions: Write the rotary table (``embed_positions``) where the target's software keeps it among the weights.
        any_vocab: Accept a vocab.txt whose number of rows is not ``vocab_size``.
        follow_links: Copy tokenizer files and licences that are links out of the source's directory, too.
        dtype: Cast every tensor: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"float64"``.
        container: Format of the weight files; by default the dialect's usual one.
        max_shard_size: Largest weight file in bytes of payload, or a text like ``"5GB"``.
        with_optimizer: Convert AdamW's state too, which lies beside the weights.
        optimizer_file: Its file in the result; by default the one of the dialect's software.
        frozen_positions: Let ``optimizer.pt`` not count the rotary table, as for a model built from its configuration.
        adam: Settings of AdamW that no file says: ``{"beta2": 0.98}``.
        force: Replace an existing checkpoint directory.
        verify: Read the result back and compare it bit by bit.
        fsync: Force the result to disk before it gets its name.
        dry_run: Plan and check everything, write nothing.
    """

    dialect: Dialect | None = None
    config: str | Path | None = None
    set: Mapping[str, Any] | None = None
    model_class: str | None = None
    parts: Parts = ALL
    only_read: bool = False
    allow_different: bool = False
    positions: bool = True
    any_vocab: bool = False
    follow_links: bool = False
    dtype: str | None = None
    container: str | None = None
    max_shard_size: int | str | None = None
    with_optimizer: bool = False
    optimizer_file: str | None = None
    frozen_positions: bool = False
    adam: Mapping[str, float] | None = None
    force: bool = False
    verify: bool = True
    fsync: bool = False
    dry_run: bool = False


class Watcher:
    """Whoever wants to follow a conversion overrides these."""

    def start(self, plan: Plan) -> None:
        """Called once, before the first byte is written."""

    def advance(self, nbytes: int) -> None:
        """Called with bytes just written and, where the result is verified, once more for them when compared."""

    def finish(self, made: Path, target: Path) -> None:
        """Called once when all is written and compared, right before what was made gets the target's name.

        What it raises leaves what was there before.
        """


_DEFAULTS, _NOBODY = ConvertOptions(), Watcher()


@all_or_nothing()
def convert(
    source: str | Path,
    target: str | Path | None = None,
    *,
    to: Dialect,
    options: ConvertOptions = _DEFAULTS,
    watcher: Watcher = _NOBODY,
) -> ConversionReport:
    """Convert a checkpoint into ``to``'s dialect.

    Args:
        source: A checkpoint directory of any dialect, or one weight file.
        target: Directory to make; by default ``SOURCE-to`` beside the source.
        to: Dialect to write: ``"paddle"``, ``"torch"``, ``"tf"`` or ``"tf1"``.
        options: Everything else.
        watcher: Its methods are called as the conversion proceeds.

    Returns:
        What was done.

    Raises:
        ConvertError: It could not be done, and the message says why; nothing was left behind.
    """
    began = time.perf_counter()
    source = Path(source)
    for name in (to, options.dialect):
        if name is not None and name not in DIALECTS:
            raise ConvertError(f"dialect {name!r} is not known; wanted {', '.join(DIALECTS)}")
    shard_size = None if options.max_shard_size is None else parse_size(str(options.max_shard_size))
    goal = default_target(source, to) if target is None else Path(target)
    found = identify(
        source,
        dialect=options.dialect,
        config=options.config,
        set=options.set,
        model_class=options.model_class,
        parts=options.parts,
    )
    if options.follow_links:
        found = found.with_links_followed()
    assert found.weights is not None, "what was identified lies in files"
    with fit(found, any_vocab=options.any_vocab).require() as checkpoint:
        state = _optimizer_state(checkpoint, to, options) if options.with_optimizer else None
        if state is not None and state.inside:
            checkpoint.found = checkpoint.found.without(state.inside)
        files = (*checkpoint.paths, *(() if state is None else state.files))
        before = _stamps(files)
        plan = make_plan(
            only_read(checkpoint, to) if options.only_read else checkpoint,
            to,
            container=options.container,
            dtype=options.dtype,
            max_shard_size=shard_size,
            allow_different=options.allow_different,
            positions=options.positions,
        )
        if state is not None:
            from .optimizer.planning import choose_file, plan_state

            filename = choose_file(to, options.optimizer_file)
            frozen = options.frozen_positions
            plan = replace(plan, beside=plan_state(state, checkpoint, to, filename, frozen_positions=frozen))
        # a weight file's output lies beside it, so in its directory; a directory's must not lie in it
        read_from = checkpoint.directory if found.path.is_dir() else found.path
        real_goal = Path(os.path.realpath(goal))
        check_target(real_goal, source=read_from, files=files, force=options.force)
        check_room(real_goal, needed_room(plan))
        report = ConversionReport(
            source=source,
            target=goal,
            source_dialect=checkpoint.dialect,
            source_container=found.weights.container.name,
            plan=plan,
            duplicates=checkpoint.duplicates,
            verified=options.verify and not options.dry_run,
            written=not options.dry_run,
            seconds=0.0,
            left_behind=_left_behind(found, found.weights, () if state is None else state.files),
        )
        if not options.dry_run:
            # not later: Python makes another error of a signal that falls into a class being made
            from .target import engine  # noqa: F401

            watcher.start(plan)
            try:
                with OutputDirectory(goal, source=read_from, files=files, force=options.force) as output:
                    write_directory(
                        plan,
                        output.path,
                        state=state,
                        verify=options.verify,
                        fsync=options.fsync,
                        progress=watcher.advance,
                    )
                    record = conversion_record(
                        source,
                        checkpoint,
                        output.path,
                        options=given(options),
                        report=report.as_dict(),
                        left_behind=report.left_behind,
                        beside=() if state is None else state.files,
                    )
                    write_json(output.path / CONVERSION_RECORD, record, options.fsync)
                    finished = time.perf_counter()
                    watcher.finish(output.path, goal)
                    began += time.perf_counter() - finished  # what others do with it is no part of the conversion
                    _require_unchanged(before)
                    output.commit(fsync=options.fsync)
            except ConvertError:
                _require_unchanged(before)  # which explains whatever was found
                raise
        return replace(report, seconds=time.perf_counter() - began)


def _optimizer_state(checkpoint: Checkpoint, to: Dialect, options: ConvertOptions) -> OptimizerState:
    """Read the optimiser's state beside the weights, and take the masters that it trains for the weights.

    Raises:
        ConvertError: There is none, it is of an unknown layout, or it cannot be written for the target.
    """
    from .optimizer.planning import choose_file, read_state, train_masters
    from .optimizer.state import AdamOptions

    if options.dtype not in (None, "float32"):
        raise ConvertError(
            f"dtype {options.dtype} and an optimiser's state: training would go on from rounded weights",
            "Convert with one of the two.",
        )
    choose_file(to, options.optimizer_file)
    state = read_state(checkpoint, AdamOptions(**(options.adam or {})))
    train_masters(checkpoint, state)
    return state


def _stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int] | None]:
    """Size and time of change of every file that is read; None for one that is gone."""

    def stamp(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    return {path: stamp(path) for path in files}


def _require_unchanged(before: Mapping[Path, tuple[int, int] | None]) -> None:
    """Refuse what was made of files that somebody wrote to meanwhile.

    Raises:
        ConvertError: A file has another size or time than before.
    """
    changed = [path for path, stamp in _stamps(before).items() if stamp != before[path]]
    if changed:
        raise ConvertError(
            f"{changed[0]}: changed while it was read; nothing was kept",
            "Wait until whatever writes it has finished, and convert again.",
        )


def _left_behind(found: Found, weights: WeightSet, others: Iterable[Path]) -> tuple[str, ...]:
    """Return the files of the source directory that neither were converted nor travel, where a directory was named."""
    if not found.path.is_dir():
        return ()
    used = {
        path.name for path in (*found.companions, *found.strays, found.config_file, *others) if path is not None
    } | {CONVERSION_RECORD}
    names = (entry.name for entry in found.path.iterdir())
    return tuple(sorted(n for n in names if n not in used and not weights.has(n) and not n.startswith(".")))
