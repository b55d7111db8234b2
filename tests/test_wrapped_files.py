"""Files with a state dict somewhere in them, as training programs and people of torch and Paddle save them."""

from __future__ import annotations

import argparse
import datetime
import pickle
import random
import shutil
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoints import Tensors, read_all, same_bits, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.conversion import ConvertOptions
from roformer_convert.converters.errors import ConvertError, MisfitError
from roformer_convert.converters.source.renaming import Parts
from roformer_convert.converters.table.mapping import Dialect

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "fixtures" / "cases"
#: Larger ones, where they lie beside the checkout.
MORE = ROOT.parent / "shared" / "cases"


class AttributeDict(dict[str, Any]):
    """A dict of somebody's own, as Lightning keeps hyper-parameters in."""


class Schedule:
    """An object with a method of its own in it, and with itself."""

    def __init__(self) -> None:
        self.best, self.me, self.rate = torch.tensor(0.5), self, self.at

    def at(self, step: int) -> float:
        return 1.0 / step


class Trainer:
    """A program's whole state, pickled as one object."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)
        self.callbacks = [Schedule(), self]


class Compiled:
    """An object that is made by calling its class with what it wraps, as a compiled module is."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, (self.wrapped,)


class Bag(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A module that holds parameters under the names of a state dict, nested as they are."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Any]] = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            else:
                self.register_parameter(first, torch.nn.Parameter(value))
        for first, values in inner.items():
            self.add_module(first, Bag(values))


State = namedtuple("State", "step model")


def kept(kind: Callable[..., Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return what an optimizer of a kind keeps of a model's parameters."""
    parameters = [torch.nn.Parameter(value.clone()) for value in state.values()]
    optimizer = kind(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found: dict[str, Any] = optimizer.state_dict()
    return found


def adam(state: dict[str, Any]) -> dict[str, Any]:
    return kept(torch.optim.AdamW, state)


def lightning(state: dict[str, Any]) -> dict[Any, Any]:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": OrderedDict((f"model.{name}", value) for name, value in state.items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": Path("/runs")},
            Schedule: Schedule(),
        },
        "optimizer_states": [adam(state)],
        "lr_schedulers": [{"_last_lr": [0.1], "lr_lambdas": [None], "object": Schedule()}],
        "hyper_parameters": AttributeDict(lr=0.1, args=argparse.Namespace(when=datetime.date(2026, 1, 1))),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "counts": defaultdict(int, a=1),
        ("a", "tuple"): {1, 2},
    }


WRAPPINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": adam(state)},
    "model and optimizer": lambda state: {"model": state, "optimizer": adam(state), "args": argparse.Namespace(lr=0.1)},
    "model and solver": lambda state: {"model": state, "solver": kept(torch.optim.RMSprop, state)},
    "parallel in a dict": lambda state: {"net": {f"module.{name}": value for name, value in state.items()}},
    "averages by number": lambda state: {"model": state, "ema": {"shadow_params": list(state.values()), "decay": 0.9}},
    "an average of all": lambda state: (
        {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()}
    ),
    "a loss beside": lambda state: {
        "model": state,
        "criterion": {"weight": torch.ones(3)},
        "head": {"bias": torch.ones(2)},
    },
    "optimizer by name": lambda state: {"model": state, "optimizer": {"exp_avg": dict(state), "momentum": dict(state)}},
    "lightning": lightning,
    "an object": lambda state: Trainer(model=state, optimizer=adam(state)),
    "an object in a dict": lambda state: {"trainer": Trainer(model=state), "epoch": 3},
    "a named tuple": lambda state: State(3, state),
    "a module": Bag,
    "a module in a dict": lambda state: {"model": Bag(state), "optimizer": adam(state)},
    "a module in parallel": lambda state: {"model": torch.nn.DataParallel(Bag(state))},
    "a compiled module": lambda state: {"model": Compiled(Bag(state))},
    "a dict in a call": lambda state: Compiled({"model": state}),
    "code beside": lambda state: {"model": state, "hook": Schedule().at, "print": print},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_torch_file_with_one_model_in_it_converts(tmp_path: Path, wrapping: str, zipped: bool) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm-pooler", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    state = torch.load(path)
    path.unlink()
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "ckpt" / "last.ckpt", _use_new_zipfile_serialization=zipped)
    report = convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(report.target), tensors) == []
    assert any(note.startswith("the model is what begins with") for note in report.notes) or wrapping == "a module"


