"""Files of torch's for tests: saved by torch, or put together around a pickle, and compared bit by bit."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import read_stored

from roformer_convert.converters.tensors.stored import Index, StoredTensor

torch = pytest.importorskip("torch")

ITEMS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1}
ITEMS |= {"uint8": 1, "bool": 1}
#: torch.save's two containers.
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, value: object, zipped: bool = True, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def bits(tensor: Any) -> bytes:
    """The bytes of a torch tensor in C order."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert isinstance(content, bytes)
    return content


def in_c_order(tensor: StoredTensor, step: int = 1 << 20) -> bytes:
    content = read_stored(tensor, step)
    if tensor.order == "C":
        return content
    item = f"V{tensor.nbytes // tensor.size}"
    transposed: bytes = np.frombuffer(content, item).reshape(tensor.shape[::-1]).T.tobytes()
    return transposed


def assert_same(index: Index, want: dict[str, Any]) -> None:
    assert [tensor.name for tensor in index.tensors] == list(want)
    for tensor in index.tensors:
        value = want[tensor.name]
        assert tensor.dtype == str(value.dtype).removeprefix("torch."), tensor.name
        assert tensor.shape == tuple(value.shape), tensor.name
        assert in_c_order(tensor) == bits(value), tensor.name


def make_state(seed: int = 0) -> dict[str, Any]:
    """One random tensor of every dtype, all sizes different."""
    generator = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] = [
        (3, 5),
        (21, 97),
        (7,),
        (2, 3, 4),
        (),
        (17, 2),
        (4, 0, 6),
        (13,),
        (300,),
        (2, 2, 3),
    ]
    state = {}
    for (name, size), shape in zip(ITEMS.items(), shapes, strict=True):
        content = generator.integers(0, 2 if name == "bool" else 256, math.prod(shape) * size, np.uint8)
        flat = torch.from_numpy(content).view(getattr(torch, name)) if content.size else torch.empty(0)
        state[f"model.{name}"] = flat.to(getattr(torch, name)).reshape(shape)
    return state


def patched(path: Path, edits: dict[int, bytes]) -> Path:
    content = bytearray(path.read_bytes())
    for place, change in edits.items():
        content[place : place + len(change)] = change
    path.write_bytes(content)
    return path


def pickled(*, pid: bytes = b"", arguments: bytes = b"", function: bytes = b"_rebuild_tensor_v2") -> bytes:
    """A data.pkl of one tensor "w", with parts of it replaced."""
    pid = pid or b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06t"
    arguments = arguments or b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n" + function + b"\n(" + pid + b"Q" + arguments + b"tRs."


def make_zip(path: Path, members: Sequence[tuple[str, bytes]], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path
