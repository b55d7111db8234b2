"""The HDF5 structures that we build: the library finds in our file what it finds in one that it wrote itself.

Each file is written twice, by us and by h5py in the way Keras does it, and both must have the same contents to the
last attribute's type, before and after the library has changed them.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdf5_contents import change, contents

from roformer_convert.converters.containers.hdf5 import writing as hdf5_writing
from roformer_convert.converters.containers.hdf5.datatypes import ANY_TEXT, DATATYPES
from roformer_convert.converters.containers.hdf5.keras_h5_layout import lay_out
from roformer_convert.converters.containers.hdf5.writing import Group, NewDataset, TextHeap, describe, evenly
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.tensors.stored import NewTensor

ROOT = Path(__file__).resolve().parents[1]
MODEL = "tf_ro_former_for_masked_lm"
#: Keras' HDF5_OBJECT_HEADER_LIMIT.
LIMIT = 64512

Array = np.ndarray[Any, Any]


@dataclass
class Case:
    """What to write: arrays by name, names for the same bytes, and what layers share."""

    weights: Mapping[str, Array]
    aliases: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def tensors(self) -> list[NewTensor]:
        tensors = [NewTensor(name, str(array.dtype), array.shape) for name, array in self.weights.items()]
        for name, of in self.aliases.items():
            tensors.append(NewTensor(name, str(self.weights[of].dtype), self.weights[of].shape, alias_of=of))
        return tensors


def write_ours(path: Path, case: Case, leave_out: int | None = None) -> None:
    """Write as the engine does. Payloads and structures may share no byte, and all are inside the file."""
    layout = lay_out(path.name, case.tensors, MODEL, case.shared)
    layout.create(path.parent)
    slots = layout.slots
    assert list(slots) == list(case.weights)
    assert path.stat().st_size == layout.sizes[path.name]
    runs = [(slots[name].offset, array.tobytes()) for name, array in case.weights.items() if array.nbytes]
    assert [offset % 64 for offset, _ in runs] == [0] * len(runs)
    assert runs == sorted(runs)
    fragments = [(fragment.offset, fragment.content) for fragment in layout.fragments({})]
    ends = [(offset, offset + len(content)) for offset, content in sorted(runs + fragments)]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
    del fragments[slice(leave_out, leave_out + 1) if leave_out is not None else slice(0)]
    with open(path, "r+b") as file:
        for offset, content in runs + fragments:
            file.seek(offset)
            file.write(content)
    assert path.stat().st_size == layout.sizes[path.name]


def write_with_h5py(path: Path, case: Case) -> None:
    """Write as Keras does, with hard links for what is shared."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layers: dict[str, list[str]] = {}
    for name in [*case.weights, *case.aliases]:
        layers.setdefault(name.split("/")[0], []).append(name)
    for layer, names in case.shared.items():
        layers.setdefault(layer, []).extend(names)
    made: dict[str, Any] = {}
    with h5py.File(path, "w", libver="earliest") as file:
        save_names(file, "layer_names", list(layers))
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.21.0"
        for layer in [*layers, "top_level_model_weights"]:
            names = layers.get(layer, [])
            group = file.create_group(layer)
            save_names(group, "weight_names", [f"{MODEL}/{name}:0" for name in names])
            for name in names:
                of = case.aliases.get(name, name)
                if of not in made:
                    where = group.require_group(f"{MODEL}/{name}:0".rpartition("/")[0])
                    kind = h5py.h5t.py_create(case.weights[of].dtype, logical=True)
                    space = h5py.h5s.create_simple(case.weights[of].shape)
                    leaf = f"{name}:0".rpartition("/")[2].encode()
                    made[of] = h5py.Dataset(h5py.h5d.create(where.id, leaf, kind, space, plan))
                    made[of][()] = case.weights[of]
                else:
                    group[f"{MODEL}/{name}:0"] = made[of]


def save_names(group: Any, name: str, names: Sequence[str]) -> None:
    """Do as tf_keras' save_attributes_to_hdf5_group does."""
    data = [name.encode() for name in names]
    count = 1
    chunks = np.array_split(np.asarray(data), count)
    while any(chunk.nbytes > LIMIT for chunk in chunks):
        count += 1
        chunks = np.array_split(np.asarray(data), count)
    if count > 1:
        for number, chunk in enumerate(chunks):
            group.attrs[f"{name}{number}"] = chunk
    else:
        group.attrs[name] = data


def random_array(rng: random.Random) -> Array:
    dtype = rng.choice(list(DATATYPES))
    shape = tuple(rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.choice([0, 1, 2, 2, 3, 5])))
    raw = rng.randbytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(bytes(byte & 1 for byte in raw) if dtype == "bool" else raw, dtype=dtype).reshape(shape)


