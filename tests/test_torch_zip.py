"""torch's zips of other writers, and zips that lie: made by Python's zipfile around a pickle that torch wrote."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from file_contents import memory_below, read_stored
from torch_files import assert_same, bits, make_state, make_zip, patched, pickled, save

from roformer_convert.converters.containers.pickles import torch_bin
from roformer_convert.converters.errors import FormatError

torch = pytest.importorskip("torch")


class Pipe(io.RawIOBase):
    """A file that cannot go back, so that what writes a zip puts sizes behind the members."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.content += piece
        return len(piece)


def rezipped(path: Path, streamed: bool, zip64: bool) -> bytes:
    """The same members as Python's zipfile writes them."""
    target: Any = Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            with new.open(zipfile.ZipInfo(name), "w", force_zip64=zip64) as member:
                member.write(old.read(name))
    return bytes(target.content if streamed else target.getvalue())


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("zip64", [True, False])
def test_zips_of_other_writers_are_read(tmp_path: Path, streamed: bool, zip64: bool) -> None:
    state = make_state(4)
    path = save(tmp_path / "a.bin", state)
    path.write_bytes(rezipped(path, streamed, zip64))
    assert sorted(torch.load(path)) == sorted(state)
    assert_same(torch_bin.index(path), state)


def test_a_64_bit_size_in_a_members_own_header_is_held_against_the_directory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", {"w": torch.ones(3)})
    content = bytearray(rezipped(path, False, True))
    wide = content.index(b"\xff" * 8) + 12 + len("a/data.pkl")  # the first header's extra field: 1, 16, two sizes
    assert content[wide : wide + 4] == struct.pack("<2H", 1, 16)
    for change, words in (
        (struct.pack("<2HQ", 1, 16, 99), "says 99 bytes"),
        (struct.pack("<2H", 2, 16), "64-bit size or offset is missing"),
        (struct.pack("<2H", 1, 17), "an extra field reaches behind its entry"),
    ):
        changed = bytearray(content)
        changed[wide : wide + len(change)] = change
        path.write_bytes(changed)
        with pytest.raises(FormatError, match=words):
            torch_bin.index(path)


# Files that lie. A zip is made by Python's zipfile around a pickle that torch wrote.


def parts(state: dict[str, Any]) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def members(**changes: bytes | None) -> list[tuple[str, bytes]]:
    """The members of a small file, some of them changed or (None) left out."""
    content: dict[str, bytes | None] = {**parts({"w": torch.arange(6.0), "v": torch.arange(3)})}
    content.update({name.replace("__", "/").replace("_pkl", ".pkl"): value for name, value in changes.items()})
    return [(f"m/{name}", value) for name, value in content.items() if value is not None]


def test_a_zip_made_by_another_tool_is_read(tmp_path: Path) -> None:
    index = torch_bin.index(make_zip(tmp_path / "m.bin", members(byteorder=None)))
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in index.tensors] == [
        ("w", "float32", (6,)),
        ("v", "int64", (3,)),
    ]
    assert read_stored(index.tensors[0]) == bits(torch.arange(6.0))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (members(data__0=None), "storage '0' is missing"),
        (members(data__0=b"x" * 23), "has 23 bytes in the zip, want 24: 6 of float32"),
        (members(data__0=b"x" * 25), "has 25 bytes"),
        (members(data_pkl=None), "0 members named"),
        (members(byteorder=b"middle"), "byte order is b'middle'"),
        (members(constants_pkl=b"x"), "TorchScript"),
        ([*members(), ("m/data/0", b"x" * 24)], "'m/data/0' twice"),
        ([*members(), ("n/data.pkl", b"x")], "2 members named"),
        ([*members(), ("n/data/0", b"x")], "lies outside 'm'"),
        ([*members(), ("m/../data/0", b"x")], "not a plain relative path"),
        ([*members(), ("/m/data/9", b"x")], "not a plain relative path"),
        ([*members(), ("m\\data\\9", b"x")], "not a plain relative path|lies outside"),
        (members(data_pkl=b"\x80\x02}."), None),
        (members(data_pkl=b"\x80\x02}.more"), "follow the end of the pickle"),
        (members(data_pkl=b""), "cut short"),
        (members(data_pkl=b"\x80\x02cos\nsystem\n."), "os.system"),
    ],
)
def test_a_zip_with_the_wrong_members_is_refused(tmp_path: Path, made: Any, message: str | None) -> None:
    path = make_zip(tmp_path / "m.bin", made)
    if message is None:
        assert torch_bin.index(path).tensors == ()
        return
    with pytest.raises(FormatError, match=message):
        torch_bin.index(path)


