"""torch's ``.bin``: a pickle of tensors that refer to storages, in a zip or, before 1.6, one behind the other.

``index`` follows the pickle with :mod:`.machine` and runs nothing. ``lay_out`` places what
``torch.save(state_dict)`` would write, byte for byte but for the memo of the pickle and the serialization id.

Source: torch/serialization.py ``_save``, ``_legacy_save``, ``_legacy_load``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ...errors import FETCH_AGAIN, FormatError, quoted
from ...tensors import signatures
from ...tensors.stored import FileLayout, Index, NewTensor, OpenFiles, StoredTensor
from . import opcodes
from .machine import PickleMachine, kind_of
from .state_tree import TensorLeaf, as_tree, flatten
from .torch_tensors import STORAGES, Storages, TorchTensor
from .torch_zip import Member, Record, lay_out_zip, read_members

#: torch/serialization.py, the file type's first pickle and the one after it.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LARGEST_PICKLE = 256 << 20

Answer = TypeVar("Answer")
#: Makes an answer of what the pickle of a file describes, given the machine that made it.
_Finish = Callable[[Path, PickleMachine, object], Answer]


def index(path: Path | str) -> Index:
    """Index a torch file; a tensor under ``k`` → ``inner`` is called ``k.inner``, other leaves are metadata.

    Raises:
        FormatError: The file is not a pickled state dict, is damaged, or names code.
    """
    return _follow(Path(path), _to_index)


def read_tree(path: Path) -> dict[str, object]:
    """Index a torch file as it is nested: an optimizer's ``{"state": {0: …}, "param_groups": […]}``.

    Raises:
        FormatError: The file is not a pickled dict, or is damaged.
    """
    return _follow(path, lambda path, machine, tree: as_tree(path, machine, tree, partial(_place, path)))


def _follow(path: Path, finish: _Finish[Answer]) -> Answer:
    with OpenFiles() as files:
        size = path.stat().st_size
        start = bytearray(min(512, size))
        files.read_into(path, 0, memoryview(start))
        if start.startswith(signatures.ZIP):
            return _follow_zip(path, files, size, finish)
        if start[257:262] == b"ustar":
            raise FormatError(
                path,
                "a tar archive, as torch before 0.1.10 wrote; it is not read",
                offset=0,
                next_step="Load it with torch and save its state dict again.",
            )
        if not start:
            raise FormatError(path, "the file is empty", next_step=FETCH_AGAIN)
        return _follow_legacy(path, files, size, bytes(start), finish)


def _follow_zip(path: Path, files: OpenFiles, size: int, finish: _Finish[Answer]) -> Answer:
    members = read_members(path, files, size)
    folders = [name[: -len("/data.pkl")] for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise FormatError(path, f"the zip holds {len(folders)} members named */data.pkl, a torch file has one")
    folder = folders[0]
    for name in members:
        if not name.startswith(f"{folder}/"):
            raise FormatError(path, f"the member {quoted(name)} lies outside {quoted(folder)}, where torch's lie")
    if f"{folder}/constants.pkl" in members:
        raise FormatError(
            path,
            "a TorchScript archive, whose pickle belongs to the code in it",
            next_step="Load it with torch.jit.load and save its state_dict() with torch.save.",
        )
    byte_order = _small(path, files, members.get(f"{folder}/byteorder"), "byteorder")
    if byte_order not in (None, b"little", b"big"):
        raise FormatError(path, f"the tensors' byte order is {byte_order!r}, want b'little' or b'big'")
    pickle = members[f"{folder}/data.pkl"]
    if pickle.nbytes > _LARGEST_PICKLE:
        raise FormatError(path, f"a pickle of {pickle.nbytes:,} bytes, at most {_LARGEST_PICKLE:,} are read")
    _check_crc(path, files, pickle, "data.pkl")
    storages = Storages()
    machine = PickleMachine(
        path,
        files,
        pickle.offset,
        pickle.offset + pickle.nbytes,
        storages.globals(),
        persistent=storages.persistent_load,
    )
    tree = machine.run()
    if machine.position != pickle.offset + pickle.nbytes:
        raise FormatError(path, "bytes follow the end of the pickle in data.pkl", offset=machine.position)
    for key, storage in storages.by_key.items():
        member = members.get(f"{folder}/data/{key}")
        if member is None:
            raise FormatError(path, f"the storage {quoted(key)} is missing: the zip has no {quoted(f'data/{key}')}")
        if member.nbytes != storage.nbytes:
            raise FormatError(
                path,
                f"the storage {quoted(key)} has {member.nbytes:,} bytes in the zip, want {storage.nbytes:,}:"
                f" {storage.count:,} of {storage.dtype}",
                offset=member.offset,
            )
        storage.offset = member.offset
        storage.crc = member.crc or None
        storage.big = byte_order == b"big"
    return finish(path, machine, tree)


def _small(path: Path, files: OpenFiles, member: Member | None, name: str) -> bytes | None:
    """Read a member of a few bytes, of a larger one its start."""
    if member is None:
        return None
    _check_crc(path, files, member, name)
    content = bytearray(min(member.nbytes, 16))
    files.read_into(path, member.offset, memoryview(content))
    return bytes(content)


def _check_crc(path: Path, files: OpenFiles, member: Member, name: str) -> None:
    """Check a member against its CRC; payloads are checked when they are read, and torch checks neither.

    A CRC of zero stands for no CRC: ``torch.serialization.set_crc32_options(False)`` leaves all of them so,
    ``skip_data`` those of the payloads.
    """
    crc = 0
    chunk = bytearray(min(member.nbytes, 1 << 18))
    for start in range(0, member.nbytes, 1 << 18):
        piece = memoryview(chunk)[: member.nbytes - start]
        files.read_into(path, member.offset + start, piece)
        crc = zlib.crc32(piece, crc)
    if member.crc not in (0, crc):
        raise FormatError(
            path, f"{name} is damaged: its CRC32 is {crc:08x}, want {member.crc:08x}", offset=member.offset
        )


def _follow_legacy(path: Path, files: OpenFiles, size: int, start: bytes, finish: _Finish[Answer]) -> Answer:
    machine = PickleMachine(path, files, 0, size, {}, strict=True)
    # Other first bytes than these begin no pickle of data; behind the last two, the machine names what would be run.
    magic = machine.run() if start[:1] in (b"\x80", b"c", b"(") else None
    if type(magic) is not int or magic != _MAGIC:
        raise FormatError(
            path, "neither a zip nor torch's older format: its magic number is missing; want a file of torch.save"
        )
    position = machine.position
    machine = PickleMachine(path, files, position, size, {}, strict=True)
    protocol = machine.run()
    if type(protocol) is not int or protocol != _PROTOCOL:
        got = protocol if type(protocol) is int else kind_of(protocol)
        raise FormatError(path, f"version {got} of torch's older format, want {_PROTOCOL}", offset=position)
    position = machine.position
    machine = PickleMachine(path, files, position, size, {}, strict=True)
    system = machine.run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FormatError(path, "the tensors' byte order is not said to be little-endian", offset=position)
    storages = Storages()
    machine = PickleMachine(
        path, files, machine.position, size, storages.globals(), persistent=storages.persistent_load
    )
    tree = machine.run()
    keys = PickleMachine(path, files, machine.position, size, {}, strict=True)
    listed = keys.run()
    if type(listed) is not list or len(listed) != len(storages.by_key):
        keys.fail(f"the list of storages is not one of {len(storages.by_key):,} keys, as many as the tensors use")
    position = keys.position
    for item in listed:
        key = keys.text(item, "a storage's key")
        storage = storages.by_key.get(key)
        if storage is None or storage.offset is not None:
            keys.fail(f"the storage {quoted(key)} is listed twice or used by no tensor")
        count = bytearray(min(8, size - position))
        files.read_into(path, position, memoryview(count))
        number = int.from_bytes(count, "little", signed=True)
        if len(count) < 8 or position + 8 + storage.nbytes > size:
            what = f"the file is cut short in the storage {quoted(key)}"
            raise FormatError(path, what, offset=position, next_step=FETCH_AGAIN)
        if number != storage.count:
            raise FormatError(
                path, f"the storage {quoted(key)} has {number:,} elements, want {storage.count:,}", offset=position
            )
        storage.offset = position + 8
        position += 8 + storage.nbytes
    if position != size:
        raise FormatError(path, f"{size - position:,} bytes follow the last storage", offset=position)
    return finish(path, machine, tree)


def _to_index(path: Path, machine: PickleMachine, tree: object) -> Index:
    flat = flatten(path, machine, tree)
    stored = tuple(_place(path, name, tensor) for name, tensor in flat.tensors)
    return Index(stored, flat.metadata, flat.nested, flat.unread)


def _place(path: Path, name: str, tensor: TensorLeaf) -> StoredTensor:
    assert isinstance(tensor, TorchTensor), "a torch file's handlers make no other"
    return tensor.stored(path, name)


_STORAGE_NAMES = {dtype: name for name, (dtype, _) in STORAGES.items() if name != "Untyped"}
_ALIGNMENT = 64


def lay_out(filename: str, tensors: Sequence[NewTensor]) -> FileLayout:
    """Lay out a torch file of an OrderedDict of tensors; an alias is another tensor on the same storage."""
    written = _Tensors()
    pickle = bytearray(b"\x80\x02") + written.ordered_dict() + opcodes.MARK
    for tensor, holder in opcodes.order_aliases(tensors):
        pickle += opcodes.text(tensor.name) + written.tensor(tensor, holder)
    return _in_zip(filename, bytes(pickle + opcodes.SETITEMS + opcodes.STOP), written)


def lay_out_tree(filename: str, tree: Mapping[str, object]) -> FileLayout:
    """Lay out a torch file of dicts, lists, tuples, texts and numbers with tensors in them, each of its own name."""
    written = _Tensors()
    pickle = b"\x80\x02" + opcodes.data(tree, lambda tensor: written.tensor(tensor, tensor.name)) + opcodes.STOP
    return _in_zip(filename, pickle, written)


class _Tensors:
    """The tensors of a pickle that is being written, and the storages that they refer to.

    Attributes:
        storages: Name of the tensor that a storage is of → the storage's key, and its size in bytes.
    """

    def __init__(self) -> None:
        self.storages: dict[str, tuple[str, int]] = {}
        self._memo = opcodes.Memo()

    def ordered_dict(self) -> bytes:
        """Write an empty OrderedDict."""
        return self._global("collections", "OrderedDict") + opcodes.EMPTY_TUPLE + opcodes.REDUCE

    def tensor(self, tensor: NewTensor, holder: str) -> bytes:
        """Write a tensor on the storage of the one called ``holder``, which may be its own."""
        key, _ = self.storages.setdefault(holder, (str(len(self.storages)), tensor.nbytes))
        rebuild = self._global("torch._utils", "_rebuild_tensor_v2")
        count = 1
        strides = []
        for size in tensor.shape[::-1]:
            # torch gives an empty tensor the strides that it would have if each empty dimension held one element.
            strides.append(count)
            count *= max(size, 1)
        storage = (
            self._memo.once(opcodes.text("storage")),
            self._global("torch", f"{_STORAGE_NAMES[tensor.dtype]}Storage"),
            opcodes.text(key),
            self._memo.once(opcodes.text("cpu")),
            opcodes.integer(0 if 0 in tensor.shape else count),
        )
        arguments = (
            opcodes.tuple_of(storage) + opcodes.PERSISTENT_ID,
            opcodes.integer(0),
            opcodes.integers(tensor.shape),
            opcodes.integers(strides[::-1]),
            opcodes.FALSE,
            self.ordered_dict(),  # hooks
        )
        return rebuild + opcodes.tuple_of(arguments) + opcodes.REDUCE

    def _global(self, module: str, name: str) -> bytes:
        return self._memo.once(opcodes.import_global(module, name))


def _in_zip(filename: str, pickle: bytes, tensors: _Tensors) -> FileLayout:
    # torch names the folder after the file, or "archive" where its C++ writer cannot.
    stem = Path(filename).stem
    folder = stem if stem.isascii() and not stem.startswith(".") else "archive"

    def small(name: str, content: bytes) -> Record:
        return Record(f"{folder}/{name}", len(content), content)

    return lay_out_zip(
        filename,
        [
            small("data.pkl", pickle),
            small(".format_version", b"1"),
            small(".storage_alignment", str(_ALIGNMENT).encode()),
            small("byteorder", b"little"),
            *(Record(f"{folder}/data/{key}", nbytes, tensor=name) for name, (key, nbytes) in tensors.storages.items()),
            small("version", b"3\n"),
        ],
        _ALIGNMENT,
    )
