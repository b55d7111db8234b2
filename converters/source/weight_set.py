"""The weight files of one model, indexed: tensors under the files' names, no payload read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..containers.container import Container
from ..errors import PUT_FILE_ITSELF, ConvertError, FormatError, MisfitError, Problem, shown
from ..json_input import read_json
from ..table.mapping import Dialect
from ..tensors.stored import Index, StoredTensor
from . import foreign_files

_DAMAGED = "It is damaged, or another kind of file under this name: fetch it again, or save it again."
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
            step = "Look for how it is spelled." if error.errno == errno.ENOENT else None
            raise ConvertError(f"{path}: {error.strerror or error}", step) from None
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
        raise ConvertError(f"{path}: not a regular file", PUT_FILE_ITSELF)
    return path


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
