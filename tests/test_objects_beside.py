"""What programs keep beside the weights in a pickle: neither made, nor run, nor a reason to refuse the weights."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import itertools
import operator
import pathlib
import pickle
import random
import re
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoints import read_all, same_bits, write_random

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.errors import MisfitError


class Colour(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Settings(dict[str, Any]):
    """A dict whose items are attributes too, as easydict's and Lightning's."""

    def __init__(self, *arguments: Any, **items: Any) -> None:
        super().__init__(*arguments, **items)
        self.__dict__ = self


class Node:
    """A settings tree as OmegaConf pickles one: parents, flags, a state of its own making."""

    def __init__(self, content: Any, parent: Any = None) -> None:
        self.parent, self.flags, self.kind = parent, None, dict
        self.content = (
            {key: Node(value, self) for key, value in content.items()} if isinstance(content, dict) else content
        )

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("this was run")


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self) -> None:
        self.first, self.second = 1, [1]


@dataclasses.dataclass
class Arguments:
    """As transformers' TrainingArguments are: enums, paths, numbers and other dataclasses."""

    rate: float = 0.1
    strategy: Colour = Colour.RED
    output: Path = Path("/runs")
    betas: tuple[float, float] = (0.9, 0.999)
    inner: list[Any] = dataclasses.field(default_factory=lambda: [Arguments(inner=[])])


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    first: int = 1


class OddState:
    def __getstate__(self) -> list[int]:
        return [1, 2, 3]

    def __setstate__(self, state: list[int]) -> None:
        raise AssertionError("this was run")


class Rows(np.ndarray):
    pass


class Text(str):
    pass


class Whole(int):
    pass


class Order(collections.OrderedDict):  # type: ignore[type-arg]
    pass


Point = collections.namedtuple("Point", "x y")
RECORDS = np.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", ">f8")])
RING: list[Any] = []
RING.append(RING)
SHARED = list(range(5000))
DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP, 1]