def test_a_model_in_two_dicts_of_a_file_is_one(tmp_path: Path) -> None:
    """Somebody saved the encoder and the head apart; what else lies in the head's dict is no RoFormer's."""
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    parts: dict[str, dict[str, Any]] = {}
    for name, value in torch.load(path).items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = value
    assert set(parts) == {"roformer", "cls"}
    parts["cls"]["mine"] = torch.ones(3)
    torch.save(parts, path)
    report = convert(tmp_path / "ckpt", to="tf")
    assert same_bits(read_all(report.target), tensors) == []
    assert report.plan.left_out == ("cls.mine",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_paddle_file_with_one_model_in_it_converts(tmp_path: Path, protocol: int) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle", "masked-lm-pooler", container="pdparams")
    path = tmp_path / "ckpt" / "model_state.pdparams"
    state = pickle.loads(path.read_bytes())
    for wrapped in (
        {"model": state, "optimizer": {f"{name}_moment1_0": value for name, value in state.items()}, "epoch": 3},
        {f"_layers.{name}": value for name, value in state.items()},
        {"state_dict": {f"student.{name}": value for name, value in state.items()}, "args": argparse.Namespace(lr=1)},
        {"model": state, "callbacks": [argparse.Namespace(when=datetime.date(2026, 1, 1))], "path": Path("/runs")},
    ):
        path.write_bytes(pickle.dumps(wrapped, protocol))
        assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []


TWO: dict[str, Callable[[dict[str, Any]], Any]] = {
    "model and average": lambda state: {"model": state, "model_ema": dict(state)},
    "student and teacher": lambda state: {
        f"{who}.{name}": value for who in ("student", "teacher") for name, value in state.items()
    },
    "an object of two": lambda state: Trainer(model=state, best=dict(state)),
}


@pytest.mark.parametrize("wrapping", TWO)
def test_of_two_models_one_is_asked_for_and_taken(tmp_path: Path, wrapping: str) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    torch.save(TWO[wrapping](torch.load(path)), path)
    with pytest.raises(MisfitError, match="Say which one is meant with --prefix") as caught:
        open_checkpoint(tmp_path / "ckpt")
    prefixes = [problem.name.removesuffix("*") for problem in caught.value.problems]
    assert len(prefixes) == 2
    for prefix in prefixes:
        with open_checkpoint(tmp_path / "ckpt", parts=Parts(prefix=prefix)) as checkpoint:
            assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []


# Reports, rebuilt ----------------------------------------------------------------------------------------------------


def of_torch(path: Path, *within: str, prefix: str = "") -> Tensors:
    """Read a file with torch itself: the encoder's kernels and the word embedding under canonical names."""
    state = torch.load(path, weights_only=True)
    for key in within:
        state = state[key]
    layer = f"{prefix}encoder.layer.{{}}."
    names = {"embeddings.word.weight": f"{prefix}embeddings.word_embeddings.weight"}
    for number in range(2):
        names[f"layers.{number}.attention.query.weight"] = layer.format(number) + "attention.self.query.weight"
        names[f"layers.{number}.feed_forward.down.bias"] = layer.format(number) + "output.dense.bias"
    return {ours: state[theirs].numpy() for ours, theirs in names.items()}


def test_somebodys_own_class_gives_its_encoder_on_request(tmp_path: Path) -> None:
    case = CASES / "06-custom-class-prefix"
    with pytest.raises(MisfitError, match=r"`--prefix roformer\.bert\.` or --encoder-only") as caught:
        convert(case, tmp_path / "out", to="paddle")
    heads = {f"roformer.{head}.{leaf}" for head in ("s_classier", "o_classier_from_s") for leaf in ("weight", "bias")}
    assert {problem.name for problem in caught.value.problems if problem.kind == "beside"} == heads
    want = of_torch(case / "pytorch_model.bin", prefix="roformer.bert.")
    for parts in (Parts(prefix="roformer.bert."), Parts(encoder_only=True)):
        report = convert(case, tmp_path / "out", to="paddle", options=ConvertOptions(parts=parts, force=True))
        got = read_all(tmp_path / "out")
        assert len(got) == 36
        assert same_bits({name: got[name] for name in want}, want) == []
        assert set(report.plan.left_out) == heads
        assert report.plan.kind.name == "base"


@pytest.mark.parametrize("shape", ["base", "masked-lm"])
def test_a_head_in_another_dict_of_the_file_is_asked_about(tmp_path: Path, shape: str) -> None:
    """``torch.save({"encoder": …, "head": …, "loss": …})``: the parts of one model that a program keeps apart."""
    tensors = write_random(tmp_path / "ckpt", "torch", shape, container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    head = {"weight": torch.ones(3, 24), "bias": torch.ones(3)}
    state = {"encoder": torch.load(path), "loss": {"weight": torch.ones(3)}, "epoch": 3}
    torch.save({**state, "head": head}, path)
    with pytest.raises(MisfitError, match="in another dict of the file") as caught:
        convert(tmp_path / "ckpt", to="paddle")
    assert {each.name for each in caught.value.problems if each.kind == "beside"} == {"head.weight", "head.bias"}
    report = convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions(parts=Parts(prefix="encoder")))
    assert set(report.plan.left_out) == {"head.weight", "head.bias", "loss.weight"}
    assert same_bits(read_all(report.target), tensors) == []
    torch.save(state, path)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle")
    assert report.plan.left_out == ("loss.weight",)


def test_a_discriminator_gives_its_encoder_on_request(tmp_path: Path) -> None:
    case = CASES / "28-electra-discriminator"
    with pytest.raises(MisfitError, match="--encoder-only converts the encoder without heads"):
        convert(case, tmp_path / "out", to="paddle")
    report = convert(case, tmp_path / "out", to="paddle", options=ConvertOptions(parts=Parts(encoder_only=True)))
    want = of_torch(case / "pytorch_model.bin", prefix="roformer.")
    got = read_all(tmp_path / "out")
    assert same_bits({name: got[name] for name in want}, want) == []
    assert [name.partition(".")[0] for name in report.plan.left_out] == ["discriminator_predictions"] * 4
    told = [note for note in report.notes if "the tensors that were asked for are those of RoFormerModel" in note]
    assert told == [note for note in report.notes if note.startswith("the configuration names RoFormerFor")]
    assert len(told) == 1
    assert not [note for note in report.notes if "--class" in note]


def test_deepspeeds_folder_converts(tmp_path: Path) -> None:
    case = CASES / "20-deepspeed"
    report = convert(case, tmp_path / "out", to="paddle")
    got = read_all(tmp_path / "out")
    want = of_torch(case / "global_step100" / "mp_rank_00_model_states.pt", "module", prefix="roformer.")
    assert same_bits({name: got[name] for name in want}, want) == []
    assert report.plan.kind.name == "masked-lm"


@pytest.mark.parametrize(
    ("name", "file", "within", "prefix"),
    [
        ("09-lightning", "epoch=3-step=100.ckpt", ("state_dict",), "model.roformer."),
        ("21-dataparallel", "pytorch_model.bin", (), "module.roformer."),
        ("40-optimizer-in-file", "checkpoint.pth", ("model",), "roformer."),
    ],
)
def test_larger_reports_convert(tmp_path: Path, name: str, file: str, within: tuple[str, ...], prefix: str) -> None:
    case = MORE / name
    if not case.is_dir():
        pytest.skip(f"{name} is not here")
    convert(case, tmp_path / "out", to="paddle")
    got, want = read_all(tmp_path / "out"), of_torch(case / file, *within, prefix=prefix)
    assert same_bits({name: got[name] for name in want}, want) == []
    assert any(name.startswith("mlm.") for name in got)


def test_an_optimizer_alone_is_no_model(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "masked-lm", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    torch.save({"optimizer": adam(torch.load(path))}, path)
    with pytest.raises(ConvertError):
        open_checkpoint(tmp_path / "ckpt")


def test_frameworks_load_the_part_that_is_asked_for(tmp_path: Path) -> None:
    """The process that computes opens the file again, and is told the same."""
    from roformer_convert.models.answers.fill_mask import fill_mask

    tiny, text = ROOT / "fixtures" / "tiny", "今天[MASK]很好"
    convert(tiny, tmp_path / "two", to="torch", options=ConvertOptions(container="bin", positions=False))
    path = tmp_path / "two" / "pytorch_model.bin"
    state = torch.load(path)
    torch.save({"student": state, "teacher": {name: value * 0 for name, value in state.items()}}, path)
    (want,) = fill_mask(tiny, [text])
    (got,) = fill_mask(tmp_path / "two", [text], parts=Parts(prefix="student"))
    assert got.line == want.line
    (zero,) = fill_mask(tmp_path / "two", [text], parts=Parts(prefix="teacher"))
    assert zero.line != want.line


@pytest.mark.parametrize("held", [tuple, list])
def test_weights_in_a_row_of_things_are_seen(tmp_path: Path, held: Callable[[Any], Any]) -> None:
    """``torch.save((model.state_dict(), {"epoch": 3}))``."""
    tensors = write_random(tmp_path / "ckpt", "torch", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    torch.save(held([torch.load(path), {"epoch": 3}]), path)
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []


@pytest.mark.parametrize(
    "name", ["pytorch_model", "BEST.PTH", "my.ckpt.best", "model_state.12", "epoch_3.tar", "best.pth.tar", "last.pkl"]
)
def test_weights_under_a_name_that_somebody_made_up_are_found(tmp_path: Path, name: str) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", container="bin")
    (tmp_path / "ckpt" / "pytorch_model.bin").rename(tmp_path / "ckpt" / name)
    (tmp_path / "ckpt" / "model_notes").write_text("no weights")
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []


@pytest.mark.parametrize("name", ["model_epoch3.hdf5", "best.model", "run"])
def test_weights_of_any_names_are_found_under_a_name_that_somebody_made_up(tmp_path: Path, name: str) -> None:
    """The names in the file are Keras's layers', by which no RoFormer is known before they are respelled."""
    source = Path(__file__).parents[1] / "fixtures/cases/03-bert4keras-save-weights"
    (tmp_path / "ckpt").mkdir()
    shutil.copy(source / "best_model.weights", tmp_path / "ckpt" / name)
    shutil.copy(source / "bert_config.json", tmp_path / "ckpt")
    (tmp_path / "ckpt" / "args.pkl").write_bytes(pickle.dumps({"rate": 0.1}, 4))
    assert same_bits(read_all(tmp_path / "ckpt"), read_all(source)) == []


def test_a_module_that_torch_quantized_is_said_to_be_one(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", container="bin")
    state = torch.load(tmp_path / "ckpt" / "pytorch_model.bin")
    name = "roformer.encoder.layer.0.attention.self.query"
    del state[f"{name}.weight"], state[f"{name}.bias"]
    packed = torch.quantize_per_tensor(torch.ones(3, 3), 0.5, 0, torch.qint8)
    state |= {f"{name}.scale": torch.tensor(1.0), f"{name}._packed_params._packed_params": (packed, None)}
    torch.save(state, tmp_path / "ckpt" / "pytorch_model.bin")
    with pytest.raises(MisfitError, match="quantized weights") as caught:
        convert(tmp_path / "ckpt", to="paddle")
    assert [problem.kind for problem in caught.value.problems] == ["names"]


@pytest.mark.parametrize("name", ["encoder.", "model.transformer.", "model.roformer_encoder."])
@pytest.mark.parametrize("dialect", ["torch", "paddle"])
def test_an_encoder_under_another_name_has_its_masked_lm_head_beside_it(
    tmp_path: Path, dialect: Dialect, name: str
) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, "masked-lm", container="safetensors")
    path = tmp_path / "ckpt" / "model.safetensors"
    outer = name[: name[:-1].rfind(".") + 1]
    renamed = {
        name + own.removeprefix("roformer.") if own.startswith("roformer.") else outer + own: each
        for own, each in load_file(path).items()
    }
    save_file(renamed, path, {"format": "pt"})
    report = convert(tmp_path / "ckpt", to="tf1")
    assert same_bits(read_all(report.target), tensors) == []
    assert [note for note in report.notes if note.endswith("with the masked-LM head beside it")]
    save_file({**renamed, f"{outer}classifier.weight": renamed[f"{name}embeddings.word_embeddings.weight"]}, path)
    with pytest.raises(MisfitError, match="beside them in the same state dict"):
        convert(tmp_path / "ckpt", tmp_path / "again", to="tf1")
    save_file({**renamed, f"{outer}loss_fct.weight": np.ones(2, np.float32)}, path)
    with pytest.raises(MisfitError, match="without a part of it, --drop PATTERN"):
        convert(tmp_path / "ckpt", tmp_path / "again", to="tf1")
    without = ConvertOptions(parts=Parts(drop=("*loss_fct.weight",)))
    convert(tmp_path / "ckpt", tmp_path / "again", to="tf1", options=without)
    assert same_bits(read_all(tmp_path / "again"), tensors) == []


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("token-classification", ("classifier.weight", "classifier.bias")),
        ("question-answering", ("qa_outputs.weight", "qa_outputs.bias")),
        ("masked-lm", ()),
    ],
)
def test_a_head_beside_an_encoder_of_another_name_is_taken_where_its_class_is_named(
    tmp_path: Path, kind: str, head: tuple[str, ...]
) -> None:
    """Somebody's own class holds a RoFormer as ``bert``; that its head is what it is called a person knows."""
    tensors = write_random(tmp_path / "ckpt", "torch", "base" if head else "masked-lm", container="safetensors")
    path = tmp_path / "ckpt" / "model.safetensors"
    own = {
        f"bert.{name}".replace("bert.cls", "cls").replace("roformer.", ""): each
        for name, each in load_file(path).items()
    }
    more: dict[str, Any] = {name: np.arange(48 if "weight" in name else 2, dtype=np.float32) for name in head}
    more = {name: each.reshape(2, 24) if len(each) > 2 else each for name, each in more.items()}
    save_file({**own, **more}, path)
    with pytest.raises(MisfitError, match=rf"name that with --class: [^.]*\b{kind}\b"):
        convert(tmp_path / "ckpt", to="paddle")
    report = convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions(model_class=kind))
    assert report.plan.kind.name == kind
    got = read_all(report.target)
    if head:
        tensors |= {"classifier.weight": more[head[0]], "classifier.bias": more[head[1]]}
    assert same_bits(got, tensors) == []
    with pytest.raises(MisfitError, match="beside them in the same state dict"):
        convert(
            tmp_path / "ckpt",
            tmp_path / "out",
            to="paddle",
            options=ConvertOptions(model_class="causal-lm" if head else "question-answering"),
        )


@pytest.mark.parametrize("own", ["bert", "nezha"])
def test_a_head_beside_what_another_model_calls_its_encoder_is_asked_about(tmp_path: Path, own: str) -> None:
    write_random(tmp_path / "ckpt", "torch", "masked-lm", container="safetensors")
    path = tmp_path / "ckpt" / "model.safetensors"
    save_file({name.replace("roformer.", f"{own}."): each for name, each in load_file(path).items()}, path)
    with pytest.raises(MisfitError, match="beside them in the same state dict"):
        convert(tmp_path / "ckpt", to="tf1")
