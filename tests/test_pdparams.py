""".pdparams: what paddle.save writes is indexed without paddle, what we lay out is what paddle.load reads."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
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

from roformer_convert.converters.containers.pickles import pdparams
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors.stored import Extent, Index, NewTensor, OpenFiles, StoredTensor

NUMPY = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "?",
}


def array(tensor: StoredTensor) -> np.ndarray[Any, Any]:
    """Read a tensor as a numpy array of its bits."""
    flat = np.frombuffer(read_stored(tensor), NUMPY[tensor.dtype])
    shaped: np.ndarray[Any, Any] = flat.reshape(tensor.shape)
    if tensor.order == "F":
        shaped = flat.reshape(tensor.shape[::-1]).T
    return shaped


def arrays(index: Index) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: array(tensor) for tensor in index.tensors}


def assert_same(got: dict[str, np.ndarray[Any, Any]], want: dict[str, np.ndarray[Any, Any]]) -> None:
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        assert got[name].tobytes() == value.tobytes(), name


def make_state(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """One random array of every dtype, all sizes different, one of them above the size of a pickle frame."""
    generator = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] = [(3, 5), (211, 97), (7,), (2, 3, 4), (), (17, 2), (0, 6), (13,), (300,), (2, 2, 3)]
    state = {}
    for (name, code), shape in zip(NUMPY.items(), shapes, strict=True):
        count = math.prod(shape) * np.dtype(code).itemsize
        content = generator.integers(0, 2 if name == "bool" else 256, count, np.uint8)
        state[f"model.{name}"] = content.view(code).reshape(shape)
    return state


def save(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def write(directory: Path, filename: str, tensors: Sequence[NewTensor], payloads: dict[str, bytes]) -> Path:
    layout = pdparams.lay_out(filename, tensors)
    assert layout.checksum is None
    write_layout(layout, directory, payloads)
    return directory / filename


def as_new(state: dict[str, np.ndarray[Any, Any]]) -> tuple[list[NewTensor], dict[str, bytes]]:
    names = {np.dtype(code): name for name, code in NUMPY.items()}
    tensors = [NewTensor(name, names[value.dtype], value.shape) for name, value in state.items()]
    return tensors, {name: value.tobytes() for name, value in state.items()}


PADDLE_SAVES = """
import pickle, sys
from collections import OrderedDict
import numpy as np
import paddle
folder = sys.argv[1]
paddle.seed(3)

