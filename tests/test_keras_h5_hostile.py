"""Hostile Keras HDF5 files give the one error: nothing they say is believed, and no other file is opened.

Each is made by hand here; tests/fuzz breaks files at random.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from counted_calls import calls_below

from roformer_convert.converters.containers.hdf5 import file as hdf5_file
from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors.signatures import HDF5 as SIGNATURE

posix = pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: pipes in the file system are POSIX's")


def good_file(path: Path, libver: str = "earliest") -> None:
    """Write two tensors that can be indexed: what each hostile file starts from."""
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["layer_names"] = [b"roformer"]
        file.attrs["keras_version"] = "2.21.0"
        file.create_group("roformer").attrs["weight_names"] = [b"m/a/kernel:0", b"m/b:0"]
        file["roformer/m/a/kernel:0"] = np.random.default_rng(1).random((5, 7), dtype="float32")
        file["roformer/m/b:0"] = np.random.default_rng(2).random(11)


def replace(file: h5py.File, value: Any) -> None:
    del file["roformer/m/b:0"]
    file["roformer/m/b:0"] = value


def rename(file: h5py.File, *names: bytes) -> None:
    file["roformer"].attrs["weight_names"] = list(names)


def dataset(file: h5py.File, **options: Any) -> None:
    del file["roformer/m/b:0"]
    file.create_dataset("roformer/m/b:0", **options)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "float32")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    del file["roformer/m/b:0"]
    file.create_virtual_dataset("roformer/m/b:0", layout)


def rename_and_link(file: h5py.File, name: str) -> None:
    file[f"roformer/{name}"] = file["roformer/m/b:0"]
    rename(file, name.encode())


def parts(file: h5py.File) -> None:
    del file["roformer"].attrs["weight_names"]
    for part in (0, 1):
        file["roformer"].attrs.create(f"weight_names{part}", [b""] * 30_000, dtype="S1")


def cycle(file: h5py.File) -> None:
    file["roformer/m/m"] = file["roformer/m"]
    rename(file, b"m/m/m/b:0")


def keras_3(file: h5py.File) -> None:
    del file.attrs["layer_names"]
    file["layers/dense/vars/0"] = np.ones(3, "float32")


def whole_model(file: h5py.File) -> None:
    del file.attrs["layer_names"]
    file.create_group("model_weights")


def one_chunk_missing(file: h5py.File) -> None:
    dataset(file, shape=(8,), dtype="f4", chunks=(2,))
    file["roformer/m/b:0"][:6] = 1


def odd_float(file: h5py.File) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 20, 11, 0, 20)
    del file["roformer/m/b:0"]
    made = h5py.h5d.create(file["roformer/m"].id, b"b:0", kind, h5py.h5s.create_simple((3,)))
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(3, "float64"))


HOSTILE: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "external link": (lambda f: replace(f, h5py.ExternalLink("other.h5", "/x")), "a link into another file"),
    "soft link": (lambda f: replace(f, h5py.SoftLink("/roformer/m/a/kernel:0")), "a soft link"),
    "external storage": (
        lambda f: dataset(f, shape=(3,), dtype="f4", external=[("/etc/passwd", 0, 12)]),
        "another file (external storage)",
    ),
    "virtual dataset": (virtual, "is a virtual dataset"),
    "cyclic group": (cycle, "a group that holds itself"),
    "weight above its group": (lambda f: rename(f, b"m/../../roformer/m/b:0"), "not a plain path"),
    "absolute weight": (lambda f: rename(f, b"/roformer/m/b:0"), "not a plain path"),
    "deep weight": (lambda f: rename(f, b"m/" * 40 + b"b:0"), "components, more than 32"),
    "missing weight": (lambda f: rename(f, b"m/c:0"), "that the file does not hold"),
    "weight below a dataset": (lambda f: rename(f, b"m/b:0/c:0"), "that the file does not hold"),
    "weight that is a group": (lambda f: rename(f, b"m/a"), "is not a dataset"),
    "weight without a prefix": (lambda f: rename(f, b"m"), "no model prefix"),
    "weight listed twice": (lambda f: rename(f, b"m/b:0", b"m/b:0"), "2 times"),
    "name not in UTF-8": (lambda f: rename(f, b"m/\xff:0"), "not UTF-8"),
    "endless name": (lambda f: rename(f, b"m/" + b"b" * 5000), "5,002 characters"),
    "too many names": (lambda f: f["roformer"].attrs.create("weight_names", [b""] * 4000, dtype="S16"), "4,000 times"),
    "more names than models have": (
        lambda f: f["roformer"].attrs.create("weight_names", [b""] * 60_000, dtype="S1"),
        "holds 60,000 names of 1 bytes",
    ),
    "names in parts, too many": (parts, "weight_names0… hold more than 50,000 names"),
    "names that are numbers": (lambda f: f.attrs.create("layer_names", [1, 2]), "does not hold text"),
    "names of two dimensions": (lambda f: f.attrs.create("layer_names", [[b"a"]]), "want 1 dimension"),
    "layer without names": (lambda f: f["roformer"].attrs.__delitem__("weight_names"), "has no weight_names"),
    "text of any length": (lambda f: replace(f, ["text"]), "has dtype text"),
    "text of one width": (lambda f: replace(f, np.asarray([b"text"])), "has dtype text"),
    "ragged values": (lambda f: dataset(f, shape=(2,), dtype=h5py.vlen_dtype("f4")), "has dtype object"),
    "compound values": (lambda f: dataset(f, shape=(2,), dtype=[("x", "f4")]), "has dtype [('x', '<f4')]"),
    "references": (lambda f: dataset(f, shape=(2,), dtype=h5py.ref_dtype), "has dtype object"),
    "unknown dtype": (lambda f: replace(f, np.ones(3, "uint16")), "has dtype uint16"),
    "an enumeration": (
        lambda f: dataset(f, shape=(2,), dtype=h5py.enum_dtype({"FALSE": 0, "TRUE": 2}, "i1")),
        "has dtype int8",
    ),
    "arrays": (lambda f: dataset(f, shape=(2,), dtype=np.dtype("(3,)f4")), "has dtype ('<f4', (3,))"),
    "complex numbers": (lambda f: replace(f, np.ones(3, "complex64")), "has dtype complex64"),
    "a float of its own layout": (odd_float, "has dtype float"),
    "no shape": (lambda f: replace(f, h5py.Empty("f4")), "has no shape"),
    "never written": (lambda f: dataset(f, shape=(1 << 40,), dtype="f4"), "declared and never written"),
    "chunks never written": (
        lambda f: dataset(f, shape=(1 << 10,), dtype="f4", chunks=(1 << 3,)),
        "has 0 chunks written, want 128",
    ),
    "weight named by nothing": (lambda f: rename_and_link(f, "m/:0"), "not a name for a weight"),
    "weight with a line break": (lambda f: rename_and_link(f, "m/a\nb:0"), "not a name for a weight"),
    "one chunk not written": (one_chunk_missing, "has 3 chunks written, want 4"),
    "endless chunks": (
        lambda f: dataset(f, shape=(1 << 40,), dtype="f4", chunks=(1 << 28,)),
        "has 0 chunks written, want 4,096",
    ),
    "bomb": (
        lambda f: dataset(f, data=np.zeros((1 << 25,), "f4"), chunks=(1 << 23,), compression="gzip"),
        "its tensors unpack to more than 64 times the file's size",
    ),
    "keras 3": (keras_3, "Keras 3 .weights.h5 file: it holds no weight names"),
    "whole model of nothing": (whole_model, "it has no layer_names"),
    "no keras file": (lambda f: f.attrs.__delitem__("layer_names"), "it has no layer_names"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    assert len(keras_h5.index(path).tensors) == 2
    make, words = HOSTILE[kind]
    with h5py.File(path, "r+") as file:
        make(file)
    with pytest.raises(FormatError, match=re.escape(words)) as caught:
        keras_h5.index(path)
    assert len(str(caught.value)) < 1000


@posix
def test_linked_files_are_not_opened(tmp_path: Path) -> None:
    path, other = tmp_path / "tf_model.h5", tmp_path / "other.h5"
    os.mkfifo(other)  # whoever opens it hangs
    for make in (HOSTILE["external link"][0], virtual):
        good_file(path)
        with h5py.File(path, "r+") as file:
            make(file)
        with pytest.raises(FormatError, match=r"leads through a link|is a virtual"):
            keras_h5.index(path)


@posix
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tf_model.h5")
    with pytest.raises(FormatError, match="not a regular file"):
        keras_h5.index(tmp_path / "tf_model.h5")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an HDF5 file"),
        (b"\x89HDF", "not an HDF5 file"),
        (b"PK\x03\x04" + bytes(99), "not an HDF5 file"),
        (bytes(99), "cut short"),
        (SIGNATURE, "ends inside its superblock"),
        (bytes(512) + SIGNATURE, "the HDF5 library cannot read it"),
        (bytes(700) + SIGNATURE, "begins with zeros"),
        (SIGNATURE + bytes(4096), "bad byte number in an address"),
        (SIGNATURE + b"\xff" * 4096, "bad superblock version number"),
    ],
)
def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tf_model.h5"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=words):
        keras_h5.index(path)


# --- structures that lie: bytes of a good file, changed ---------------------------------------------------------------


@contextmanager
def changing(path: Path) -> Iterator[bytearray]:
    """Give a file's bytes to change."""
    content = bytearray(path.read_bytes())
    yield content
    path.write_bytes(content)


