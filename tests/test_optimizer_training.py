"""The optimiser's state of this project's own training: to torch and back, and into another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training
from next_steps import ADAM, PADDLE_STEP, TORCH_STEP, canonical, load, require_equal, rows
from peer_folders import in_process
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, ConvertOptions, convert, open_checkpoint, save_checkpoint
from roformer_convert.training.run.loop import train
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.schedule import learning_rate
from roformer_convert.training.step.state import ARRAYS, read_checkpoint
from roformer_convert.training.step.trainer import Trainer

#: No dropout, so that a next step is the same elsewhere, and no head that transformers does not have; a usual rate.
QUIET: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_lr": 1e-4}
QUIET |= {"sop": False, **ADAM}


@pytest.fixture(scope="module")
def step(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in the middle of a run, which starts where no bias is 0: equal is meant of a tensor's own size."""
    made = tmp_path_factory.mktemp("runs")
    train(tiny_training.settings(corpus, made / "sizes", steps=1))
    with open_checkpoint(made / "sizes" / "step-000001") as sizes:
        random = np.random.RandomState(8)
        weights = {name: random.normal(0, 0.16, sizes.shape(name)).astype(np.float32) for name in sizes}
        save_checkpoint(made / "start", weights, sizes.config, dialect="paddle", companions=sizes.companions)
    train(tiny_training.settings(corpus, made / "run", steps=8, save_steps=4, init=str(made / "start"), **QUIET))
    return made / "run" / "step-000004"


def to_torch(step: Path, made: Path, **options: Any) -> Path:
    convert(step, made, to="torch", options=ConvertOptions(with_optimizer=True, **options))
    return made


def test_a_runs_state_goes_to_torch_and_comes_back(step: Path, tmp_path: Path) -> None:
    to_torch(step, tmp_path / "torch")
    options = ConvertOptions(with_optimizer=True, optimizer_file=ARRAYS)
    convert(tmp_path / "torch", tmp_path / "back", to="paddle", options=options)
    ours, back = load_file(step / ARRAYS), load_file(tmp_path / "back" / ARRAYS)
    assert ours.keys() == back.keys()
    assert all(ours[key].tobytes() == back[key].tobytes() for key in ours)


def test_torch_takes_the_runs_next_step(step: Path, tmp_path: Path) -> None:
    to_torch(step, tmp_path / "torch")
    random = np.random.RandomState(3)
    vocabulary = len((step / "vocab.txt").read_text(encoding="utf-8").splitlines())
    ids = random.randint(5, vocabulary, (2, 12))
    state = read_checkpoint(step)
    rate = learning_rate(state.settings, state.step + 1)
    assert rate != learning_rate(state.settings, state.step)  # the next step's is the one that counts
    batch = tmp_path / "next.npz"
    np.savez(batch, lr=rate, input_ids=ids, labels=np.where(random.rand(2, 12) < 0.3, ids, -100))
    job: dict[str, Any] = {"next": str(batch), "cwd": str(tmp_path), "fresh": False, "names": {}, **ADAM}
    job |= {"class": "RoFormerForMaskedLM", "file": ARRAYS}
    in_process(TORCH_STEP, [{**job, "folder": str(tmp_path / "torch"), "out": str(tmp_path / "torch.npz")}])
    in_process(PADDLE_STEP, [{**job, "folder": str(step), "out": str(tmp_path / "paddle.npz")}])
    table = rows(step)
    want = canonical(table, load(tmp_path / "paddle.npz"), None)
    got = canonical(table, load(tmp_path / "torch.npz"), "torch")
    require_equal(got, {name: array for name, array in want.items() if name in got}, step)


def trainer(corpus: Path, run: Path, **changes: Any) -> Trainer:
    settings = tiny_training.settings(corpus, run, **{**QUIET, "init_optimizer": True, **changes})
    return Trainer(settings, open_sources(settings.data.corpora), Ranks())


def test_a_run_begins_with_the_state_of_another(corpus: Path, step: Path, tmp_path: Path) -> None:
    made = trainer(corpus, tmp_path / "run", init=str(step), sop=True)
    there, here = load_file(step / ARRAYS), made.optimizer.state()
    assert there.keys() < here.keys()
    assert all(here[key].tobytes() == there[key].tobytes() for key in there)
    anew = {key.partition(":")[0] for key in here.keys() - there.keys()}
    assert all(not here[f"{name}:moment1"].any() for name in anew)
    assert any(note.endswith(f"begins anew for {', '.join(made_names(made, anew))}") for note in made.notes)
    assert made.step == 0


def made_names(made: Trainer, names: set[str]) -> list[str]:
    return [name for name in made.optimizer.parameters if name in names]


def test_without_being_asked_a_run_begins_without_moments(corpus: Path, step: Path, tmp_path: Path) -> None:
    made = trainer(corpus, tmp_path / "run", init=str(step), init_optimizer=False)
    assert not any(array.any() for key, array in made.optimizer.state().items() if ":moment" in key)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init": ""}, "nothing to start from"),
        ({"beta2": 0.5}, r"is no power of 0.5(.|\n)*Set beta1 and beta2"),
    ],
)
def test_a_state_that_does_not_fit_the_run_is_refused(
    corpus: Path, step: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConvertError, match=said):
        trainer(corpus, tmp_path / "run", **{"init": str(step), **changes})


def test_a_directory_without_a_state_is_refused(corpus: Path, step: Path, tmp_path: Path) -> None:
    convert(step, tmp_path / "weights", to="torch")
    with pytest.raises(ConvertError, match=f"no {ARRAYS}(.|\n)*--with-optimizer"):
        trainer(corpus, tmp_path / "run", init=str(tmp_path / "weights"))


def test_a_flipped_bit_in_the_state_of_a_run_is_found(step: Path, tmp_path: Path) -> None:
    copy = tmp_path / "step-000004"
    copy.mkdir()
    for path in step.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = bytearray((copy / ARRAYS).read_bytes())
    content[-5] ^= 1
    (copy / ARRAYS).write_bytes(content)
    with pytest.raises(ConvertError, match="wrong CRC32C"):
        to_torch(copy, tmp_path / "torch")
    assert not (tmp_path / "torch").exists()


def test_a_state_of_other_arrays_is_refused(step: Path, tmp_path: Path) -> None:
    arrays = load_file(step / ARRAYS)
    for name in ("config.json", "model_state.pdparams", "vocab.txt"):
        (tmp_path / "ckpt").mkdir(exist_ok=True)
        (tmp_path / "ckpt" / name).write_bytes((step / name).read_bytes())
    for change, said in (
        ({"other.weight:moment1": np.zeros(3, np.float32)}, "it has 'other.weight:moment1'"),
        ({"mlm.bias:moment3": np.zeros(3, np.float32)}, "it has 'mlm.bias:moment3'"),
        ({"pooler.bias:moment1": np.zeros(16, np.float32)}, "of 'pooler.bias' it has moment1"),
    ):
        save_file({**arrays, **change}, tmp_path / "ckpt" / ARRAYS)
        with pytest.raises(ConvertError, match=said):
            to_torch(tmp_path / "ckpt", tmp_path / "torch", adam={**ADAM, "lr": 1e-3})


def test_a_run_says_the_rate_of_its_next_step(step: Path) -> None:
    state = read_checkpoint(step)
    said = json.loads((step / "training.json").read_text())["learning_rate"]
    assert said == learning_rate(state.settings, 5)
