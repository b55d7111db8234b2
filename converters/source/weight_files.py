"""Find a checkpoint's weight files, whatever is named: a directory, a file, an index of shards, a prefix.

The first step of :mod:`.identification`. A name proposes which container a file is; its first bytes decide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..containers.container import HEAD_BYTES, TAIL_BYTES, Container
from ..containers.registry import all_containers, containers_of, recognise
from ..errors import ConvertError, FormatError, MisfitError, OtherDialectError, Problem, printable, reading
from ..json_input import read_json
from ..table.mapping import DIALECTS, Dialect
from ..table.recognition import detect_dialect
from . import foreign_files
from .deepspeed import find_model_states, home_of, say_masters
from .location import PREFERRED, hint_for, is_cached_model
from .weight_set import WeightSet, index, require_file
from .what_lies_here import explain, newest
from .wrappers import holds_model

#: Weight files of one directory that are compared; of more one must be named.
_MOST_COMPARED = 8
_NO_INDEX = "These are shards, and the .index.json that lists them is missing: fetch it and every shard."
#: A name that is no program's and speaks of weights: of other files, which may begin alike, the ending tells.
_MADE_UP = re.compile(r"(model|ckpt|checkpoint|weights|state)[\w-]*(\.(best|last|final|latest|bak|old|\d+))?$", re.I)
_MOST_SNIFFED = 50
_SHARD = re.compile(r"-\d{5}-of-(?!00001\.)\d{5}\.")
#: What PaddleNLP writes on each of several ranks (training_args.py, weight_name_suffix).
_RANKS_PART = re.compile(r"\.(tp|pp)\d\d(_pp\d\d)?\.pdparams$")
_MERGE = (
    "Load it where it was trained, on as many ranks, and save it whole: with the Trainer's --unified_checkpoint 1, or, "
    "where no layers were divided among ranks, model.save_pretrained(DIRECTORY, merge_tensor_parallel=True)."
)


def sniff(path: Path) -> Container | None:
    """Tell a container by a file's first and last bytes, or None.

    Raises:
        FormatError: It cannot be read.
    """
    with reading(path), open(require_file(path), "rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return recognise(head, file.read(TAIL_BYTES))


def find(source: Path, dialect: Dialect | None) -> WeightSet:
    """Find the weights that ``source`` means.

    Args:
        source: A directory, a weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Look for this dialect's files only; None for any.

    Raises:
        ConvertError: Nothing there, or nothing that looks like weights.
        MisfitError: Two models in one directory.
    """
    with reading(source):
        if source.is_dir():
            return _find_in(source, dialect)
    if not os.path.lexists(source):
        for container in all_containers():
            entry = source.parent / container.entry(source.name)
            if entry.exists():  # the name that a TF checkpoint's files begin with
                return _of_file(entry, dialect)
        step = hint_for(source) or "Name a checkpoint directory or a weight file."
        raise ConvertError(f"{source}: no such file or directory", step)
    if _SHARD.search(source.name):
        what = "one shard of a model's weights: the others hold the rest"
        raise FormatError(source, what, next_step="Name its directory, or the .index.json that lists the shards.")
    _refuse_ranks_parts([source])
    return _of_file(source, dialect)


def _of_file(path: Path, dialect: Dialect | None) -> WeightSet:
    require_file(path)
    if path.name.endswith(".index.json"):
        return _sharded(path, dialect)
    found = _weight_set((path,), None, dialect)
    home = home_of(path)
    return found if home is None else replace(found, home=home, notes=say_masters(path))


def _refuse_ranks_parts(paths: Sequence[Path]) -> None:
    """Say of the parts of a model that its ranks wrote what puts them together.

    Raises:
        MisfitError: All of the files are such parts.
    """
    if paths and all(_RANKS_PART.search(path.name) for path in paths):
        what = "a rank's part of the model (tensor or pipeline parallelism)"
        parts = [Problem("divided", path.name, what) for path in paths]
        raise MisfitError(paths[0].parent, "one file", parts, _MERGE)


def _weight_set(files: tuple[Path, ...], shard_index: Path | None, dialect: Dialect | None) -> WeightSet:
    """Recognise the first file's container, by its name where its bytes say nothing: a reader names the damage."""
    path = files[0]
    container = sniff(path) or next((each for each in all_containers() if each.is_named(path.name)), None)
    if container is None:
        foreign_files.refuse(path)
        *most, last = (each.title for each in all_containers())
        raise FormatError(path, f"not a known kind of weight file; wanted {', '.join(most)} or {last}")
    return WeightSet(container, files, shard_index, (dialect,) if dialect else container.names)


