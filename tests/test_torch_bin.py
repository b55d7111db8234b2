"""torch's .bin: what torch.save writes is indexed without torch, bit for bit."""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import Runs, read_stored
from peer_folders import PEERS
from torch_files import BOTH, assert_same, bits, in_c_order, make_state, make_zip, save

from roformer_convert.converters.containers.pickles import torch_bin
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors.checksums import CheckedPart
from roformer_convert.converters.tensors.stored import Extent, OpenFiles

torch = pytest.importorskip("torch")


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
