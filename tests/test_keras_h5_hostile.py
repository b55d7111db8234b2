"""Hostile Keras HDF5 files give the one error: nothing they say is believed, and no other file is opened.

Each is made by hand here; test_keras_h5_mutations.py breaks files at random.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from broken_hdf5 import checksummed, many, mended

from roformer_convert.converters.containers import hdf5_file, keras_h5
from roformer_convert.converters.containers.signatures import HDF5 as SIGNATURE
from roformer_convert.converters.containers.stored import OpenFiles
from roformer_convert.converters.errors import FETCH_AGAIN, FormatError

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


def twice_compressed(file: h5py.File) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((3,))
    plan.set_deflate(9)
    plan.set_deflate(9)
    del file["roformer/m/b:0"]
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file["roformer/m"].id, b"b:0", h5py.h5t.IEEE_F32LE, space, plan)


def committed(file: h5py.File) -> None:
    file["a type"] = np.dtype("float32")
    dataset(file, shape=(3,), dtype=file["a type"])


def committed_names(file: h5py.File) -> None:
    file["a type"] = np.dtype("S12")
    del file["roformer"].attrs["weight_names"]
    file["roformer"].attrs.create("weight_names", [b"m/a/kernel:0", b"m/b:0"], dtype=file["a type"])


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
    "text of any length": (lambda f: replace(f, [b"text"]), "has dtype values of variable length"),
    "text of one width": (lambda f: replace(f, np.asarray([b"text"])), "has dtype text"),
    "ragged values": (
        lambda f: dataset(f, shape=(2,), dtype=h5py.vlen_dtype("f4")),
        "has dtype values of variable length",
    ),
    "compound values": (lambda f: dataset(f, shape=(2,), dtype=[("x", "f4")]), "has dtype a compound"),
    "references": (lambda f: dataset(f, shape=(2,), dtype=h5py.ref_dtype), "has dtype references"),
    "big-endian values": (lambda f: replace(f, np.ones(3, ">f4")), "float32 (big-endian)"),
    "unknown dtype": (lambda f: replace(f, np.ones(3, "uint16")), "has dtype uint16"),
    "an enumeration": (
        lambda f: dataset(f, shape=(2,), dtype=h5py.enum_dtype({"FALSE": 0, "TRUE": 2}, "i1")),
        "has dtype an enumeration",
    ),
    "arrays": (lambda f: dataset(f, shape=(2,), dtype=np.dtype("(3,)f4")), "has dtype arrays"),
    "complex numbers": (lambda f: replace(f, np.ones(3, "complex64")), "has dtype a compound"),
    "committed datatype": (committed, "shares its message of kind 3"),
    "names of a committed datatype": (committed_names, "shares its type with other objects"),
    "no shape": (lambda f: replace(f, h5py.Empty("f4")), "has no shape"),
    "never written": (lambda f: dataset(f, shape=(1 << 40,), dtype="f4"), "declared and never written"),
    "chunks never written": (
        lambda f: dataset(f, shape=(1 << 40,), dtype="f4", chunks=(1 << 20,)),
        "has 0 chunks written, want 1,048,576",
    ),
    "weight named by nothing": (lambda f: rename_and_link(f, "m/:0"), "not a name for a weight"),
    "weight with a line break": (lambda f: rename_and_link(f, "m/a\nb:0"), "not a name for a weight"),
    "huge chunks": (lambda f: dataset(f, shape=(1 << 40,), dtype="f4", chunks=(1 << 28,)), "too large to read"),
    "tall chunks": (lambda f: dataset(f, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(99, 1)), "too large to read"),
    "many chunked dimensions": (
        lambda f: dataset(f, shape=(1,) * 32, chunks=(1,) * 32, dtype="f4"),
        "too large to read",
    ),
    "another filter": (lambda f: dataset(f, data=np.ones(9), compression="lzf"), "filter 32000"),
    "compressed twice": (twice_compressed, "gzip, gzip"),
    "bomb": (
        lambda f: dataset(f, data=np.zeros((1 << 25,), "f4"), chunks=(1 << 23,), compression="gzip"),
        "claim to unpack to 134,217,",
    ),
    "keras 3": (keras_3, "Keras 3 .weights.h5 file: it holds no weight names"),
    "whole model": (whole_model, "whole Keras model"),
    "no keras file": (lambda f: f.attrs.__delitem__("layer_names"), "it has no layer_names"),
}


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_refused(tmp_path: Path, kind: str, libver: str) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path, libver)
    assert len(keras_h5.index(path).tensors) == 2
    make, words = HOSTILE[kind]
    with h5py.File(path, "r+", libver=libver) as file:
        make(file)
        packed = "chunk" in kind or kind == "bomb"
    if packed and libver == "latest":
        words = "only a newer index finds"
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
        (bytes(512) + SIGNATURE, "begins at byte 512"),
        (b"x" * 2048 + SIGNATURE, "begins at byte 2048"),
        (bytes(700) + SIGNATURE, "begins with zeros"),
        (SIGNATURE + bytes(4096), "addresses have 0 bytes"),
        (SIGNATURE + b"\xff" * 4096, "has version 255"),
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
    """Give a file's bytes to change; structures with checksums get those that they have then."""
    places = checksummed(path)
    content = bytearray(path.read_bytes())
    yield content
    mended(content, places)
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