def put(content: bytearray, at: int, layout: str, *values: int) -> None:
    struct.pack_into(f"<{layout}", content, at, *values)


def number(content: bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 8], "little")


def message(content: bytearray, kind: int, after: int = 0) -> int:
    """Find a message of a version 1 header with flags 0; return where its content begins."""
    for at in range(after + -after % 8, len(content) - 8, 8):
        found, size, flags = struct.unpack_from("<HHB", content, at)
        if (
            found == kind
            and size
            and size % 8 == 0
            and size < 300
            and flags in (0, 1)
            and not any(content[at + 5 : at + 8])
        ):
            return at + 8
    raise AssertionError(f"no message of kind {kind}")


def tree_in_a_circle(content: bytearray) -> None:
    tree = content.index(b"TREE")
    content[tree + 5] = 1
    put(content, tree + 32, "Q", tree)


def empty_tree(content: bytearray) -> None:
    tree = content.index(b"TREE")
    content[tree + 5] = 3
    put(content, tree + 6, "H", 0)


def name_without_end(content: bytearray) -> None:
    heap = content.index(b"HEAP")
    size, place = number(content, heap + 8), number(content, heap + 24)
    content[place + size - 8 : place + size] = b"endless!"
    put(content, content.index(b"SNOD") + 8, "Q", size - 3)


