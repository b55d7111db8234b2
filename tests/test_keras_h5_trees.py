"""Files of every style that h5py can write are indexed as h5py reads them: h5py is the oracle, never the reader itself.

Groups with few links and with thousands, short and long attributes, text of one width and of any, every dtype, scalars,
tensors without elements, contiguous, compact and chunked ones; in the oldest format and in the newest.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_keras_h5 import peer_python, read, values_of

from roformer_convert.converters.containers import keras_h5
from roformer_convert.converters.containers.stored import Extent, OpenFiles, StoredTensor
from roformer_convert.converters.errors import FormatError

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
#: earliest: superblock 0, symbol tables; v108 and later: superblock 2 or 3, headers with checksums, links as messages.
STYLES = ["earliest", "v108", "v110", "latest"]


def check(path: Path) -> int:
    """Compare the index of a file with what h5py reads of it; return the number of tensors."""
    index = keras_h5.index(path)
    expected = []
    with h5py.File(path) as file:
        layers = names_of(file, "layer_names")
        for layer in layers:
            for weight in names_of(file[layer], "weight_names"):
                expected.append((weight.partition("/")[2].removesuffix(":0"), file[layer][weight][()]))
        metadata = {key: file.attrs[key] for key in ("backend", "keras_version") if key in file.attrs}
    assert [tensor.name for tensor in index.tensors] == [name for name, _ in expected]
    for tensor, (name, array) in zip(index.tensors, expected, strict=True):
        assert (tensor.dtype, tensor.shape) == (str(array.dtype), array.shape), name
        assert read(tensor) == array.tobytes(), name
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
    return "".join(rng.choice("abcdefgh_.-0123456789 é中") for _ in range(rng.randrange(1, longest))).strip(".") or "x"


def random_options(rng: random.Random, shape: tuple[int, ...], styled: str) -> dict[str, Any]:
    """Options of create_dataset: contiguous mostly, else compact or chunked with some filters."""
    if not shape or 0 in shape or styled != "earliest" or rng.random() < 0.6:
        return {}
    options: dict[str, Any] = {"chunks": tuple(rng.randrange(1, length + 1) for length in shape)}
    if rng.random() < 0.7:
        options |= {"shuffle": rng.random() < 0.5, "fletcher32": rng.random() < 0.5}
        if rng.random() < 0.7:
            options |= {"compression": "gzip", "compression_opts": rng.randrange(10)}
    return options


def compact(group: Any, name: str, array: np.ndarray[Any, Any]) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    space = h5py.h5s.create_simple(array.shape) if array.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    made = h5py.h5d.create(group.id, name.encode(), kind, space, plan, links)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array))


def random_tree(path: Path, styled: str, seed: int) -> None:
    """Write a file of random layers, names, shapes and attributes."""
    rng = random.Random(seed)
    with h5py.File(path, "w", libver=styled, track_order=rng.random() < 0.2 or None) as file:
        for _ in range(rng.choice([0, 0, 3, 20])):  # other attributes: above eight they move to a heap
            file.attrs[f"{a_word(rng)}{rng.randrange(99)}"] = rng.choice(["text", 3, np.arange(rng.choice([2, 2000]))])
        layers = sorted({a_word(rng, 30) for _ in range(rng.choice([1, 3, 12]))})
        rng.shuffle(layers)
        for layer in layers:
            group = file.create_group(layer, track_order=rng.random() < 0.3)
            names = []
            for number in range(rng.choice([0, 1, 5, 40])):
                depth = rng.randrange(1, 5)
                name = "/".join(["m", *(a_word(rng) + "_" for _ in range(depth)), f"{number}:0"])
                shape = tuple(rng.choice([0, 1, 1, 2, 3, 7, 20]) for _ in range(rng.randrange(4)))
                array = values_of(shape, rng.choice(DTYPES), number)
                if rng.random() < 0.2:
                    compact(group, name, np.asarray(array))
                else:
                    group.create_dataset(name, data=array, **random_options(rng, shape, styled))
                names.append(name)
            for _ in range(rng.choice([0, 0, 12])):
                group.attrs[f"{a_word(rng)}{rng.randrange(99)}"] = "x" * rng.choice([1, 3000])
            write_names(group, "weight_names", names, rng)
        write_names(file, "layer_names", layers, rng)
        file.attrs["backend"] = rng.choice(["tensorflow", b"jax"])
        if rng.random() < 0.5:
            file.attrs["keras_version"] = np.bytes_(b"2.21.0")


@pytest.mark.parametrize("styled", STYLES)
def test_random_trees_are_indexed_as_h5py_reads_them(tmp_path: Path, styled: str) -> None:
    total = 0
    for seed in range(40):
        path = tmp_path / f"{seed}.h5"
        random_tree(path, styled, seed)
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


@pytest.mark.parametrize("styled", ["earliest", "latest"])
@pytest.mark.parametrize("count", [8, 9, 17, 300, 3000])
def test_groups_of_many_links(tmp_path: Path, styled: str, count: int) -> None:
    wide_file(tmp_path / "wide.h5", count, styled)
    assert check(tmp_path / "wide.h5") == count


def test_a_heap_of_a_megabyte_has_tables_below_its_table(tmp_path: Path) -> None:
    wide_file(tmp_path / "wide.h5", 3000, "latest", longest=500)
    assert (tmp_path / "wide.h5").read_bytes().count(b"FHIB") > 2
    assert check(tmp_path / "wide.h5") == 3000


@pytest.mark.parametrize("count", [2, 200, 3000])
def test_old_files_may_hold_groups_of_the_new_kind(tmp_path: Path, count: int) -> None:
    wide_file(tmp_path / "wide.h5", count, "earliest", track_order=True)
    assert check(tmp_path / "wide.h5") == count


def many_attributes(path: Path, count: int, nbytes: int) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(count):
            file.attrs[f"other{number}"] = np.full(nbytes, number % 256, "uint8")
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"] = np.ones(3, "float32")
        file["layer"].attrs["weight_names"] = np.asarray([b"m/a:0".ljust(nbytes, b"\0")])


@pytest.mark.parametrize(
    ("count", "nbytes"), [(5, 10), (9, 10), (9, 5000), (5, 70_000), (600, 3), (3000, 100), (100, 4000)], ids=str
)
def test_many_and_long_attributes(tmp_path: Path, count: int, nbytes: int) -> None:
    many_attributes(tmp_path / "many.h5", count, nbytes)
    assert check(tmp_path / "many.h5") == 1


def test_an_attribute_above_64_kb_is_read(tmp_path: Path) -> None:
    names = [f"m/{'long' * 100}{number}:0" for number in range(400)]
    with h5py.File(tmp_path / "long.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = [b"layer"]
        for number, name in enumerate(names):
            file[f"layer/{name}"] = np.full(2, number, "int16")
        file["layer"].attrs["weight_names"] = np.asarray([name.encode() for name in names])
    assert check(tmp_path / "long.h5") == 400


def test_chunks_written_in_any_order_and_many(tmp_path: Path) -> None:
    rng = random.Random(6)
    values = values_of((70, 61), "int16", 6)
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        file.create_group("layer").attrs["weight_names"] = [b"m/a:0", b"m/b:0"]
        dataset = file.create_dataset("layer/m/a:0", values.shape, "int16", chunks=(3, 2), compression="gzip")
        corners = [(row, column) for row in range(0, 70, 3) for column in range(0, 61, 2)]
        rng.shuffle(corners)
        for row, column in corners:
            dataset[row : row + 3, column : column + 2] = values[row : row + 3, column : column + 2]
        line = file.create_dataset("layer/m/b:0", (50_000,), "uint8", chunks=(7,))
        line[:] = values_of((50_000,), "uint8", 7)
    assert check(tmp_path / "chunks.h5") == 2


def test_threads_share_what_is_unpacked(tmp_path: Path) -> None:
    values = {f"m/{name}:0": values_of((300, 200), "float32", number) for number, name in enumerate("abc")}
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        file.create_group("layer").attrs["weight_names"] = list(values)
        for name, array in values.items():
            file.create_dataset(f"layer/{name}", data=array, chunks=(70, 9), compression="gzip", shuffle=True)
    tensors = keras_h5.index(tmp_path / "packed.h5").tensors

    def piecewise(tensor: StoredTensor, files: OpenFiles, step: int) -> bytes:
        out = bytearray(tensor.nbytes)
        for start in range(0, len(out), step):
            tensor.data.read_into(files, start, memoryview(out)[start : start + step])
        return bytes(out)

    with OpenFiles() as files, ThreadPoolExecutor(4) as pool:
        work = [(tensor, pool.submit(piecewise, tensor, files, step)) for step in (999, 20_000) for tensor in tensors]
        for tensor, done in work:
            assert done.result() == values[f"m/{tensor.name}:0"].tobytes()
    held = {id(tensor.data.bands): tensor.data.bands._held for tensor in tensors}  # type: ignore[attr-defined]
    assert [len(bands) for bands in held.values()] == [2]


def test_filters_that_a_chunk_passed_over(tmp_path: Path) -> None:
    values = values_of((6, 4), "float32", 1)
    with h5py.File(tmp_path / "masked.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        file.create_group("layer").attrs["weight_names"] = [b"m/a:0"]
        dataset = file.create_dataset(
            "layer/m/a:0", data=values, chunks=(3, 4), shuffle=True, compression="gzip", fletcher32=True
        )
        dataset.id.write_direct_chunk((3, 0), values[3:].tobytes(), filter_mask=7)
    assert check(tmp_path / "masked.h5") == 1


@pytest.mark.parametrize("shape", [(5,), (4, 6)])
@pytest.mark.parametrize("options", [{"chunks": True}, {"compression": "gzip"}, {"maxshape": None}], ids=str)
def test_newer_indexes_of_chunks_are_refused(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    options = {key: (None,) * len(shape) if key == "maxshape" else value for key, value in options.items()}
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = [b"layer"]
        file.create_group("layer").attrs["weight_names"] = [b"m/a:0"]
        file.create_dataset("layer/m/a:0", data=np.ones(shape, "float32"), **options)
    with pytest.raises(FormatError, match="only a newer index finds") as caught:
        keras_h5.index(tmp_path / "new.h5")
    assert caught.value.next_step == keras_h5.UNPACK


@pytest.mark.parametrize("styled", ["earliest", "latest"])
def test_unusual_shapes(tmp_path: Path, styled: str) -> None:
    shapes: list[tuple[int, ...]] = [(), (0,), (0, 3), (2,) * 10 + (1,) * 22, (1 << 40, 0)]
    with h5py.File(tmp_path / "x.h5", "w", libver=styled) as file:
        file.attrs["layer_names"] = [b"layer"]
        names = [f"m/{number}:0" for number in range(2 * len(shapes))]
        for name, shape in zip(names, shapes, strict=False):
            file.create_dataset(f"layer/{name}", data=values_of(shape, "uint8", 1))
        for name, shape in zip(names[len(shapes) :], shapes, strict=True):
            chunked = 0 in shape and {"chunks": (3,) * len(shape), "maxshape": (None,) * len(shape)}
            file.create_dataset(f"layer/{name}", data=values_of(shape, "uint8", 2), **(chunked or {}))
        file["layer"].attrs["weight_names"] = names
    assert check(tmp_path / "x.h5") == len(names)


PEER = """
import json, sys, numpy, h5py
for style in ("earliest", "v108", "latest"):
    with h5py.File(f"{sys.argv[1]}/{style}.h5", "w", libver=style) as file:
        file.attrs["layer_names"] = [b"layer", b"wide"]
        file.attrs["backend"] = "tensorflow"
        names = []
        for number, dtype in enumerate(sys.argv[2:]):
            names.append(f"m/{dtype}/kernel:0")
            file[f"layer/{names[-1]}"] = (numpy.arange(12).reshape(3, 4) % (number + 2)).astype(dtype)
        file["layer"].attrs["weight_names"] = [name.encode() for name in names]
        wide = [f"m/{number}:0" for number in range(500)]
        for name in wide:
            file[f"wide/{name}"] = numpy.arange(3, dtype="float32")
        file["wide"].attrs["weight_names"] = wide
        if style == "earliest":
            file.create_dataset("layer/m/packed:0", data=numpy.arange(500), chunks=(9,), compression="gzip")
            file["layer"].attrs["weight_names"] = [name.encode() for name in [*names, "m/packed:0"]]
    with h5py.File(f"{sys.argv[1]}/{style}.h5") as file:
        print(json.dumps([
            (name[2:-2], str(file[layer][name].dtype), file[layer][name].shape, file[layer][name][()].tobytes().hex())
            for layer in file.attrs["layer_names"].astype(str)
            for name in file[layer].attrs["weight_names"].astype(str)
        ]))
