"""Find a checkpoint's weight files and index them: a directory or one file in, tensors under the files' names out.

First step of :mod:`.checkpoint`. A name proposes which container a file is; its first bytes decide.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config_fields import read_json
from .containers.hdf5_file import SIGNATURE as HDF5_SIGNATURE
from .containers.stored import Index, StoredTensor
from .dialects import CONTAINERS, DIALECT_FILES, USUAL_DIALECT, Container
from .errors import ConvertError, FormatError, MisfitError, Problem
from .mapping import Dialect, Table, count_layers

_LEVELDB_MAGIC = bytes.fromhex("57fb808b247547db")
#: ``pickle.dumps(0x1950a86a20f9469cfc6c, protocol)``, which torch.save put first before release 1.6; from protocol 4 on
#: there is a frame around it. Its caller chose the protocol, and 2 was the default.
_LEGACY_TORCH = re.compile(rb"\x80(?:[\2\3]|[\4\5]\x95\x0d\0{7})\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e")
#: What a container's metadata says of the container itself.
_OWN_METADATA: Mapping[Container, tuple[str, ...]] = {"safetensors": ("format",), "h5": ("backend", "keras_version")}
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_SUFFIXES = {".pdparams", ".bin", ".pt", ".pth", ".safetensors", ".h5", ".index"}


@dataclass(frozen=True)
class WeightSet:
    """One model's weights as they lie on disk.

    Attributes:
        container: The format of the files.
        files: The weight files, shards in order; of a TF checkpoint its ``.index``.
        shard_index: The JSON file that maps tensors to shards, or None.
        dialects: Whose file names these are.
    """

    container: Container
    files: tuple[Path, ...]
    shard_index: Path | None
    dialects: tuple[Dialect, ...]


def require_file(path: Path) -> Path:
    """Return ``path`` if it is a regular file (or a link to one): opening a pipe would wait for ever.

    Raises:
        ConvertError: It is not there, or not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise ConvertError(f"{path}: not a regular file")
    return path


def sniff(path: Path) -> Container | None:
    """Tell a container by its first bytes (a TF checkpoint's index by its last), or None."""
    try:
        with open(require_file(path), "rb") as file:
            head = file.read(32)
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            tail = file.read(8)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
    if head.startswith(HDF5_SIGNATURE):
        return "h5"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or _LEGACY_TORCH.match(head):
        return "bin"
    if tail == _LEVELDB_MAGIC:
        return "ckpt"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pdparams"
    return None


def find(source: Path, dialect: Dialect | None) -> WeightSet:
    """Find the weights that ``source`` means.

    Args:
        source: A directory, a weight file, a shard index, or a TF checkpoint's prefix.
        dialect: Look for this dialect's files only; None for any.

    Raises:
        ConvertError: Nothing there, or nothing that looks like weights.
        MisfitError: Two models in one directory.
    """
    try:
        if source.is_dir():
            return _find_in(source, dialect)
    except OSError as error:
        raise ConvertError(f"{source}: cannot be read: {error.strerror or error}") from None
    if not os.path.lexists(source):
        if Path(f"{source}.index").exists():
            return _of_file(Path(f"{source}.index"), dialect)
        raise ConvertError(f"{source}: no such file or directory", "Name a checkpoint directory or a weight file.")
    return _of_file(source, dialect)


def _of_file(path: Path, dialect: Dialect | None) -> WeightSet:
    require_file(path)
    if path.name.endswith(".index.json"):
        return _sharded(path, dialect)
    container = sniff(path) or _by_name(path)
    if container is None:
        _refuse_stand_in(path)
        known = "safetensors, .pdparams, torch .bin, HDF5 or a TF checkpoint's .index"
        raise FormatError(path, f"not a weight file that is known here; wanted {known}")
    usual = USUAL_DIALECT[container]
    dialects: tuple[Dialect, ...] = (dialect,) if dialect else (usual,) if usual else ("torch", "paddle")
    return WeightSet(container, (path,), None, dialects)


def _by_name(path: Path) -> Container | None:
    """The container that a file's name says, for one whose first bytes do not: its reader then names the damage."""
    if path.suffix == ".index":
        return "ckpt"
    return next((container for container in CONTAINERS if path.suffix == f".{container}"), None)


