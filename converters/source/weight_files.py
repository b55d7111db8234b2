"""Find a checkpoint's weight files and index them: a directory or one file in, tensors under the files' names out.

The first step of :mod:`.identification`. A name proposes which container a file is; its first bytes decide.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..containers.container import HEAD_BYTES, TAIL_BYTES, Container
from ..containers.registry import all_containers, containers_of, recognise
from ..errors import ConvertError, FormatError, MisfitError, OtherDialectError, Problem, printable, reading, shown
from ..json_input import read_json
from ..table.mapping import DIALECTS, Dialect
from ..table.recognition import detect_dialect
from ..tensors.stored import Index, StoredTensor
from . import foreign_files
from .deepspeed import find_model_states, home_of, say_masters
from .location import PREFERRED, hint_for, is_cached_model
from .what_lies_here import explain, newest
from .wrappers import holds_model

#: Weight files of one directory that are compared; of more one must be named.
_MOST_COMPARED = 8
_DAMAGED = "It is damaged, or another kind of file under this name: fetch it again, or save it again."
_NO_INDEX = "These are shards, and the .index.json that lists them is missing: fetch it and every shard."
#: A name that is no program's and speaks of weights: of other files, which may begin alike, the ending tells.
_MADE_UP = re.compile(r"(model|ckpt|checkpoint|weights|state)[\w-]*(\.(best|last|final|latest|bak|old|\d+))?$", re.I)
_MOST_SNIFFED = 50
_SHARD = re.compile(r"-\d{5}-of-(?!00001\.)\d{5}\.")

#: Characters of a tensor's name; those of a model have some 80. Names are matched against many patterns.
_LONGEST_NAME = 512
#: Bytes that all tensors of a file may mean together: shared layers are stored once and written once for each layer.
EXPANDED_TIMES, EXPANDED_BYTES = 64, 1 << 26


@dataclass(frozen=True)
class WeightSet:
    """One model's weights as they lie on disk.

    Attributes:
        container: The format of the files.
        files: The weight files, shards in order; of a TF checkpoint its ``.index``.
        shard_index: The JSON file that maps tensors to shards, or None.
        dialects: Whose file names these are.
        home: The directory in which what belongs to them lies, where that is not their own.
        notes: What is to be said of these files, a sentence each.
        others: More weight files of the directory, which must hold the same tensors: nothing says which are meant.
    """

    container: Container
    files: tuple[Path, ...]
    shard_index: Path | None
    dialects: tuple[Dialect, ...]
    home: Path | None = None
    notes: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def entry(self) -> Path:
        """The file that stands for all of them in messages."""
        return self.shard_index or self.files[0]

    @property
    def directory(self) -> Path:
        """The directory in which they lie, and what belongs to them."""
        return self.files[0].parent if self.home is None else self.home

    @property
    def parts(self) -> tuple[Path, ...]:
        """Every file that holds tensors or says where they are, but for the shard index."""
        return tuple(part for file in self.files for part in self.container.parts(file))

    def has(self, name: str) -> bool:
        """Say whether a file of this name in the directory is one of the set."""
        if self.shard_index is not None and name == self.shard_index.name:
            return True
        if self.home is not None and name in (file.parent.name for file in self.files):
            return True
        return any(self.container.belongs(name, file.name) for file in self.files)


def require_file(path: Path) -> Path:
    """Return ``path`` if it is a regular file (or a link to one): opening a pipe would wait for ever.

    Raises:
        ConvertError: It is not there, or not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not path.is_symlink() or path.exists():
            raise ConvertError(f"{path}: {error.strerror or error}") from None
        if error.errno == errno.ELOOP:
            back = "The link leads back to itself: put the file in its place."
            raise ConvertError(f"{path}: {error.strerror}", back) from None
        step = "Put the file in the link's place, or fetch it."
        if "annex" in Path(os.readlink(path)).parts:
            step = f"It is git-annex's: fetch what it names with `git annex get {path.name}` in the repository."
        if "blobs" in Path(os.readlink(path)).parts:
            step = "A hub's download that was not finished: fetch it again, with hub:owner/name or as it was fetched."
        raise ConvertError(f"{path}: a link to {shown(os.readlink(path))}, which is not there", step) from None
    if stat.S_ISDIR(mode):
        raise ConvertError(f"{path}: a folder in a file's place", "If the file is in it, put it in the folder's place.")
    if not stat.S_ISREG(mode):
        raise ConvertError(f"{path}: not a regular file")
    return path


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
    return _of_file(source, dialect)