class Model(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed = paddle.nn.Embedding(31, 7)
        self.wide = paddle.nn.Linear(150, 130)
        self.norm = paddle.nn.LayerNorm(11)

def bits(tensor):
    return tensor.numpy()

model = Model()
for parameter in model.parameters():
    parameter.set_value(paddle.randn(parameter.shape))
state = model.state_dict()
half = {name: value.astype("bfloat16") for name, value in state.items()}
mixed = {"f8": paddle.randn([3, 4]).astype("float64"), "i8": paddle.arange(5), "b1": paddle.to_tensor([True, False]),
         "f2": paddle.randn([9]).astype("float16"), "empty": paddle.zeros([0, 3]), "scalar": paddle.to_tensor(2.5)}
optimizer = paddle.optimizer.AdamW(parameters=model.parameters(), learning_rate=0.01)
model.norm(paddle.randn([2, 11])).sum().backward()
optimizer.step()
for protocol in (2, 3, 4):
    paddle.save(state, f"{folder}/state{protocol}", protocol=protocol)
    paddle.save(half, f"{folder}/half{protocol}", protocol=protocol)
    paddle.save(mixed, f"{folder}/mixed{protocol}", protocol=protocol)
    paddle.save({"model": state, "optimizer": optimizer.state_dict(), "epoch": 3}, f"{folder}/nested{protocol}",
                protocol=protocol)
    paddle.save({"d": state["wide.weight"].value().get_tensor(), "n": {"x": mixed["f8"]}, "k": "v"},
                f"{folder}/dense{protocol}", protocol=protocol)
    paddle.save(state["wide.weight"], f"{folder}/tensor{protocol}", protocol=protocol)
    paddle.save([state["wide.weight"]], f"{folder}/list{protocol}", protocol=protocol)
paddle.save(state["wide.weight"], f"{folder}/binary", use_binary_format=True)
want = {"state": state, "half": half, "mixed": mixed}
want["nested"] = {f"model.{k}": v for k, v in state.items()}
want["nested"].update({f"optimizer.{k}": v for k, v in optimizer.state_dict().items() if hasattr(v, "numpy")})
want["dense"] = {"d": state["wide.weight"], "n.x": mixed["f8"]}
with open(f"{folder}/want", "wb") as file:
    pickle.dump({case: {k: bits(v) for k, v in tensors.items()} for case, tensors in want.items()}, file)
# What we laid out, as paddle.load reads it.
got = {}
for name in ("ours", "bfloat16"):
    loaded = paddle.load(f"{folder}/{name}.pdparams")
    got[name] = {k: (str(v.dtype), bits(v)) for k, v in loaded.items()}
    got[name + " numpy"] = paddle.load(f"{folder}/{name}.pdparams", return_numpy=True)
model.set_state_dict(paddle.load(f"{folder}/model.pdparams"))
got["model"] = {k: bits(v) for k, v in model.state_dict().items()}
sliced = paddle.load(f"{folder}/sliced.pdparams", return_numpy=True)
got["sliced"] = sliced
try:
    paddle.load(f"{folder}/unfinished.pdparams")
    got["unfinished"] = "loaded"
except Exception as error:
    got["unfinished"] = "refused"
with open(f"{folder}/got", "wb") as file:
    pickle.dump(got, file)
"""


@pytest.fixture(scope="module")
def paddle_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files by paddle.save, and ``got``: what paddle.load made of ours. paddle runs in its own process."""
    pytest.importorskip("importlib.util").find_spec("paddle") or pytest.skip("paddle is not installed")
    folder = tmp_path_factory.mktemp("paddle")
    state = make_state()
    tensors, payloads = as_new(state)
    del payloads["model.bfloat16"]
    tensors = [tensor for tensor in tensors if tensor.dtype != "bfloat16"]
    write(folder, "ours.pdparams", [*tensors, NewTensor("tied", "float32", (211, 97), "model.float32")], payloads)
    write(
        folder, "bfloat16.pdparams", [NewTensor("h", "bfloat16", (2, 3, 4))], {"h": state["model.bfloat16"].tobytes()}
    )
    generator = np.random.default_rng(5)
    shapes = {"embed.weight": (31, 7), "wide.weight": (150, 130), "wide.bias": (130,)}
    shapes |= {"norm.weight": (11,), "norm.bias": (11,)}
    model = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    write(folder, "model.pdparams", *as_new(model))
    save(folder / "model.pickle", model)
    save(folder / "sliced.pdparams", make_sliced()[0], 2)
    layout = pdparams.lay_out("unfinished.pdparams", tensors)
    layout.create(folder)
    with open(folder / "unfinished.pdparams", "r+b") as file:
        for fragment in layout.fragments({})[:-1]:
            file.seek(fragment.offset)
            file.write(fragment.content)
    subprocess.run([sys.executable, "-c", PADDLE_SAVES, str(folder)], check=True, capture_output=True, timeout=300)
    return folder


def make_sliced() -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """What paddle.save (protocol 2 and 3) makes of an array above 2**30 - 1 bytes, here a small one."""
    whole = np.random.default_rng(8).standard_normal((23, 5), np.float32)
    flat = whole.flatten()
    state: dict[str, Any] = {"before": np.arange(4.0), "w@@.0": flat[:50], "w@@.1": flat[50:100], "w@@.2": flat[100:]}
    state["after"] = np.arange(3)
    state["UnpackBigParamInfor@@"] = {"w": {"OriginShape": (23, 5), "slices": ["w@@.0", "w@@.1", "w@@.2"]}}
    return state, whole


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("case", ["state", "half", "mixed", "nested", "dense"])
def test_what_paddle_saves_is_read_bit_for_bit(paddle_files: Path, case: str, protocol: int) -> None:
    want = pickle.loads((paddle_files / "want").read_bytes())[case]
    index = pdparams.index(paddle_files / f"{case}{protocol}")
    assert_same(arrays(index), want)
    if case == "half":
        assert {tensor.dtype for tensor in index.tensors} == {"bfloat16"}
    if case == "nested":
        assert index.metadata["epoch"] == "3"
    if case == "dense":
        assert index.metadata == {"k": "v"}
    if protocol > 2:
        for tensor in index.tensors:
            assert isinstance(tensor.data, Extent)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_single_tensor_or_a_list_is_named_for_what_it_is(paddle_files: Path, protocol: int) -> None:
    with pytest.raises(FormatError, match=r"holds one tensor \(float32, shape \(150, 130\)\), want a state dict"):
        pdparams.index(paddle_files / f"tensor{protocol}")
    with pytest.raises(FormatError, match="holds a list, want a state dict"):
        pdparams.index(paddle_files / f"list{protocol}")
    with pytest.raises(FormatError):
        pdparams.index(paddle_files / "binary")


def test_paddle_loads_what_we_lay_out(paddle_files: Path) -> None:
    got = pickle.loads((paddle_files / "got").read_bytes())
    state = make_state()
    half = state.pop("model.bfloat16")
    state["tied"] = state["model.float32"]
    assert_same({name: value for name, (_, value) in got["ours"].items()}, state)
    assert_same(got["ours numpy"], state)
    assert got["bfloat16"]["h"][0] == "paddle.bfloat16"
    assert got["bfloat16 numpy"]["h"].tobytes() == half.tobytes()
    assert_same(got["model"], pickle.loads((paddle_files / "model.pickle").read_bytes()))


def test_paddle_refuses_what_we_did_not_finish(paddle_files: Path) -> None:
    assert pickle.loads((paddle_files / "got").read_bytes())["unfinished"] == "refused"


def test_slices_are_joined_as_paddle_joins_them(paddle_files: Path, tmp_path: Path) -> None:
    loaded = pickle.loads((paddle_files / "got").read_bytes())["sliced"]["w"]
    whole = make_sliced()[1]
    assert loaded.tobytes() == whole.tobytes()
    for protocol in (2, 3):
        index = pdparams.index(save(tmp_path / f"{protocol}", make_sliced()[0], protocol))
        assert [tensor.name for tensor in index.tensors] == ["before", "w", "after"]
        joined = index.tensors[1]
        assert (joined.shape, joined.dtype) == ((23, 5), "float32")
        for step in (1, 7, 50, 200, 1 << 20):
            assert read_stored(joined, step) == whole.tobytes()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"OriginShape": (23, 6), "slices": ["w@@.0", "w@@.1", "w@@.2"]}, "460 bytes"),
        ({"OriginShape": (23, 5), "slices": ["w@@.0", "w@@.1", "w@@.9"]}, "w@@.9"),
        ({"OriginShape": (20, 5), "slices": ["w@@.0", "w@@.0"]}, "used twice"),
        ({"OriginShape": (23, 5), "slices": []}, "does not list"),
        ({"OriginShape": (23, -5), "slices": ["w@@.0"]}, "-5"),
        ({"OriginShape": (27,), "slices": ["after", "after2"]}, "several dtypes|after2"),
        ({"slices": ["w@@.0"]}, "None"),
        ([], "does not list"),
    ],
)
def test_slices_that_do_not_fit_are_refused(tmp_path: Path, entry: object, message: str) -> None:
    state = make_sliced()[0]
    state["UnpackBigParamInfor@@"] = {"w": entry}
    with pytest.raises(FormatError, match=message):
        pdparams.index(save(tmp_path / "sliced", state, 2))
    state["UnpackBigParamInfor@@"] = [entry]
    with pytest.raises(FormatError, match="a list, want a dict"):
        pdparams.index(save(tmp_path / "sliced", state, 2))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_bare_dicts_of_arrays_are_read_in_every_protocol(tmp_path: Path, container: Any, protocol: int) -> None:
    state = make_state(protocol)
    index = pdparams.index(save(tmp_path / "state", container(state), protocol))
    assert_same(arrays(index), state)
    assert [tensor.dtype for tensor in index.tensors] == list(NUMPY)


