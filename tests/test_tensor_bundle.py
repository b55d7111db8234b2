"""The TensorFlow checkpoint container beside TensorFlow: each reads the other's files, and hostile ones do no harm."""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crc32c
import pytest
from bundle_tables import restarts, row, table
from file_contents import memory_below, read_stored, write_layout
from peer_folders import PEERS

from roformer_convert.converters.containers.bundle import messages as bundle_messages
from roformer_convert.converters.containers.bundle import tensor_bundle
from roformer_convert.converters.containers.bundle.leveldb_table import (
    build_table,
    masked,
    put_varint,
    read_table,
    unmasked,
)
from roformer_convert.converters.containers.bundle.tensor_bundle import index, lay_out
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.tensors import checksums
from roformer_convert.converters.tensors.checksums import verify_checksum
from roformer_convert.converters.tensors.stored import (
    ChecksummedExtent,
    Extent,
    NewTensor,
    OpenFiles,
    StoredTensor,
)

INDEXES = sorted(PEERS.glob("b4k-*/*.index"))

#: One tensor a dtype, every size different, names that share beginnings, a scalar and two without elements.
MIXED = [
    NewTensor("bert/embeddings/word_embeddings", "float32", (7, 11)),
    NewTensor("bert/embeddings/word", "bfloat16", (3, 5, 2)),
    NewTensor("bert", "float16", (9,)),
    NewTensor("double", "float64", (5,)),
    NewTensor("global_step", "int64", ()),
    NewTensor("empty", "float32", (4, 0, 6)),
    NewTensor("empty/too", "int8", (0,)),
    NewTensor("ids", "int32", (17,)),
    NewTensor("short", "int16", (300,)),
    NewTensor("signed", "int8", (23,)),
    NewTensor("unsigned", "uint8", (29,)),
    NewTensor("mask", "bool", (31,)),
    NewTensor("词/嵌入", "float32", (2, 3)),
]
#: Layers enough for several blocks of TensorFlow's 256 KiB: the names alone take 300 KB.
MANY = [NewTensor(f"{number:03d}{'n' * 600}/kernel", "float32", (number % 7, 3)) for number in range(500)]
LAYERS = [
    NewTensor(f"bert/encoder/layer_{layer}/{leaf}", "float32", (layer % 5 + 1, size))
    for layer in range(100)
    for size, leaf in enumerate(("attention/kernel", "attention/bias", "output/kernel", "output/bias", "z"), start=1)
]

OURS = {"mixed": MIXED, "many": MANY, "layers": LAYERS}


def payloads(tensors: list[NewTensor]) -> dict[str, bytes]:
    content = {}
    for tensor in tensors:
        generator = random.Random(tensor.name)
        values = 2 if tensor.dtype == "bool" else 256
        content[tensor.name] = bytes(generator.randrange(values) for _ in range(tensor.nbytes))
    return content


def write_ours(directory: Path, tensors: list[NewTensor], *, finish: bool = True) -> Path:
    layout = lay_out("bert_model.ckpt", tensors)
    write_layout(layout, directory, payloads(tensors), crc32c.crc32c, finish=finish)
    assert {path.name for path in directory.iterdir()} == layout.sizes.keys()
    return directory / "bert_model.ckpt.index"


Said = dict[str, tuple[str, tuple[int, ...], bytes]]


def as_we_say(index_path: Path) -> Said:
    return {tensor.name: (tensor.dtype, tensor.shape, read_stored(tensor)) for tensor in index(index_path).tensors}


def as_written(tensors: list[NewTensor]) -> Said:
    content = payloads(tensors)
    return {tensor.name: (tensor.dtype, tensor.shape, content[tensor.name]) for tensor in tensors}


#: Runs in a process of its own: writes the tensors in specification.json, then reads the checkpoints it lists.
TENSORFLOW = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

work = sys.argv[1]
specification = json.load(open(os.path.join(work, "specification.json")))

def tensor(dtype, shape, data):
    kind = tf.bool if dtype == "bool" else getattr(tf, dtype)
    return tf.constant(np.frombuffer(bytes.fromhex(data), kind.as_numpy_dtype).reshape(shape))

