"""Small Keras HDF5 files to break: some in the form that Keras writes, some in others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np


def plain(path: Path, libver: str) -> None:
    """Write two layers that share a weight."""
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["layer_names"] = ["roformer", "head"]
        file.attrs["backend"] = "tensorflow"
        file.create_group("roformer").attrs["weight_names"] = np.asarray([b"m/a/kernel:0", b"m/small:0"])
        file.create_group("head").attrs.create("weight_names", ["m/b:0", "m/a:0"], dtype=h5py.string_dtype())
        file["roformer/m/a/kernel:0"] = np.arange(12, dtype="float32").reshape(3, 4) + 1
        file["head/m/b:0"] = np.arange(5, dtype="float16") - 7
        file["head/m/a:0"] = file["roformer/m/a/kernel:0"]
        file["roformer/m/small:0"] = np.arange(7, dtype="int16")


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


#: How to write a file and for which version of the library: in the form that Keras writes, and in others.
FILES: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "plain, old": (plain, "earliest"),
    "many, old": (many, "earliest"),
}
OTHER_FILES: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "packed, old": (packed, "earliest"),
    "plain, new": (plain, "latest"),
    "many, new": (many, "latest"),
}