def _of_file(path: Path, dialect: Dialect | None) -> WeightSet:
    require_file(path)
    if path.name.endswith(".index.json"):
        return _sharded(path, dialect)
    found = _weight_set((path,), None, dialect)
    home = home_of(path)
    return found if home is None else replace(found, home=home, notes=say_masters(path))


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


def index(weights: WeightSet) -> Index:
    """Index every file of ``weights``; no payload is read.

    Args:
        weights: The files, as :func:`find` found them.

    Returns:
        The tensors of all files, and as metadata what else was put beside them: an epoch, a note.

    Raises:
        FormatError: A file is broken or hostile.
        MisfitError: Several are, shards and their index disagree, or two shards hold one tensor.
    """
    tensors: list[StoredTensor] = []
    others: dict[str, str] = {}
    nested: set[str] = set()
    unread: set[str] = set()
    home: dict[str, Path] = {}
    problems: list[Problem] = []
    for path, found in zip(weights.files, _index_each(weights), strict=True):
        own = weights.container.own_metadata
        others |= {name: text for name, text in found.metadata.items() if name not in own}
        nested |= found.nested
        unread |= found.unread
        for tensor in found.tensors:
            if len(tensor.name) > _LONGEST_NAME:
                what = f"the name {shown(tensor.name)} is too long for a tensor's: at most {_LONGEST_NAME} are read"
                raise FormatError(path, what)
            other = home.setdefault(tensor.name, path)
            if other is not path:
                problems.append(Problem("twice", tensor.name, f"in {other.name} and in {path.name}"))
            tensors.append(tensor)
    _refuse_expansion(weights, tensors)
    if weights.shard_index is not None:
        listed = read_json(weights.shard_index)["weight_map"]
        weight_map = {weights.container.listed_as(name): file for name, file in listed.items()}
        for name, file in weight_map.items():
            if name not in home:
                problems.append(Problem("missing", name, f"{weights.shard_index.name} says it is in {file}"))
            elif home[name].name != file:
                problems.append(Problem("misplaced", name, f"in {home[name].name}; the index says {file}"))
        for name in home.keys() - weight_map.keys():
            problems.append(Problem("unlisted", name, f"in {home[name].name}, which the index does not say"))
    if problems:
        where = weights.shard_index or weights.directory
        raise MisfitError(where, "its shards", problems, "Fetch the shards and their index again, from one place.")
    return Index(tuple(tensors), others, frozenset(nested), frozenset(unread))


def _refuse_expansion(weights: WeightSet, tensors: Iterable[StoredTensor]) -> None:
    """Refuse files whose tensors share their bytes so often that a few kB would be written out as gigabytes."""
    stored = sum(path.stat().st_size for path in weights.parts)
    meant, most = sum(tensor.nbytes for tensor in tensors), EXPANDED_TIMES * stored + EXPANDED_BYTES
    if meant > most:
        raise FormatError(
            weights.parts[0] if len(weights.parts) == 1 else weights.directory,
            f"its tensors share {stored:,} bytes and are {meant:,} together, of which at most {most:,} are read",
            next_step="Save it with a tensor of its own for each name; if it is no model of yours, do not use it.",
        )


def _index_each(weights: WeightSet) -> list[Index]:
    """Index the files one by one; of several that are damaged all are named, so that one download mends them."""
    found: list[Index] = []
    errors: list[FormatError] = []
    for path in weights.files:
        try:
            found.append(index_file(weights.container, path))
        except FormatError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [Problem("damaged", error.path.name, error.problem) for error in errors]
        steps = {error.next_step for error in errors}
        step = steps.pop() if len(steps) == 1 else None
        where = weights.shard_index or weights.directory
        raise MisfitError(where, "its shards", problems, step or "Fetch these files again.")
    return found


def index_file(container: Container, path: Path) -> Index:
    """Index one file of ``container``.

    Raises:
        FormatError: It is broken, hostile, or something else in a weight file's place.
    """
    require_file(path)
    try:
        return container.index(path)
    except FormatError as error:
        foreign_files.refuse(error.path)
        error.next_step = error.next_step or _DAMAGED
        raise