BESIDE: dict[str, Any] = {
    "objects: text": np.array(["a", None, "b"], dtype=object),
    "objects: dicts": np.array([{"a": 1}, {"b": [1]}], dtype=object),
    "objects: arrays": np.array([np.ones(3), np.ones(2, np.float32)], dtype=object),
    "objects: none": np.array({"a": 1}, dtype=object),
    "text array": np.array(["abc", "d"]),
    "bytes array": np.array([b"abc", b"d"]),
    "raw array": np.array([b"abc", b"d"], dtype="V3"),
    "records": RECORDS,
    "aligned records": np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "nested records": np.zeros(2, dtype=[("a", [("x", "f4", (2, 2))])]),
    "record array": RECORDS.view(np.recarray),
    "record": RECORDS.view(np.recarray)[0],
    "void": RECORDS[0],
    "masked": np.ma.array([1, 2, 3], mask=[0, 1, 0]),  # type: ignore[no-untyped-call]
    "a class of arrays": np.ones(3).view(Rows),
    "dates": np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"),
    "spans of time": np.array([1, 2], dtype="timedelta64[ns]"),
    "a date of numpy": np.datetime64("2026-01-01T00:00:00"),
    "extended floats": np.ones(3, np.longdouble),
    "extended complex": np.ones(3, np.clongdouble),
    "a cube in Fortran order": np.asfortranarray(np.ones((2, 3, 4))),
    "a cube turned": np.ones((2, 3, 4)).transpose(1, 0, 2),
    "scalars": [np.float32(0.5), np.float64(0.5), np.int64(3), np.bool_(True), np.str_("a"), np.bytes_(b"a")],
    "odd scalars": [np.float16(1), np.complex64(1), np.longdouble(1), np.dtype(">f4").type(1), np.datetime64("NaT")],
    "dtypes": [np.dtype("float32"), RECORDS.dtype, np.dtype("M8[ns]"), np.dtype(">f4"), np.float32, np.ndarray],
    "numpy's random state": {"old": np.random.get_state(), "new": np.random.get_state(legacy=False)},
    "numpy's generators": [np.random.RandomState(1), np.random.default_rng(1), np.random.SeedSequence(1)],
    "python's random state": [random.getstate(), random.Random(1)],
    "namespaces": [argparse.Namespace(a=1, b=Path("x")), types.SimpleNamespace(a=1)],
    "enums": [Colour.RED, Flags.A | Flags.B],
    "calls": [functools.partial(print, 1, sep=""), operator.attrgetter("a.b"), functools.reduce, len, "abc".upper],
    "times": [datetime.datetime(2026, 1, 1), datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(1)],
    "paths": [Path("a/b"), pathlib.PureWindowsPath("a")],
    "sets": [{1, 2}, frozenset([1]), {(1, 2)}],
    "numbers": [1 + 2j, decimal.Decimal("1.5"), fractions.Fraction(1, 3), 1 << 3000, -5, float("nan")],
    "texts": ["a\ud800b", Text("a"), "x" * 100_000, b"abc", b"", bytearray(b"abc")],
    "keys": {None: 1, (1, 2): 3, 1.5: 2, b"x": 1, frozenset(): 1, "k" * 600: 1, "k" * 5000: 1, "\ud800": 1},
    "singletons": [..., NotImplemented, type(None), int, tuple, bytes, collections.OrderedDict, Settings],
    "other builtins": [range(3), slice(1), iter([1, 2]), enumerate([1]), zip([1], strict=True), itertools.count(3)],
    "collections": [
        collections.deque([1, 2], maxlen=3), collections.Counter("aab"), collections.defaultdict(list, a=[1]),
        collections.ChainMap({"a": 1}), collections.UserDict(a=1), Order(a=1), Point(1, 2),
    ],
    "others of the library": [uuid.UUID(int=1), re.compile("a"), array.array("f", [1]), ipaddress.ip_address(1)],
    "an exception": ValueError("a"),
    "hyper-parameters": Settings(a=1, b=Settings(c=2)),
    "a settings tree": Node({"optim": {"lr": 0.1, "betas": (0.9, 0.999)}, "path": Path("x")}),
    "arguments of a run": Arguments(),
    "classes of one's own": [Slotted(), Frozen(), OddState(), Whole(1)],
    "a list that holds itself": RING,
    "lists in lists": DEEP,
    "a list named often": [SHARED] * 300,
    "a paddle tensor's name": {"lr": ("learning_rate_0", np.ones(2, np.float32))},
}  # fmt: skip
pandas = pytest.importorskip("pandas")
BESIDE["a table of pandas"] = pandas.DataFrame(
    {"a": [1, 2], "b": ["x", "y"], "c": pandas.to_datetime(["2026-01-01", "2026-01-02"])}
)
BESIDE["a column of pandas"] = [pandas.Series(["a", "b"]).astype("category"), pandas.Timestamp("2026-01-01")]

PADDLE = Path("ckpt/model_state.pdparams")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", BESIDE)
def test_paddles_weights_convert_whatever_lies_beside_them(tmp_path: Path, kind: str, protocol: int) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle", "masked-lm", container="pdparams")
    path = tmp_path / PADDLE
    state = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({"model": state, "beside": BESIDE[kind], "in": {"deep": [BESIDE[kind]]}}, protocol))
    report = convert(tmp_path / "ckpt", to="torch")
    assert same_bits(read_all(report.target), tensors) == []
    assert any("left out" in note and ("beside" in note or "in.deep" in note) for note in report.notes)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", BESIDE)
def test_torchs_weights_convert_whatever_lies_beside_them(tmp_path: Path, kind: str, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    state = torch.load(path)
    wrapped = {"model": state, "beside": BESIDE[kind], "in": {"deep": [BESIDE[kind]]}}
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    report = convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(report.target), tensors) == []
    assert any("left out" in note and ("beside" in note or "in.deep" in note) for note in report.notes)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions", "ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torchs_own_objects_may_lie_beside_its_weights(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    beside = {
        "random": [torch.get_rng_state(), torch.Generator(), torch.device("cpu"), torch.float32, torch.Size([1])],
        "formats": [torch.strided, torch.per_tensor_affine],
        "sparse": [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.ones(2, device="meta")],
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.quint8),
        "views": [torch.ones(3, 4)[:, 1], torch.ones(1).expand(5), torch.ones(2, dtype=torch.complex64).conj()],
        "modules": [torch.nn.Dropout(0.1), torch.nn.CrossEntropyLoss(), torch.nn.GELU()],
        "schedule": torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.ones(1)], 0.1), operator.neg),
        "sampler": torch.utils.data.RandomSampler([1, 2, 3]),
        "storage": torch.ones(3).untyped_storage(),
    }
    torch.save({"model": torch.load(path), "beside": beside}, path, _use_new_zipfile_serialization=zipped)
    report = convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(report.target), tensors) == []