def deep_tree(content: bytearray) -> None:
    content[content.index(b"TREE") + 5] = 255


def empty_tree(content: bytearray) -> None:
    tree = content.index(b"TREE")
    content[tree + 5] = 3
    put(content, tree + 6, "H", 0)


def tree_of_chunks(content: bytearray) -> None:
    content[content.index(b"TREE") + 4] = 1


def wide_tree(content: bytearray) -> None:
    put(content, content.index(b"TREE") + 6, "H", 65535)


def tree_outside(content: bytearray) -> None:
    put(content, content.index(b"TREE") + 32, "Q", len(content) - 4)


def tree_nowhere(content: bytearray) -> None:
    put(content, content.index(b"TREE") + 32, "Q", (1 << 64) - 1)


def node_with_many_names(content: bytearray) -> None:
    put(content, content.index(b"SNOD") + 6, "H", 65535)


def name_outside(content: bytearray) -> None:
    put(content, content.index(b"SNOD") + 8, "Q", 1 << 63)


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


def heap_outside(content: bytearray) -> None:
    put(content, content.index(b"HEAP") + 24, "Q", 1 << 62)


def heap_without_bytes(content: bytearray) -> None:
    put(content, content.index(b"HEAP") + 8, "Q", 0)


def heap_of_every_byte(content: bytearray) -> None:
    put(content, content.index(b"HEAP") + 8, "Q", (1 << 64) - 1)


def unknown_entry(content: bytearray) -> None:
    put(content, content.index(b"SNOD") + 8 + 16, "I", 3)


def continuation(content: bytearray) -> int:
    return message(content, 16)


def continuation_in_a_circle(content: bytearray) -> None:
    at = continuation(content)
    block = number(content, at)
    put(content, block, "HHB3x", 16, 16, 0)
    put(content, block + 8, "QQ", block, 24)


def continuation_outside(content: bytearray) -> None:
    put(content, continuation(content), "Q", len(content) - 8)


def continuation_of_every_byte(content: bytearray) -> None:
    put(content, continuation(content) + 8, "Q", (1 << 64) - 1)


def continuation_into_the_superblock(content: bytearray) -> None:
    put(content, continuation(content), "QQ", 0, 96)


def header_of_4_gb(content: bytearray) -> None:
    put(content, number(content, 64) + 8, "I", (1 << 32) - 8)


def long_message(content: bytearray) -> None:
    put(content, number(content, 64) + 18, "H", 65528)


def unknown_message(content: bytearray) -> None:
    at = message(content, 5)  # what a hole would be filled with
    put(content, at - 8, "HHB", 77, 8, 128)


def two_layouts(content: bytearray) -> None:
    put(content, message(content, 5) - 8, "H", 8)


def root_nowhere(content: bytearray) -> None:
    put(content, 64, "Q", (1 << 64) - 1)


def root_in_itself(content: bytearray) -> None:
    put(content, 64, "Q", 0)


def user_block(content: bytearray) -> None:
    put(content, 24, "Q", 512)


def short_addresses(content: bytearray) -> None:
    content[13] = 4


def several_files(content: bytearray) -> None:
    put(content, 48, "Q", 800)


def layout_at(content: bytearray, which: int) -> int:
    """Find the address in the layout of one of the two tensors."""
    first = message(content, 8)
    return (message(content, 8, first) if which else first) + 2


def payloads_overlap(content: bytearray) -> None:
    put(content, layout_at(content, 1), "Q", number(content, layout_at(content, 0)) + 60)


def payload_over_the_superblock(content: bytearray) -> None:
    put(content, layout_at(content, 1), "Q", 8)


def payload_over_a_heap(content: bytearray) -> None:
    put(content, layout_at(content, 1), "Q", content.index(b"HEAP") + 8)