def random_part(rng: random.Random) -> str:
    letters = rng.choice(["ab", "abcdefghijklmnopqrstuvwxyz_.-", "ABab019~ !", "中文字é"])
    return "".join(rng.choices(letters, k=rng.choice([1, 2, 3, 7, 8, 9, 30, 120]))).strip(".") or "x"


def random_case(rng: random.Random, layers: int, weights: int) -> Case:
    """Name arrays at random in this many layers; some are tied to others, some shared."""
    tops = [f"{random_part(rng)}{n}" for n in range(layers)]
    names = [
        "/".join([tops[n % layers], *(random_part(rng) for _ in range(rng.randrange(5))), f"{random_part(rng)}{n}"])
        for n in range(weights)
    ]
    found = {name: random_array(rng) for name in names}
    tied = {f"{rng.choice(tops)}/tied/{n}": rng.choice(names) for n in range(rng.randrange(4))}
    own = names[:]
    rng.shuffle(own)
    shared = {"a head": own[: rng.randrange(3)], "another": own[: rng.randrange(3)]}
    return Case(found, tied, shared)


def flat_case(layer: str, names: Sequence[str]) -> Case:
    return Case({f"{layer}/{name}": np.full((n % 3,), n, dtype="int32") for n, name in enumerate(names)})


def cases() -> dict[str, Case]:
    found = {f"{layers} layers": random_case(random.Random(layers), layers, 2 * layers) for layers in (1, 2, 8, 9, 100)}
    rng = random.Random(5)
    found["2000 layers"] = Case({f"{random_part(rng)}{n}/bias": np.full((2,), n, dtype="int16") for n in range(2000)})
    for count in (1, 8, 9, 256, 257, 600):
        found[f"{count} weights in a group"] = flat_case("layer", [f"w{n * 7919 % 1009}" for n in range(count)])
    found["names that begin alike"] = flat_case(
        "a", ["a", "aa", "a.", "a0", "A", "a~", "aaaaaaa", "aaaaaaaa", "b", "é"]
    )
    found["lists of names above 64 KB"] = flat_case("layer", [f"{'long' * 60}/{n}" for n in range(700)])
    for count in (144, 145, 288):  # 144 names of 448 bytes fill the limit
        found[f"{count} names of 448 bytes"] = flat_case("la", [f"{n:0{448 - len(MODEL) - 6}}" for n in range(count)])
    found["no tensor"] = Case({})
    return found


CASES = cases()


def append_and_compare(ours: Path, theirs: Path, seed: int) -> None:
    """Compare two files, have this process' library change both, and compare them again."""
    assert contents(ours) == contents(theirs)
    for path in (ours, theirs):
        change(path, seed)
    assert contents(ours) == contents(theirs)


@pytest.mark.parametrize("name", CASES)
def test_the_library_finds_what_it_would_have_written(tmp_path: Path, name: str) -> None:
    write_ours(tmp_path / "ours.h5", CASES[name])
    write_with_h5py(tmp_path / "theirs.h5", CASES[name])
    append_and_compare(tmp_path / "ours.h5", tmp_path / "theirs.h5", seed=1)


def test_random_trees_of_any_size(tmp_path: Path) -> None:
    rng = random.Random(11)
    for number in range(10):
        layers = rng.randrange(1, 40)
        case = random_case(rng, layers, rng.randrange(layers, 6 * layers))
        ours, theirs = tmp_path / f"ours{number}.h5", tmp_path / f"theirs{number}.h5"
        write_ours(ours, case)
        write_with_h5py(theirs, case)
        append_and_compare(ours, theirs, seed=number)


