"""TensorFlow checkpoints: ``PREFIX.index``, a table of names, and ``PREFIX.data-SSSSS-of-NNNNN``, the bare payloads.

``index`` reads the table (:mod:`.leveldb_table`) and the messages in it (:mod:`.messages`), checks every
payload's extent against its data file and keeps each payload's checksum for :mod:`...tensors.checksums`. ``lay_out``
writes one data file with its index and the little ``checkpoint`` file that ``tf.train.latest_checkpoint`` reads. The
variables of a TF2 checkpoint get the names that its object graph gives them (:mod:`.object_graph`); where that gives
two of them one name, theirs are kept (``layer/.ATTRIBUTES/VARIABLE_VALUE``).

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc of https://github.com/tensorflow/tensorflow.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import FETCH_AGAIN, PUT_FILE_ITSELF, FormatError, quoted
from ...tensors.regions import first_overlap
from ...tensors.stored import (
    FLOATS,
    ChecksummedExtent,
    Extent,
    FileLayout,
    Fragment,
    Index,
    NewTensor,
    Slot,
    StoredTensor,
)
from . import messages as bundle_messages
from . import object_graph
from .leveldb_table import build_table, is_table, read_table
from .messages import ITEMSIZES, BundleEntry, read_entry, read_header

#: TensorFlow's checksum of these is not one of the payload's bytes: it counts a string's length as four bytes, say.
_NOT_PLAIN_BYTES = ("string", "variant")

#: A limit of ours, so that an index stays small in memory.
_MAX_TENSORS = 100_000

_SUFFIX = ".index"
_STATE_NAME = "checkpoint"
_CHUNK_BYTES = 1 << 20


def index(index_path: Path) -> Index:
    """Read ``index_path`` (``PREFIX.index``) and check every tensor's extent against its data file.

    Raises:
        FormatError: The index is damaged or of a flavour that is not read (an older V1 checkpoint, big-endian,
            partitioned variables, compressed), a data file is missing, or an extent lies outside its data file or over
            another one.
    """
    _check_is_index(index_path)
    entries = read_table(index_path)
    first = next(entries, None)
    if first is None or first.key != b"":
        raise FormatError(index_path, "the table does not begin with a checkpoint's header")
    if first.value[:1] == b"\x0a":
        # A V1 file has another message under the same key, one that begins with a message.
        raise _v1(index_path)
    shard_count = read_header(index_path, first)
    described: list[BundleEntry] = []
    for entry in entries:
        if len(described) == _MAX_TENSORS:
            raise FormatError(index_path, f"more than {_MAX_TENSORS:,} tensors", offset=entry.offset)
        described.append(read_entry(index_path, entry))
    _refuse_partitioned(index_path, described)
    shards = _Shards(index_path, shard_count)
    stored = [_stored(index_path, each, shards) for each in described]
    stored.sort(key=lambda pair: (pair[0].path, pair[0].offset))
    _check_apart(stored)
    names = _variable_names(described, {tensor.name: (extent, tensor) for extent, tensor in stored})
    return Index(tuple(replace(tensor, name=names.get(tensor.name, tensor.name)) for _, tensor in stored), {})


def _variable_names(
    described: Sequence[BundleEntry], stored: Mapping[str, tuple[Extent, StoredTensor]]
) -> dict[str, str]:
    """Return name of a tensor → name of its variable, in a TF2 checkpoint; counters keep their names."""
    graph = next((each for each in described if each.key == object_graph.GRAPH.encode()), None)
    if graph is None or not any(name.endswith(object_graph.VALUE) for name in stored):
        return {}
    names = object_graph.variable_names(stored[object_graph.GRAPH][0], graph.crc32c)
    floats = {name for name, (_, tensor) in stored.items() if tensor.dtype in FLOATS}
    return {name: own for name, own in names.items() if name in floats and own not in stored}


def _check_is_index(path: Path) -> None:
    """Give a V1 checkpoint, one file without an index, an error of its own."""
    prefix = path.name.removesuffix(_SUFFIX)
    named = prefix != path.name and prefix != ""
    if named and os.path.exists(path):
        return
    single = path.with_name(prefix) if named else path
    if is_table(single):
        raise _v1(single)
    if not named:
        raise FormatError(path, f"wanted the index of a checkpoint, PREFIX{_SUFFIX}")


def _v1(path: Path) -> FormatError:
    return FormatError(
        path,
        "a V1 checkpoint, which keeps everything in one file, is not read here",
        next_step="Load it in TensorFlow and save it with tf.compat.v1.train.Saver, which writes V2.",
    )


def _refuse_partitioned(path: Path, described: Sequence[BundleEntry]) -> None:
    partitioned = [each.key for each in described if each.partitioned]
    if partitioned:
        raise FormatError(
            path,
            f"{len(partitioned)} partitioned variables are not read here, the first is {quoted(partitioned[0])}",
            next_step="Load the checkpoint in TensorFlow without a partitioner and save it again.",
        )


class _Shards:
    """The data files beside an index, each looked at once."""

    def __init__(self, index_path: Path, count: int) -> None:
        self._index_path = index_path
        self._count = count
        self._found: dict[int, tuple[Path, int]] = {}

    def find(self, shard: int, key: bytes) -> tuple[Path, int]:
        """Return a data file's path and size in bytes; ``key`` is the tensor that wants it."""
        if shard not in self._found:
            if shard >= self._count:
                raise FormatError(
                    self._index_path,
                    f"tensor {quoted(key)} lies in data file {shard:,}, the header counts {self._count:,} (from 0)",
                )
            prefix = self._index_path.name.removesuffix(_SUFFIX)
            path = self._index_path.with_name(_data_name(prefix, shard, self._count))
            try:
                status = path.stat()
            except OSError as error:
                raise FormatError(
                    path,
                    f"cannot be read ({error.strerror or error}), and tensor {quoted(key)} lies in it",
                    next_step=f"Put every data file of the checkpoint beside {self._index_path.name}.",
                ) from None
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(path, "not a regular file", next_step=PUT_FILE_ITSELF)
            self._found[shard] = path, status.st_size
        return self._found[shard]


