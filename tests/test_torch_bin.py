"""torch's .bin: what torch.save writes is indexed without torch, what we lay out is what torch writes and loads."""

from __future__ import annotations

import importlib
import io
import math
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import (
    Runs,
    memory_below,
    read_stored,
    write_layout,
    write_without_payloads,
)
from peer_folders import PEERS

from roformer_convert.converters.containers.pickles import torch_bin
from roformer_convert.converters.containers.pickles.torch_zip import Record, lay_out_zip
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.tensors.checksums import CheckedPart, verify_checksum
from roformer_convert.converters.tensors.stored import Extent, Index, NewTensor, OpenFiles, StoredTensor

torch = pytest.importorskip("torch")


ITEMS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1}
ITEMS |= {"uint8": 1, "bool": 1}
#: torch.save's two containers.
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, value: object, zipped: bool = True, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def bits(tensor: Any) -> bytes:
    """The bytes of a torch tensor in C order."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert isinstance(content, bytes)
    return content


def in_c_order(tensor: StoredTensor, step: int = 1 << 20) -> bytes:
    content = read_stored(tensor, step)
    if tensor.order == "C":
        return content
    item = f"V{tensor.nbytes // tensor.size}"
    transposed: bytes = np.frombuffer(content, item).reshape(tensor.shape[::-1]).T.tobytes()
    return transposed


def assert_same(index: Index, want: dict[str, Any]) -> None:
    assert [tensor.name for tensor in index.tensors] == list(want)
    for tensor in index.tensors:
        value = want[tensor.name]
        assert tensor.dtype == str(value.dtype).removeprefix("torch."), tensor.name
        assert tensor.shape == tuple(value.shape), tensor.name
        assert in_c_order(tensor) == bits(value), tensor.name


def make_state(seed: int = 0) -> dict[str, Any]:
    """One random tensor of every dtype, all sizes different."""
    generator = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] = [
        (3, 5),
        (21, 97),
        (7,),
        (2, 3, 4),
        (),
        (17, 2),
        (4, 0, 6),
        (13,),
        (300,),
        (2, 2, 3),
    ]
    state = {}
    for (name, size), shape in zip(ITEMS.items(), shapes, strict=True):
        content = generator.integers(0, 2 if name == "bool" else 256, math.prod(shape) * size, np.uint8)
        flat = torch.from_numpy(content).view(getattr(torch, name)) if content.size else torch.empty(0)
        state[f"model.{name}"] = flat.to(getattr(torch, name)).reshape(shape)
    return state


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


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_what_torch_saves_is_read_bit_for_bit(tmp_path: Path, zipped: bool, protocol: int, container: Any) -> None:
    state = make_state(protocol)
    index = torch_bin.index(save(tmp_path / "m.bin", container(state), zipped, pickle_protocol=protocol))
    assert_same(index, state)
    assert index.metadata == {}
    assert all(isinstance(tensor.data, Extent) and tensor.order == "C" for tensor in index.tensors)


@BOTH
def test_a_modules_state_dict_with_its_metadata_is_read(tmp_path: Path, zipped: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3), torch.nn.Embedding(4, 2))
    assert module.state_dict()._metadata
    index = torch_bin.index(save(tmp_path / "m.bin", module.state_dict(), zipped))
    assert_same(index, module.state_dict())
    assert "1.num_batches_tracked" in {tensor.name for tensor in index.tensors}


@BOTH
def test_parameters_and_tensors_with_attributes_are_tensors(tmp_path: Path, zipped: bool) -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    marked = torch.nn.Parameter(torch.randn(2, 5))
    marked.mark = "kept by torch"
    plain = torch.randn(7)
    plain.mark = 1
    state = {"parameter": parameter, "marked": marked, "plain": plain, "buffer": torch.nn.Buffer(torch.randn(2))}
    assert_same(torch_bin.index(save(tmp_path / "m.bin", state, zipped)), state)


@BOTH
def test_views_of_one_storage_are_told_by_their_strides(tmp_path: Path, zipped: bool) -> None:
    base = torch.randn(6, 10)
    cube = torch.randn(2, 3, 4)
    views = {
        "whole": base,
        "rows": base[2:5],
        "flat": base.view(60),
        "transposed": base.t(),
        "transposed rows": base[1:4].t(),
        "row": base[3:4, :],
        "unsqueezed": base[None, :, None],
        "odd stride of one": base.as_strided((1, 6, 1, 10), (3, 10, 7, 1)),
        "cube": cube,
        "empty": base[3:3],
    }
    index = torch_bin.index(save(tmp_path / "m.bin", views, zipped))
    assert_same(index, views)
    plain = {tensor.name: tensor for tensor in index.tensors}
    parts = {
        name: tensor.data.part if isinstance(tensor.data, CheckedPart) else tensor.data
        for name, tensor in plain.items()
    }
    assert all(isinstance(part, Extent) for part in parts.values())
    assert {name for name, tensor in plain.items() if tensor.order == "F"} == {"transposed", "transposed rows"}
    assert plain["whole"].data == plain["flat"].data == plain["transposed"].data


SCATTERED: dict[str, Callable[[Any], Any]] = {
    "columns": lambda base: base[:, 3:7],
    "column": lambda base: base[:, 3],
    "steps": lambda base: base[::2, ::3],
    "transposed columns": lambda base: base[:, 2:5].t(),
    "expanded": lambda base: base[:1].expand(4, 10),
    "expanded column": lambda base: base[:, :1].expand(6, 5),
    "expanded scalar": lambda base: base[0, 0].expand(3, 2),
    "permuted": lambda base: base.view(2, 3, 10).permute(2, 0, 1),
    "one of three": lambda base: base.view(2, 3, 10)[:, 1:2],
    "diagonal": lambda base: base.diagonal(),
}


@BOTH
@pytest.mark.parametrize("kind", SCATTERED)
def test_a_tensor_that_is_not_one_run_of_bytes_is_not_read(tmp_path: Path, kind: str, zipped: bool) -> None:
    path = save(tmp_path / "m.bin", {"fine": torch.ones(3), "w": SCATTERED[kind](torch.randn(6, 10))}, zipped)
    index = torch_bin.index(path)
    assert [tensor.name for tensor in index.tensors] == ["fine"]
    assert index.unread == {"w"}
    assert "with scattered or repeated elements" in index.metadata["w"]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@BOTH
def test_tensors_of_other_kinds_are_not_read(tmp_path: Path, zipped: bool) -> None:
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8)
    lazy = torch.randn(3, dtype=torch.complex64).conj()
    sparse = torch.nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)
    negative = torch.randn(3, dtype=torch.complex64).conj().imag
    state = {"q": quantized, "c": lazy, "n": negative, "s": sparse, "fine": torch.ones(3)}
    index = torch_bin.index(save(tmp_path / "m.bin", state, zipped))
    assert [tensor.name for tensor in index.tensors] == ["fine"]
    assert index.unread == {"c", "n"}
    assert set(index.metadata) == {"q", "c", "n", "s"}
    assert "conjugated or negated" in index.metadata["n"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.complex64, torch.int8])
def test_numbers_of_a_big_endian_machine_are_read_as_torch_reads_them(tmp_path: Path, dtype: Any) -> None:
    base = (torch.arange(60).reshape(6, 10) - 7).to(dtype)
    state = {"w": base, "turned": base.t(), "rows": base[2:4]}
    path = save(tmp_path / "m.bin", state)
    width = base.element_size() // (2 if dtype.is_complex else 1)
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        held = [(name, archive.read(name)) for name in archive.namelist()]
    swapped = [
        (name, content.reshape(-1, width)[:, ::-1].tobytes() if name.startswith(f"{folder}/data/") else bytes(content))
        for name, stored in held
        for content in [np.frombuffer(stored, np.uint8) if stored else np.zeros(0, np.uint8)]
    ]
    swapped = [(name, b"big" if name.endswith("/byteorder") else content) for name, content in swapped]
    make_zip(path, swapped)
    theirs = torch.load(path)
    index = torch_bin.index(path)
    assert {name: bits(value) for name, value in theirs.items()} == {name: bits(value) for name, value in state.items()}
    assert_same(index, state)
    rows = next(tensor for tensor in index.tensors if tensor.name == "rows")
    piece = bytearray(7)  # that begins and ends inside of numbers
    with OpenFiles() as files:
        rows.data.read_into(files, 3, memoryview(piece))
    assert piece == bits(state["rows"])[3:10]


@BOTH
def test_tied_tensors_show_as_equal_data(tmp_path: Path, zipped: bool) -> None:
    shared = torch.randn(50, 3)
    state = {"a": shared, "b": shared, "c": torch.nn.Parameter(shared), "d": shared.clone()}
    index = torch_bin.index(save(tmp_path / "m.bin", state, zipped))
    assert_same(index, state)
    a, b, c, d = (tensor.data for tensor in index.tensors)
    assert a == b == c
    assert a != d


@BOTH
def test_training_checkpoints_are_flattened(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "note": "x\ny",
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "size": torch.Size([3, 4]),
        "list": [torch.ones(2), 5],
        "storage": torch.randn(2).untyped_storage(),
    }
    index = torch_bin.index(save(tmp_path / "m.pt", checkpoint, zipped))
    tensors = {tensor.name: tensor for tensor in index.tensors}
    assert list(tensors)[:2] == ["state_dict.weight", "state_dict.bias"]
    assert in_c_order(tensors["optimizer.state.0.exp_avg"]) == bits(optimizer.state_dict()["state"][0]["exp_avg"])
    assert in_c_order(tensors["list.0"]) == bits(torch.ones(2))
    assert index.metadata["epoch"] == "3"
    assert index.metadata["device"] == "cpu"
    assert index.metadata["dtype"] == "torch.bfloat16"
    assert index.metadata["size"] == "[3, 4]"
    assert index.metadata["optimizer.param_groups.0.betas"] == "[0.9, 0.999]"


@BOTH
def test_a_function_that_is_only_held_is_named(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "m.pt", {"w": torch.ones(2), "zz": torch._utils._rebuild_parameter}, zipped)
    assert torch_bin.index(path).metadata == {"zz": "torch._utils._rebuild_parameter"}


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"])
def test_types_without_a_storage_class_are_indexed_under_torchs_name(tmp_path: Path, name: str) -> None:
    value = torch.arange(24, dtype=torch.uint8).view(getattr(torch, name))
    (tensor,) = torch_bin.index(save(tmp_path / "m.bin", {"w": value})).tensors
    assert (tensor.dtype, tensor.shape) == (name, tuple(value.shape))
    assert read_stored(tensor) == bytes(range(24))


@BOTH
def test_what_is_no_state_dict_is_named_for_what_it_is(tmp_path: Path, zipped: bool) -> None:
    for value, message in (
        (torch.ones(2, 3), r"holds one tensor \(float32, shape \(2, 3\)\)"),
        ([torch.ones(2)], "holds a list"),
        (5, "holds a number"),
        (slice(1), "slice makes, which was not run"),
    ):
        with pytest.raises(FormatError, match=message):
            torch_bin.index(save(tmp_path / "m.bin", value, zipped))


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


# Files that lie. A zip is made by Python's zipfile around a pickle that torch wrote.


def parts(state: dict[str, Any]) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def make_zip(path: Path, members: Sequence[tuple[str, bytes]], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


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


def patched(path: Path, edits: dict[int, bytes]) -> Path:
    content = bytearray(path.read_bytes())
    for place, change in edits.items():
        content[place : place + len(change)] = change
    path.write_bytes(content)
    return path


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


def pickled(*, pid: bytes = b"", arguments: bytes = b"", function: bytes = b"_rebuild_tensor_v2") -> bytes:
    """A data.pkl of one tensor "w", with parts of it replaced."""
    pid = pid or b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06t"
    arguments = arguments or b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n" + function + b"\n(" + pid + b"Q" + arguments + b"tRs."


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


# The container before 1.6.


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


@BOTH
def test_code_beside_tensors_is_named_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "mark"
    for call in (
        Runs(os.system, f"touch {mark}"),
        Runs(eval, f"open({str(mark)!r}, 'w')"),
        Runs(exec, f"open({str(mark)!r}, 'w')"),
        Runs(getattr, "os", "system"),
        Runs(torch.hub.load, "a", "b"),
    ):
        index = torch_bin.index(save(tmp_path / "m.bin", {"w": torch.ones(3), "x": call}, zipped))
        assert not mark.exists()
        assert [tensor.name for tensor in index.tensors] == ["w"]
        assert index.metadata["x"].endswith("makes, which was not run")
        with pytest.raises(FormatError, match="makes, which was not run"):
            torch_bin.index(save(tmp_path / "m.bin", call, zipped))
        assert not mark.exists()


@BOTH
def test_of_tensors_of_another_kind_only_the_name_is_known(tmp_path: Path, zipped: bool) -> None:
    state = {"w": torch.ones(3), "sparse": torch.eye(3).to_sparse(), "meta": torch.ones(3, device="meta")}
    index = torch_bin.index(save(tmp_path / "m.bin", state, zipped))
    assert [tensor.name for tensor in index.tensors] == ["w"]
    assert set(index.metadata) == {"sparse", "meta"}


@BOTH
def test_a_module_saved_whole_is_seen_into(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    for value, prefix in ((model, ""), ({"net": model, "step": 3}, "net.")):
        index = torch_bin.index(save(tmp_path / "m.pt", value, zipped))
        names = [re.sub(r"_(modules|parameters|buffers)\.", "", tensor.name) for tensor in index.tensors]
        assert names == [f"{prefix}{name}" for name in model.state_dict()]
        assert index.nested == {prefix}
        for tensor, want in zip(index.tensors, model.state_dict().values(), strict=True):
            assert read_stored(tensor) == bits(want)


def check(path: Path) -> None:
    """Index, and read what was indexed: every extent must lie in the file."""
    size = path.stat().st_size
    for tensor in torch_bin.index(path).tensors:
        if isinstance(tensor.data, Extent):
            assert 0 <= tensor.data.offset <= tensor.data.offset + tensor.nbytes <= size
        if tensor.nbytes < 1 << 20:
            assert len(read_stored(tensor)) == tensor.nbytes


@BOTH
def test_every_truncation_is_refused(tmp_path: Path, zipped: bool) -> None:
    content = save(tmp_path / "m.bin", {"w": torch.ones(2, 3).t(), "v": torch.ones(3, dtype=torch.int8)}, zipped)
    whole = content.read_bytes()
    check(content)
    for length in range(len(whole)):
        content.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            torch_bin.index(content)


def test_checkpoints_of_transformers_are_read_as_torch_reads_them() -> None:
    paths = sorted(PEERS.rglob("*.bin"))
    assert paths
    for path in paths:
        assert_same(torch_bin.index(path), torch.load(path, weights_only=True))


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