def payload_outside(content: bytearray) -> None:
    put(content, layout_at(content, 1), "Q", len(content) - 80)


def payload_nowhere(content: bytearray) -> None:
    put(content, layout_at(content, 1), "Q", (1 << 64) - 2)


def short_payload(content: bytearray) -> None:
    put(content, layout_at(content, 1) + 8, "Q", 80)


def endless_shape(content: bytearray) -> None:
    at = message(content, 1)
    put(content, at + 8, "QQ", 1 << 62, 1 << 62)


def many_dimensions(content: bytearray) -> None:
    content[message(content, 1) + 1] = 200


def collection(content: bytearray) -> int:
    return content.index(b"GCOL")


def text_outside_its_heap(content: bytearray) -> None:
    at = content.index(struct.pack("<IQI", 8, collection(content), 1))
    put(content, at, "I", 1 << 31)


def text_that_is_not_there(content: bytearray) -> None:
    at = content.index(struct.pack("<IQI", 8, collection(content), 1))
    put(content, at + 12, "I", 999)


def text_in_no_heap(content: bytearray) -> None:
    at = content.index(struct.pack("<IQI", 8, collection(content), 1))
    put(content, at + 4, "Q", 96)


def heap_of_texts_of_every_byte(content: bytearray) -> None:
    put(content, collection(content) + 8, "Q", (1 << 64) - 1)


def unended_attribute_name(content: bytearray) -> None:
    at = content.index(b"weight_names\0")
    assert struct.unpack_from("<H", content, at - 6) == (13,)
    put(content, at - 6, "H", 12)  # the library would read weight_name


def attribute_name_that_ends_early(content: bytearray) -> None:
    content[content.index(b"keras_version\0") + 5] = 0


def text_with_a_zero(content: bytearray) -> None:
    content[content.index(b"roformer", collection(content)) + 3] = 0


def long_text_in_a_heap(content: bytearray) -> None:
    put(content, collection(content) + 24, "Q", (1 << 64) - 9)


LIES: dict[Callable[[bytearray], None], str] = {
    tree_in_a_circle: "B-tree has a node of level 1, want 0",
    deep_tree: "leads to something else",
    empty_tree: "names an object that the file does not hold",
    tree_of_chunks: "leads to something else",
    wide_tree: "B-tree lies outside the file",
    tree_outside: "symbol table node lies outside the file",
    tree_nowhere: "symbol table node lies outside the file: nowhere",
    node_with_many_names: "symbol table node lies outside the file",
    name_outside: "has no end in a group's heap",
    name_without_end: "has no end in a group's heap",
    same_name_twice: "names are not in order",
    heap_outside: "heap of names lies outside the file",
    heap_without_bytes: "has no end in a group's heap",
    heap_of_every_byte: "heap of names lies outside the file",
    unknown_entry: "entry is of the unknown kind 3",
    continuation_in_a_circle: "lies where another structure does",
    continuation_outside: "continuation lies outside the file",
    continuation_of_every_byte: "continuation lies outside the file",
    continuation_into_the_superblock: "lies where another structure does",
    header_of_4_gb: "object header lies outside the file",
    long_message: "longer than its object header",
    unknown_message: "unknown kind 77",
    two_layouts: "has 2 messages of kind 8, want one",
    root_nowhere: "object header lies outside the file: nowhere",
    root_in_itself: "object header has version 137",
    user_block: "count from byte 512, want 0",
    short_addresses: "addresses have 4 bytes",
    several_files: "one of several files",
    payloads_overlap: "overlap",
    payload_over_the_superblock: "a structure of the file overlap",
    payload_over_a_heap: "a structure of the file",
    payload_outside: "claims 88 bytes at",
    payload_nowhere: "claims 88 bytes at",
    short_payload: "in 80 bytes, want 88",
    endless_shape: "more than 2^63 - 1 elements",
    many_dimensions: "with 200 dimensions",
    text_outside_its_heap: "is number 1 of a heap that has one of 8",
    text_that_is_not_there: "is number 999 of a heap that has none",
    text_in_no_heap: "a heap of texts is none",
    heap_of_texts_of_every_byte: "a heap of texts lies outside the file",
    unended_attribute_name: "a name that does not end where it should",
    attribute_name_that_ends_early: "a name that does not end where it should",
    text_with_a_zero: "layer 'rof' names an object that the file does not hold",  # as h5py reads it
    long_text_in_a_heap: "a heap of texts ends too early",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie.__name__))