def same_name_twice(content: bytearray) -> None:
    with_two = content.index(b"kernel:0")  # a heap of one name; the group above has "a" and "b:0"
    node = max(at for at in range(with_two) if content.startswith(b"SNOD", at))
    put(content, node + 6, "H", 2)
    content[node + 48 : node + 88] = content[node + 8 : node + 48]


def continuation(content: bytearray) -> int:
    return message(content, 16)


def continuation_in_a_circle(content: bytearray) -> None:
    at = continuation(content)
    block = number(content, at)
    put(content, block, "HHB3x", 16, 16, 0)
    put(content, block + 8, "QQ", block, 24)


def layout_at(content: bytearray, which: int) -> int:
    """Find the address in the layout of one of the two tensors."""
    first = message(content, 8)
    return (message(content, 8, first) if which else first) + 2


def collection(content: bytearray) -> int:
    return content.index(b"GCOL")


def text(content: bytearray) -> int:
    """Find the reference to a text in a heap: its length, the heap's address, its number there."""
    return content.index(struct.pack("<IQI", 8, collection(content), 1))


def unended_attribute_name(content: bytearray) -> None:
    at = content.index(b"weight_names\0")
    assert struct.unpack_from("<H", content, at - 6) == (13,)
    put(content, at - 6, "H", 12)  # the library would read weight_name


