"""Files in the form that Keras writes are indexed by our own reader as h5py reads them, and h5py is the oracle alone.

Groups with few links and with thousands, short and long attributes, text of one width and of any, every dtype, scalars,
tensors without elements. Other forms are in test_hdf5_copy.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from file_contents import read_stored
from test_keras_h5 import values_of

from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.tensors.stored import Extent

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
#: Writes one dataset: group, path, values.
Writer = Callable[[Any, str, Any], object]


def check(path: Path, kind: type = Extent) -> int:
    """Compare the index of a file, all data of one ``kind``, with what h5py reads; return the number of tensors."""
    index = keras_h5.index(path)
    assert {type(tensor.data) for tensor in index.tensors} <= {kind}
    expected = []
    with h5py.File(path) as file:
        layers = names_of(file, "layer_names")
        for layer in layers:
            for weight in names_of(file[layer], "weight_names"):
                expected.append((weight.removesuffix(":0"), file[layer][weight][()]))
        metadata = {key: file.attrs[key] for key in ("backend", "keras_version") if key in file.attrs}
    prefixes = {name.partition("/")[0] for name, _ in expected}
    if len(prefixes) == 1:  # the model's own name, before every weight
        expected = [(name.partition("/")[2], array) for name, array in expected]
    assert [tensor.name for tensor in index.tensors] == [name for name, _ in expected]
    for tensor, (name, array) in zip(index.tensors, expected, strict=True):
        assert (tensor.dtype, tensor.shape) == (str(array.dtype.newbyteorder("=")), array.shape), name
        assert read_stored(tensor) == array.astype(array.dtype.newbyteorder("<")).tobytes(), name
    assert index.metadata == {key: text.decode() if isinstance(text, bytes) else text for key, text in metadata.items()}
    return len(expected)


def names_of(owner: Any, name: str) -> list[str]:
    if name in owner.attrs:
        found = list(owner.attrs[name])
    else:
        found = []
        while f"{name}{len(found)}" in owner.attrs:
            found.append(owner.attrs[f"{name}{len(found)}"])
        found = [text for part in found for text in part]
    return [text.decode() if isinstance(text, bytes) else text for text in found]


def write_names(owner: Any, name: str, names: list[str], rng: random.Random) -> None:
    """Write names as text of any length, of one width, or in parts."""
    encoded = [each.encode() for each in names]
    kind = rng.randrange(4)
    if not names:
        owner.attrs[name] = []
    elif kind == 0:
        owner.attrs.create(name, names, dtype=h5py.string_dtype())
    elif kind == 1:
        owner.attrs.create(name, encoded, dtype=h5py.string_dtype("ascii"))
    elif kind == 2 or len(names) < 3:
        owner.attrs[name] = np.asarray(encoded)
    else:
        for number, part in enumerate(np.array_split(np.asarray(encoded), rng.choice([2, 3]))):
            owner.attrs[f"{name}{number}"] = part


def a_word(rng: random.Random, longest: int = 12) -> str:
    """Make a name up. Other letters than ASCII's would make HDF5 use groups of the newer kind."""
    return "".join(rng.choice("abcdefgh_.-0123456789 ") for _ in range(rng.randrange(1, longest))).strip(".") or "x"


SPELLINGS: dict[str, Callable[[h5py.Group], Any]] = {
    "one width": lambda group: group.attrs.create("weight_names", np.asarray([b"m/a:0", b"m/long/b:0"])),
    "any length": lambda group: group.attrs.create("weight_names", ["m/a:0", "m/long/b:0"], dtype=h5py.string_dtype()),
    "ended by a zero": lambda group: padded(group, h5py.h5t.STR_NULLTERM),
    "filled with spaces": lambda group: padded(group, h5py.h5t.STR_SPACEPAD),
}


def padded(group: h5py.Group, padding: int) -> None:
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(12)
    kind.set_strpad(padding)
    names = np.asarray([b"m/a:0", b"m/long/b:0"], "S12")
    attribute = h5py.h5a.create(group.id, b"weight_names", kind, h5py.h5s.create_simple((2,)))
    attribute.write(names)


def write_plainly(group: Any, name: str, array: Any) -> None:
    group[name] = array


