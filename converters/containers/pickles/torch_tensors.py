"""torch tensors as pickles describe them: the globals a ``.bin`` may name, storages, and strides made into extents.

A torch tensor is a view (offset, shape, strides) of a storage, and a storage is raw bytes elsewhere in the file. Most
views are plain, and a transposed one is the same bytes in the other order. The rest (sliced columns, expanded rows) are
refused: no software was seen to save a model's weights so.

Sources: torch/_utils.py ``_rebuild_tensor*`` and ``_rebuild_parameter*``, torch/serialization.py ``persistent_id``,
torch/storage.py ``_dtype_to_storage_type_map``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import FormatError, quoted
from ...tensors.byte_order import Swapped
from ...tensors.checksums import CheckedPart
from ...tensors.stored import ChecksummedExtent, Data, Extent, StoredTensor
from .machine import Allowed, Global, OpaqueLeaf, PickleMachine, Span, Unbuilt, kind_of
from .numpy_pickle import checked_nbytes, ordered_dict
from .state_tree import TensorLeaf

# fmt: off
#: torch's storage class, without "Storage" → (our dtype, bytes an element).
STORAGES = {
    "Double": ("float64", 8), "Float": ("float32", 4), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8), "Int": ("int32", 4), "Short": ("int16", 2), "Char": ("int8", 1),
    "Byte": ("uint8", 1), "Bool": ("bool", 1), "ComplexFloat": ("complex64", 8), "ComplexDouble": ("complex128", 16),
    "Untyped": ("uint8", 1),
    # of quantized tensors, which are not read: one of several beside the weights has its place in the file
    "QInt8": ("qint8", 1), "QUInt8": ("quint8", 1), "QInt32": ("qint32", 4), "QUInt4x2": ("quint4x2", 1),
    "QUInt2x4": ("quint2x4", 1),
}
#: Types that have no storage class of their own: _rebuild_tensor_v3 names them beside an untyped storage.
_DTYPES = {
    **{dtype: (dtype, itemsize) for dtype, itemsize in STORAGES.values()},
    "uint16": ("uint16", 2), "uint32": ("uint32", 4), "uint64": ("uint64", 8),
    "float8_e4m3fn": ("float8_e4m3fn", 1), "float8_e5m2": ("float8_e5m2", 1), "float8_e4m3fnuz": ("float8_e4m3fnuz", 1),
    "float8_e5m2fnuz": ("float8_e5m2fnuz", 1), "float8_e8m0fnu": ("float8_e8m0fnu", 1),
}
# fmt: on


@dataclass(slots=True, eq=False)
class Storage:
    """A storage that the pickle refers to.

    Attributes:
        key: Its name in the file.
        dtype, itemsize: Of its class; "uint8" for an untyped one.
        count: Elements.
        offset: Where its bytes lie; None until the container said so.
        crc: CRC-32 of its bytes, None where the container keeps none.
        big: Whether its elements are big-endian.
    """

    key: str
    dtype: str
    itemsize: int
    count: int
    offset: int | None = None
    crc: int | None = None
    big: bool = False

    def __str__(self) -> str:
        return "a torch storage"

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize

    def whole(self, path: Path) -> ChecksummedExtent | None:
        """All its bytes in the file, where the container keeps their CRC."""
        if self.crc is None or self.offset is None:
            return None
        return ChecksummedExtent(path, self.offset, self.nbytes, self.crc, "crc32")


@dataclass(slots=True, eq=False)
class StorageView:
    """A run of another storage: torch before 0.4 saved views of storages."""

    base: Storage
    start: int
    count: int

    def __str__(self) -> str:
        return "a torch storage"


@dataclass(slots=True, eq=False)
class TorchTensor(TensorLeaf):
    """A tensor: a view of a storage, in elements of its own dtype, checked to lie inside it."""

    storage: Storage
    dtype: str
    itemsize: int
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return self.unread or f"one tensor ({self.dtype}, shape {self.shape})"

    def stored(self, path: Path, name: str) -> StoredTensor:
        """Say where the tensor's bytes are, the storage's place in the file being known by now.

        Raises:
            FormatError: The storage is not in the file.
        """
        if self.storage.offset is None:
            raise FormatError(path, f"the storage {quoted(self.storage.key)} of {quoted(name)} is not in the file")
        offset = self.storage.offset + self.start * self.itemsize
        nbytes = math.prod(self.shape) * self.itemsize
        if nbytes == 0:
            return StoredTensor(name, self.dtype, self.shape, Extent(path, self.storage.offset, 0))
        data: Data = Extent(path, offset, nbytes)
        whole = self.storage.whole(path)
        if whole is not None:
            # what is read from its first byte to its last is checked on the way
            same = nbytes == whole.nbytes and not self.storage.big
            data = whole if same else CheckedPart(data, whole, f"the storage {quoted(self.storage.key)}")
        if self.storage.big and self.storage.itemsize > 1:
            data = Swapped(data, self.storage.itemsize // (2 if self.storage.dtype.startswith("complex") else 1))
        return StoredTensor(name, self.dtype, self.shape, data, self._order or "C")

    @property
    def unread(self) -> str | None:
        """What it is, where its elements are not one run of bytes."""
        if self._order is not None:
            return None
        return f"a tensor of shape {self.shape} and strides {self.strides}, with scattered or repeated elements"

    @property
    def _order(self) -> str | None:
        """In which order its elements are one run, None for neither row by row nor, of a matrix, column by column."""
        # A dimension of one element is never stepped along, whatever its stride says.
        steps = [(size, stride) for size, stride in zip(self.shape, self.strides, strict=True) if size != 1]
        if 0 in self.shape or steps == _c_order(steps):
            return "C"
        return "F" if len(self.shape) == len(steps) == 2 and steps[::-1] == _c_order(steps[::-1]) else None


def _c_order(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the steps of a C-contiguous array of the same sizes."""
    wanted, stride = [], 1
    for size, _ in steps[::-1]:
        wanted.append((size, stride))
        stride *= size
    return wanted[::-1]