def test_compressed_members_are_refused_whatever_they_would_unpack_to(tmp_path: Path) -> None:
    bomb = [("m/data.pkl", b"\x80\x02}."), ("m/data/0", bytes(50_000_000))]
    path = make_zip(tmp_path / "m.bin", bomb, compression=zipfile.ZIP_DEFLATED)
    with memory_below(1 << 20), pytest.raises(FormatError, match=r"'m/data.pkl' is compressed \(method 8\)"):
        torch_bin.index(path)


def find(content: bytes, magic: bytes, name: bytes) -> int:
    """Where the record of ``magic`` that names ``name`` begins."""
    gap = {b"PK\x01\x02": 46, b"PK\x03\x04": 30}[magic]
    place = -1
    while (place := content.find(magic, place + 1)) >= 0:
        if content[place + gap : place + gap + len(name)] == name:
            return place
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("magic", "field", "change", "message"),
    [
        (b"PK\x01\x02", 8, b"\x01\x00", "encrypted"),
        (b"PK\x03\x04", 6, b"\x01\x00", "packed"),
        (b"PK\x01\x02", 10, b"\x08\x00", "compressed"),
        (b"PK\x03\x04", 8, b"\x08\x00", "packed"),
        (b"PK\x01\x02", 20, struct.pack("<I", 23), "24 bytes and is stored in 23"),
        (b"PK\x01\x02", 20, struct.pack("<2I", 23, 23), "says 24 bytes, the directory 23"),
        (b"PK\x01\x02", 20, struct.pack("<2I", 1 << 30, 1 << 30), "says 24 bytes|into the directory"),
        (b"PK\x03\x04", 18, struct.pack("<2I", 25, 25), "says 25 bytes, the directory 24"),
        (b"PK\x03\x04", 18, struct.pack("<2I", 0, 0), "says 0 bytes, the directory 24"),
        (b"PK\x01\x02", 42, struct.pack("<I", 1), "no header where"),
        (b"PK\x01\x02", 42, struct.pack("<I", 1 << 31), "inside the directory"),
        (b"PK\x01\x02", 42, b"\xff\xff\xff\xff", "64-bit size or offset is missing"),
        (b"PK\x01\x02", 34, b"\x01\x00", "several disks"),
        (b"PK\x01\x02", 28, b"\xff\xff", "reaches behind|no entry"),
        (b"PK\x01\x02", 0, b"PK\x01\x03", "no entry where one should begin"),
        (b"PK\x03\x04", 0, b"PK\x03\x05", "no header where"),
        (b"PK\x03\x04", 28, b"\xf0\xff", "reaches into the directory"),
        (b"PK\x03\x04", 30, b"n/data/0", "its own header does not"),
        (b"PK\x01\x02", 46, b"m/data/5", "its own header does not"),
        (b"PK\x01\x02", 46, b"m/data/\xff", "UTF-8"),
        (b"PK\x03\x04", 28, b"\x10\x00", "the zip overlap"),
    ],
)
def test_two_accounts_of_a_member_that_differ_are_refused(
    tmp_path: Path, magic: bytes, field: int, change: bytes, message: str
) -> None:
    path = make_zip(tmp_path / "m.bin", members())
    place = find(path.read_bytes(), magic, b"m/data/0") + field
    with pytest.raises(FormatError) as caught:
        torch_bin.index(patched(path, {place: change}))
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    # Both entries of the directory point at one member: every copy costs 60 bytes and unpacks to the whole.
    content = make_zip(tmp_path / "m.bin", [("m/data.pkl", b"\x80\x02}."), ("m/data/0", b"x" * 99)]).read_bytes()
    entry_start = find(content, b"PK\x01\x02", b"m/data/0")
    end = content.index(b"PK\x05\x06")
    entry = content[entry_start:end]
    start = content.index(b"PK\x01\x02")
    record = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 3, 3, end - start + len(entry), start, 0)
    (tmp_path / "m.bin").write_bytes(content[:end] + entry + record)
    with pytest.raises(FormatError, match="twice"):
        torch_bin.index(tmp_path / "m.bin")
    other = entry.replace(b"m/data/0", b"m/data/1")
    (tmp_path / "m.bin").write_bytes(content[:end] + other + record)
    with pytest.raises(FormatError, match="its own header does not"):
        torch_bin.index(tmp_path / "m.bin")
    # A header inside another member's payload, with a name of its own, is the trick that works without equal names.
    inner = b"PK\x03\x04" + struct.pack("<5H3I2H", 0, 0, 0, 0, 0, 0, 5, 5, 8, 0) + b"m/data/1" + b"y" * 5
    outer = make_zip(tmp_path / "m.bin", [("m/data.pkl", b"\x80\x02}."), ("m/data/0", inner)]).read_bytes()
    start, end = outer.index(b"PK\x01\x02"), outer.index(b"PK\x05\x06")
    entry = outer[find(outer, b"PK\x01\x02", b"m/data/0") : end].replace(b"m/data/0", b"m/data/1")
    entry = entry[:20] + struct.pack("<2I", 5, 5) + entry[28:42] + struct.pack("<I", outer.index(inner)) + entry[46:]
    record = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 3, 3, end - start + len(entry), start, 0)
    (tmp_path / "m.bin").write_bytes(outer[:end] + entry + record)
    with pytest.raises(FormatError, match="members of the zip overlap"):
        torch_bin.index(tmp_path / "m.bin")


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (4, b"\x01\x00", "several disks"),
        (8, b"\x01\x00\x01\x00", "its end record says 1"),
        (8, b"\x01\x00", "several disks"),
        (12, b"\xff\xff\xff\x7f", "end record begins"),
        (16, b"\x00\x00\x00\x00", "end record begins"),
        (20, b"\x05\x00", "0 bytes follow the zip's end record, which says 5"),
        (0, b"PK\x05\x07", "no end-of-directory record"),
    ],
)
def test_an_end_record_that_lies_is_refused(tmp_path: Path, field: int, change: bytes, message: str) -> None:
    path = make_zip(tmp_path / "m.bin", members())
    place = path.read_bytes().index(b"PK\x05\x06") + field
    with pytest.raises(FormatError, match=message):
        torch_bin.index(patched(path, {place: change}))


