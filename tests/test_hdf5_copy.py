"""HDF5 files in forms that Keras does not write are copied by h5py in a process of its own, bit for bit or not at all.

Chunks, filters, big-endian numbers, user blocks, groups and headers of the newer formats: the index is what h5py reads
of the original. And whatever a file does to that process, the one error says so.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from file_contents import read_stored
from random_checkpoints import CONFIG, random_tensors, same_bits, save
from test_keras_h5 import peer_python, values_of
from test_keras_h5_hostile import HOSTILE, good_file
from test_keras_h5_trees import DTYPES, SPELLINGS, UNUSUAL, check, random_tree, wide_file

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.containers.hdf5 import copying as hdf5_copy
from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.containers.hdf5.copying import CopiedExtent
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors.stored import OpenFiles

posix = pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits are POSIX's")
#: v108 and later: superblock 2 or 3, headers with checksums, links as messages.
NEWER = ["v108", "v110", "latest"]
ROWS = values_of((70, 61), "float32", 6)


def packed(path: Path, data: Any = ROWS, styled: str = "earliest", **options: Any) -> None:
    """Write two layers that share a tensor stored as ``options`` say, beside a plain one."""
    with h5py.File(path, "w", libver=styled) as file:
        file.attrs["layer_names"] = [b"layer", b"head"]
        file.attrs["backend"] = "tensorflow"
        file.create_group("layer").attrs["weight_names"] = [b"m/a:0", b"m/b:0"]
        file.create_group("head").attrs["weight_names"] = [b"m/c:0"]
        file.create_dataset("layer/m/a:0", data=data, **options)
        file["layer/m/b:0"] = values_of((9,), "int16", 1)
        file["head/m/c:0"] = file["layer/m/a:0"]


OPTIONS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (3, 2)},
    "one chunk": {"chunks": (70, 61)},
    "columns": {"chunks": (70, 1)},
    "gzip": {"compression": "gzip"},
    "all filters": {"chunks": (9, 8), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "growing": {"maxshape": (None, None)},
    "filled": {"fillvalue": 7, "chunks": (7, 61)},
}


@pytest.mark.parametrize("styled", ["earliest", "latest"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_chunks_and_filters(tmp_path: Path, kind: str, styled: str) -> None:
    packed(tmp_path / "x.h5", styled=styled, **OPTIONS[kind])
    assert check(tmp_path / "x.h5", CopiedExtent) == 3
    one, other, shared = (tensor.data for tensor in keras_h5.index(tmp_path / "x.h5").tensors)
    assert one == shared != other


def big_endian(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        names = [f"m/{dtype}:0" for dtype in DTYPES]
        file.create_group("layer").attrs["weight_names"] = names
        for number, (name, dtype) in enumerate(zip(names, DTYPES, strict=True)):
            values = values_of((5, 3), dtype, number)
            file[f"layer/{name}"] = values.astype(values.dtype.newbyteorder(">"))


def compact(path: Path) -> None:
    packed(path)
    with h5py.File(path, "r+") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        del file["layer/m/b:0"]
        made = h5py.h5d.create(file["layer/m"].id, b"b:0", h5py.h5t.STD_I16LE, h5py.h5s.create_simple((9,)), plan)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(9, dtype="int16"))


def committed(path: Path) -> None:
    packed(path)
    with h5py.File(path, "r+") as file:
        file["a type"], file["a text"] = np.dtype("float32"), np.dtype("S12")
        del file["layer/m/b:0"], file["layer"].attrs["weight_names"]
        file.create_dataset("layer/m/b:0", data=np.ones(3), dtype=file["a type"])
        file["layer"].attrs.create("weight_names", [b"m/a:0", b"m/b:0"], dtype=file["a text"])


def user_block(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=1024) as file:
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"] = ROWS
        file["layer"].attrs["weight_names"] = [b"m/a:0"]
    with open(path, "r+b") as raw:
        raw.write(b"#!/bin/sh\n")


def in_order(path: Path) -> None:
    wide_file(path, 30, "earliest", track_order=True)


def long_attribute(path: Path) -> None:
    names = [f"m/{'long' * 100}{number}:0" for number in range(400)]
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["layer_names"] = [b"layer"]
        for number, name in enumerate(names):
            file[f"layer/{name}"] = np.full(2, number, "int16")
        file["layer"].attrs["weight_names"] = np.asarray([name.encode() for name in names])


def many_attributes(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(100):
            file.attrs[f"other{number}"] = np.full(4000, number, "uint8")
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"] = np.ones(3, "float32")
        file["layer"].attrs["weight_names"] = np.asarray([b"m/a:0".ljust(70_000, b"\0")])


def passed_over(path: Path) -> None:
    """A chunk that no filter has gone through, in a dataset that has three."""
    values = values_of((6, 4), "float32", 1)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        file.create_group("layer").attrs["weight_names"] = [b"m/a:0"]
        options = {"chunks": (3, 4), "shuffle": True, "compression": "gzip", "fletcher32": True}
        dataset = file.create_dataset("layer/m/a:0", data=values, **options)
        dataset.id.write_direct_chunk((3, 0), values[3:].tobytes(), filter_mask=7)


def paged(path: Path) -> None:
    with h5py.File(path, "w", libver="latest", fs_strategy="page") as file:
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"] = ROWS
        file["layer"].attrs["weight_names"] = [b"m/a:0"]


def old_layouts(path: Path) -> None:
    """Contiguous values whose layout is of version 1, as HDF5 1.4 wrote it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["layer"]
        file["layer/m/a:0"] = values_of((31,), "float32", 1)
        file["layer"].attrs["weight_names"] = ["m/a:0"]
    content = path.read_bytes()
    at = content.index(struct.pack("<HHB3xBB", 8, 24, 0, 3, 1)) + 8
    address, size = struct.unpack_from("<QQ", content, at + 2)
    message = struct.pack("<BBB5xQI", 1, 1, 1, address, size // 4).ljust(24, b"\0")
    path.write_bytes(content[:at] + message + content[at + 24 :])


FORMS: dict[str, Callable[[Path], None]] = {
    "big-endian": big_endian,
    "values in a header": compact,
    "committed datatypes": committed,
    "a user block": user_block,
    "links in order": in_order,
    "an attribute above 64 kB": long_attribute,
    "many attributes": many_attributes,
    "filters passed over": passed_over,
    "pages": paged,
    "layouts of the last century": old_layouts,
    "hundreds of links": lambda path: wide_file(path, 300, "latest", longest=500),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path / "x.h5")
    assert check(tmp_path / "x.h5", CopiedExtent) > 0


def test_every_bit_of_a_nan_survives(tmp_path: Path) -> None:
    """Signalling ones too, and turned round in their bytes."""
    for number, (dtype, words) in enumerate([("f4", "u4"), ("f8", "u8"), ("f2", "u2")]):
        bits = np.random.default_rng(3).integers(0, np.iinfo(words).max, 999, words, endpoint=True)
        bits[::7] = np.iinfo(words).max >> 1 & ~(1 << (np.finfo(dtype).nmant - 1))
        path = tmp_path / f"{number}.h5"
        packed(path, bits.view(dtype).astype(f">{dtype}"), chunks=(100,))
        with h5py.File(path) as file:
            raw = file["layer/m/a:0"].id
            stored = np.concatenate(
                [np.frombuffer(raw.read_direct_chunk((at,))[1], f">{words}") for at in range(0, 999, 100)]
            )
        assert np.isnan(bits.view(dtype)).any()
        assert read_stored(keras_h5.index(path).tensors[0]) == stored[:999].astype(f"<{words}").tobytes()


def random_writer(rng: random.Random) -> Callable[[Any, str, Any], None]:
    """Give what writes each dataset in some way."""

    def write(group: Any, name: str, array: Any) -> None:
        options: dict[str, Any] = {}
        if array.shape and array.size and rng.random() < 0.6:
            options = {"chunks": tuple(rng.randrange(1, length + 1) for length in array.shape)}
            options |= {"shuffle": rng.random() < 0.5, "fletcher32": rng.random() < 0.5}
            options |= {"compression": rng.choice([None, "gzip", "lzf"])}
        group.create_dataset(name, data=array, **options)

    return write


@pytest.mark.parametrize("styled", NEWER)
def test_random_trees(tmp_path: Path, styled: str) -> None:
    total, rng = 0, random.Random(5)
    for seed in (3, 4, 5):
        random_tree(tmp_path / "x.h5", styled, seed, random_writer(rng))
        total += check(tmp_path / "x.h5", CopiedExtent)
    assert total > 50


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_every_spelling(tmp_path: Path, spelling: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = [b"layer"]
        file["layer/m/a:0"], file["layer/m/long/b:0"] = np.ones(3), np.zeros(2)
        SPELLINGS[spelling](file["layer"])
    assert [tensor.name for tensor in keras_h5.index(tmp_path / "x.h5").tensors] == ["a", "long/b"]
    assert check(tmp_path / "x.h5", CopiedExtent) == 2


def test_unusual_shapes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = [b"layer"]
        names = [f"m/{number}:0" for number in range(2 * len(UNUSUAL))]
        for name, shape in zip(names, UNUSUAL, strict=False):
            file.create_dataset(f"layer/{name}", data=values_of(shape, "uint8", 1))
        for name, shape in zip(names[len(UNUSUAL) :], UNUSUAL, strict=True):
            chunked = 0 in shape and {"chunks": (3,) * len(shape), "maxshape": (None,) * len(shape)}
            file.create_dataset(f"layer/{name}", data=values_of(shape, "uint8", 2), **(chunked or {}))
        file["layer"].attrs["weight_names"] = names
    assert check(tmp_path / "x.h5", CopiedExtent) == len(names)


PEER = """
import json, sys, numpy, h5py
for style in ("earliest", "v108"):
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
    for styled, line in zip(("earliest", "v108"), done.stdout.splitlines(), strict=True):
        tensors = keras_h5.index(tmp_path / f"{styled}.h5").tensors
        assert [[each.name, each.dtype, list(each.shape), read_stored(each).hex()] for each in tensors] == json.loads(
            line
        )


# --- what a conversion makes of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("equal", [True, False])
def test_a_checkpoint_in_gzip_converts_to_the_same(tmp_path: Path, equal: bool) -> None:
    save(tmp_path / "plain", "tf", random_tensors(), CONFIG)
    save(tmp_path / "packed", "tf", random_tensors(), CONFIG)
    name = "tf_ro_former_for_masked_lm/roformer/embeddings/word_embeddings/weight:0"
    with h5py.File(tmp_path / "packed" / "tf_model.h5", "r+") as file:
        values = file[f"roformer/{name}"][()]
        for layer in ("roformer", "mlm___cls"):
            del file[layer][name]
            file[layer].create_dataset(name, data=values, chunks=(7, 3), compression="gzip")
            if not equal:
                values[-1, 3] += 1
    if not equal:  # ties are looked into all the same
        with pytest.raises(FormatError.__mro__[1], match=rf"first at element \({CONFIG.vocab_size - 1}, 3\)"):
            open_checkpoint(tmp_path / "packed")
        return
    for source in ("plain", "packed"):
        convert(tmp_path / source, tmp_path / f"{source}-out", to="torch")
    with open_checkpoint(tmp_path / "plain-out") as one, open_checkpoint(tmp_path / "packed-out") as two:
        assert same_bits(*({name: side.read(name) for name in side} for side in (one, two))) == []
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "packed", "plain-out", "packed-out"}


def test_a_tensor_outlives_the_index_and_its_copy_ends_with_it(tmp_path: Path) -> None:
    packed(tmp_path / "x.h5", chunks=(7, 7))
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    data = keras_h5.index(tmp_path / "x.h5").tensors[0].data
    out = bytearray(100)
    with OpenFiles() as files:
        data.read_into(files, 8, memoryview(out))
    assert out == ROWS.tobytes()[8:108]
    with pytest.raises(ValueError, match="outside"):
        data.read_into(files, data.nbytes - 1, memoryview(bytearray(2)))
    del data
    assert not before or len(os.listdir("/proc/self/fd")) == len(before)


# --- what a file must not do ------------------------------------------------------------------------------------------

SAME = [
    "external link",
    "soft link",
    "external storage",
    "virtual dataset",
    "weight above its group",
    "missing weight",
    "weight below a dataset",
    "weight that is a group",
    "weight listed twice",
    "name not in UTF-8",
    "endless name",
    "more names than models have",
    "names that are numbers",
    "names of two dimensions",
    "layer without names",
    "text of one width",
    "no shape",
    "never written",
    "one chunk not written",
    "bomb",
    "keras 3",
    "whole model of nothing",
    "no keras file",
]


@pytest.mark.parametrize("kind", SAME)
def test_what_is_refused_of_keras_is_refused_here(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tf_model.h5"
    good_file(path, "latest")
    make, words = HOSTILE[kind]
    with h5py.File(path, "r+", libver="latest") as file:
        make(file)
    with pytest.raises(FormatError) as caught:
        keras_h5.index(path)
    assert words.replace("60,000 names of 1 bytes", "") in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_filter_that_h5py_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    packed(path, compression="lzf")
    content = path.read_bytes()
    at = content.index(b"lzf\0") - 8
    assert content[at : at + 2] == struct.pack("<H", 32000)
    path.write_bytes(content[:at] + struct.pack("<H", 32100) + content[at + 2 :])
    with pytest.raises(FormatError, match="is compressed with filter 32100, which h5py does not have"):
        keras_h5.index(path)


def test_a_chunk_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    packed(path, chunks=(70, 61), fletcher32=True)
    with h5py.File(path) as file:
        at = file["layer/m/a:0"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="the HDF5 library cannot read it"):
        keras_h5.index(path)


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "x.h5", chunks=(7, 7))
    monkeypatch.setattr(hdf5_copy, "find_spec", lambda _: None)
    with pytest.raises(FormatError, match=r"is read with h5py, and that is not installed\n.*extra `h5`"):
        keras_h5.index(tmp_path / "x.h5")


def test_a_library_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "x.h5", chunks=(7, 7))
    monkeypatch.setattr(hdf5_copy, "seconds_allowed", lambda _: 0)
    with pytest.raises(FormatError, match="no answer within 0 seconds"):
        keras_h5.index(tmp_path / "x.h5")


@posix
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("kill -SEGV $$", f"crashed \\(signal {signal.SIGSEGV}\\)"),
        ("kill -XCPU $$", "used up its processor time"),
        ("echo one >&2; echo two >&2; exit 9", "ended with status 9: two"),
        ("exit 3", "no usable answer"),
        ("echo '[1, 2, 3]' >&2; exit 3", "no usable answer"),
        ("exit 0", "not an HDF5 file"),
        ("head -c 200 /dev/zero", "cut short"),
    ],
)
def test_a_process_that_ends_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    packed(tmp_path / "x.h5", chunks=(7, 7))
    (tmp_path / "python").write_text(f"#!/bin/sh\n{words}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FormatError, match=said):
        keras_h5.index(tmp_path / "x.h5")


@posix
def test_memory_has_a_limit(tmp_path: Path) -> None:
    """A chunk of 1.2 GB that is 1.2 MB in the file, in a file that may unpack to that."""
    path = tmp_path / "x.h5"
    rows = 300_000_000
    packed(path, np.random.default_rng(1).random(2_500_000))
    packer = zlib.compressobj(9)
    first, again = (packer.compress(bytes(4_000_000)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    content = first + 299 * again
    with h5py.File(path, "r+") as file:
        del file["layer/m/b:0"]
        dataset = file.create_dataset("layer/m/b:0", (rows,), "float32", chunks=(rows,), compression="gzip")
        dataset.id.write_direct_chunk((0,), content)
    with pytest.raises(FormatError, match="takes more than 1,024 MB of memory"):
        keras_h5.index(path)


@posix
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    packed(tmp_path / "x.h5", chunks=(7, 7))
    program = (
        "from roformer_convert.converters.containers.hdf5 import copy_process as process\n"
        "def full(*_):\n    raise OSError(28, 'No space left on device')\n"
        "process.h5py.Dataset.__setitem__ = full\n"
        "process.main()"
    )
    with open(tmp_path / "x.h5", "rb") as source, open(tmp_path / "out", "w+b") as out:
        done = subprocess.run([sys.executable, "-c", program], stdin=source, stdout=out, stderr=subprocess.PIPE)
    assert done.returncode == hdf5_copy.REFUSED
    assert json.loads(done.stderr)[0] == "there is no room for a plain copy of it"


@posix
def test_the_process_opens_no_file(tmp_path: Path) -> None:
    program = (
        "from roformer_convert.converters.containers.hdf5 import copy_process as process\n"
        "process._limit(60, 1 << 20)\n"
        "try:\n    open('/dev/null')\nexcept OSError as error:\n    print(error.errno)\n"
        "import os\n"
        "try:\n    os.pwrite(1, b'x', 1 << 20)\nexcept OSError as error:\n    os.write(2, b'%d' % error.errno)\n"
    )
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run([sys.executable, "-c", program], stdout=out, stderr=subprocess.PIPE, check=True)
    assert (tmp_path / "out").read_bytes() == b"24\n"  # EMFILE
    assert done.stderr == b"27"  # EFBIG


def test_a_module_beside_the_checkpoint_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "x.h5", chunks=(7, 7))
    for name in ("numpy", "h5py", "json", "codecs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module beside the checkpoint was imported')")
    monkeypatch.chdir(tmp_path)
    assert check(tmp_path / "x.h5", CopiedExtent) == 3
