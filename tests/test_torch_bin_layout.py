"""torch's .bin as we lay it out: byte for byte what torch writes, and loaded by torch."""

from __future__ import annotations

import importlib
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from file_contents import write_layout, write_without_payloads
from torch_files import assert_same, bits, make_state, save

from roformer_convert.converters.containers.pickles import torch_bin
from roformer_convert.converters.containers.pickles.torch_zip import Record, lay_out_zip
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.tensors.stored import Extent, NewTensor, OpenFiles

torch = pytest.importorskip("torch")


def write(directory: Path, filename: str, tensors: Sequence[NewTensor], payloads: dict[str, bytes]) -> Path:
    layout = torch_bin.lay_out(filename, tensors)
    assert layout.checksum == "crc32"
    write_layout(layout, directory, payloads, zlib.crc32)
    assert all(slot.offset % 64 == 0 for slot in layout.slots.values())
    return directory / filename


def as_new(state: dict[str, Any]) -> tuple[list[NewTensor], dict[str, bytes]]:
    tensors = [
        NewTensor(name, str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in state.items()
    ]
    return tensors, {name: bits(value) for name, value in state.items()}


@pytest.mark.parametrize("options", [{}, {"weights_only": False}, {"mmap": True}], ids=["plain", "any", "mmap"])
@pytest.mark.parametrize("filename", ["pytorch_model.bin", "权重.bin", "no_suffix", ".bin", "two.dots.pt"])
def test_torch_loads_what_we_lay_out(tmp_path: Path, filename: str, options: dict[str, Any]) -> None:
    state = make_state(3)
    tensors, payloads = as_new(state)
    tied = [
        NewTensor("before", "float32", (21, 97), "model.float32"),
        NewTensor("after", "float32", (21, 97), "before"),
    ]
    path = write(tmp_path, filename, [tied[0], *tensors, tied[1]], payloads)
    loaded = torch.load(path, **options)
    assert type(loaded) is OrderedDict
    state["after"] = state["before"] = state["model.float32"]
    assert list(loaded) == list(state)
    for name, value in state.items():
        assert (loaded[name].dtype, loaded[name].stride()) == (value.dtype, value.stride()), name
        assert loaded[name].shape == value.shape, name
        assert bits(loaded[name]) == bits(value), name
    assert loaded["before"].data_ptr() == loaded["after"].data_ptr() == loaded["model.float32"].data_ptr()
    assert_same(torch_bin.index(path), state)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("filename", ["pytorch_model.bin", "权重.bin", "no_suffix", "two.dots.pt", "a b.bin"])
def test_the_folder_in_the_zip_is_named_as_torch_names_it(tmp_path: Path, filename: str) -> None:
    def folder(path: Path) -> str:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()[0]

    theirs = folder(save(tmp_path / filename, {"w": torch.ones(2)}))
    (tmp_path / filename).unlink()
    assert folder(write(tmp_path, filename, *as_new({"w": torch.ones(2)}))) == theirs


def test_torch_may_compute_our_offsets_instead_of_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = importlib.import_module("torch.utils.serialization").config

    # With this set, torch compares what it computes with what it reads.
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    state = make_state(4)
    with config.patch("load.calculate_storage_offsets", True):
        loaded = torch.load(write(tmp_path, "m.bin", *as_new(state)), mmap=True)
    assert all(bits(loaded[name]) == bits(value) for name, value in state.items())


def test_every_byte_but_pickle_and_id_is_torchs_own_beyond_4_gib(tmp_path: Path) -> None:
    counts = {"a": 3, "big": (1 << 30) + 5, "c": 7, "empty": 0, "too": (1 << 30) + 9, "f": 1}
    path = tmp_path / "big.bin"
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(count) for name, count in counts.items()}, path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if "/data/" not in name}
        contents["big/.data/serialization_id"] = archive.read("big/.data/serialization_id")
        names = archive.namelist()
    records = [
        Record(name, len(contents[name]), contents[name])
        if name in contents
        else Record(name, 4 * list(counts.values())[int(name.rpartition("/")[2])], tensor=name)
        for name in names
    ]
    layout = lay_out_zip("big.bin", records, 64)
    assert layout.sizes == {"big.bin": path.stat().st_size}
    total = 0
    with open(path, "rb") as file:
        for fragment in layout.fragments(dict.fromkeys(names, 0)):
            file.seek(fragment.offset)
            assert file.read(len(fragment.content)) == fragment.content
            total += len(fragment.content)
    assert total + 4 * sum(counts.values()) == path.stat().st_size
    # Ours of the same tensors has the same members in the same order, the id excepted, and reads back.
    ours = torch_bin.lay_out("big.bin", [NewTensor(name, "float32", (count,)) for name, count in counts.items()])
    (tmp_path / "ours").mkdir()
    write_without_payloads(ours, tmp_path / "ours")
    slots = ours.slots
    with zipfile.ZipFile(tmp_path / "ours" / "big.bin") as archive:
        assert archive.namelist() == [name for name in names if name != "big/.data/serialization_id"]
    for tensor in torch_bin.index(tmp_path / "ours" / "big.bin").tensors:
        assert tensor.data == Extent(tmp_path / "ours" / "big.bin", slots[tensor.name].offset, 4 * counts[tensor.name])


def test_more_members_than_16_bits_count_are_laid_out_and_read(tmp_path: Path) -> None:
    # 33,000 tensors and their opcodes are the machine's limit, so the zip is tried without a pickle's help.
    records = [Record(f"a/{number}", 1, b"x") for number in range(66_000)]
    write_without_payloads(lay_out_zip("a.bin", records, 64), tmp_path)
    from roformer_convert.converters.containers.pickles.torch_zip import read_members

    with OpenFiles() as files:
        members = read_members(tmp_path / "a.bin", files, (tmp_path / "a.bin").stat().st_size)
    assert len(members) == 66_000
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        assert len(archive.namelist()) == 66_000


def test_an_unfinished_file_is_refused_by_torch_and_by_us(tmp_path: Path) -> None:
    tensors, payloads = as_new(make_state(1))
    layout = torch_bin.lay_out("m.bin", tensors)
    layout.create(tmp_path)
    fragments = layout.fragments({name: zlib.crc32(content) for name, content in payloads.items()})
    for fragment in [None, *fragments[:-1]]:
        if fragment is not None:
            with open(tmp_path / "m.bin", "r+b") as file:
                file.seek(fragment.offset)
                file.write(fragment.content)
        with pytest.raises(ConvertError):
            torch_bin.index(tmp_path / "m.bin")
        with pytest.raises((RuntimeError, pickle.UnpicklingError, EOFError)):
            torch.load(tmp_path / "m.bin")