def test_either_name_of_numpys_core_is_read_stored(tmp_path: Path) -> None:
    content = pickle.dumps({"w": np.arange(6.0)}, 2)
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        (tmp_path / "state").write_bytes(content.replace(old, new))
        assert array(pdparams.index(tmp_path / "state").tensors[0]).tolist() == [0, 1, 2, 3, 4, 5]
    content = pickle.dumps({"w": np.arange(6.0)}, 5).replace(b"numpy._core.numeric", b"numpy.core.numeric")
    content = content.replace(b"\x8c\x13numpy.core", b"\x8c\x12numpy.core")
    (tmp_path / "state").write_bytes(content.replace(b"\x95" + content[3:11], b"", 1))
    assert array(pdparams.index(tmp_path / "state").tensors[0]).tolist() == [0, 1, 2, 3, 4, 5]


def test_strings_of_python_2_hold_payloads_too(tmp_path: Path) -> None:
    payload = np.random.default_rng(1).bytes(24)
    content = pickle.dumps({"w": np.frombuffer(payload, "<f4").reshape(2, 3)}, 3)
    assert b"C\x18" + payload in content
    (tmp_path / "state").write_bytes(content.replace(b"C\x18", b"U\x18"))
    assert read_stored(pdparams.index(tmp_path / "state").tensors[0]) == payload


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_fortran_matrices_are_marked_and_cubes_not_read(tmp_path: Path, protocol: int) -> None:
    generator = np.random.default_rng(2)
    matrix = np.asfortranarray(generator.standard_normal((5, 3)))
    row = np.asfortranarray(generator.standard_normal((1, 4)))
    index = pdparams.index(save(tmp_path / "state", {"m": matrix, "r": row}, protocol))
    assert [tensor.order for tensor in index.tensors] == ["F", "C"]
    assert read_stored(index.tensors[0]) == matrix.T.tobytes()
    assert_same(arrays(index), {"m": matrix, "r": row})
    cube = pdparams.index(save(tmp_path / "cube", {"c": np.asfortranarray(np.zeros((2, 3, 4)))}, protocol))
    assert cube.unread == {"c"}
    assert cube.metadata["c"].startswith("a Fortran-order array of 3 dimensions")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_one_array_under_two_names_shows_as_equal_data(tmp_path: Path, protocol: int) -> None:
    shared, other = np.arange(1000.0), np.arange(1000.0)
    first, second, third = pdparams.index(
        save(tmp_path / "s", {"a": shared, "b": shared, "c": other}, protocol)
    ).tensors
    assert first.data == second.data
    assert first.data != third.data