class UnreadTensor(TensorLeaf):
    """A tensor of a kind that is not read."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __str__(self) -> str:
        return self._what

    @property
    def unread(self) -> str:
        """What it is."""
        return self._what


class Storages:
    """The storages one pickle refers to, by key: the persistent ids of a torch file."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def persistent_load(self, machine: PickleMachine, identity: object) -> object:
        """Answer for ``("storage", FloatStorage, key, location, count)``; before 1.6 a sixth part may name a view."""
        if type(identity) is tuple and len(identity) == 4 and type(identity[1]) in (Global, Unbuilt):
            return identity[1]  # ("module", class, file, source): the older format keeps a class's source
        if type(identity) is not tuple or len(identity) not in (5, 6):
            machine.fail(f"the persistent id is {kind_of(identity)}, want ('storage', type, key, location, count)")
        if machine.text(identity[0], "'storage'") != "storage":
            machine.fail(f"a persistent {quoted(machine.text(identity[0]))}, want 'storage'")
        dtype, itemsize = _storage_type(machine, identity[1])
        key = machine.text(identity[2], "a storage's key")
        count = machine.size(identity[4], "a storage's size")
        storage = self.by_key.setdefault(key, Storage(key, dtype, itemsize, count))
        if (storage.dtype, storage.count) != (dtype, count):
            machine.fail(
                f"storage {quoted(key)} is {count:,} of {dtype} here and {storage.count:,} of {storage.dtype} before"
            )
        if len(identity) == 5 or identity[5] is None:
            return storage
        view = identity[5]
        if type(view) is not tuple or len(view) != 3:
            machine.fail(f"the view of a storage is {kind_of(view)}, want (key, offset, count)")
        start, size = machine.size(view[1], "a view's offset"), machine.size(view[2], "a view's size")
        if start + size > storage.count:
            machine.fail(
                f"elements {start:,} to {start + size:,} of storage {quoted(key)}, which has {storage.count:,}"
            )
        return StorageView(storage, start, size)

    def globals(self) -> Allowed:
        """Return the globals that a torch file may name, and what each stands for."""
        allowed: dict[tuple[str, str], Callable[[PickleMachine, tuple[object, ...]], object] | None] = {
            ("collections", "OrderedDict"): ordered_dict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._typed_tensor,
            ("torch._utils", "_rebuild_meta_tensor_no_storage"): _meta,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): self._from_type,
            ("torch", "Tensor"): None,
            ("torch.nn.parameter", "Parameter"): None,
            ("torch", "Size"): _size,
            ("torch", "device"): _device,
            ("torch.storage", "UntypedStorage"): None,
        }
        for name in STORAGES:
            # Files of 0.x name the storages of the device they came from.
            for module in ("torch", "torch.cuda"):
                allowed[module, f"{name}Storage"] = None
        for name in _DTYPES:
            allowed["torch", name] = None
        return allowed

    def _tensor(self, machine: PickleMachine, arguments: tuple[object, ...]) -> TorchTensor | UnreadTensor:
        """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)``."""
        if not 4 <= len(arguments) <= 7:
            machine.fail(f"_rebuild_tensor_v2 is called with {len(arguments)} arguments, want 6 or 7")
        storage = arguments[0]
        owner = storage.base if isinstance(storage, StorageView) else storage
        if not isinstance(owner, Storage):
            machine.fail(f"{kind_of(storage)} is the storage of a tensor")
        if len(arguments) == 7 and _is_lazy(arguments[6]):
            return _LAZY
        return self._view(machine, storage, owner.dtype, owner.itemsize, arguments)

    def _typed_tensor(self, machine: PickleMachine, arguments: tuple[object, ...]) -> TorchTensor | UnreadTensor:
        """``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)``."""
        if not 7 <= len(arguments) <= 8:
            machine.fail(f"_rebuild_tensor_v3 is called with {len(arguments)} arguments, want 7 or 8")
        dtype = arguments[6]
        if type(dtype) is not Global or dtype.module != "torch":
            machine.fail(f"{kind_of(dtype)} is the dtype of a tensor")
        if dtype.name not in _DTYPES:
            return UnreadTensor(f"a tensor of {dtype}, which is not read")
        if len(arguments) == 8 and _is_lazy(arguments[7]):
            return _LAZY
        return self._view(machine, arguments[0], *_DTYPES[dtype.name], arguments)

    def _view(
        self, machine: PickleMachine, storage: object, dtype: str, itemsize: int, arguments: tuple[object, ...]
    ) -> TorchTensor:
        if isinstance(storage, StorageView):
            owner, first, size = storage.base, storage.start, storage.count * storage.base.itemsize
        elif isinstance(storage, Storage):
            owner, first, size = storage, 0, storage.nbytes
        else:
            machine.fail(f"{kind_of(storage)} is the storage of a tensor")
        start = machine.size(arguments[1], "a tensor's offset")
        shape = machine.sizes(arguments[2], "a tensor's shape")
        strides = machine.sizes(arguments[3], "a tensor's strides")
        if len(shape) != len(strides):
            machine.fail(f"a tensor of shape {shape} has the strides {strides}")
        nbytes = checked_nbytes(machine, shape, itemsize)
        if nbytes:
            last = start + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
            if (last + 1) * itemsize > size:
                machine.fail(
                    f"a tensor of shape {shape}, strides {strides} at element {start:,} ends {last + 1:,} elements into"
                    f" its storage of {size // itemsize:,}"
                )
        first_element, odd = divmod(first * owner.itemsize, itemsize)
        if odd:
            machine.fail(f"a tensor of {dtype} begins inside an element of its storage")
        return TorchTensor(owner, dtype, itemsize, first_element + start, shape, strides)

    def _from_type(self, machine: PickleMachine, arguments: tuple[object, ...]) -> object:
        """``_rebuild_from_type_v2(function, type, arguments, state)``: a tensor that has attributes of its own."""
        if len(arguments) != 4 or type(arguments[0]) is not Global or type(arguments[2]) is not tuple:
            machine.fail("_rebuild_from_type_v2 is called with something other than (function, type, arguments, state)")
        rebuild = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
        }.get(str(arguments[0]))
        if rebuild is None or kind_of(arguments[1]) not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
            return Unbuilt(f"{kind_of(arguments[0])} as {kind_of(arguments[1])}")
        return rebuild(machine, arguments[2])