@pytest.mark.parametrize(
    ("magic", "field", "change", "message"),
    [
        (b"PK\x06\x06", 24, struct.pack("<Q", 2), "several disks|two end records say"),
        (b"PK\x06\x06", 40, struct.pack("<Q", 1 << 40), "two end records say"),
        (b"PK\x06\x06", 48, struct.pack("<Q", 0), "two end records say"),
        (b"PK\x06\x06", 0, b"PK\x06\x09", "not where its locator says"),
        (b"PK\x06\x06", 4, struct.pack("<Q", 1 << 60), "not where its locator says"),
        (b"PK\x06\x07", 8, struct.pack("<Q", 1 << 60), "cut short"),
        (b"PK\x06\x07", 8, struct.pack("<Q", 7), "not where its locator says"),
    ],
)
def test_a_64_bit_end_record_that_lies_is_refused(
    tmp_path: Path, magic: bytes, field: int, change: bytes, message: str
) -> None:
    path = save(tmp_path / "m.bin", {"w": torch.arange(3.0)})
    place = path.read_bytes().index(magic) + field
    with pytest.raises(FormatError) as caught:
        torch_bin.index(patched(path, {place: change}))
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)


@pytest.mark.parametrize(
    ("pickle_bytes", "message"),
    [
        (pickled(), None),
        (pickled(arguments=b"K\x01K\x02K\x03\x86K\x03K\x01\x86\x89N"), "7 elements into its storage of 6"),
        (pickled(arguments=b"K\x00K\x02K\x03\x86K\x04K\x01\x86\x89N"), "7 elements into"),
        (pickled(arguments=b"K\x00K\x02K\x03\x86K\x03\x85\x89N"), r"\(2, 3\) has the strides \(3,\)"),
        (pickled(arguments=b"K\x00K\x02K\x03\x86J\xff\xff\xff\xffK\x01\x86\x89N"), "is -1"),
        (pickled(arguments=b"J\xff\xff\xff\xffK\x02K\x03\x86K\x03K\x01\x86\x89N"), "is -1"),
        (pickled(arguments=b"K\x00J\xff\xff\xff\xffK\x03\x86K\x03K\x01\x86\x89N"), "is -1"),
        (pickled(arguments=b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7fK\x03\x86K\x03K\x01\x86\x89N"), "any memory"),
        (pickled(arguments=b"K\x00\x8a\x09" + b"\xff" * 8 + b"\x7fK\x03\x86K\x03K\x01\x86\x89N"), "is 23611"),
        (pickled(arguments=b"K\x00K\x02K\x03\x86]\x89N"), "a list stands where"),
        (pickled(arguments=b"NK\x02K\x03\x86K\x03K\x01\x86\x89N"), "None stands where"),
        (pickled(arguments=b"K\x00K\x06\x85K\x01\x85\x89N}X\x04\0\0\0conj\x89s"), None),
        (pickled(arguments=b"K\x00"), "2 arguments"),
        (pickled(function=b"_rebuild_tensor"), None),
        (pickled(function=b"_rebuild_tensor_v3"), "6 arguments"),
        (pickled(pid=b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x009X\x03\0\0\0cpuK\x06t"), "'9' is missing"),
        (pickled(pid=b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x04\0\0\x00../0X\x03\0\0\0cpuK\x06t"), "missing"),
        (pickled(pid=b"(X\x07\0\0\0storagectorch\nDoubleStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06t"), "24 bytes in"),
        (pickled(pid=b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x07t"), "want 28: 7 of"),
        (
            pickled(pid=b"(X\x07\0\0\0storagectorch\nfloat32\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06t"),
            "torch.float32 is the type of a storage",
        ),
        (pickled(pid=b"(X\x06\0\0\0modulectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06t"), "want 'storage'"),
        (pickled(pid=b"(X\x07\0\0\0storageK\x01X\x01\0\0\x000X\x03\0\0\0cpuK\x06t"), "a number is the type"),
        (pickled(pid=b"X\x01\0\0\0w"), "the persistent id is text"),
        (pickled(pid=b"(X\x07\0\0\0storaget"), "the persistent id is a tuple"),
    ],
)
def test_tensors_that_contradict_their_storage_are_refused(
    tmp_path: Path, pickle_bytes: bytes, message: str | None
) -> None:
    path = make_zip(tmp_path / "m.bin", [("m/data.pkl", pickle_bytes), ("m/data/0", bits(torch.arange(6.0)))])
    if message is None:
        assert read_stored(torch_bin.index(path).tensors[0]) == bits(torch.arange(6.0))
        return
    with pytest.raises(FormatError, match=message):
        torch_bin.index(path)


def test_one_storage_described_twice_differently_is_refused(tmp_path: Path) -> None:
    first = pickled()
    second = pickled(pid=b"(X\x07\0\0\0storagectorch\nIntStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06t")
    both = first[:-1] + second[3:].replace(b"X\x01\0\0\0w", b"X\x01\0\0\0v", 1)
    path = make_zip(tmp_path / "m.bin", [("m/data.pkl", both), ("m/data/0", bytes(24))])
    with pytest.raises(FormatError, match="6 of int32 here and 6 of float32 before"):
        torch_bin.index(path)