BIG: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "big-endian": lambda value: value.astype(value.dtype.newbyteorder(">")),
    "big-endian, in Fortran order": lambda value: np.asfortranarray(value.astype(value.dtype.newbyteorder(">"))),
    "of a mapped file": lambda value: np.memmap.__new__(np.memmap, "m", value.dtype, "w+", 0, value.shape),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", BIG)
def test_weights_in_other_arrays_are_read(
    tmp_path: Path, kind: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = write_random(tmp_path / "ckpt", "paddle", "masked-lm", container="pdparams")
    state = pickle.loads(PADDLE.read_bytes())
    made = {}
    for name, value in state.items():
        made[name] = BIG[kind](value)
        made[name][...] = value
        assert np.array_equal(made[name], value)
        made[name] = (
            pickle.loads(pickle.dumps(made[name], protocol)) if kind.startswith("big") else made[name].copy("K")
        )
    PADDLE.write_bytes(pickle.dumps(made, protocol))
    report = convert("ckpt", to="torch")
    assert same_bits(read_all(report.target), tensors) == []


NAME = "cls.predictions.transform.weight"
OF_ANOTHER_KIND: dict[str, tuple[Callable[[np.ndarray[Any, Any]], Any], str]] = {
    "objects": (lambda value: value.astype(object), r"an array of numpy\.dtype 'O8', shape \(\d+, \d+\)"),
    "text": (lambda value: value.astype("U8"), r"an array of numpy\.dtype 'U8'"),
    "records": (lambda value: value.view([("a", "f4")]), r"an array of numpy\.dtype 'V4'"),
    "extended": (lambda value: value.astype(np.longdouble), r"an array of numpy\.dtype 'f16'"),
    "a class": (lambda value: value.view(Rows), r"an array of the class (tests\.)?test_objects_beside\.Rows"),
    "masked": (lambda value: np.ma.array(value), r"what numpy\.ma\.core\._mareconstruct makes, which was not run"),  # type: ignore[no-untyped-call]
    "none": (lambda value: None, r"the file has None under"),
}


@pytest.mark.parametrize("kind", OF_ANOTHER_KIND)
def test_a_weight_of_a_kind_that_is_not_read_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    write_random(tmp_path / "ckpt", "paddle", "masked-lm", container="pdparams")
    path = tmp_path / PADDLE
    state = pickle.loads(path.read_bytes())
    make, said = OF_ANOTHER_KIND[kind]
    state[NAME] = make(state[NAME])
    path.write_bytes(pickle.dumps({"model": state, "epoch": 3}, 4))
    with pytest.raises(MisfitError) as caught:
        open_checkpoint(tmp_path / "ckpt")
    assert [problem.name for problem in caught.value.problems] == [NAME]
    assert re.search(said, caught.value.problems[0].detail)


def test_a_head_of_which_nothing_is_read_is_not_left_out(tmp_path: Path) -> None:
    """A pooler may be missing; one whose tensors are there and cannot be read must not be lost on the way."""
    torch = pytest.importorskip("torch")
    write_random(tmp_path / "ckpt", "torch", "masked-lm-pooler", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    state = torch.load(path)
    names = [name for name in state if "pooler" in name]
    assert len(names) == 2
    for name in names:
        state[name] = torch.stack([state[name], state[name]], -1)[..., 0]
    torch.save({"state_dict": state}, path)
    with pytest.raises(MisfitError, match="scattered or repeated elements") as caught:
        open_checkpoint(tmp_path / "ckpt")
    assert {(problem.kind, problem.name) for problem in caught.value.problems} == {("unread", name) for name in names}


def test_arrays_whose_bytes_are_elsewhere_are_named(tmp_path: Path) -> None:
    """Protocol 5 with buffer_callback leaves the payloads to whoever pickles."""
    write_random(tmp_path / "ckpt", "paddle", "masked-lm", container="pdparams")
    path = tmp_path / PADDLE
    state = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(state, 5, buffer_callback=lambda buffer: False))
    with pytest.raises(MisfitError, match="a buffer that was kept outside the file") as caught:
        open_checkpoint(tmp_path / "ckpt")
    assert [problem.name for problem in caught.value.problems] == [f"{len(state)} tensors"]