def random_tree(path: Path, styled: str, seed: int, write: Writer = write_plainly) -> None:
    """Write a file of random layers, names, shapes and attributes."""
    rng = random.Random(seed)
    with h5py.File(path, "w", libver=styled) as file:
        for _ in range(rng.choice([0, 0, 3, 20])):
            file.attrs[f"{a_word(rng)}{rng.randrange(99)}"] = rng.choice(["text", 3, np.arange(rng.choice([2, 2000]))])
        layers = sorted({a_word(rng, 30) for _ in range(rng.choice([1, 3, 12]))})
        rng.shuffle(layers)
        for layer in layers:
            group = file.create_group(layer)
            names = []
            for number in range(rng.choice([0, 1, 5, 40])):
                depth = rng.randrange(1, 5)
                name = "/".join(["m", *(a_word(rng) + "_" for _ in range(depth)), f"{number}:0"])
                shape = tuple(rng.choice([0, 1, 1, 2, 3, 7, 20]) for _ in range(rng.randrange(4)))
                write(group, name, values_of(shape, rng.choice(DTYPES), number))
                names.append(name)
            for _ in range(rng.choice([0, 0, 12])):
                group.attrs[f"{a_word(rng)}{rng.randrange(99)}"] = "x" * rng.choice([1, 3000])
            write_names(group, "weight_names", names, rng)
        write_names(file, "layer_names", layers, rng)
        file.attrs["backend"] = rng.choice(["tensorflow", b"jax"])
        if rng.random() < 0.5:
            file.attrs["keras_version"] = np.bytes_(b"2.21.0")


def test_random_trees(tmp_path: Path) -> None:
    total = 0
    for seed in range(40):
        path = tmp_path / f"{seed}.h5"
        random_tree(path, "earliest", seed)
        total += check(path)
    assert total > 500


def wide_file(path: Path, count: int, styled: str, longest: int = 80, **options: Any) -> None:
    """Write a layer of ``count`` weights whose names are long, made in no order."""
    rng = random.Random(count)
    names = [f"m/{a_word(rng, longest)}{number}:0" for number in range(count)]
    rng.shuffle(names)
    with h5py.File(path, "w", libver=styled, **options) as file:
        file.attrs["layer_names"] = [b"wide"]
        group = file.create_group("wide")
        for number, name in enumerate(names):
            group[name] = np.arange(number % 5, dtype="float32")
        for part, some in enumerate(np.array_split(np.asarray([name.encode() for name in names]), 1 + count // 200)):
            group.attrs[f"weight_names{part}"] = some
    assert path.stat().st_size > 100 * count


@pytest.mark.parametrize("count", [8, 9, 17, 300, 3000])
def test_groups_of_many_links(tmp_path: Path, count: int) -> None:
    wide_file(tmp_path / "wide.h5", count, "earliest")
    assert check(tmp_path / "wide.h5") == count


#: Shapes of the kind that trip readers.
UNUSUAL: list[tuple[int, ...]] = [(), (0,), (0, 3), (2,) * 10 + (1,) * 22, (1 << 40, 0)]


def test_unusual_shapes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        names = [f"m/{number}:0" for number in range(len(UNUSUAL))]
        for name, shape in zip(names, UNUSUAL, strict=True):
            file.create_dataset(f"layer/{name}", data=values_of(shape, "uint8", 1))
        file["layer"].attrs["weight_names"] = names
    assert check(tmp_path / "x.h5") == len(names)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_every_spelling(tmp_path: Path, spelling: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"], file["layer/m/long/b:0"] = np.ones(3), np.zeros(2)
        SPELLINGS[spelling](file["layer"])
    index = keras_h5.index(tmp_path / "x.h5")
    assert [tensor.name for tensor in index.tensors] == ["a", "long/b"]
    assert check(tmp_path / "x.h5") == 2


def test_one_path_under_two_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["a", "a/m"]
        file["a/m/b/c:0"] = np.arange(40)
        file["a"].attrs["weight_names"], file["a/m"].attrs["weight_names"] = ["m/b/c:0"], ["b/c:0"]
    assert check(tmp_path / "x.h5") == 2
