"""What the HDF5 library finds in a file, and a series of changes for it to make there.

Run by an interpreter that has h5py, in a process of its own where that is another HDF5 library than the tests':

    python hdf5_contents.py SEED FILE...

changes each file as ``SEED`` says and prints what was in it before and after as a JSON list of pairs.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Json = dict[str, Any]


def contents(path: Path) -> Json:
    """Describe each link of a file, every name looked up and every byte read, and each object once."""
    found: Json = {}
    with h5py.File(path) as file:
        visited: list[str] = []
        file.visit(visited.append)
        first: dict[int, str] = {}
        _describe(file, "", found, first)
        assert len(visited) == len(first) - 1
        assert {f"/{name}" for name in visited} <= set(found)
    return found


def _describe(item: Any, where: str, found: Json, first: dict[int, str]) -> None:
    """Describe an object, or name the path by which it was ``first`` met."""
    facts = h5py.h5o.get_info(item.id)
    if first.setdefault(facts.addr, where) != where:
        found[where] = first[facts.addr]
        return
    found[where] = {"links": facts.rc, "attributes": _attributes(item)}
    if isinstance(item, h5py.Dataset):
        found[where] |= _dataset(item)
        return
    names = found[where]["names"] = list(item)
    assert len(item) == len(names) == len(set(names))
    assert [name.encode() for name in names] == sorted(name.encode() for name in names)
    for name in names:
        assert isinstance(item.get(name, getlink=True), h5py.HardLink)
        for other in (name + "\x01", name[:-1], "\x01" + name):
            assert other in ("", ".") or (other in item) == (other in names)
        _describe(item[name], f"{where}/{name}", found, first)


def _dataset(dataset: Any) -> Json:
    plan = dataset.id.get_create_plist()
    return {
        "dtype": str(dataset.dtype),
        "type": dataset.id.get_type().encode().hex(),
        "shape": list(dataset.shape),
        "limit": list(dataset.maxshape),
        "plan": [plan.get_layout(), plan.get_alloc_time(), plan.get_fill_time(), plan.fill_value_defined()],
        "has an address": dataset.id.get_offset() is not None,
        "values": dataset[()].tobytes().hex(),
    }


def _attributes(item: Any) -> Json:
    found = {}
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        found[name] = {
            "type": attribute.get_type().encode().hex(),
            "dtype": str(attribute.dtype),
            "shape": list(attribute.shape),
            "space": attribute.get_space().get_simple_extent_type(),
            "value": np.asarray(item.attrs[name]).astype(object).tolist(),
        }
    return json.loads(json.dumps(found, default=lambda value: value.decode("utf-8", "surrogateescape")))  # type: ignore[no-any-return]


def change(path: Path, seed: int) -> None:
    """Add, remove and rename members and attributes, in the root and in some of the groups."""
    rng = random.Random(seed)
    with h5py.File(path, "r+") as file:
        paths: list[str] = []
        file.visititems(lambda name, item: paths.append(name) if isinstance(item, h5py.Group) else None)
        for where in [*sorted(rng.sample(paths, min(len(paths), 12)), key=len, reverse=True), "/"]:
            _change_group(file[where], rng)


def _change_group(group: Any, rng: random.Random) -> None:
    names = list(group)
    group.create_group("added/group/in it").attrs["text"] = "value" * rng.randrange(1, 40)
    group["added/values"] = np.arange(rng.randrange(1, 50))
    for number in range(rng.choice([1, 30, 300 if group.name == "/" else 60])):
        key = "".join(rng.choices("AMZamz.0", k=rng.randrange(1, 12)))
        group[f"{key}{number}"] = group["added/values"] if number % 3 else group["added/group"]
    if names:
        group["one more link"] = group[rng.choice(names)]
        group.move(names[-1], f"moved {names[-1]}")
        for name in rng.sample(names[:-1], rng.choice([0, len(names) // 2, len(names) - 1])):
            del group[name]
    for key in list(group.attrs):
        if rng.random() < 0.5:
            del group.attrs[key]
    for number in range(rng.choice([1, 20])):
        group.attrs[f"number {number}"] = np.arange(rng.randrange(1, 40))
    for member in list(group.values())[:5]:
        member.attrs["from another group"] = ["list", "of", "text"]


def main(seed: int, paths: list[Path]) -> None:
    """Describe, change and describe each file."""
    answers = []
    for path in paths:
        before = contents(path)
        change(path, seed)
        answers.append([before, contents(path)])
    print(json.dumps([h5py.version.hdf5_version, answers]))


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