def test_the_library_of_transformers_4s_environment_agrees(tmp_path: Path) -> None:
    local = ROOT / ".peers/transformers4/bin/python"
    python = os.environ.get("ROFORMER_PEER_TRANSFORMERS4") or (str(local) if local.exists() else None)
    if python is None:
        pytest.skip("SKIPPED: no environment with another HDF5 library")
    paths = []
    for number, case in enumerate(CASES.values()):
        paths += [tmp_path / f"ours{number}.h5", tmp_path / f"theirs{number}.h5"]
        write_ours(paths[-2], case)
        write_with_h5py(paths[-1], case)
    script = [str(word) for word in (python, Path(__file__).with_name("hdf5_contents.py"), "1", *paths)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    version, found = json.loads(done.stdout)
    assert version != h5py.version.hdf5_version
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        assert ours == theirs


def test_a_copy_made_by_the_library_is_the_same(tmp_path: Path) -> None:
    write_ours(tmp_path / "ours.h5", CASES["100 layers"])
    with h5py.File(tmp_path / "ours.h5") as source, h5py.File(tmp_path / "copy.h5", "w") as target:
        source.copy("/", target, name="all")
    copied = json.dumps({key: value for key, value in contents(tmp_path / "copy.h5").items() if key})
    assert json.loads(copied.replace('"/all', '"')) == contents(tmp_path / "ours.h5")


def test_the_superblock_is_h5pys_own(tmp_path: Path) -> None:
    write_ours(tmp_path / "ours.h5", CASES["9 layers"])
    write_with_h5py(tmp_path / "theirs.h5", CASES["9 layers"])
    ours, theirs = (tmp_path / "ours.h5").read_bytes()[:96], (tmp_path / "theirs.h5").read_bytes()[:96]
    assert int.from_bytes(ours[40:48], "little") == (tmp_path / "ours.h5").stat().st_size
    assert ours[:40] + ours[48:64] == theirs[:40] + theirs[48:64]
    assert ours[72:80] == theirs[72:80]


@pytest.mark.parametrize("fragment", [0, 1])
def test_a_file_without_one_of_its_fragments_is_refused(tmp_path: Path, fragment: int) -> None:
    write_ours(tmp_path / "cut.h5", CASES["9 layers"], leave_out=fragment)
    with pytest.raises(OSError, match="signature not found" if fragment else "Unable to"):
        h5py.File(tmp_path / "cut.h5")


def test_a_file_that_lost_its_last_bytes_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path / "cut.h5", CASES["9 layers"])
    os.truncate(tmp_path / "cut.h5", (tmp_path / "cut.h5").stat().st_size - 1)
    with pytest.raises(OSError, match="truncated"):
        h5py.File(tmp_path / "cut.h5")


@pytest.mark.parametrize("name", ["100 layers", "2000 layers", "600 weights in a group", "no tensor"])
def test_what_the_library_does_not_look_at_is_right(tmp_path: Path, name: str) -> None:
    """Entries repeat what the groups' headers say, and the nodes of a B-tree are in order."""
    write_ours(tmp_path / "ours.h5", CASES[name])
    content = (tmp_path / "ours.h5").read_bytes()
    entries = [struct.unpack_from("<QQIIQQ", content, 56)]
    groups = 0
    while entries:
        _, header, kind, zero, *tables = entries.pop()
        version, count, links = struct.unpack_from("<BxHI", content, header)
        message, nbytes = struct.unpack_from("<HH", content, header + 16)
        assert (version, zero) == (1, 0)
        if kind == 0:
            assert (count, message, tables) == (4, 0x1, [0, 0])
        else:
            assert (kind, links, message, nbytes) == (1, 1, 0x11, 16)
            assert struct.unpack_from("<QQ", content, header + 24) == tuple(tables)
            entries += entries_of_tree(content, tables[0])
            groups += 1
    with h5py.File(tmp_path / "ours.h5") as file:
        found: list[Any] = [file]
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Group) else None)
        assert groups == len(found)


def entries_of_tree(content: bytes, root: int) -> list[tuple[int, ...]]:
    """Go down level by level: nodes are chained both ways and, if there are several, at least half full."""
    level, height = [root], content[root + 5]
    while level and height >= 0:
        chain = [2**64 - 1, *level, 2**64 - 1]
        children: list[int] = []
        for left, node, right in zip(chain, level, chain[2:], strict=False):
            assert content[node : node + 6] == b"TREE\0" + bytes([height])
            count, *neighbours = struct.unpack_from("<HQQ", content, node + 6)
            assert neighbours == [left, right]
            assert len(level) == 1 or 16 <= count <= 32
            children += [struct.unpack_from("<Q", content, node + 32 + 16 * n)[0] for n in range(count)]
        level, height = children, height - 1
    entries: list[tuple[int, ...]] = []
    for node in level:
        assert content[node : node + 6] == b"SNOD\1\0"
        (count,) = struct.unpack_from("<H", content, node + 6)
        assert len(level) == 1 or 4 <= count <= 8
        entries += [struct.unpack_from("<QQIIQQ", content, node + 8 + 40 * n) for n in range(count)]
    return entries


def write_tree(path: Path, root: Group, payload: bytes) -> None:
    start = 128 + len(payload)
    structures, superblock = describe(root, start)
    path.write_bytes(superblock.ljust(128, b"\0") + payload + structures)