NOWHERE = (1 << 64) - 1
LIES: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "tree in a circle": (tree_in_a_circle, "B-tree has a node of level 1, want 0"),
    "deep tree": (lambda c: put(c, c.index(b"TREE") + 5, "B", 255), "points to something else"),
    "empty tree": (empty_tree, "names an object that the file does not hold"),
    "tree of chunks": (lambda c: put(c, c.index(b"TREE") + 4, "B", 1), "points to something else"),
    "wide tree": (lambda c: put(c, c.index(b"TREE") + 6, "H", 65535), "B-tree lies outside the file"),
    "tree outside": (
        lambda c: put(c, c.index(b"TREE") + 32, "Q", len(c) - 4),
        "symbol table node lies outside the file",
    ),
    "tree nowhere": (
        lambda c: put(c, c.index(b"TREE") + 32, "Q", NOWHERE),
        "symbol table node lies outside the file: nowhere",
    ),
    "node with many names": (
        lambda c: put(c, c.index(b"SNOD") + 6, "H", 65535),
        "symbol table node lies outside the file",
    ),
    "name outside": (lambda c: put(c, c.index(b"SNOD") + 8, "Q", 1 << 63), "is not terminated in a group's heap"),
    "name without end": (name_without_end, "is not terminated in a group's heap"),
    "same name twice": (same_name_twice, "names are not in order"),
    "heap outside": (lambda c: put(c, c.index(b"HEAP") + 24, "Q", 1 << 62), "heap of names lies outside the file"),
    "heap without bytes": (lambda c: put(c, c.index(b"HEAP") + 8, "Q", 0), "is not terminated in a group's heap"),
    "heap of every byte": (
        lambda c: put(c, c.index(b"HEAP") + 8, "Q", NOWHERE),
        "heap of names lies outside the file",
    ),
    "unknown entry": (lambda c: put(c, c.index(b"SNOD") + 8 + 16, "I", 3), "entry has the unknown kind 3"),
    "continuation in a circle": (continuation_in_a_circle, "overlaps another structure"),
    "continuation outside": (lambda c: put(c, continuation(c), "Q", len(c) - 8), "continuation lies outside the file"),
    "continuation of every byte": (
        lambda c: put(c, continuation(c) + 8, "Q", NOWHERE),
        "continuation lies outside the file",
    ),
    "continuation into the superblock": (lambda c: put(c, continuation(c), "QQ", 0, 96), "overlaps another structure"),
    "header of 4 gb": (lambda c: put(c, number(c, 64) + 8, "I", (1 << 32) - 8), "object header lies outside the file"),
    "long message": (lambda c: put(c, number(c, 64) + 18, "H", 65528), "longer than its object header"),
    "unknown message": (lambda c: put(c, message(c, 5) - 8, "HHB", 77, 8, 128), "unknown message with"),
    "two layouts": (lambda c: put(c, message(c, 5) - 8, "H", 8), "has 2 messages of kind 8, want one"),
    "root nowhere": (lambda c: put(c, 64, "Q", NOWHERE), "object header lies outside the file: nowhere"),
    "root in itself": (lambda c: put(c, 64, "Q", 0), "object header has version 137"),
    "user block": (lambda c: put(c, 24, "Q", 512), "the HDF5 library cannot read it"),
    "short addresses": (lambda c: put(c, 13, "B", 4), "the HDF5 library cannot read it"),
    "several files": (lambda c: put(c, 48, "Q", 800), "bad driver information block"),
    "payloads overlap": (lambda c: put(c, layout_at(c, 1), "Q", number(c, layout_at(c, 0)) + 60), "overlap"),
    "payload over the superblock": (lambda c: put(c, layout_at(c, 1), "Q", 8), "a structure of the file overlap"),
    "payload over a heap": (lambda c: put(c, layout_at(c, 1), "Q", c.index(b"HEAP") + 8), "a structure of the file"),
    "payload outside": (lambda c: put(c, layout_at(c, 1), "Q", len(c) - 80), "claims 88 bytes at"),
    "payload nowhere": (lambda c: put(c, layout_at(c, 1), "Q", (1 << 64) - 2), "claims 88 bytes at"),
    "short payload": (lambda c: put(c, layout_at(c, 1) + 8, "Q", 80), "in 80 bytes, want 88"),
    "endless shape": (lambda c: put(c, message(c, 1) + 8, "QQ", 1 << 62, 1 << 62), "more than 2^63 - 1 elements"),
    "many dimensions": (lambda c: put(c, message(c, 1) + 1, "B", 200), "of 200 dimensions"),
    "text outside its heap": (lambda c: put(c, text(c), "I", 1 << 31), "is object 1 of a heap that has 8 there"),
    "text that is not there": (
        lambda c: put(c, text(c) + 12, "I", 999),
        "is object 999 of a heap that does not have it",
    ),
    "text in no heap": (lambda c: put(c, text(c) + 4, "Q", 96), "a heap of strings was expected here"),
    "heap of texts of every byte": (
        lambda c: put(c, collection(c) + 8, "Q", NOWHERE),
        "a heap of strings lies outside the file",
    ),
    "unended attribute name": (unended_attribute_name, "a name that does not end where it should"),
    "attribute name that ends early": (
        lambda c: put(c, c.index(b"keras_version\0") + 5, "B", 0),
        "a name that does not end where it should",
    ),
    "text with a zero": (  # as h5py reads it
        lambda c: put(c, c.index(b"roformer", collection(c)) + 3, "B", 0),
        "layer 'rof' names an object that the file does not hold",
    ),
    "long text in a heap": (
        lambda c: put(c, collection(c) + 24, "Q", (1 << 64) - 9),
        "a heap of strings ends too early",
    ),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_structure_that_lies_is_refused(tmp_path: Path, kind: str) -> None:
    lie, words = LIES[kind]
    path = tmp_path / "tf_model.h5"
    good_file(path)
    with changing(path) as content:
        lie(content)
    with pytest.raises(FormatError, match=re.escape(words)) as caught, calls_below(20_000):
        keras_h5.index(path)
    assert len(str(caught.value)) < 1000