def _sharded(path: Path, dialect: Dialect | None) -> WeightSet:
    """Read a shard index; every file it names must lie beside it."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(path, 'no "weight_map" from tensor to file', next_step="Name the weight files' directory.")
    problems: list[Problem] = []
    names: list[str] = []
    for name in dict.fromkeys(map(str, weight_map.values())):
        if name in ("", ".", "..") or len(name) > 255 or any(mark in name for mark in "/\\:\0"):
            problems.append(Problem("outside", name, "a shard must be named as a file of this directory"))
        elif not (path.parent / name).is_file():
            problems.append(Problem("missing", name, "a shard that the index names is not in the directory"))
        else:
            names.append(name)
    if problems:
        raise MisfitError(path, "its directory", problems, "Fetch every shard into one directory and try again.")
    files = tuple(path.parent / name for name in sorted(names))
    return _weight_set(files, path, dialect)


def _candidates(directory: Path, dialects: Iterable[Dialect]) -> Iterator[Path]:
    for dialect in dialects:
        for container in containers_of(dialect):
            yield from container.candidates(directory, sniff)


def _in(directory: Path, dialects: Iterable[Dialect]) -> list[Path]:
    """Return the entries of a directory: the standard names, or else any files that end and begin like weights."""
    found = list(dict.fromkeys(_candidates(directory, dialects)))
    if found:  # what was not fetched counts where nothing else is there
        return [path for path in found if not foreign_files.is_lfs_pointer(path)] or found[:1]
    endings = tuple(ending for container in all_containers() for ending in container.endings)
    loose = [path for path in sorted(directory.iterdir()) if path.name.lower().endswith(endings) and path.is_file()]
    loose = [path for path in loose if not foreign_files.is_training_state(path.name)]
    found = [path for path in loose if sniff(path) is not None] or (loose if len(loose) == 1 else [])
    if not loose:  # under a name that somebody made up: my.ckpt.best, pytorch_model, best.tar (torch's tutorials)
        named = [path for path in sorted(directory.iterdir()) if path.is_file()]
        named = [path for path in named if not foreign_files.is_training_state(path.name)]
        held = [path for path in named[:_MOST_SNIFFED] if sniff(path) is not None]
        found = [path for path in held if _MADE_UP.search(path.name) or _holds_tensors(path)]
    if any(_SHARD.search(path.name) for path in found):  # the one with the encoder is not the model
        return found
    models = [path for path in found if len(found) > 1 and _holds_model(path)]
    return models if len(models) == 1 else found  # beside it lie an optimizer, a scheduler, arguments


def _has_weights(directory: Path) -> bool:
    """Say whether a folder can be named for weights: with its own, with DeepSpeed's, a model's of a hub's cache."""
    return is_cached_model(directory) or bool(_in(directory, DIALECTS)) or find_model_states(directory) is not None


def _find_in(directory: Path, dialect: Dialect | None) -> WeightSet:
    wanted: tuple[Dialect, ...] = PREFERRED if dialect is None else (dialect,)
    found = _in(directory, wanted)
    if not found and (states := find_model_states(directory)) is not None:
        return _of_file(states, dialect)
    if not found:
        others = list(_candidates(directory, DIALECTS))
        names = [each.entry(each.single) for name in wanted for each in containers_of(name)]
        looked_for = list(dict.fromkeys(names))
        if not others:
            raise explain(directory, looked_for, _has_weights)
        step = f"It holds {others[0].name}. Without --from the dialect is detected: "
        step += "`roformer-convert convert SOURCE --to …`."
        raise OtherDialectError(f"{directory}: no RoFormer weights here; looked for {', '.join(looked_for)}", step)
    if all(_SHARD.search(path.name) for path in found):
        raise several(directory, [(path, "") for path in found], _NO_INDEX)
    _refuse_ranks_parts(found)
    if len(found) > _MOST_COMPARED:
        raise several(directory, [(path, "") for path in found])
    if dialect is not None and len(found) > 1:  # that of a container of two dialects may be the other's
        found = [path for path in found if _is_of(path, dialect)] or found
    return replace(_of_file(found[0], dialect), others=tuple(found[1:]))


def others_of(weights: WeightSet) -> Iterator[WeightSet]:
    """Yield the sets of the other weight files of a directory.

    Raises:
        MisfitError: One cannot be read.
    """
    for path in weights.others:
        try:
            yield _of_file(path, None)
        except FormatError as error:
            raise not_one(weights, path, error.problem) from None


def not_one(weights: WeightSet, path: Path, said: str) -> MisfitError:
    """Make the error for weight files of a directory of which ``path`` is not the same model's, and say why."""
    return several(weights.directory, [(each, said * (each == path)) for each in (weights.entry, *weights.others)])


def several(directory: Path, found: Sequence[tuple[Path, str]], step: str | None = None) -> MisfitError:
    """Make the error for a directory that holds several models.

    Args:
        directory: The directory.
        found: Each weight file, and what is to be said of it.
        step: What to do; by default that one be named.
    """
    paths = [path for path, _ in found]
    if step is None:
        example = printable(str(paths[0]))
        if len({sniff(path) for path in paths}) == 1:  # steps of one run
            name, why = newest(directory, [path.name.removesuffix(".index") for path in paths])
            example = f"{directory / printable(name)}{why}"
        step = f"Say which one is meant: name the file itself, e.g. {example}"
        few = len(paths) <= _MOST_COMPARED
        alone = [each for each in DIALECTS if few and sum(_is_of(path, each) for path in paths) == 1]
        step += f", or its dialect with --from {' or '.join(alone)}." if alone else "."
    return MisfitError(directory, "one model", [Problem("weights", path.name, said) for path, said in found], step)


def _holds_model(path: Path) -> bool:
    """Say whether a file of any name has a RoFormer's tensors in it."""
    try:
        weights = _of_file(path, None)
        return holds_model((tensor.name for tensor in index(weights).tensors), weights.dialects)
    except ConvertError:
        return False


def _holds_tensors(path: Path) -> bool:
    """Say whether a file has tensors in it, whosever they are."""
    try:
        return bool(index(_of_file(path, None)).tensors)
    except ConvertError:
        return False


def _is_of(path: Path, dialect: Dialect) -> bool:
    """Say whether a weight file's tensors have a dialect's names."""
    try:
        weights = _of_file(path, None)
        if len(weights.dialects) == 1:
            return weights.dialects == (dialect,)
        return detect_dialect(weights.dialects, [tensor.name for tensor in index(weights).tensors]) == dialect
    except ConvertError:
        return False
