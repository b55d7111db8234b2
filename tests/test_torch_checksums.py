"""The CRCs of torch's zips: what they show, what is read though only a part was asked for, and files without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from file_contents import read_stored
from torch_files import bits, in_c_order, patched, save

from roformer_convert.converters.containers.pickles import torch_bin
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors.checksums import verify_checksum
from roformer_convert.converters.tensors.stored import Extent, OpenFiles

torch = pytest.importorskip("torch")


def test_a_damaged_pickle_is_told_by_its_crc(tmp_path: Path) -> None:
    path = save(tmp_path / "m.bin", {"weight": torch.arange(3.0)})
    place = path.read_bytes().index(b"weight")
    with pytest.raises(FormatError, match=r"data\.pkl is damaged: its CRC32"):
        torch_bin.index(patched(path, {place: b"height"}))


def test_files_saved_without_crcs_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "m.bin", {"w": torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_stored(torch_bin.index(path).tensors[0]) == bits(torch.arange(3.0))


def test_a_damaged_payload_is_refused_by_its_crc(tmp_path: Path) -> None:
    """torch itself does not look at the CRC of a storage."""
    path = save(tmp_path / "m.bin", {"weight": torch.randn(7, 5)})
    (tensor,) = torch_bin.index(path).tensors
    assert isinstance(tensor.data, Extent)
    with OpenFiles() as files:
        verify_checksum(files, tensor)
    content = bytearray(path.read_bytes())
    content[tensor.data.offset + 11] ^= 1
    path.write_bytes(content)
    with OpenFiles() as files, pytest.raises(FormatError, match="wrong CRC32"):
        verify_checksum(files, tensor)


#: Ways in which a tensor of 6 × 4 may lie in a storage of 100 elements.
VIEWS: dict[str, Any] = {
    "the first rows": lambda base: base[:24].view(6, 4),
    "the last rows": lambda base: base[76:].view(6, 4),
    "transposed rows": lambda base: base[8:32].view(4, 6).t(),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_part_of_a_storage_is_read_only_if_the_whole_has_its_crc(tmp_path: Path, view: str) -> None:
    """Wherever the damage is: the CRC is of the whole, so that nothing tells a bit inside the part from one outside."""
    base = torch.randn(100)
    path = save(tmp_path / "m.bin", {"w": VIEWS[view](base)})
    (tensor,) = torch_bin.index(path).tensors
    assert in_c_order(tensor, 7) == bits(VIEWS[view](base))
    intact = path.read_bytes()
    place = intact.index(bits(base))
    for byte in range(0, 400, 13):
        content = bytearray(intact)
        content[place + byte] ^= 1
        path.write_bytes(content)
        (tensor,) = torch_bin.index(path).tensors
        with pytest.raises(FormatError, match=r"the storage '0' has the wrong CRC32: got [0-9a-f]{8}, wanted"):
            read_stored(tensor)


def test_a_storage_of_many_parts_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.randn(1000, 10)
    path = save(tmp_path / "m.bin", {f"w{row}": base[row] for row in range(0, 1000, 10)})
    done = 0
    real = OpenFiles.read_into

    def counted(files: OpenFiles, path: Path, offset: int, out: memoryview) -> None:
        nonlocal done
        done += len(out)
        real(files, path, offset, out)

    index = torch_bin.index(path)
    monkeypatch.setattr(OpenFiles, "read_into", counted)
    with OpenFiles() as files:
        for tensor in index.tensors:
            tensor.data.read_into(files, 0, memoryview(bytearray(tensor.nbytes)))
    assert done == 40_000 + 100 * 40


def test_parts_of_storages_without_crcs_are_read(tmp_path: Path) -> None:
    """As torch's own switch leaves them, and as ``skip_data`` does, behind which a program fills in the payloads."""
    base = torch.randn(5, 7)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "m.bin", {"w": base[1:3]})
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_stored(torch_bin.index(path).tensors[0]) == bits(base[1:3])
    with torch.serialization.skip_data():
        save(path, {"w": base[1:3]})
    (tensor,) = torch_bin.index(path).tensors
    with open(path, "r+b") as file:
        file.seek(tensor.data.offset)  # type: ignore[attr-defined]
        file.write(bits(base[1:3]))
    assert read_stored(torch_bin.index(path).tensors[0]) == bits(base[1:3])


def test_a_damaged_byte_order_is_told_by_its_crc(tmp_path: Path) -> None:
    path = save(tmp_path / "m.bin", {"weight": torch.arange(3.0)})
    place = path.read_bytes().index(b"little")
    with pytest.raises(FormatError, match="byteorder is damaged: its CRC32"):
        torch_bin.index(patched(path, {place: b"LITTLE"}))