def test_a_root_that_is_no_group_is_refused(tmp_path: Path) -> None:
    good_file(tmp_path / "tf_model.h5")
    with h5py.File(tmp_path / "tf_model.h5") as file:
        address = h5py.h5o.get_info(file["roformer/m/b:0"].id).addr
    with changing(tmp_path / "tf_model.h5") as content:
        put(content, 64, "Q", address)
    with pytest.raises(FormatError, match="root is not a group"):
        keras_h5.index(tmp_path / "tf_model.h5")


def test_bytes_behind_the_files_end_are_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    with open(path, "ab") as file:
        end = file.tell()
        file.write(bytes(1000))
    assert len(keras_h5.index(path).tensors) == 2  # what a copy added
    content = bytearray(path.read_bytes())
    put(content, layout_at(content, 1), "Q", end)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"the file has {end:,}"):
        keras_h5.index(path)


# --- work without end -------------------------------------------------------------------------------------------------


def test_the_work_that_a_file_asks_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_file(tmp_path / "tf_model.h5")
    monkeypatch.setattr(hdf5_file, "MAX_METADATA", 1 << 16)
    assert len(keras_h5.index(tmp_path / "tf_model.h5").tensors) == 2
    monkeypatch.setattr(hdf5_file, "MAX_METADATA", 1 << 12)
    with pytest.raises(FormatError, match="its structures takes more than"):
        keras_h5.index(tmp_path / "tf_model.h5")


def test_the_number_of_tensors_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_file(tmp_path / "tf_model.h5")
    monkeypatch.setattr(keras_h5, "MAX_NAMES", 1)
    with pytest.raises(FormatError, match="it holds more than 1 tensors"):
        keras_h5.index(tmp_path / "tf_model.h5")


def root_of(messages: bytes) -> bytes:
    """Make a file whose root has one block of messages."""
    head = struct.pack("<8sBBBxBBBxHHI", SIGNATURE, 0, 0, 0, 0, 8, 8, 4, 16, 0)
    size = 96 + 16 + len(messages)
    head += struct.pack("<QQQQ", 0, NOWHERE, size, NOWHERE) + struct.pack("<QQII16x", 0, 96, 0, 0)
    return head + struct.pack("<BxHII4x", 1, 1, 1, len(messages)) + messages


def test_a_header_that_ends_inside_a_message_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(root_of(bytes(12)))
    with pytest.raises(FormatError, match="ends inside a message"):
        keras_h5.index(tmp_path / "tf_model.h5")


def test_millions_of_messages_are_looked_at_no_further_than_64_mb(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(root_of(bytes(8) * 4_000_000))
    with pytest.raises(FormatError, match="looking at its structures takes more than 64 MB"):
        keras_h5.index(tmp_path / "tf_model.h5")