"""


@pytest.mark.skipif(peer_python() is None, reason="SKIPPED: no other environment with h5py, of another HDF5")
def test_files_of_another_hdf5_library(tmp_path: Path) -> None:
    command = [str(peer_python()), "-c", PEER, str(tmp_path), *DTYPES]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # The newest format of HDF5 2 is nothing that an older library reads: that one's own answer is compared.
    for styled, line in zip(("earliest", "v108", "latest"), done.stdout.splitlines(), strict=True):
        tensors = keras_h5.index(tmp_path / f"{styled}.h5").tensors
        found = [[each.name, each.dtype, list(each.shape), read(each).hex()] for each in tensors]
        assert found == json.loads(line)
        assert len(found) >= 509


def test_compact_values_are_extents(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "compact.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        file.create_group("layer").attrs["weight_names"] = [b"m/a:0"]
        compact(file, "layer/m/a:0", np.arange(1000, dtype="float32"))
    assert check(tmp_path / "compact.h5") == 1
    assert isinstance(keras_h5.index(tmp_path / "compact.h5").tensors[0].data, Extent)


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


@pytest.mark.parametrize("styled", ["earliest", "latest"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_every_spelling(tmp_path: Path, spelling: str, styled: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=styled) as file:
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"], file["layer/m/long/b:0"] = np.ones(3), np.zeros(2)
        SPELLINGS[spelling](file["layer"])
    index = keras_h5.index(tmp_path / "x.h5")
    assert [tensor.name for tensor in index.tensors] == ["a", "long/b"]
    assert check(tmp_path / "x.h5") == 2


def test_one_path_under_two_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["a", "a/m"]
        file.create_dataset("a/m/b/c:0", data=np.arange(40), chunks=(7,))
        file["a"].attrs["weight_names"], file["a/m"].attrs["weight_names"] = ["m/b/c:0"], ["b/c:0"]
    assert check(tmp_path / "x.h5") == 2


def old_layouts(content: bytearray, version: int) -> int:
    """Write the layouts of version 3, of vectors and of contiguous matrices, as HDF5 1.4 did; return how many."""
    changed = 0
    for at in range(96, len(content) - 40, 8):
        if content[at : at + 8] != struct.pack("<HHB3x", 8, 24, 0) or content[at + 8] != 3:
            continue
        kind = content[at + 9]
        assert kind in (1, 2)
        if kind == 1:
            address, size = struct.unpack_from("<QQ", content, at + 10)
            lengths = (size // 4,)  # float32, or what is as long
        else:
            count, address = struct.unpack_from("<BQ", content, at + 10)
            lengths = struct.unpack_from(f"<{count}I", content, at + 19)
        message = struct.pack(f"<BBB5xQ{len(lengths)}I", version, len(lengths), kind, address, *lengths)
        content[at + 8 : at + 32] = message.ljust(24, b"\0")
        changed += 1
    return changed


@pytest.mark.parametrize("version", [1, 2])
def test_layouts_of_the_last_century(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["layer"]
        file.create_group("layer").attrs["weight_names"] = ["m/a:0", "m/b:0"]
        file["layer/m/a:0"] = values_of((31,), "float32", 1)
        file.create_dataset("layer/m/b:0", data=values_of((31,), "float32", 2), chunks=(8,), compression="gzip")
    content = bytearray(path.read_bytes())
    assert old_layouts(content, version) == 2
    path.write_bytes(content)
    assert check(path) == 2