def test_a_structure_that_lies_is_refused(tmp_path: Path, lie: Callable[[bytearray], None]) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    with changing(path) as content:
        lie(content)
    start = time.process_time()
    with pytest.raises(FormatError, match=re.escape(LIES[lie])) as caught:
        keras_h5.index(path)
    assert time.process_time() - start < 1
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


# --- the newer format: checksums, links as messages, heaps ------------------------------------------------------------


@pytest.mark.parametrize("write", [good_file, many])
def test_every_wrong_byte_under_a_checksum_is_refused(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    path = tmp_path / "tf_model.h5"
    write(path, "latest")
    places = checksummed(path)
    content = bytearray(path.read_bytes())
    starts = {bytes(content[begin : begin + 4]) for begin, _, _ in places}
    heaps = {b"BTHD", b"BTLF", b"FRHP", b"FHDB"}
    assert starts == {SIGNATURE[:4], b"OHDR"} | (heaps if write is many else {b"OCHK"})
    rng = np.random.default_rng(5)
    for begin, end, _ in places:
        for at in {begin, begin + 5, end - 1, *rng.integers(begin, end, 12).tolist()}:
            before = content[at]
            content[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            with pytest.raises(FormatError):
                keras_h5.index(path)
            content[at] = before


@pytest.mark.parametrize(("at", "value"), [(3, 3), (3, 0), (3, 2), (0, 3), (2, 2), (1, 33)])
def test_an_unknown_dataspace_is_refused(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path, "latest")
    with changing(path) as content:
        content[content.index(struct.pack("<BBBBQQ", 2, 2, 1, 1, 5, 7)) + at] = value
    with pytest.raises(FormatError, match="has a dataspace of"):
        keras_h5.index(path)


def test_a_link_whose_name_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path, "latest")
    with changing(path) as content:
        content[content.index(b"kernel:0", content.index(b"OHDR")) + 3] = 0
    with pytest.raises(FormatError, match="a name that is none"):
        keras_h5.index(path)


def dense_file(path: Path) -> None:
    """Write a group of 900 links, whose B-tree has two levels and whose heap has a table of blocks."""
    names = [f"m/{number}:0" for number in range(900)]
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(9):
            file.attrs[f"other{number}"] = number
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        for name in names:
            group[name] = np.float32(1)
        group.attrs["weight_names"] = np.asarray([name.encode() for name in names])
        for number in range(9):  # with weight_names of 9 kB, which is too long for a heap's block
            group.attrs[f"other{number}"] = number


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("dense") / "tf_model.h5"
    dense_file(path)
    return path.read_bytes()


def of_links(content: bytearray, signature: bytes, kind: int = 5) -> int:
    """Find a structure of a B-tree of links (5), of attributes (8) or of what left a heap (1)."""
    return content.index(signature + bytes([0, kind]))


def heap_of_links(content: bytearray) -> int:
    """Find the heap whose blocks are in a table: that of the links."""
    return number(content, content.index(b"FHIB") + 5)


def open_for_writing(content: bytearray) -> None:
    content[11] = 5


def too_many_records(content: bytearray) -> None:
    put(content, of_links(content, b"BTHD") + 26, "Q", 901)


def root_of_too_many_records(content: bytearray) -> None:
    put(content, of_links(content, b"BTHD") + 24, "H", 60000)


def endless_depth(content: bytearray) -> None:
    put(content, of_links(content, b"BTHD") + 12, "H", 65535)


def records_of_another_width(content: bytearray) -> None:
    put(content, of_links(content, b"BTHD") + 10, "H", 10)


def nodes_of_nothing(content: bytearray) -> None:
    put(content, of_links(content, b"BTHD") + 6, "I", 12)


def dense_tree_in_a_circle(content: bytearray) -> None:
    tree, node = of_links(content, b"BTHD"), of_links(content, b"BTIN")
    put(content, node + 6 + 11 * struct.unpack_from("<H", content, tree + 24)[0], "Q", node)


def leaf_twice(content: bytearray) -> None:
    tree, node = of_links(content, b"BTHD"), of_links(content, b"BTIN")
    children = node + 6 + 11 * struct.unpack_from("<H", content, tree + 24)[0]
    content[children + 9 : children + 18] = content[children : children + 9]


def dense_leaf_outside(content: bytearray) -> None:
    tree, node = of_links(content, b"BTHD"), of_links(content, b"BTIN")
    put(content, node + 6 + 11 * struct.unpack_from("<H", content, tree + 24)[0], "Q", 1 << 62)


def record_twice(content: bytearray) -> None:
    leaf = of_links(content, b"BTLF")
    content[leaf + 17 : leaf + 28] = content[leaf + 6 : leaf + 17]


def another_hash(content: bytearray) -> None:
    content[of_links(content, b"BTLF") + 6] ^= 1


def records_out_of_order(content: bytearray) -> None:
    leaf = of_links(content, b"BTLF")
    first, second = content[leaf + 6 : leaf + 17], content[leaf + 17 : leaf + 28]
    content[leaf + 6 : leaf + 28] = second + first


def piece_outside(content: bytearray) -> None:
    put(content, of_links(content, b"BTLF") + 6 + 4 + 1, "I", 0xFFFFFFF0)


def piece_of_64_kb(content: bytearray) -> None:
    put(content, of_links(content, b"BTLF") + 6 + 4 + 5, "H", 0xFFFF)


def piece_in_a_blocks_head(content: bytearray) -> None:
    put(content, of_links(content, b"BTLF") + 6 + 4 + 1, "I", 2)


def piece_of_another_version(content: bytearray) -> None:
    content[of_links(content, b"BTLF") + 6 + 4] |= 0x40


def piece_of_the_last_kind(content: bytearray) -> None:
    content[of_links(content, b"BTLF") + 6 + 4] |= 0x30


def huge_piece_that_is_not_there(content: bytearray) -> None:
    put(content, of_links(content, b"BTLF", 1) + 6 + 16, "Q", 77)


def huge_piece_outside(content: bytearray) -> None:
    put(content, of_links(content, b"BTLF", 1) + 6, "Q", 1 << 61)


def huge_piece_of_every_byte(content: bytearray) -> None:
    put(content, of_links(content, b"BTLF", 1) + 6 + 8, "Q", (1 << 64) - 1)


def shared_attribute(content: bytearray) -> None:
    content[of_links(content, b"BTLF", 8) + 6 + 8] = 2


def heap_table_in_a_circle(content: bytearray) -> None:
    """Say that the table's later rows are tables too, and that the first of these is the table itself."""
    heap, table = heap_of_links(content), content.index(b"FHIB")
    width, first = struct.unpack_from("<HQ", content, heap + 110)
    put(content, heap + 120, "Q", first)  # the largest block is as large as the first
    put(content, table + 17 + 8 * 2 * width, "Q", table)


def heap_block_in_a_circle(content: bytearray) -> None:
    table = content.index(b"FHIB")
    put(content, table + 17, "Q", table)


def heap_block_twice(content: bytearray) -> None:
    table = content.index(b"FHIB")
    put(content, table + 25, "Q", number(content, table + 17))


def heap_block_outside(content: bytearray) -> None:
    put(content, content.index(b"FHIB") + 17, "Q", 1 << 60)


def heap_of_many_rows(content: bytearray) -> None:
    put(content, heap_of_links(content) + 140, "H", 65535)


def heap_of_no_width(content: bytearray) -> None:
    put(content, heap_of_links(content) + 110, "H", 0)


def heap_of_odd_blocks(content: bytearray) -> None:
    put(content, heap_of_links(content) + 112, "Q", 500)


def heap_of_tiny_blocks(content: bytearray) -> None:
    put(content, heap_of_links(content) + 112, "Q", 1)


def compressed_heap(content: bytearray) -> None:
    put(content, heap_of_links(content) + 7, "H", 12)


def heap_of_nothing(content: bytearray) -> None:
    put(content, heap_of_links(content) + 132, "Q", (1 << 64) - 1)


NEWER_LIES: dict[Callable[[bytearray], None], str] = {
    open_for_writing: "marked as open for writing",
    too_many_records: "counts 901 records and has 900",
    root_of_too_many_records: "claims 60,000 records",
    endless_depth: "too few",
    records_of_another_width: "not one of type 5 with records of 11 bytes",
    nodes_of_nothing: "nodes of 12 bytes, too few",
    dense_tree_in_a_circle: "node lies where another structure does",
    leaf_twice: "node lies where another structure does",
    dense_leaf_outside: "node lies outside the file",
    record_twice: "has a name that another one has",
    another_hash: "not where its name belongs",
    records_out_of_order: "not where its name belongs",
    piece_outside: "bytes at 4,294,967,280",
    piece_of_64_kb: "has no 65,535 bytes",
    piece_in_a_blocks_head: "bytes at 2",
    piece_of_another_version: "has no IDs like 40",
    piece_of_the_last_kind: "has no IDs like 30",
    huge_piece_that_is_not_there: "no huge piece of number",
    huge_piece_outside: "an attribute lies outside the file",
    huge_piece_of_every_byte: "an attribute lies outside the file",
    shared_attribute: "shared by several",
    heap_table_in_a_circle: "a fractal heap",
    heap_block_in_a_circle: "lies where another structure does",
    heap_block_twice: "lies where another structure does",
    heap_block_outside: "block lies outside the file",
    heap_of_many_rows: "a table of 65535 rows",
    heap_of_no_width: "in 32 bits",
    heap_of_odd_blocks: "blocks of 500 to",
    heap_of_tiny_blocks: "a fractal heap",
    compressed_heap: "is compressed",
    heap_of_nothing: "has no ",
}


@pytest.mark.parametrize("lie", NEWER_LIES, ids=lambda lie: str(lie.__name__))
def test_a_structure_with_a_checksum_that_lies_is_refused(
    tmp_path: Path, lie: Callable[[bytearray], None], dense: bytes
) -> None:
    path = tmp_path / "tf_model.h5"
    path.write_bytes(dense)
    assert len(keras_h5.index(path).tensors) == 900
    with changing(path) as content:
        lie(content)
    start = time.process_time()
    with pytest.raises(FormatError, match=re.escape(NEWER_LIES[lie])) as caught:
        keras_h5.index(path)
    assert "checksum" not in str(caught.value)
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 1000


def test_what_the_superblock_says_elsewhere_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    with h5py.File(path, "w", libver="latest", fs_strategy="page") as file:
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"] = np.ones(3)
        file["layer"].attrs["weight_names"] = [b"m/a:0"]
    assert len(keras_h5.index(path).tensors) == 1
    with changing(path) as content:
        header = number(content, 20)
        assert content[header : header + 4] == b"OHDR"
        at = content.index(b"\x17", header + 6)  # how free space is managed
        content[at] = 24  # an image of the cache
    with pytest.raises(FormatError, match="an image of a cache"):
        keras_h5.index(path)


# --- chunks -----------------------------------------------------------------------------------------------------------


def chunked_file(path: Path, **options: Any) -> None:
    """Write one tensor of 200 chunks, under a B-tree of two levels, the only one of chunks."""
    good_file(path)
    with h5py.File(path, "r+") as file:
        dataset(file, data=np.random.default_rng(4).random((400, 4)), chunks=(4, 2), **options)


def chunk_nodes(content: bytearray) -> tuple[int, list[int]]:
    """Find the root and the leaves of the tree of chunks."""
    nodes = [match.start() for match in re.finditer(re.escape(b"TREE\1"), content)]
    (root,) = (at for at in nodes if content[at + 5] == 1)
    return root, [at for at in nodes if content[at + 5] == 0]


KEY = 8 + 3 * 8  # bytes, mask, two offsets and that inside an element


def chunks_in_a_circle(content: bytearray) -> None:
    root, _ = chunk_nodes(content)
    put(content, root + 24 + KEY, "Q", root)


def leaf_of_chunks_twice(content: bytearray) -> None:
    root, _ = chunk_nodes(content)
    put(content, root + 24 + 2 * KEY + 8, "Q", number(content, root + 24 + KEY))


def leaf_above_its_place(content: bytearray) -> None:
    """Move a border between two leaves: the library would look for some chunks in the wrong one, and find none."""
    at = chunk_nodes(content)[0] + 24 + KEY + 8 + 8
    put(content, at, "Q", number(content, at) + 4)


def chunks_of_a_group(content: bytearray) -> None:
    root, _ = chunk_nodes(content)
    put(content, root + 24 + KEY, "Q", content.index(b"TREE\0"))


def chunks_on_another_level(content: bytearray) -> None:
    content[chunk_nodes(content)[0] + 5] = 7


def many_chunks(content: bytearray) -> None:
    put(content, chunk_nodes(content)[1][-1] + 6, "H", 65535)


def missing_chunks(content: bytearray) -> None:
    leaf = chunk_nodes(content)[1][0]
    put(content, leaf + 6, "H", 3)


def chunk_twice(content: bytearray) -> None:
    leaf = chunk_nodes(content)[1][0]
    content[leaf + 24 + KEY + 8 : leaf + 24 + 2 * KEY + 8] = content[leaf + 24 : leaf + 24 + KEY]


def chunk_between_two(content: bytearray) -> None:
    put(content, chunk_nodes(content)[1][0] + 24 + 2 * (KEY + 8) + 16, "Q", 1)


def chunk_off_the_grid(content: bytearray) -> None:
    at = chunk_nodes(content)[1][0] + 24 + 3 * (KEY + 8) + 16
    put(content, at, "Q", number(content, at) + 1)


def chunk_inside_an_element(content: bytearray) -> None:
    put(content, chunk_nodes(content)[1][0] + 24 + 24, "Q", 4)


def chunk_outside_the_file(content: bytearray) -> None:
    put(content, chunk_nodes(content)[1][0] + 24 + KEY, "Q", 1 << 62)


def chunk_over_the_superblock(content: bytearray) -> None:
    put(content, chunk_nodes(content)[1][0] + 24 + KEY, "Q", 0)


def chunk_over_another(content: bytearray) -> None:
    leaf = chunk_nodes(content)[1][0]
    put(content, leaf + 24 + KEY, "Q", number(content, leaf + 24 + KEY + KEY + 8) + 8)


def chunk_of_4_gb(content: bytearray) -> None:
    put(content, chunk_nodes(content)[1][0] + 24, "I", (1 << 32) - 1)


def chunks_of_nothing(content: bytearray) -> None:
    at = content.index(struct.pack("<III", 4, 2, 8))
    put(content, at, "I", 0)


def chunks_of_other_elements(content: bytearray) -> None:
    put(content, content.index(struct.pack("<III", 4, 2, 8)) + 8, "I", 4)


CHUNK_LIES: dict[Callable[[bytearray], None], str] = {
    chunks_in_a_circle: "lies where another structure does",
    leaf_of_chunks_twice: "lies where another structure does",
    leaf_above_its_place: "keys out of order",
    chunks_of_a_group: "leads to something else",
    chunks_on_another_level: "a node of level 0, want 6",
    many_chunks: "lies outside the file",
    missing_chunks: "chunks written, want 200",
    chunk_twice: "keys out of order",
    chunk_between_two: "where none belongs",
    chunk_off_the_grid: "where none belongs",
    chunk_inside_an_element: "where none belongs",
    chunk_outside_the_file: "outside the file",
    chunk_over_the_superblock: "a structure of the file and 'roformer/m/b:0' overlap",
    chunk_over_another: "overlap",
    chunk_of_4_gb: "a chunk of 4,294,967,295 bytes, want 64",
    chunks_of_nothing: "stored in chunks [0, 2]",
    chunks_of_other_elements: "stored in chunks [4, 2] of 4 bytes an element",
}


@pytest.mark.parametrize("lie", CHUNK_LIES, ids=lambda lie: str(lie.__name__))
def test_chunks_that_lie_are_refused(tmp_path: Path, lie: Callable[[bytearray], None]) -> None:
    path = tmp_path / "tf_model.h5"
    chunked_file(path)
    assert len(keras_h5.index(path).tensors) == 2
    with changing(path) as content:
        lie(content)
    with pytest.raises(FormatError, match=re.escape(CHUNK_LIES[lie])):
        keras_h5.index(path)


def stored_chunk(path: Path, stored: bytes, mask: int = 0, **options: Any) -> None:
    """Write one chunk of 11 float64 as it shall lie in the file."""
    good_file(path)
    with h5py.File(path, "r+") as file:
        dataset(file, shape=(11,), dtype="float64", chunks=(11,), **options)
        file["roformer/m/b:0"].id.write_direct_chunk((0,), stored, filter_mask=mask)


PLAIN = bytes(range(88))
GZIP: dict[str, Any] = {"compression": "gzip"}
CHUNKS: dict[str, tuple[bytes, int, dict[str, Any], str]] = {
    "bomb": (zlib.compress(bytes(20_000)), 0, GZIP, "unpacks to more than 88"),
    "no gzip": (PLAIN, 0, GZIP, "does not unpack"),
    "cut gzip": (zlib.compress(PLAIN)[:-5], 0, GZIP, "ends early"),
    "short gzip": (zlib.compress(PLAIN[:-8]), 0, GZIP, "unpacks to 80 bytes, want 88"),
    "gzip of a little more": (zlib.compress(PLAIN + b"1"), 0, GZIP, "unpacks to 89 bytes, want 88"),
    "filter passed over, wrong size": (PLAIN + b"12", 1, GZIP, "unpacks to 90 bytes, want 88"),
    "no room": (b"1", 0, {"fletcher32": True}, "no room for its checksum"),
    "wrong checksum": (PLAIN + b"1234", 0, {"fletcher32": True}, "checksum"),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_a_chunk_that_does_not_unpack_is_an_error(tmp_path: Path, kind: str) -> None:
    stored, mask, options, words = CHUNKS[kind]
    stored_chunk(tmp_path / "tf_model.h5", stored, mask, **options)
    data = keras_h5.index(tmp_path / "tf_model.h5").tensors[1].data
    with OpenFiles() as files, pytest.raises(FormatError, match=words):
        data.read_into(files, 0, memoryview(bytearray(data.nbytes)))


@pytest.mark.parametrize("options", [GZIP, GZIP | {"shuffle": True}, {"shuffle": True}, {"fletcher32": True}], ids=str)
def test_a_chunk_that_was_not_packed_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    stored_chunk(tmp_path / "tf_model.h5", PLAIN, 7, **options)
    data = keras_h5.index(tmp_path / "tf_model.h5").tensors[1].data
    out = bytearray(data.nbytes)
    with OpenFiles() as files:
        data.read_into(files, 0, memoryview(out))
    assert out == PLAIN


def test_a_corrupt_chunk_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    with h5py.File(path, "r+") as file:
        dataset(file, data=np.random.default_rng(3).random(11), chunks=(11,), fletcher32=True)
        where = file["roformer/m/b:0"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    for at in range(where, where + 92):
        content[at] ^= 1
        path.write_bytes(content)
        data = keras_h5.index(path).tensors[1].data
        with OpenFiles() as files, pytest.raises(FormatError, match="does not have the checksum"):
            data.read_into(files, 0, memoryview(bytearray(data.nbytes)))
        content[at] ^= 1


def test_what_is_cut_short_after_it_was_indexed_is_an_error(tmp_path: Path) -> None:
    chunked_file(tmp_path / "tf_model.h5", compression="gzip")
    data = keras_h5.index(tmp_path / "tf_model.h5").tensors[1].data
    os.truncate(tmp_path / "tf_model.h5", 3000)
    with OpenFiles() as files, pytest.raises(FormatError) as caught:
        data.read_into(files, 0, memoryview(bytearray(data.nbytes)))
    assert caught.value.next_step == FETCH_AGAIN


# --- work without end -------------------------------------------------------------------------------------------------


def test_the_work_that_a_file_asks_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_file(tmp_path / "tf_model.h5")
    monkeypatch.setattr(hdf5_file, "MAX_METADATA", 1 << 16)
    assert len(keras_h5.index(tmp_path / "tf_model.h5").tensors) == 2
    monkeypatch.setattr(hdf5_file, "MAX_METADATA", 1 << 12)
    with pytest.raises(FormatError, match="its structures take more than"):
        keras_h5.index(tmp_path / "tf_model.h5")


def test_the_number_of_tensors_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_file(tmp_path / "tf_model.h5")
    monkeypatch.setattr(keras_h5, "MAX_NAMES", 1)
    with pytest.raises(FormatError, match="it holds more than 1 tensors"):
        keras_h5.index(tmp_path / "tf_model.h5")


def root_of(messages: bytes) -> bytes:
    """Make a file whose root has one block of messages."""
    head = struct.pack("<8sBBBxBBBxHHI", SIGNATURE, 0, 0, 0, 0, 8, 8, 4, 16, 0)
    nowhere = (1 << 64) - 1
    size = 96 + 16 + len(messages)
    head += struct.pack("<QQQQ", 0, nowhere, size, nowhere) + struct.pack("<QQII16x", 0, 96, 0, 0)
    return head + struct.pack("<BxHII4x", 1, 1, 1, len(messages)) + messages


def test_a_header_that_ends_inside_a_message_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(root_of(bytes(12)))
    with pytest.raises(FormatError, match="ends inside a message"):
        keras_h5.index(tmp_path / "tf_model.h5")


def linked(count: int) -> bytes:
    info = struct.pack("<HHB3xBBQQ6x", 2, 24, 0, 0, 0, (1 << 64) - 1, (1 << 64) - 1)
    links = (struct.pack("<HHB3xBBB7sQ6x", 6, 24, 0, 1, 0, 7, b"%07d" % number, 0) for number in range(count))
    return info + b"".join(links)


ENDLESS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: root_of(bytes(8) * 4_000_000),
    "links": lambda: root_of(linked(500_000)),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_millions_of_messages_end_in_seconds(tmp_path: Path, kind: str) -> None:
    (tmp_path / "tf_model.h5").write_bytes(ENDLESS[kind]())
    start = time.process_time()
    with pytest.raises(FormatError, match=r"its structures take more than 64 MB|not a group"):
        keras_h5.index(tmp_path / "tf_model.h5")
    assert time.process_time() - start < 15  # a slow machine; 1 to 3 are usual