def _storage_type(machine: PickleMachine, value: object) -> tuple[str, int]:
    known = type(value) is Global and value.module in ("torch", "torch.cuda", "torch.storage")
    name = value.name.removesuffix("Storage") if isinstance(value, Global) and value.name.endswith("Storage") else ""
    if not known or name not in STORAGES:
        machine.fail(f"{kind_of(value)} is the type of a storage")
    return STORAGES[name]


_LAZY = UnreadTensor("a tensor to be conjugated or negated on reading (tensor.resolve_conj().resolve_neg() is not)")


def _meta(machine: PickleMachine, arguments: tuple[object, ...]) -> UnreadTensor:
    """``_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)``, as accelerate makes them."""
    return UnreadTensor("a tensor on the meta device, which has a shape and no values")


def _is_lazy(metadata: object) -> bool:
    """Say whether the conjugate or negative of a view is still to be taken: its bytes are not its values."""
    return metadata is not None and not (
        isinstance(metadata, dict) and all(value is False for value in metadata.values())
    )


def _parameter(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    """Describe ``_rebuild_parameter(tensor, requires_grad, hooks)``: the tensor, of whichever kind it is."""
    if not 3 <= len(arguments) <= 4 or not isinstance(arguments[0], TensorLeaf | Unbuilt):
        return NotImplemented
    return arguments[0]


def _size(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    if len(arguments) != 1:
        return NotImplemented
    inner = arguments[0]
    return machine.sizes(tuple(inner) if type(inner) is list else inner, "a torch.Size")


def _device(machine: PickleMachine, arguments: tuple[object, ...]) -> object:
    if not 1 <= len(arguments) <= 2 or type(arguments[0]) is not Span:
        return NotImplemented
    return OpaqueLeaf(machine.text(arguments[0], "a device"))