def save(prefix, tensors):
    names = list(tensors)
    values = [tensor(*tensors[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)

for name, tensors in specification["save"].items():
    save(os.path.join(work, name), tensors)

variable = tf.Variable(tensor("float32", [2, 3], "00112233" * 6), name="dense/kernel")
layer = tf.train.Checkpoint(kernel=variable, twins=[tf.Variable(1.0, name="twin"), tf.Variable(2.0, name="twin")])
tf.train.Checkpoint(layer=layer, step=tf.Variable(3, name="step", dtype=tf.int64)).write(os.path.join(work, "object"))
halves = [tensor("float32", [5, 4], "01234567" * 20), tensor("float32", [5, 4], "89abcdef" * 20)]
tf.raw_ops.SaveV2(prefix=os.path.join(work, "partitioned"), tensor_names=["part", "part", "whole"],
                  shape_and_slices=["10 4 0,5:-", "10 4 5,5:-", ""], tensors=[*halves, halves[0]])
tf.raw_ops.Save(filename=os.path.join(work, "v1.ckpt"), tensor_names=["a", "b"], data=halves)
tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[os.path.join(work, "shard_a"), os.path.join(work, "shard_b")],
                              destination_prefix=os.path.join(work, "merged"))

read = {}
for prefix in specification["read"]:
    reader = tf.train.load_checkpoint(prefix)
    read[prefix] = {}
    for name, shape in reader.get_variable_to_shape_map().items():
        dtype = reader.get_variable_to_dtype_map()[name].name
        value = reader.get_tensor(name)
        data = value.hex() if isinstance(value, bytes) else np.asarray(value).tobytes().hex()
        read[prefix][name] = [dtype, shape, data]
latest = {folder: tf.train.latest_checkpoint(folder) for folder in specification["latest"]}
json.dump({"read": read, "latest": latest}, open(os.path.join(work, "answer.json"), "w"))
"""


@dataclass
class TensorFlow:
    """What one process of TensorFlow wrote, read and found."""

    work: Path
    read: dict[str, Said]
    latest: dict[str, str]


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> TensorFlow:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    work = tmp_path_factory.mktemp("tensorflow")
    ours = {name: write_ours(work / name, tensors) for name, tensors in OURS.items()}

    def given(tensors: list[NewTensor]) -> dict[str, Any]:
        ordered = sorted(tensors, key=lambda tensor: tensor.name.encode())
        return {name: (dtype, shape, data.hex()) for name, (dtype, shape, data) in as_written(ordered).items()}

    specification = {
        "save": {f"tf_{name}": given(tensors) for name, tensors in OURS.items()}
        | {"shard_a": given(MIXED[:4]), "shard_b": given(MIXED[4:])},
        "read": [str(path).removesuffix(".index") for path in [*ours.values(), *INDEXES]],
        "latest": [str(path.parent) for path in ours.values()],
    }
    (work / "specification.json").write_text(json.dumps(specification))
    finished = subprocess.run(
        [sys.executable, "-c", TENSORFLOW, str(work)], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    answer = json.loads((work / "answer.json").read_text())
    found = {
        prefix: {name: (dtype, tuple(shape), bytes.fromhex(data)) for name, (dtype, shape, data) in tensors.items()}
        for prefix, tensors in answer["read"].items()
    }
    return TensorFlow(work, found, answer["latest"])


@pytest.mark.parametrize("name", OURS)
def test_tensorflow_reads_what_we_write(name: str, tensorflow: TensorFlow) -> None:
    assert tensorflow.read[str(tensorflow.work / name / "bert_model.ckpt")] == as_written(OURS[name])


@pytest.mark.parametrize("name", OURS)
def test_we_read_what_tensorflow_writes(name: str, tensorflow: TensorFlow) -> None:
    assert as_we_say(tensorflow.work / f"tf_{name}.index") == as_written(OURS[name])


@pytest.mark.parametrize("name", OURS)
def test_our_files_are_byte_for_byte_tensorflows(name: str, tensorflow: TensorFlow) -> None:
    for suffix in (".index", ".data-00000-of-00001"):
        ours = tensorflow.work / name / f"bert_model.ckpt{suffix}"
        assert ours.read_bytes() == (tensorflow.work / f"tf_{name}{suffix}").read_bytes()


def test_tensorflow_finds_the_checkpoint_in_the_directory(tensorflow: TensorFlow) -> None:
    for name in OURS:
        directory = tensorflow.work / name
        assert tensorflow.latest[str(directory)] == str(directory / "bert_model.ckpt")


def test_variables_of_a_tf2_checkpoint_have_their_own_names(tensorflow: TensorFlow) -> None:
    tensors = {tensor.name: tensor for tensor in index(tensorflow.work / "object.index").tensors}
    kernel = tensors.pop("dense/kernel")
    assert (kernel.dtype, kernel.shape, read_stored(kernel)) == ("float32", (2, 3), bytes.fromhex("00112233" * 6))
    graph = tensors.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
    assert (graph.dtype, graph.shape, type(graph.data)) == ("string", (), Extent)
    assert set(tensors) == {  # a counter's, and those of two variables of one name
        f"{key}/.ATTRIBUTES/VARIABLE_VALUE" for key in ("step", "layer/twins/0", "layer/twins/1")
    }


def test_a_damaged_object_graph_is_refused(tensorflow: TensorFlow, tmp_path: Path) -> None:
    """Every byte of it, one after the other: its checksum covers all of them."""
    for part in ("object.index", "object.data-00000-of-00001"):
        (tmp_path / part).write_bytes((tensorflow.work / part).read_bytes())
    graph = next(tensor.data for tensor in index(tmp_path / "object.index").tensors if tensor.dtype == "string")
    assert isinstance(graph, Extent)
    whole = graph.path.read_bytes()
    for place in range(graph.offset, graph.offset + graph.nbytes):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        graph.path.write_bytes(damaged)
        with pytest.raises(FormatError):
            index(tmp_path / "object.index")


def test_a_checkpoint_of_two_data_files_is_read(tensorflow: TensorFlow) -> None:
    merged = tensorflow.work / "merged.index"
    assert as_we_say(merged) == as_written(MIXED)
    assert len({tensor.data.path for tensor in index(merged).tensors if isinstance(tensor.data, Extent)}) == 2


def test_a_partitioned_variable_is_refused_by_name(tensorflow: TensorFlow) -> None:
    with pytest.raises(FormatError, match=r"1 partitioned variables.*'part'"):
        index(tensorflow.work / "partitioned.index")


@pytest.mark.parametrize("asked", ["v1.ckpt", "v1.ckpt.index", "v1_renamed.index"])
def test_a_v1_checkpoint_is_refused_as_such(asked: str, tensorflow: TensorFlow) -> None:
    (tensorflow.work / "v1_renamed.index").write_bytes((tensorflow.work / "v1.ckpt").read_bytes())
    with pytest.raises(FormatError, match="V1 checkpoint"):
        index(tensorflow.work / asked)


@pytest.mark.parametrize("path", INDEXES, ids=lambda path: path.parent.name)
def test_peers_files_read_as_tensorflow_reads_them(path: Path, tensorflow: TensorFlow) -> None:
    said = as_we_say(path)
    assert said == tensorflow.read[str(path).removesuffix(".index")]
    assert len(said) >= 14  # of RoFormerV2: two embeddings and six kernels a layer


def test_a_shard_that_is_missing_is_named(tensorflow: TensorFlow, tmp_path: Path) -> None:
    for suffix in (".index", ".data-00001-of-00002"):
        (tmp_path / f"merged{suffix}").write_bytes((tensorflow.work / f"merged{suffix}").read_bytes())
    with pytest.raises(FormatError, match=r"merged\.data-00000-of-00002: cannot be read"):
        index(tmp_path / "merged.index")


# ---- without TensorFlow from here on ----


def test_tensors_lie_without_gaps_in_the_order_of_their_names() -> None:
    layout = lay_out("bert_model.ckpt", MIXED)
    end = 0
    for name in sorted((tensor.name for tensor in MIXED), key=str.encode):
        assert layout.slots[name].offset == end
        end += layout.slots[name].nbytes
    assert layout.sizes["bert_model.ckpt.data-00000-of-00001"] == end


def test_a_checkpoint_without_tensors_is_read_back(tmp_path: Path) -> None:
    assert as_we_say(write_ours(tmp_path / "none", [])) == {}


def test_an_unfinished_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "unfinished", MIXED, finish=False)
    content = write_ours(tmp_path / "finished", MIXED).read_bytes()
    for written in range(len(content)):
        path.write_bytes(content[:written] + bytes(len(content) - written))
        with pytest.raises(FormatError):
            index(path)


@pytest.mark.parametrize(
    "tensors",
    [
        [NewTensor("a", "float32", (2,)), NewTensor("b", "float32", (2,), alias_of="a")],
        [NewTensor("a", "float32", (2,)), NewTensor("a", "float32", (3,))],
        [NewTensor("", "float32", (2,))],
        [NewTensor("\0a", "float32", (2,))],
    ],
)
def test_what_the_format_cannot_hold_is_not_laid_out(tensors: list[NewTensor]) -> None:
    with pytest.raises(ValueError):
        lay_out("bert_model.ckpt", tensors)


@pytest.mark.parametrize("prefix", ["", "a/b", "a\\b", 'a"b', "a\nb"])
def test_a_prefix_that_is_no_plain_file_name_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError):
        lay_out(prefix, MIXED)


def test_masking_is_that_of_the_format() -> None:
    # Source: leveldb/util/crc32c_test.cc: masking changes a value, twice is not once, unmasking undoes it.
    value = crc32c.crc32c(b"foo")
    assert value not in (masked(value), masked(masked(value)))
    assert unmasked(masked(value)) == value == unmasked(unmasked(masked(masked(value))))
    # As TensorFlow stores the checksum of no bytes: every empty metaindex block and zero-size tensor has it.
    assert masked(0) == 0xA282EAD8


def test_an_index_of_many_small_blocks_is_read(tmp_path: Path) -> None:
    generator = random.Random(2)
    names = sorted(
        {f"layer_{generator.randrange(9)}/{generator.randrange(1 << 30):x}" for _ in range(500)}
        | {"a", "b", "ba", "bb", "c\xff"}
    )
    entries = [(name.encode(), generator.randbytes(generator.randrange(90))) for name in names]
    for block_bytes in (1, 50, 700, 1 << 20):
        path = tmp_path / "table"
        path.write_bytes(build_table(entries, block_bytes))
        assert [(entry.key, entry.value) for entry in read_table(path)] == entries


# ---- hostile files ----


def entry(dtype: int, shape: list[int], offset: int, nbytes: int, **more: bytes) -> bytes:
    dims = b"".join(b"\x12" + put_varint(len(dim)) + dim for dim in (b"\x08" + put_varint(axis) for axis in shape))
    message = b"\x08" + put_varint(dtype) + b"\x12" + put_varint(len(dims)) + dims
    return message + b"\x20" + put_varint(offset) + b"\x28" + put_varint(nbytes) + more.get("tail", b"")


HEADER = bundle_messages.header()
GOOD = entry(1, [2], 0, 8)


def write_table(path: Path, entries: list[tuple[bytes, bytes]], data: bytes = b"x" * 100) -> Path:
    path.write_bytes(build_table(entries))
    path.with_name(path.name.removesuffix(".index") + ".data-00000-of-00001").write_bytes(data)
    return path


#: Values of the table that no checkpoint has: (header, entry of "a", words of the message).
WRONG_VALUES = {
    "big_endian": (b"\x08\x01\x10\x01\x1a\x02\x08\x01", GOOD, "big-endian"),
    "no_shards": (b"\x1a\x02\x08\x01", GOOD, "counts 0 data files"),
    "shards_below_zero": (b"\x08" + b"\xff" * 9 + b"\x01", GOOD, "data files"),
    "newer_format": (b"\x08\x01\x1a\x04\x08\x02\x10\x02", GOOD, "cannot be read as version 1"),
    "bad_consumer": (b"\x08\x01\x1a\x05\x08\x02\x1a\x01\x01", GOOD, "cannot be read as version 1"),
    "shard_out_of_range": (HEADER, GOOD + b"\x18\x01", "data file 1"),
    "shard_below_zero": (HEADER, GOOD + b"\x18" + b"\xff" * 9 + b"\x01", "data file 18,446"),
    "outside": (HEADER, entry(1, [2], 93, 8), "93 to 101"),
    "far_outside": (HEADER, entry(1, [2], 2**63, 8), "the file has 100"),
    "wrong_size": (HEADER, entry(1, [2], 0, 4), "takes 8"),
    "wrong_size_of_another_dtype": (HEADER, entry(23, [2], 0, 8), "takes 16"),
    "offset_below_zero": (HEADER, entry(1, [2], 2**64 - 8, 8), "the file has 100"),
    "size_below_zero": (HEADER, entry(7, [], 50, 2**64 - 10), "the file has 100"),
    "unknown_axis": (HEADER, entry(1, [2**64 - 1], 0, 8), "too much"),
    "overflow": (HEADER, entry(1, [2**32, 2**32], 0, 8), "too much"),
    "overflow_before_a_zero": (HEADER, entry(1, [2**40, 2**40, 0], 0, 0), "too much"),
    "many_axes": (HEADER, entry(1, [1] * 33 + [2], 0, 8), "too much"),
    "unknown_rank": (HEADER, b"\x08\x01\x12\x02\x18\x01\x28\x08", "unknown rank"),
    "no_dtype": (HEADER, entry(0, [2], 0, 8), "no dtype"),
    "field_twice": (HEADER, GOOD + b"\x08\x01", "occurs twice"),
    "wrong_wire_type": (HEADER, b"\x0d\0\0\0\0" + GOOD, "wire type 5"),
    "field_zero": (HEADER, GOOD + b"\x00\x01", "0 is not a valid field number"),
    "field_above_29_bits": (HEADER, GOOD + put_varint(8 << 29) + b"\x01", "536870912 is not a valid field number"),
    "group": (HEADER, GOOD + b"\x7b\x7c", "which does not exist"),
    "long_number": (HEADER, b"\x08" + b"\x80" * 10 + b"\x01", "64 bits"),
    "wide_number": (HEADER, b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
    "number_bomb": (HEADER, b"\x80" * 100_000, "64 bits"),
    "cut_number": (HEADER, GOOD + b"\x18\x80", "ends early"),
    "huge_length": (HEADER, b"\x12" + put_varint(2**60) + b"\x12", "announced"),
    "huge_length_in_an_unknown_field": (HEADER, GOOD + b"\x7a" + put_varint(2**63), "announced"),
    "cut_checksum": (HEADER, GOOD + b"\x35\0\0", "announced"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_values_in_a_sound_table_are_refused(case: str, tmp_path: Path) -> None:
    header, value, words = WRONG_VALUES[case]
    path = write_table(tmp_path / "wrong.index", [(b"", header), (b"a", value)])
    with pytest.raises(FormatError) as caught:
        index(path)
    assert words in caught.value.problem


def test_fields_of_a_later_protobuf_are_skipped(tmp_path: Path) -> None:
    later = b"\x78\x07" + b"\x79" + b"8" * 8 + b"\x7a\x03abc" + b"\x7d" + b"4" * 4
    path = write_table(tmp_path / "later.index", [(b"", HEADER + later), (b"a", GOOD + later)])
    assert [(tensor.name, tensor.shape) for tensor in index(path).tensors] == [("a", (2,))]


def test_other_dtypes_are_indexed_under_a_word_of_their_own(tmp_path: Path) -> None:
    numbers = {7: "string", 8: "complex64", 17: "uint16", 22: "uint32", 23: "uint64", 11: "DT_11", 101: "DT_101"}
    sizes = {8: 16, 17: 4, 22: 8, 23: 16}
    entries = [(b"%03d" % number, entry(number, [2], 16 * number, sizes.get(number, 1))) for number in sorted(numbers)]
    path = write_table(tmp_path / "others.index", [(b"", HEADER), *entries], b"x" * 2000)
    assert {int(tensor.name): tensor.dtype for tensor in index(path).tensors} == numbers


@pytest.mark.parametrize("other", [(0, 8), (4, 8), (7, 4), (0, 4)])
def test_payloads_that_overlap_are_refused(other: tuple[int, int], tmp_path: Path) -> None:
    offset, nbytes = other
    entries = [(b"", HEADER), (b"a", GOOD), (b"b", entry(1, [nbytes // 4], offset, nbytes))]
    with pytest.raises(FormatError, match="'b' overlaps tensor 'a'"):
        index(write_table(tmp_path / "overlap.index", entries))


def test_payloads_may_lie_apart_and_in_any_order_and_empty_ones_anywhere(tmp_path: Path) -> None:
    places = {"a": (60, 8), "b": (60, 0), "c": (8, 8), "d": (0, 8), "e": (100, 0)}
    entries = [(b"", HEADER)]
    for name, (offset, nbytes) in places.items():
        entries.append((name.encode(), entry(1, [nbytes // 4], offset, nbytes)))
    found = index(write_table(tmp_path / "apart.index", entries)).tensors
    assert {t.name: (t.data.offset, t.nbytes) for t in found if isinstance(t.data, Extent)} == places
    assert [tensor.name for tensor in found] == ["d", "c", "a", "b", "e"]


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        index(write_table(tmp_path / "name.index", [(b"", HEADER), (b"a\xff", GOOD)]))


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    for entries in ([(b"a", GOOD)], [(b"a", HEADER)], []):
        with pytest.raises(FormatError) as caught:
            index(write_table(tmp_path / "name.index", entries))
        assert "does not begin with a checkpoint's header" in caught.value.problem


def test_more_tensors_than_any_checkpoint_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(b"", HEADER), *((b"%03d" % number, entry(1, [0], 0, 0)) for number in range(100))]
    path = write_table(tmp_path / "many.index", entries)
    monkeypatch.setattr(tensor_bundle, "_MAX_TENSORS", 100)
    index(path)
    monkeypatch.setattr(tensor_bundle, "_MAX_TENSORS", 99)
    with pytest.raises(FormatError, match="tensors"):
        index(path)


FIRST = row(0, b"", HEADER)
TABLES = {
    "sound": (table([FIRST + row(0, b"a", GOOD) + restarts(0)]), None),
    "two_blocks": (table([FIRST + restarts(0), row(0, b"q", GOOD) + restarts(0)]), None),
    "snappy": (table([FIRST + restarts(0)], kind=1), "Snappy"),
    "unknown_type": (table([FIRST + restarts(0)], kind=7), "unknown type 7"),
    "shares_more_than_there_is": (table([FIRST + row(1, b"a", GOOD) + restarts(0)]), "shares 1 bytes"),
    "huge_key": (table([FIRST + b"\x00\xff\xff\x01\x01a" + restarts(0)]), "announced"),
    "huge_value": (table([FIRST + b"\x00\x01\xff\xff\xff\xff\x0fa" + restarts(0)]), "announced"),
    "key_twice": (table([FIRST + row(0, b"a", GOOD) * 2 + restarts(0)]), "out of order"),
    "keys_backwards": (table([FIRST + row(0, b"b", GOOD) + row(0, b"a", GOOD) + restarts(0)]), "out of order"),
    "key_in_the_wrong_block": (table([FIRST + row(0, b"z", GOOD) + restarts(0)]), "wrong block"),
    "key_before_its_block": (table([FIRST + restarts(0), row(0, b"a", GOOD) + restarts(0)]), "out of order"),
    "restart_inside_an_entry": (table([FIRST + row(0, b"a", GOOD) + restarts(0, 5)]), "restart point 5"),
    "restart_at_a_cut_key": (
        table([FIRST + row(0, b"a", GOOD) + row(1, b"b", GOOD) + restarts(0, len(FIRST + row(0, b"a", GOOD)))]),
        "not whole",
    ),
    "restarts_after_the_first_entry": (
        table([FIRST + row(0, b"a", GOOD) + restarts(len(FIRST))]),
        "first entry is not a restart point",
    ),
    "no_restarts": (table([FIRST + row(0, b"a", GOOD) + restarts()]), "first entry is not a restart point"),
    "restarts_beyond_the_block": (table([struct.pack("<I", 2**30)]), "restart points"),
    "block_too_small": (table([b"abc"]), "does not fit"),
    "block_named_twice": (
        table([FIRST + restarts(0)], lambda handles: row(0, b"p", handles[0]) + row(0, b"q", handles[0])),
        "file's order",
    ),
    "block_beyond_the_file": (
        table([FIRST + restarts(0)], lambda _: row(0, b"p", put_varint(0) + put_varint(2**62))),
        "does not fit",
    ),
    "handle_with_a_rest": (table([FIRST + restarts(0)], lambda handles: row(0, b"p", handles[0] + b"\0")), "order"),
    "handle_cut": (table([FIRST + restarts(0)], lambda _: row(0, b"p", b"\0")), "ends early"),
    "no_block": (table([]), "does not begin"),
    "empty": (b"", "0 bytes"),
    "zeros": (bytes(500), "not a table"),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables_with_right_checksums_are_refused(case: str, tmp_path: Path) -> None:
    content, words = TABLES[case]
    path = write_table(tmp_path / "wrong.index", [])
    path.write_bytes(content)
    if words is None:
        assert [tensor.shape for tensor in index(path).tensors] == [(2,)]
        return
    with pytest.raises(FormatError) as caught:
        index(path)
    assert words in caught.value.problem


def test_prefixes_cannot_multiply_a_key_beyond_memory(tmp_path: Path) -> None:
    path = write_table(tmp_path / "bomb.index", [])
    empty = entry(1, [0], 0, 0)
    rows = b"".join(row(300_000 + number, b"a", empty) for number in range(10_000))
    path.write_bytes(table([FIRST + row(0, b"a" * 300_000, empty) + rows + restarts(0)]))
    assert path.stat().st_size < 1_000_000
    with memory_below(40_000_000), pytest.raises(FormatError, match="the keys take more"):
        index(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "ours", MIXED)
    with pytest.raises(FormatError, match="cannot be read"):
        index(path.with_name("other.index"))
    with pytest.raises(FormatError, match=r"PREFIX\.index"):
        index(path.with_name("checkpoint"))
    with pytest.raises(FormatError, match=r"PREFIX\.index"):
        index(path.with_name(".index"))
    (tmp_path / "folder.index").mkdir()
    with pytest.raises(FormatError, match="regular"):
        index(tmp_path / "folder.index")
    data = path.with_name("bert_model.ckpt.data-00000-of-00001")
    data.unlink()
    with pytest.raises(FormatError, match="every data file"):
        index(path)
    data.mkdir()
    with pytest.raises(FormatError, match="regular"):
        index(path)


def test_an_index_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.index"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="at most"):
        index(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "cut", MIXED[:5])
    data = path.with_name("bert_model.ckpt.data-00000-of-00001")
    for file in (path, data):
        whole = file.read_bytes()
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(FormatError):
                index(path)
        file.write_bytes(whole)
    index(path)


def test_every_flipped_bit_in_a_block_is_noticed(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "flipped", MIXED[:2])
    whole = path.read_bytes()
    for position in range(len(whole) - 48):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(FormatError, match="CRC32C"):
            index(path)


def test_a_flipped_bit_in_a_payload_is_noticed_and_named(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "flipped", MIXED)
    data = path.with_name("bert_model.ckpt.data-00000-of-00001")
    whole = data.read_bytes()
    for position in range(0, len(whole), 7):
        data.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        wrong: dict[str, FormatError] = {}
        tensors = {tensor.name: tensor for tensor in index(path).tensors}
        with OpenFiles() as files:
            for name, tensor in tensors.items():
                try:
                    verify_checksum(files, tensor)
                except FormatError as error:
                    wrong[name] = error
        ((name, found),) = wrong.items()
        assert "wrong CRC32C" in str(found)
        assert repr(name) in str(found)
        extent = tensors[name].data
        assert isinstance(extent, ChecksummedExtent)
        assert extent.offset <= position < extent.offset + extent.nbytes


def test_a_checksum_is_verified_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.data-00000-of-00001"
    nbytes = (32 << 20) + 12_345
    with open(path, "wb") as file:
        file.truncate(nbytes)
    checksum = 0
    for start in range(0, nbytes, 1 << 16):
        checksum = crc32c.crc32c(bytes(min(1 << 16, nbytes - start)), checksum)
    large = StoredTensor("large", "uint8", (nbytes,), ChecksummedExtent(path, 0, nbytes, checksum))
    with memory_below(2_000_000), OpenFiles() as files:
        verify_checksum(files, large)


def test_without_crc32c_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(ConvertError, match="pip install crc32c"):
        checksums.Checksum("crc32c")
