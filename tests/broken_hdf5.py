"""Small Keras HDF5 files of every style to break, and how: what the tests of hostile files share."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from roformer_convert.converters.containers import keras_h5
from roformer_convert.converters.containers.hdf5_checksums import lookup3
from roformer_convert.converters.containers.hdf5_file import Hdf5File


def plain(path: Path, libver: str) -> None:
    """Write two layers that share a weight, and values kept in a header."""
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["layer_names"] = ["roformer", "head"]
        file.attrs["backend"] = "tensorflow"
        file.create_group("roformer").attrs["weight_names"] = np.asarray([b"m/a/kernel:0", b"m/small:0"])
        file.create_group("head").attrs.create("weight_names", ["m/b:0", "m/a:0"], dtype=h5py.string_dtype())
        file["roformer/m/a/kernel:0"] = np.arange(12, dtype="float32").reshape(3, 4) + 1
        file["head/m/b:0"] = np.arange(5, dtype="float16") - 7
        file["head/m/a:0"] = file["roformer/m/a/kernel:0"]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((7,))
        small = h5py.h5d.create(file["roformer/m"].id, b"small:0", h5py.h5t.STD_I16LE, space, plan)
        small.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(7, dtype="int16"))


def packed(path: Path, libver: str) -> None:
    values = np.random.default_rng(3).random((9, 8))
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["layer_names"] = np.asarray([b"roformer"])
        file.create_group("roformer").attrs["weight_names"] = np.asarray([b"m/a:0", b"m/b:0", b"m/c:0"])
        file["roformer/m/a:0"] = values[0] > 0.5
        options = {"chunks": (4, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("roformer/m/b:0", data=values, **options)
        file.create_dataset("roformer/m/c:0", data=values[0], chunks=(2,))


def many(path: Path, libver: str) -> None:
    """Write enough links and attributes that they move to heaps, some attributes out of these."""
    with h5py.File(path, "w", libver=libver) as file:
        for number in range(10):
            file.attrs[f"other{number}"] = number
        file.attrs["layer_names"] = np.asarray([b"roformer"])
        names = [f"m/{'xyz'[number % 3]}{number}:0".encode() for number in range(24)]
        group = file.create_group("roformer")
        for number, name in enumerate(names):
            group[name] = np.full(number % 4, number, "int32")
        for number in range(9):
            group.attrs[f"other{number}"] = number
        width = 200 if libver == "latest" else 8  # 4.8 kB, which leaves the heap
        group.attrs["weight_names"] = np.asarray([name.ljust(width, b"\0") for name in names], f"S{width}")


FILES: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "plain, old": (plain, "earliest"),
    "packed, old": (packed, "earliest"),
    "many, old": (many, "earliest"),
    "plain, new": (plain, "latest"),
    "many, new": (many, "latest"),
}


def checksummed(path: Path) -> list[tuple[int, int, int]]:
    """Return begin, end and place of the checksum of each structure of a file that has one."""
    found = []
    verify = Hdf5File.verify
    content = path.read_bytes()

    def noted(self: Any, given: bytes, what: str, address: int) -> None:
        verify(self, given, what, address)
        at = address + len(given) - 4
        if content[at : at + 4] != given[-4:] or content[address : address + len(given)] != given:
            # a block of a fractal heap: its checksum is where it was zeroed, in front of its content
            at = content.index(given[-4:], address)
            found.append((address, address + len(given) - 4, at))
        else:
            found.append((address, address + len(given), at))

    Hdf5File.verify = noted  # type: ignore[method-assign]
    try:
        keras_h5.index(path)
    finally:
        Hdf5File.verify = verify  # type: ignore[method-assign]
    return found


def mended(content: bytearray, places: list[tuple[int, int, int]]) -> None:
    """Give each structure the checksum that it has now: a reader that only checks these learns nothing."""
    for begin, end, at in places:
        if at == end - 4:
            covered = bytes(content[begin:at])
        else:
            covered = bytes(content[begin:at]) + bytes(4) + bytes(content[at + 4 : end])
        content[at : at + 4] = struct.pack("<I", lookup3(covered))


def mutation(content: bytes, rng: random.Random, places: list[tuple[int, int, int]]) -> bytes:
    """Change single bytes and bits, put extreme numbers and offsets of the file itself in, move pieces about."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if places and rng.random() < 0.8:  # the rest of a new file is heap space and payload
            begin, end, _ = rng.choice(places)
            at = rng.randrange(begin, end)
        else:
            at = rng.randrange(8, len(content))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            width = rng.choice([2, 4, 8])
            number = rng.choice([0, (1 << 64) - 1, rng.randrange(len(content)), 1 << rng.randrange(64)])
            changed[at : at + width] = struct.pack("<Q", number)[:width]
        else:
            size, source = rng.choice([1, 8, 24, 64]), rng.randrange(len(content) - 64)
            changed[at : at + size] = changed[source : source + size]
    del changed[len(content) :]
    if rng.random() < 0.9:
        mended(changed, places)
    return bytes(changed)
