"""The safetensors container beside the safetensors library: each reads the other's files, what it refuses we refuse."""

from __future__ import annotations

import ctypes
import json
import os
import random
import struct
from pathlib import Path

import pytest
from file_contents import memory_below, read_stored, write_layout
from peer_folders import PEERS

from roformer_convert.converters.containers import safetensors
from roformer_convert.converters.containers.safetensors import index, lay_out
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.tensors.stored import ITEMSIZE, NewTensor

library = pytest.importorskip("safetensors")

FILES = sorted(PEERS.glob("*/*.safetensors"))

#: One tensor a dtype, every size different; the scalar and the zero-size one are the usual victims of an off-by-one.
NEW = [
    NewTensor("encoder.bias", "float32", (13,)),
    NewTensor("encoder.weight", "float32", (7, 11)),
    NewTensor("词.嵌入", "bfloat16", (3, 5, 2)),
    NewTensor('quote " and \\ and \x00', "float16", (9,)),
    NewTensor("double", "float64", (5,)),
    NewTensor("scalar", "int64", ()),
    NewTensor("empty", "float32", (4, 0, 6)),
    NewTensor("ids", "int32", (17,)),
    NewTensor("short", "int16", (19,)),
    NewTensor("signed", "int8", (23,)),
    NewTensor("unsigned", "uint8", (29,)),
    NewTensor("mask", "bool", (31,)),
]
METADATA = {"format": "pt", "where": "纸"}


def payloads(tensors: list[NewTensor]) -> dict[str, bytes]:
    generator = random.Random(7)
    return {
        tensor.name: bytes(generator.randrange(2 if tensor.dtype == "bool" else 256) for _ in range(tensor.nbytes))
        for tensor in tensors
    }


def write_ours(directory: Path, tensors: list[NewTensor], metadata: dict[str, str], *, finish: bool = True) -> Path:
    write_layout(lay_out("model.safetensors", tensors, metadata), directory, payloads(tensors), finish=finish)
    return directory / "model.safetensors"