@pytest.mark.parametrize("count", [0, 1, 8192, 8193])
def test_a_b_tree_of_three_levels(tmp_path: Path, count: int) -> None:
    one = NewDataset("int64", (2,), 128)
    names = [f"{n * 7919 % 10007:x}{'y' * (n % 9)}" for n in range(count)]
    group = Group(dict.fromkeys(names, one))
    write_tree(tmp_path / "ours.h5", Group({"group": group, "one": one}), bytes(range(16)))
    with h5py.File(tmp_path / "theirs.h5", "w", libver="earliest") as file:
        file["one"] = np.frombuffer(bytes(range(16)), dtype="int64")
        file.create_group("group")
        for name in names:
            file["group"][name] = file["one"]
    found = []
    for path in (tmp_path / "ours.h5", tmp_path / "theirs.h5"):
        with h5py.File(path, "r+") as file:
            assert h5py.h5o.get_info(file["one"].id).rc == count + 1
            for n in range(2000):
                file["group"][f"{n * 7919 % 10007:x}added"] = file["one"]
            for name in names[::3] + sorted(set(names) - set(names[::3]))[count // 5 : count // 2]:
                del file["group"][name]  # one here and there, and then whole nodes
        found.append(contents(path))
        for described in found[-1].values():
            if isinstance(described, dict):
                described.pop("plan", None)
    assert found[0] == found[1]


def test_a_deep_path_is_written_without_recursion(tmp_path: Path) -> None:
    name = "layer/" + "a/" * 5000 + "weight"
    write_ours(tmp_path / "deep.h5", Case({name: np.arange(5)}))
    with h5py.File(tmp_path / "deep.h5") as file:
        assert file[f"layer/{MODEL}/{name}:0"][()].tolist() == [0, 1, 2, 3, 4]


def test_many_short_names_that_fit_only_as_fixed_text(tmp_path: Path) -> None:
    case = Case({f"{n:04}/w": np.zeros((0,), dtype="int8") for n in range(5000)})
    write_ours(tmp_path / "ours.h5", case)
    with h5py.File(tmp_path / "ours.h5") as file:
        assert file.attrs["layer_names"].dtype == "S4"
        assert [name.decode() for name in file.attrs["layer_names"]] == [name[:4] for name in case.weights]


@pytest.mark.parametrize("length", [4040, 4048, 4049, 4056, 4057, 4064, 4065, 9000, 64000])
def test_texts_at_the_end_of_a_collection(tmp_path: Path, length: int) -> None:
    for lengths in ([length], [1, length, 1, length], [length - 32, 1, 1]):
        heap = TextHeap(128)
        texts = [chr(97 + n) * each for n, each in enumerate(lengths)]
        references = b"".join(heap.add(text.encode()) for text in texts)
        assert len(references) == hdf5_writing.REFERENCE_BYTES * len(texts)
        root = Group(attributes=[hdf5_writing.attribute("texts", ANY_TEXT, (len(texts),), references)])
        write_tree(tmp_path / "ours.h5", root, heap.content)
        for _ in range(2):
            with h5py.File(tmp_path / "ours.h5", "r+") as file:
                assert file.attrs["texts"].tolist() == texts
                del file.attrs["texts"]
                file.attrs["texts"] = texts


@pytest.mark.parametrize("most", [1, 3, 8, 32])
def test_runs_are_numpys(most: int) -> None:
    for count in range(200):
        want = np.array_split(np.arange(count), -(-count // most)) if count else []
        assert [list(run) for run in evenly(range(count), most)] == [part.tolist() for part in want]


def test_a_tensor_has_32_axes_at_most(tmp_path: Path) -> None:
    write_ours(tmp_path / "axes.h5", Case({"a/b": np.ones((1,) * 31 + (2,), dtype="float32")}))
    with h5py.File(tmp_path / "axes.h5") as file:
        assert file[f"a/{MODEL}/a/b:0"].shape == (1,) * 31 + (2,)
    with pytest.raises(ValueError, match="33 axes"):
        lay_out("axes.h5", [NewTensor("a/b", "float32", (1,) * 33)], MODEL)


@pytest.mark.parametrize("names", [["a/b", "a/b:0/c"], ["a/b:0/c", "a/b"], ["a/b:0/c/d", "a/b"]])
def test_a_name_that_is_a_tensors_and_a_groups_is_refused(names: list[str]) -> None:
    with pytest.raises(ConvertError, match="beside its other names"):
        lay_out("tf_model.h5", [NewTensor(name, "float32", (2,)) for name in names], MODEL)


def test_a_name_that_no_attribute_holds_is_refused() -> None:
    with pytest.raises(ConvertError, match="cannot hold a name"):
        lay_out("tf_model.h5", [NewTensor("a/" + "b" * 64600, "float32", (2,))], MODEL)
    with pytest.raises(ValueError, match="above the limit"):
        hdf5_writing.attribute("a", DATATYPES["int8"], (65600,), bytes(65600))
