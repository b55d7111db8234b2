"""Hostile Keras HDF5 files give the one error, and a reading process that crashes, hangs or lies gives it too.

Each is made by hand here; test_keras_h5_mutations.py breaks files at random.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from roformer_convert.converters.containers import keras_h5, keras_h5_process
from roformer_convert.converters.containers.keras_h5_layout import SIGNATURE
from roformer_convert.converters.containers.stored import Extent, OpenFiles
from roformer_convert.converters.errors import ConvertError, FormatError

posix = pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits and forks are POSIX's")


def good_file(path: Path) -> None:
    """Write two tensors that can be indexed: what each hostile file starts from."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"roformer"]
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
    "names that are numbers": (lambda f: f.attrs.create("layer_names", [1, 2]), "does not hold text"),
    "names of two dimensions": (lambda f: f.attrs.create("layer_names", [[b"a"]]), "want 1 dimension"),
    "layer without names": (lambda f: f["roformer"].attrs.__delitem__("weight_names"), "has no weight_names"),
    "object values": (lambda f: replace(f, [b"text"]), "has dtype object"),
    "ragged values": (lambda f: dataset(f, shape=(2,), dtype=h5py.vlen_dtype("f4")), "has dtype object"),
    "compound values": (lambda f: dataset(f, shape=(2,), dtype=[("x", "f4")]), "has dtype"),
    "references": (lambda f: dataset(f, shape=(2,), dtype=h5py.ref_dtype), "has dtype object"),
    "big-endian values": (lambda f: replace(f, np.ones(3, ">f4")), "float32 (big-endian)"),
    "unknown dtype": (lambda f: replace(f, np.ones(3, "uint16")), "has dtype uint16"),
    "no shape": (lambda f: replace(f, h5py.Empty("f4")), "has no shape"),
    "never written": (lambda f: dataset(f, shape=(1 << 40,), dtype="f4"), "declared and never written"),
    "chunks never written": (
        lambda f: dataset(f, shape=(1 << 40,), dtype="f4", chunks=(1 << 20,)),
        "has 0 chunks written, want 1,048,576",
    ),
    "huge chunks": (lambda f: dataset(f, shape=(1 << 40,), dtype="f4", chunks=(1 << 28,)), "too large to read"),
    "tall chunks": (lambda f: dataset(f, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(99, 1)), "too large to read"),
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


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    assert len(keras_h5.index(path, trusted=True).tensors) == 2
    make, words = HOSTILE[kind]
    with h5py.File(path, "r+") as file:
        make(file)
    # In this process for most, because starting one for each is slow; a link must not be followed in either.
    for trusted in (False, True) if "link" in kind else (True,):
        with pytest.raises(FormatError, match=re.escape(words)) as caught:
            keras_h5.index(path, trusted=trusted)
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an HDF5 file"),
        (b"\x89HDF", "not an HDF5 file"),
        (b"PK\x03\x04" + bytes(99), "not an HDF5 file"),
        (bytes(99), "cut short"),
        (SIGNATURE, "cannot read it"),
        (SIGNATURE + bytes(4096), "cannot read it"),
        (SIGNATURE + b"\xff" * 4096, "cannot read it"),
    ],
)
def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tf_model.h5"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=words):
        keras_h5.index(path)


def described(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "a/b", "path": "l/m/a/b:0", "dtype": "float32", "shape": [2, 3], "address": 9, "offset": 16}
    return {"tensors": [{**tensor, **changes}], "metadata": {}}


LIES: dict[str, Any] = {
    "no object": [1],
    "no tensors": {"metadata": {}},
    "tensors that are none": {"tensors": [3], "metadata": {}},
    "offset behind the end": described(offset=77),
    "negative offset": described(offset=-1),
    "offset that is a fraction": described(offset=16.0),
    "offset that is true": described(offset=True),
    "missing address": described(address=None),
    "huge shape": described(shape=[1 << 62, 1 << 62]),
    "huge unpacked": {
        "tensors": [{k: v for k, v in described(shape=[1 << 31])["tensors"][0].items() if k != "offset"}],
        "metadata": {},
    },
    "shape of a thousand dimensions": described(shape=[1] * 1000),
    "shape of endless numbers": described(shape=[10**4000, 0]),
    "negative shape": described(shape=[-2, -3]),
    "shape that is no list": described(shape="23"),
    "unknown dtype": described(dtype="string"),
    "dtype that is no text": described(dtype=["float32"]),
    "no name": described(name=""),
    "name with a line break": described(name="a\nb"),
    "overlap": {"tensors": described()["tensors"] + described(address=8, offset=20)["tensors"], "metadata": {}},
    "one address, two kinds": {"tensors": described()["tensors"] + described(shape=[3, 2])["tensors"], "metadata": {}},
}