def _refuse_stand_in(path: Path) -> None:
    """Name the two things that downloads leave in a weight file's place.

    Raises:
        FormatError: It is a pointer of Git LFS or a web page.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        return
    try:
        with open(path, "rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        return
    if start.startswith(b"version https://git-lfs"):
        raise FormatError(
            path,
            "not the weights but Git LFS's pointer to them",
            next_step="Fetch them with `git lfs pull` in the repository, or download the file itself.",
        )
    if start.startswith((b"<!doctype", b"<html")):
        raise FormatError(
            path,
            "not the weights but a web page, perhaps of an error or a login",
            next_step="Read it in a browser, and download the file again.",
        )


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
    first = sniff(files[0]) or _by_name(files[0])
    if first is None:
        raise FormatError(files[0], "not a weight file that is known here")
    usual = USUAL_DIALECT[first]
    dialects: tuple[Dialect, ...] = (dialect,) if dialect else (usual,) if usual else ("torch", "paddle")
    return WeightSet(first, files, path, dialects)


def _candidates(directory: Path, dialects: Iterator[Dialect]) -> Iterator[Path]:
    for dialect in dialects:
        for files in DIALECT_FILES[dialect].weights:
            if files.container == "ckpt":
                standard = directory / f"{files.single}.index"
                # whatever lies under the standard name is meant to be one, and is told what is wrong with it
                if os.path.lexists(standard):
                    yield standard
                others = (path for path in directory.glob("*.index") if path != standard and path.is_file())
                yield from sorted(path for path in others if sniff(path) == "ckpt")
                continue
            for name in (files.single, files.index):
                if name is not None and os.path.lexists(directory / name):
                    yield directory / name


def _find_in(directory: Path, dialect: Dialect | None) -> WeightSet:
    wanted: list[Dialect] = list(DIALECT_FILES) if dialect is None else [dialect]
    found = list(dict.fromkeys(_candidates(directory, iter(wanted))))
    if not found:
        # the standard names first; then any one file that ends like weights
        loose = [path for path in sorted(directory.iterdir()) if path.suffix in _SUFFIXES and path.is_file()]
        found = [path for path in loose if sniff(path) is not None] or (loose if len(loose) == 1 else [])
    if not found:
        names = [
            files.single + (".index" if files.container == "ckpt" else "")
            for name in wanted
            for files in DIALECT_FILES[name].weights
        ]
        step = "Name the directory that holds them, or the weight file itself."
        others = list(_candidates(directory, iter(DIALECT_FILES)))
        if others:
            step = f"It holds {others[0].name}. Without --from the dialect is found out: "
            step += "`roformer-convert convert SOURCE --to …`."
        raise ConvertError(f"{directory}: no RoFormer weights here; looked for {', '.join(dict.fromkeys(names))}", step)
    if len(found) > 1:
        step = f"Say which one is meant: name the file itself, e.g. {found[0]}"
        if all(_SHARD.search(path.name) for path in found):
            step = "These are shards, and the .index.json that lists them is missing: fetch it too"
        elif dialect is None:
            alone = [name for name in wanted if _is_one_model(directory, name)]
            step += f", or its dialect with --from {' or '.join(alone)}" if alone else ""
        raise MisfitError(directory, "one model", [Problem("weights", path.name) for path in found], step + ".")
    return _of_file(found[0], dialect)


def _is_one_model(directory: Path, dialect: Dialect) -> bool:
    """Whether a directory holds one model in the dialect's files, so that naming the dialect says which is meant."""
    found = set(_candidates(directory, iter([dialect])))
    if len(found) != 1:
        return False
    try:
        weights = _of_file(found.pop(), None)
        if len(weights.dialects) == 1:
            return weights.dialects == (dialect,)
        stored = index(weights)
    except ConvertError:
        return False
    return max(weights.dialects, key=lambda each: spelled(each, stored)) == dialect


def spelled(dialect: Dialect, stored: Sequence[StoredTensor]) -> int:
    """How many of the tensors have a row's name in ``dialect``."""
    names = {tensor.name for tensor in stored}
    table = Table(count_layers(dialect, list(names)))
    return max(len(names & table.by_name(dialect, base=base).keys()) for base in (False, True))


def index(weights: WeightSet) -> list[StoredTensor]:
    """Index the tensors of every file of ``weights``, as :func:`index_all` does."""
    return list(index_all(weights).tensors)


def index_all(weights: WeightSet) -> Index:
    """Index every file of ``weights``; no payload is read.

    Args:
        weights: As :func:`find` found them.

    Returns:
        The tensors of all files, and as metadata what else was put beside them: an epoch, a note.

    Raises:
        FormatError: A file is broken or hostile.
        MisfitError: Several are, shards and their index disagree, or two shards hold one tensor.
    """
    tensors: list[StoredTensor] = []
    others: dict[str, str] = {}
    home: dict[str, Path] = {}
    problems: list[Problem] = []
    for path, found in zip(weights.files, _index_each(weights), strict=True):
        own = _OWN_METADATA.get(weights.container, ())
        others |= {name: text for name, text in found.metadata.items() if name not in own}
        for tensor in found.tensors:
            other = home.setdefault(tensor.name, path)
            if other is not path:
                problems.append(Problem("twice", tensor.name, f"in {other.name} and in {path.name}"))
            tensors.append(tensor)
    if weights.shard_index is not None:
        weight_map = read_json(weights.shard_index)["weight_map"]
        for name, file in weight_map.items():
            if name not in home:
                problems.append(Problem("missing", name, f"{weights.shard_index.name} says it is in {file}"))
            elif home[name].name != file:
                problems.append(Problem("misplaced", name, f"in {home[name].name}; the index says {file}"))
        for name in home.keys() - weight_map.keys():
            problems.append(Problem("unlisted", name, f"in {home[name].name}, which the index does not say"))
    if problems:
        where = weights.shard_index or weights.files[0].parent
        raise MisfitError(where, "its shards", problems, "Fetch the shards and their index again, from one place.")
    return Index(tuple(tensors), others)


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
        where = weights.shard_index or weights.files[0].parent
        raise MisfitError(where, "its shards", problems, step or "Fetch these files again.")
    return found


def index_file(container: Container, path: Path) -> Index:
    """Index one file of ``container``.

    Raises:
        FormatError: It is broken, hostile, or something else in a weight file's place.
    """
    require_file(path)
    try:
        return _index_file(container, path)
    except FormatError as error:
        _refuse_stand_in(error.path)
        raise


def _index_file(container: Container, path: Path) -> Index:
    # imported here: each command pays only for the container in hand (h5 needs nine modules, ckpt loads crc32c)
    if container == "pdparams":
        from .containers import pdparams

        return pdparams.index(path)
    if container == "bin":
        from .containers import torch_bin

        return torch_bin.index(path)
    if container == "safetensors":
        from .containers import safetensors

        return safetensors.index(path)
    if container == "h5":
        from .containers import keras_h5

        return keras_h5.index(path)
    from .containers import tensor_bundle

    return tensor_bundle.index(path)
