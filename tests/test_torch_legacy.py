"""torch's .bin in the containers before 1.6: views of storages, and broken files."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from file_contents import read_stored
from torch_files import pickled

from roformer_convert.converters.containers.pickles import torch_bin
from roformer_convert.converters.errors import FormatError

torch = pytest.importorskip("torch")


def legacy(state: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False, **options)
    return buffer.getvalue()


def old_file(
    *,
    magic: int = torch_bin._MAGIC,
    protocol: object = 1001,
    system: object = None,
    body: bytes = b"",
    keys: object = ("0",),
    tail: bytes,
) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}} if system is None else system
    pid = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06Nt"
    start = b"".join(pickle.dumps(part, 2) for part in (magic, protocol, system))
    return start + (body or pickled(pid=pid)) + pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2) + tail


RAW = struct.pack("<q", 6) + bytes(range(24))


def test_views_of_storages_of_old_torch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(old_file(tail=RAW))
    assert read_stored(torch_bin.index(path).tensors[0]) == bytes(range(24))
    # torch before 0.4: the tensor's storage is elements 2 to 6 of the one in the file.
    view = b"(X\x03\0\0\0viwK\x02K\x04t"
    content = old_file(tail=RAW).replace(b"K\x06Nt", b"K\x06" + view + b"t")
    path.write_bytes(content.replace(b"K\x02K\x03\x86K\x03K\x01\x86", b"K\x02K\x02\x86K\x02K\x01\x86"))
    assert read_stored(torch_bin.index(path).tensors[0]) == bytes(range(8, 24))
    path.write_bytes(content)
    with pytest.raises(FormatError, match="6 elements into its storage of 4"):
        torch_bin.index(path)
    path.write_bytes(content.replace(b"viwK\x02K\x04", b"viwK\x02K\x05"))
    with pytest.raises(FormatError, match="elements 2 to 7 of storage '0', which has 6"):
        torch_bin.index(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (old_file(magic=5, tail=RAW), "magic number is missing"),
        (old_file(protocol=1000, tail=RAW), "version 1000 of torch's older format, want 1001"),
        (old_file(protocol="1001", tail=RAW), "version text"),
        (old_file(system={"little_endian": False}, tail=RAW), "little-endian"),
        (old_file(system=[], tail=RAW), "little-endian"),
        (old_file(keys=("1",), tail=RAW), "used by no tensor"),
        (old_file(keys=("0", "0"), tail=RAW), "not one of 1 keys"),
        (old_file(keys=(), tail=b""), "not one of 1 keys"),
        (old_file(keys=(7,), tail=RAW), "a number stands where a storage's key"),
        (old_file(keys={}, tail=RAW), "not one of 1 keys"),
        (old_file(tail=struct.pack("<q", 7) + bytes(24)), "has 7 elements, want 6"),
        (old_file(tail=struct.pack("<q", -1) + bytes(24)), "has -1 elements"),
        (old_file(tail=RAW[:-1]), "cut short in the storage '0'"),
        (old_file(tail=RAW[:5]), "cut short"),
        (old_file(tail=RAW + b"z"), "1 bytes follow the last storage"),
        (b"", "empty"),
        (b"not a checkpoint at all", "neither a zip nor"),
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", "os.system"),
    ],
)
def test_broken_files_of_old_torch_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        torch_bin.index(tmp_path / "m.bin")


def test_a_storage_listed_twice_is_refused(tmp_path: Path) -> None:
    other = pickled(pid=b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x001X\x03\0\0\0cpuK\x06t")
    body = pickled()[:-1] + other[3:].replace(b"X\x01\0\0\0w", b"X\x01\0\0\0v", 1)
    (tmp_path / "m.bin").write_bytes(old_file(body=body, keys=("0", "1"), tail=RAW + RAW))
    assert len(torch_bin.index(tmp_path / "m.bin").tensors) == 2
    (tmp_path / "m.bin").write_bytes(old_file(body=body, keys=("0", "0"), tail=RAW + RAW))
    with pytest.raises(FormatError, match="'0' is listed twice"):
        torch_bin.index(tmp_path / "m.bin")


def test_tar_files_of_the_oldest_torch_are_named(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "m.bin", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            archive.addfile(member, io.BytesIO())
    with pytest.raises(FormatError, match="a tar archive"):
        torch_bin.index(tmp_path / "m.bin")