def write_raw(path: Path, header: bytes | object, payload: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


def library_writes(tensors: list[NewTensor], metadata: dict[str, str]) -> bytes:
    content = payloads(tensors)
    if not hasattr(library, "TensorSpec"):  # before 0.8
        given = {t.name: {"dtype": t.dtype, "shape": t.shape, "data": content[t.name]} for t in tensors}
        return bytes(library.serialize(given, metadata))
    kept = {name: ctypes.create_string_buffer(data, max(1, len(data))) for name, data in content.items()}
    specs = {
        t.name: library.TensorSpec(
            dtype=t.dtype, shape=list(t.shape), data_ptr=ctypes.addressof(kept[t.name]), data_len=t.nbytes
        )
        for t in tensors
    }
    return bytes(library.serialize(specs, metadata))


def as_the_library_says(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (described["dtype"], tuple(described["shape"]), bytes(described["data"]))
        for name, described in library.deserialize(content)
    }


WORDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}
WORDS |= {"int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


def as_we_say(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {tensor.name: (WORDS[tensor.dtype], tensor.shape, read_stored(tensor)) for tensor in index(path).tensors}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = write_ours(tmp_path, NEW, METADATA)
    found = as_the_library_says(path.read_bytes())
    content = payloads(NEW)
    assert found == {tensor.name: (WORDS[tensor.dtype], tensor.shape, content[tensor.name]) for tensor in NEW}
    with library.safe_open(path, framework="np") as file:
        assert file.metadata() == METADATA


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    content = payloads(NEW)
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(library_writes(NEW, METADATA))
    assert as_we_say(path) == {t.name: (WORDS[t.dtype], t.shape, content[t.name]) for t in NEW}
    assert index(path).metadata == METADATA


def test_payloads_and_header_are_those_of_the_library_but_for_padding(tmp_path: Path) -> None:
    theirs = library_writes(NEW, {"format": "pt"})
    ours = write_ours(tmp_path, NEW, {"format": "pt"}).read_bytes()

    def parts(file: bytes) -> tuple[list[object], bytes]:
        (length,) = struct.unpack("<Q", file[:8])
        return list(json.loads(file[8 : 8 + length]).items()), file[8 + length :]

    assert parts(ours) == parts(theirs)


def test_payloads_are_aligned_to_their_elements_and_the_first_to_64(tmp_path: Path) -> None:
    for count in range(1, len(NEW) + 1):
        layout = lay_out("model.safetensors", NEW[:count], {"x": "y" * count})
        sizes = {tensor.name: ITEMSIZE[tensor.dtype] for tensor in NEW}
        assert all(slot.offset % sizes[name] == 0 for name, slot in layout.slots.items())
        assert min(slot.offset for slot in layout.slots.values()) % 64 == 0


def test_a_file_without_tensors_is_read_by_both(tmp_path: Path) -> None:
    path = write_ours(tmp_path, [], {})
    assert as_the_library_says(path.read_bytes()) == as_we_say(path) == {}


def test_an_unfinished_file_is_refused_by_both(tmp_path: Path) -> None:
    path = write_ours(tmp_path, NEW, METADATA, finish=False)
    (header,) = lay_out(path.name, NEW, METADATA).fragments({})
    for written in range(len(header.content.rstrip())):
        with open(path, "r+b") as file:
            file.write(header.content[:written])
        with pytest.raises(FormatError):
            index(path)
        with pytest.raises(library.SafetensorError):
            library.deserialize(path.read_bytes())


@pytest.mark.parametrize(
    "tensors",
    [
        [NewTensor("a", "float32", (2,)), NewTensor("b", "float32", (2,), alias_of="a")],
        [NewTensor("a", "float32", (2,)), NewTensor("a", "float32", (3,))],
        [NewTensor("__metadata__", "float32", (2,))],
    ],
)
def test_what_the_format_cannot_hold_is_not_laid_out(tensors: list[NewTensor]) -> None:
    with pytest.raises(ValueError):
        lay_out("model.safetensors", tensors, {"format": "pt"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_peers_files_read_as_the_library_reads_them(path: Path) -> None:
    theirs = as_the_library_says(path.read_bytes())
    if path.parent.name == "pd-MaskedLM_default_bfloat16_st":  # PaddleNLP's word for bfloat16
        assert {dtype for dtype, _, _ in theirs.values()} == {"U16"}
        theirs = {name: ("BF16", shape, data) for name, (_, shape, data) in theirs.items()}
    assert as_we_say(path) == theirs
    with library.safe_open(path, framework="np") as file:
        assert index(path).metadata == file.metadata()


def one(**fields: object) -> dict[str, object]:
    """A header of one tensor of 8 bytes, with some fields otherwise."""
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}


REFUSED = {
    "no_object": (b"[]", b"", "begin with '{'"),
    "nothing": (b"", b"", "begin with '{'"),
    "zeros": (b"\0" * 64, b"", "begin with '{'"),
    "unclosed": (b'{"a":{"dtype":"F32"', b"", "ends where"),
    "rest": (b"{} x", b"", "JSON ends before"),
    "trailing_comma": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],}}', b"x" * 8, "wanted b'\"'"),
    "latin_1": ('{"ä":1}'.encode("latin-1"), b"", "UTF-8"),
    "half_a_surrogate_pair": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"x" * 8, "escape"),
    "control_character": (b'{"a\n":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"x" * 8, "JSON"),
    "unknown_dtype": (one(dtype="F8_E4M3"), b"x" * 8, "'F8_E4M3'"),
    "float": (one(shape=[2.0]), b"x" * 8, "integer"),
    "exponent": (b'{"a":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}', b"x" * 8, "integer"),
    "leading_zero": (b'{"a":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}', b"x" * 8, "integer"),
    "bool": (one(shape=[True, 2]), b"x" * 8, "integer"),
    "negative": (one(shape=[-2]), b"x" * 8, "integer"),
    "string": (one(shape=["2"]), b"x" * 8, "integer"),
    "null": (one(shape=[None]), b"x" * 8, "integer"),
    "above_63_bits": (one(shape=[2**63]), b"x" * 8, "integer"),
    "ten_thousand_digits": (b'{"a":{"shape":[' + b"9" * 10_000, b"", "integer"),
    "overflow": (one(shape=[2**32, 2**32]), b"x" * 8, "2^63 - 1"),
    "overflow_before_a_zero": (one(shape=[2**40, 2**40, 0], data_offsets=[0, 0]), b"", "2^63 - 1"),
    "many_axes": (one(shape=[1] * 33 + [2]), b"x" * 8, "32 axes"),
    "wrong_size": (one(shape=[3]), b"x" * 8, "takes 12"),
    "backwards": (one(data_offsets=[8, 0]), b"x" * 8, "begins at 8"),
    "three_offsets": (one(data_offsets=[0, 4, 8]), b"x" * 8, "two data_offsets"),
    "one_offset": (one(data_offsets=[0]), b"x" * 8, "two data_offsets"),
    "no_shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"x" * 8, "needs a dtype"),
    "hole": (one(data_offsets=[8, 16]), b"x" * 16, "hole"),
    "overlap": ({**one(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"x" * 12, "overlaps"),
    "shared": ({**one(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"x" * 8, "overlaps"),
    "trailing_bytes": (one(), b"x" * 9, "accounts for"),
    "cut_payload": (one(), b"x" * 7, "accounts for"),
    "far_away": (one(shape=[2**40], data_offsets=[0, 2**42]), b"x" * 8, "accounts for"),
    "metadata_number": ({"__metadata__": {"a": 1}}, b"", "wanted b'\"'"),
    "tensor_null": ({"a": None}, b"", "wanted b'{'"),
    "metadata_cut_null": (b'{"__metadata__":nul', b"", "wanted b'{'"),
    "metadata_nulls": (b'{"__metadata__":nullnull}', b"", "wanted b'}'"),
    "deep": (b'{"a":' + b"[" * 100_000, b"", "wanted b'{'"),
    "deep_objects": (b'{"a":' * 100_000, b"", "format does not know"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_header_is_refused(case: str, tmp_path: Path) -> None:
    header, payload, words = REFUSED[case]
    path = write_raw(tmp_path / "wrong.safetensors", header, payload)
    with pytest.raises(FormatError) as caught:
        index(path)
    assert words in caught.value.problem
    assert str(path) in str(caught.value)
    assert "etch it again" in (caught.value.next_step or "") or case == "unknown_dtype"


#: What the library lets through and we do not, so that one reading of a file is the only one.
STRICTER = {
    "name_twice": (b'{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},' + json.dumps(one()).encode()[1:], "twice"),
    "metadata_twice": (b'{"__metadata__":{"k":"1","k":"2"},"a":%s}' % json.dumps(one()["a"]).encode(), "twice"),
    "space_first": (b' {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "begin"),
    "unknown_field": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1]}}', "'strides'"),
    "list_for_object": (b'{"a":["F32",[2],[0,8]]}', "wanted b'{'"),
}


@pytest.mark.parametrize("case", STRICTER)
def test_an_ambiguous_header_is_refused_where_the_library_accepts_it(case: str, tmp_path: Path) -> None:
    header, words = STRICTER[case]
    path = write_raw(tmp_path / "odd.safetensors", header, b"x" * 8)
    library.deserialize(path.read_bytes())
    with pytest.raises(FormatError, match=words):
        index(path)


def test_metadata_may_be_null(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "null.safetensors", {"__metadata__": None, **one()}, b"12345678")
    assert as_we_say(path) == as_the_library_says(path.read_bytes()) == {"a": ("F32", (2,), b"12345678")}
    assert index(path).metadata == {}


def test_a_tensor_of_several_names_has_all_of_them(tmp_path: Path) -> None:
    """``save_model`` keeps the name that comes first, as ``cls.…decoder.weight`` does before ``roformer.…``."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_model, save_model

    class Tied(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.decoder = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
            self.decoder.weight = self.words.weight

    path = tmp_path / "model.safetensors"
    save_model(Tied(), str(path), {"note": "words.weight"})
    loaded = Tied()
    load_model(loaded, str(path))
    want = loaded.words.weight.detach().numpy().tobytes()
    assert [name for name, *_ in as_the_library_says(path.read_bytes()).items()] == ["decoder.weight"]
    assert {name: payload for name, (_, _, payload) in as_we_say(path).items()} == {
        "decoder.weight": want,
        "words.weight": want,
    }
    assert index(path).metadata == {"note": "words.weight"}


def test_escapes_and_space_are_read_as_json_has_them(tmp_path: Path) -> None:
    header = (
        b'{"\\u8bcd\\ud83d\\ude00\\n" :\r\n\t{ "data_offsets" : [ 0 , 8 ] ,"shape":[ 2 ] ,"dtype":"F\\u00332" } } \n '
    )
    path = write_raw(tmp_path / "odd.safetensors", header, b"12345678")
    assert as_we_say(path) == as_the_library_says(path.read_bytes()) == {"词😀\n": ("F32", (2,), b"12345678")}


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 100_000_001, 100_000_000, 4096])
def test_a_header_length_beyond_the_file_or_the_format_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + b" " * 100)
    with pytest.raises(FormatError, match="header length"):
        index(path)


def test_a_header_above_the_format_s_limit_is_refused_though_the_file_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{}")
        file.truncate(8 + 100_000_001)
    with pytest.raises(FormatError, match="limit"):
        index(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write_ours(tmp_path, NEW[:3], METADATA).read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            index(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        index(tmp_path / "absent.safetensors")
    with pytest.raises(FormatError, match="regular"):
        index(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(FormatError, match="regular"):
        index(tmp_path / "pipe.safetensors")


TOKENS = [
    *b'0 1 8 -1 2.0 1e1 true null [] {} "" "a" "F32" "F16" "U16" "dtype" "shape" "data_offsets" "__metadata__"'.split(),
    *b'"b" 18446744073709551615 4294967296 , : [ ] { } " \\ \\u0061 \\ud800 \xff \xc3\xa9 \x00'.split(),
    *(b" ", b"\n", b"\t"),
]


def mutated(generator: random.Random, header: bytes) -> bytes:
    """Change ``header`` in one to three places: a byte, a token over a token, one put in, one taken away."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        at = generator.randrange(len(header))
        # Half of the changes replace a whole number or word, which is where headers that still parse come from.
        if generator.random() < 0.5:
            end = at + 1
            while at > 0 and header[at - 1] not in b'{}[]:,"':
                at -= 1
            while end < len(header) and header[end] not in b'{}[]:,"':
                end += 1
            new = generator.choice((b"%d" % generator.choice((0, 1, 2, 4, 6, 8, 16, 24, 40)), generator.choice(TOKENS)))
        else:
            end = at + generator.choice((0, 0, 1, 1, 2))
            new = generator.choice((generator.choice(TOKENS), b"", bytes([generator.randrange(256)])))
        header = header[:at] + new + header[end:]
    return header


def test_what_the_library_refuses_we_refuse(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [8], "data_offsets": [24, 40]},
        "c": {"dtype": "I8", "shape": [0], "data_offsets": [40, 40]},
    }
    whole = json.dumps(header, separators=(",", ":")).encode()
    payload = random.Random(3).randbytes(40)
    generator = random.Random(11)
    path = tmp_path / "mutated.safetensors"
    verdicts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for _ in range(4000):
        write_raw(path, mutated(generator, whole), payload)
        content = path.read_bytes()
        try:
            theirs = as_the_library_says(content)
        except library.SafetensorError:
            theirs = None
        try:
            ours = as_we_say(path)
        except ConvertError:
            ours = None
        verdicts[ours is not None, theirs is not None] += 1
        assert ours is None or ours == theirs, content
    assert verdicts[True, False] == 0
    # The comparison says something only if both verdicts are common.
    assert verdicts[True, True] > 100
    assert verdicts[False, False] > 1000


@pytest.mark.parametrize("junk", [b"[],", b"1,", b" ", b'"x",', b"{},"])
def test_junk_does_not_grow_in_memory(junk: bytes, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "junk.safetensors", b'{"a":{"shape":[' + junk * (600_000 // len(junk)))
    with memory_below(1_000_000), pytest.raises(FormatError):
        index(path)


def test_a_long_name_is_cut_in_the_message(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "long.safetensors", {"\x1b" * 100_000: one(dtype="U32")["a"]}, b"x" * 8)
    with pytest.raises(FormatError) as caught:
        index(path)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


def test_more_entries_than_any_checkpoint_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raw(tmp_path / "many.safetensors", {"__metadata__": {f"{number:x}": "" for number in range(100)}})
    monkeypatch.setattr(safetensors, "_MAX_ENTRIES", 100)
    index(path)
    monkeypatch.setattr(safetensors, "_MAX_ENTRIES", 99)
    with pytest.raises(FormatError, match="entries"):
        index(path)