@pytest.mark.parametrize("lie", LIES)
def test_nothing_the_reading_process_says_is_believed(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "x.h5"
    assert keras_h5.index_of_answer(path, 100, described()).tensors[0].data == Extent(path, 16, 24)
    with pytest.raises(FormatError):
        keras_h5.index_of_answer(path, 100, LIES[lie])


CHILDREN = {
    "crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(signal 11\)"),
    "hang": ("import time; time.sleep(600)", "no answer within 0.5 seconds"),
    "silence": ("", "status 0 and no usable answer"),
    "failure": ("raise SystemExit(3)", "status 3"),
    "no JSON": ("print('{')", "no usable answer"),
    "deep JSON": ("print('[' * 200_000)", "no usable answer"),
    "endless": ("while True: print('x' * 1_000_000)", "no usable answer"),
}


@posix
@pytest.mark.parametrize("kind", CHILDREN)
def test_a_reading_process_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    program, words = CHILDREN[kind]
    (tmp_path / "child.py").write_text(program)
    good_file(tmp_path / "tf_model.h5")
    monkeypatch.setattr(keras_h5_process, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(keras_h5_process, "MAX_ANSWER", 1 << 20)
    if kind == "hang":
        monkeypatch.setattr(keras_h5_process, "ANSWER_SECONDS", 0.5)
    with pytest.raises(FormatError, match=words):
        keras_h5.index(tmp_path / "tf_model.h5")


@posix
def test_a_server_that_dies_is_an_error_and_the_next_one_works(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    with h5py.File(path, "r+") as file:
        dataset(file, data=np.arange(11.0), chunks=(3,), compression="gzip")
    data = keras_h5.index(path).tensors[1].data
    out = bytearray(data.nbytes)
    with OpenFiles() as files:
        data.read_into(files, 0, memoryview(out))
        data.server._process.kill()  # type: ignore[attr-defined]
        with pytest.raises(FormatError, match=r"crashed \(signal 9\)"):
            data.read_into(files, 0, memoryview(out))
        data.read_into(files, 0, memoryview(out))
    assert np.frombuffer(out).tolist() == list(range(11))


def test_a_corrupt_chunk_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path)
    with h5py.File(path, "r+") as file:
        dataset(file, data=np.random.default_rng(3).random(11), chunks=(11,), fletcher32=True)
        where = file["roformer/m/b:0"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    data = keras_h5.index(path).tensors[1].data
    with OpenFiles() as files, pytest.raises(FormatError, match="cannot read it"):
        data.read_into(files, 0, memoryview(bytearray(data.nbytes)))


@posix
def test_the_reading_process_is_limited(tmp_path: Path) -> None:
    good_file(tmp_path / "tf_model.h5")
    program = (
        "import resource, sys, json; sys.path[:] = json.loads(sys.argv[1]); import keras_h5_child as child\n"
        "child.limit_process(7); assert len(child.describe(sys.argv[2], confined=True)['tensors']) == 2\n"
        "print(*(resource.getrlimit(what)[0] for what in (resource.RLIMIT_CPU, resource.RLIMIT_CORE)))\n"
        "try: files = [open('/dev/null') for _ in range(2)]  # the one that describe closed left a place\n"
        "except OSError as error: print(error.errno)\n"
        "try: bytearray(child.MEMORY_LIMIT)\nexcept MemoryError: print('bounded')\n"
    )
    search_path = json.dumps([str(keras_h5_process.CHILD.parent), *sys.path])
    command = [sys.executable, "-I", "-S", "-c", program, search_path, str(tmp_path / "tf_model.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:3] == ["7", "0", "24"]
    assert done.stdout.split()[3:] == ["bounded"] or sys.platform == "darwin"


def test_no_interpreter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_file(tmp_path / "tf_model.h5")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ConvertError, match="process of their own"):
        keras_h5.index(tmp_path / "tf_model.h5")