def _data_name(prefix: str, shard: int, count: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{count:05d}"


def _stored(index_path: Path, each: BundleEntry, shards: _Shards) -> tuple[Extent, StoredTensor]:
    """Place a described tensor in its data file, which must hold all of it."""
    try:
        name = each.key.decode()
    except UnicodeDecodeError:
        raise FormatError(index_path, f"the name {quoted(each.key)} is not UTF-8") from None
    if each.dtype in ITEMSIZES:
        wanted = math.prod(each.shape) * ITEMSIZES[each.dtype]
        if each.nbytes != wanted:
            raise FormatError(
                index_path,
                f"tensor {quoted(name)} has {each.nbytes:,} bytes; {each.dtype} of shape {each.shape} takes {wanted:,}",
            )
    path, file_bytes = shards.find(each.shard, each.key)
    end = each.offset + each.nbytes
    if end > file_bytes:
        raise FormatError(
            path,
            f"tensor {quoted(name)} takes bytes {each.offset:,} to {end:,}, the file has {file_bytes:,}",
            next_step=FETCH_AGAIN,
        )
    if each.dtype in _NOT_PLAIN_BYTES:
        extent = Extent(path, each.offset, each.nbytes)
    else:
        extent = ChecksummedExtent(path, each.offset, each.nbytes, each.crc32c)
    return extent, StoredTensor(name, each.dtype, each.shape, extent)


def _check_apart(stored: Sequence[tuple[Extent, StoredTensor]]) -> None:
    """Check that no two tensors of a data file overlap; bytes that belong to none may lie between them."""
    files: dict[Path, list[tuple[int, int, str]]] = {}
    for extent, tensor in stored:
        files.setdefault(extent.path, []).append((extent.offset, extent.offset + extent.nbytes, tensor.name))
    for path, regions in files.items():
        overlap = first_overlap(regions)
        if overlap is not None:
            what = f"tensor {quoted(overlap.later)} overlaps tensor {quoted(overlap.earlier)}"
            raise FormatError(path, what, offset=overlap.offset)


def lay_out(prefix: str, tensors: Sequence[NewTensor]) -> FileLayout:
    """Lay ``tensors`` out as one data file, ``PREFIX.index`` and ``checkpoint``, payloads in the order of the names.

    The index comes last: until then it is all zeros, which is not a table.

    Raises:
        ValueError: ``prefix`` is not a plain file name, a tensor is an alias (the format has none: the caller stores it
            again or leaves it out), or a name is empty or occurs twice.
    """
    if not prefix or any(character in '/\\"' or character < " " for character in prefix):
        raise ValueError(f"{prefix!r} is not a plain file name")
    data_name = _data_name(prefix, 0, 1)
    slots: dict[str, Slot] = {}
    offset = 0
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode())
    for tensor in ordered:
        if tensor.alias_of is not None:
            raise ValueError(f"{tensor.name} shares the bytes of {tensor.alias_of}: a TF checkpoint cannot store that")
        # Keys that begin with a zero byte are those of slices. Source: EncodeTensorNameSlice.
        if tensor.name in slots or tensor.name[:1] in ("", "\0"):
            raise ValueError(
                f"a TF checkpoint cannot hold a second tensor called {tensor.name!r}, nor one without a name"
            )
        slots[tensor.name] = Slot(data_name, offset, tensor.nbytes)
        offset += tensor.nbytes
    # what tf.train.latest_checkpoint reads; source: checkpoint_state.proto
    state = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'.encode()

    def fragments(checksums: Mapping[str, int]) -> list[Fragment]:
        entries = [(b"", bundle_messages.header())]
        for tensor in ordered:
            message = bundle_messages.entry(tensor, slots[tensor.name].offset, checksums[tensor.name])
            entries.append((tensor.name.encode(), message))
        return [Fragment(f"{prefix}{_SUFFIX}", 0, build_table(entries)), Fragment(_STATE_NAME, 0, state)]

    # an entry's size does not depend on its checksum
    beside = {each.filename: len(each.content) for each in fragments(dict.fromkeys(slots, 0))}
    return FileLayout({data_name: offset, **beside}, slots, fragments, "crc32c")