def test_protocol_2_text_is_decoded_with_bounded_memory(tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 256, 5_000_003, np.uint8)
    (tensor,) = pdparams.index(save(tmp_path / "state", {"w": values}, 2)).tensors
    assert not isinstance(tensor.data, Extent)
    out = bytearray(tensor.nbytes)
    view = memoryview(out)
    with OpenFiles() as files:
        with memory_below(2 << 20):
            for start in range(0, len(out), 300_007):
                tensor.data.read_into(files, start, view[start : start + 300_007])
        assert out == values.tobytes()
        # Any other order gives the same bytes.
        for start in (4_999_990, 17, 2_500_000, 262_143, 0):
            piece = bytearray(13)
            tensor.data.read_into(files, start, memoryview(piece))
            assert piece == values.tobytes()[start : start + 13]


@pytest.mark.parametrize("damage", [b"\xc4\x80", b"\xe4\xbd\xa0", b"\xff\xff", b"ab"])
def test_protocol_2_text_that_is_no_latin_1_is_refused_on_reading(tmp_path: Path, damage: bytes) -> None:
    content = pickle.dumps({"w": np.full(1000, 0xE9, np.uint8)}, 2)
    assert content.count("é".encode() * 1000) == 1
    (tmp_path / "state").write_bytes(content.replace("é".encode() * 2, damage + "é".encode() * (3 - len(damage)), 1))
    (tmp_path / "state").write_bytes(content.replace("é".encode() * 1000, (damage + "é".encode() * 1000)[:2000], 1))
    (tensor,) = pdparams.index(tmp_path / "state").tensors
    with pytest.raises(FormatError, match=r"latin-1"):
        read_stored(tensor)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.arange(3.0), "holds one tensor"),
        ((1, 2), "holds a tuple"),
        (7, "holds a number"),
        (None, "holds None"),
        ("text", "holds text"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_no_tensor_of_numbers_is_refused(tmp_path: Path, value: object, message: str, protocol: int) -> None:
    with pytest.raises(FormatError, match=message):
        pdparams.index(save(tmp_path / "state", value, protocol))


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_beside_the_arrays_are_named_and_not_made(tmp_path: Path, protocol: int) -> None:
    masked = np.ma.array(np.zeros(2))  # type: ignore[no-untyped-call]
    state = {"w": np.arange(3.0), "slice": slice(1), "masked": masked, "path": tmp_path, "kind": type(masked)}
    index = pdparams.index(save(tmp_path / "state", state, protocol))
    assert [tensor.name for tensor in index.tensors] == ["w"]
    assert set(index.metadata) == {"slice", "masked", "path", "kind"}
    assert "slice makes, which was not run" in index.metadata["slice"]
    assert index.metadata["kind"] == "numpy.ma.MaskedArray" or "MaskedArray" in index.metadata["kind"]


def test_leaves_that_are_no_arrays_become_metadata(tmp_path: Path) -> None:
    state = {"w": np.arange(2.0), "opt": {"lr": 0.1, "m": {"0": np.arange(3.0)}, "step": np.float64(3)}, "tag": None}
    index = pdparams.index(save(tmp_path / "state", state))
    assert [tensor.name for tensor in index.tensors] == ["w", "opt.m.0"]
    assert index.metadata == {"opt.lr": "0.1", "opt.step": "a numpy scalar of float64", "tag": "None"}


@pytest.mark.parametrize("key", ["zz", "StructuredToParameterName@@"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_function_that_is_only_held_is_named(tmp_path: Path, protocol: int, key: str) -> None:
    index = pdparams.index(save(tmp_path / "state", {"w": np.arange(2.0), key: eval}, protocol))
    assert [tensor.name for tensor in index.tensors] == ["w"]
    assert index.metadata[key] in ("__builtin__.eval", "builtins.eval")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_evals_of_anything_but_paddles_own_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    weight = np.arange(3.0)
    expression = f"open({str(mark)!r}, 'w')"
    for call in (
        Runs(eval, expression),
        Runs(eval, expression, {"data": weight}),
        Runs(eval, "data", {"data": Runs(eval, expression)}),
        Runs(eval, "data", {"data": weight, "more": 1}),
        Runs(eval, "data", {"data": 1}),
        Runs(eval, "data", weight),
        Runs(eval, "data"),
        Runs(eval),
        Runs(eval, b"data", {"data": weight}),
        Runs(eval, "data", {"data": weight}, {}),
        Runs(eval, "d" * 1000, {"data": weight}),
    ):
        with pytest.raises(FormatError, match="not run"):
            pdparams.index(save(tmp_path / "state", {"w": call}, protocol))
        assert not mark.exists()
    for call in (Runs(exec, expression), Runs(os.system, f"touch {mark}")):
        index = pdparams.index(save(tmp_path / "state", {"w": call}, protocol))
        assert index.tensors == ()
        assert "which was not run" in index.metadata["w"]
        assert not mark.exists()
    index = pdparams.index(save(tmp_path / "state", {"w": Runs(eval, "data", {"data": weight})}, protocol))
    assert array(index.tensors[0]).tolist() == [0, 1, 2]


def edited(directory: Path, old: bytes, new: bytes, value: object = None, protocol: int = 4) -> Path:
    content = pickle.dumps({"w": np.zeros((3, 5), "<f4")} if value is None else value, protocol)
    assert content.count(old) == 1, content
    changed = content.replace(old, new)
    # The frame's length is no part of the claim.
    frame = changed.index(b"\x95")
    path = directory / "edited"
    path.write_bytes(changed[:frame] + changed[frame + 9 :])
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x03K\x05\x86", b"K\x03K\x06\x86", "60 bytes for shape (3, 6)"),
        (b"K\x03K\x05\x86", b"K\x03J\xff\xff\xff\xff\x86", "-1"),
        (b"K\x03K\x05\x86", b"K\x03G\x40\x08\0\0\0\0\0\0\x86", "a number"),
        (b"K\x03K\x05\x86", b"K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86", "larger than any memory"),
        (b"K\x03K\x05\x86", b"K\x03\x8a\x09\0\0\0\0\0\0\0\0\x01\x86", "18446744073709551616"),
        (b"K\x03K\x05\x86", b"]", "a list stands where the shape"),
        (b"K\x03K\x05\x86", b"(" + b"K\x01" * 100 + b"t", "100 dimensions"),
        (b"\x8c\x02f4", b"\x8c\x02f8", "want 120"),
        (b"\x8c\x01<", b"\x8c\x01?", "byte order '?'"),
        (b"\x8c\x01<\x94NNN", b"\x8c\x01<\x94NNK\x01", "fields"),
        (b"C\x3c", b"\x8c\x3c", "payload"),
        (b"t\x94b.", b"t\x94b}b.", "the state of a dict|a dict is the state"),
        (b"t\x94bs.", b"t\x94\x94bhXs.", "the state of a numpy array|memo slot"),
        (b"t\x94bs.", b"tq\xc8bh\xc8bs.", "set twice"),
        (b"t\x94bs.", b"t\x94bN.", "cut short|2 objects|want one"),
        (b"t\x94bs.", b"t0s.", "no contents"),
        (b"t\x94bs.", b"t\x94bs.more", "4 bytes follow"),
    ],
)
def test_arrays_that_contradict_themselves_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    alone = np.zeros((3, 5), "<f4") if old == b"t\x94b." else None
    path = edited(tmp_path, old, new, alone)
    with pytest.raises(FormatError) as caught:
        pdparams.index(path)
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "some.pdparams"
    for content, message in (
        (b"", "empty"),
        (b"PK\x03\x04more", "zip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\0" * 99, "0x00"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=message):
            pdparams.index(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_truncation_is_refused(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"w": np.arange(6.0), "tied": np.arange(3), "f": np.asfortranarray(np.eye(3, 2))}, protocol)
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError):
            pdparams.index(path)


def test_a_layout_reads_back_under_numpys_own_pickle(tmp_path: Path) -> None:
    state = make_state(6)
    tensors, payloads = as_new(state)
    alias = NewTensor("before", "float32", (211, 97), "model.float32")
    path = write(
        tmp_path, "m.pdparams", [alias, *tensors, NewTensor("chain", "float32", (211, 97), "before")], payloads
    )
    with open(path, "rb") as file:
        loaded = pickle.load(file)
    state["chain"] = state["before"] = state["model.float32"]
    assert_same(loaded, state)
    assert loaded["before"] is loaded["model.float32"] is loaded["chain"]
    index = pdparams.index(path)
    assert_same(arrays(index), state)
    for tensor in index.tensors:
        assert isinstance(tensor.data, Extent)
        assert tensor.data.offset % 64 == 0


def test_payloads_are_aligned_whatever_comes_before_them(tmp_path: Path) -> None:
    state = {"n" * length: np.full(length % 5, length, np.uint8) for length in range(1, 140)}
    with open(write(tmp_path, "m.pdparams", *as_new(state)), "rb") as file:
        assert_same(pickle.load(file), state)
    tensors, _ = as_new(state)
    assert {slot.offset % 64 for slot in pdparams.lay_out("m.pdparams", tensors).slots.values()} == {0}


def test_the_files_beginning_is_written_last() -> None:
    tensors, _ = as_new(make_state())
    assert [fragment.offset == 0 for fragment in pdparams.lay_out("m.pdparams", tensors).fragments({})].index(
        True
    ) == len(tensors)


@pytest.mark.parametrize(
    "tensors",
    [
        [NewTensor("a", "float32", (2,)), NewTensor("a", "float32", (2,))],
        [NewTensor("a", "float32", (2,), "b")],
        [NewTensor("a", "float32", (2,), "a")],
        [NewTensor("a", "float32", (2,), "b"), NewTensor("b", "float32", (2,), "a")],
        [NewTensor("a", "float32", (2,)), NewTensor("b", "float32", (3,), "a")],
        [NewTensor("a", "float32", (2,)), NewTensor("b", "int32", (2,), "a")],
    ],
)
def test_aliases_that_hold_nothing_are_refused(tensors: list[NewTensor]) -> None:
    with pytest.raises(ValueError, match=r"alias|one name"):
        pdparams.lay_out("m.pdparams", tensors)


def test_more_than_4_gib_are_laid_out_and_read_back_sparse(tmp_path: Path) -> None:
    shape = (1 << 15, (1 << 15) + 3)
    layout = pdparams.lay_out("big.pdparams", [NewTensor("big", "float32", shape), NewTensor("small", "int8", (5,))])
    write_without_payloads(layout, tmp_path)
    slots = layout.slots
    assert slots["big"].nbytes > 1 << 32
    assert all(len(fragment.content) < 1000 for fragment in layout.fragments({}))
    big, small = pdparams.index(tmp_path / "big.pdparams").tensors
    assert (big.shape, big.data) == (shape, Extent(tmp_path / "big.pdparams", slots["big"].offset, slots["big"].nbytes))
    assert small.data == Extent(tmp_path / "big.pdparams", slots["small"].offset, 5)
    assert slots["small"].offset > 1 << 32


def test_checkpoints_of_paddlenlp_are_read_as_numpys_pickle_reads_them() -> None:
    paths = sorted(PEERS.rglob("*.pdparams"))
    assert paths
    for path in paths:
        with open(path, "rb") as file:
            want = pickle.load(file)
        want.pop("StructuredToParameterName@@", None)
        index = pdparams.index(path)
        assert_same(arrays(index), want)
        assert index.metadata == {}
        assert all(isinstance(tensor.data, Extent) for tensor in index.tensors)
