"""Checkpoints of a run that were damaged: found by their checksums, told, set aside, and gone on without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training
from click.testing import CliRunner
from same_runs import same_run

from roformer_convert import pretrain
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.training.run.loop import train
from roformer_convert.training.run.run_directory import claim
from roformer_convert.training.settings.tables import Settings
from roformer_convert.training.step.state import (
    ARRAYS,
    STATE,
    checkpoints,
    clear_unfinished,
    newest_whole,
    read_checkpoint,
    set_aside,
)

WEIGHTS = "model_state.pdparams"


def made(corpus: Path, run: Path, **changes: Any) -> Settings:
    return tiny_training.settings(corpus, run, save_steps=4, **changes)


@pytest.fixture(scope="module")
def longer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps, with a checkpoint after each four."""
    run = tmp_path_factory.mktemp("longer")
    train(made(corpus, run))
    return run


@pytest.fixture(scope="module")
def whole(longer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, before it saved the last."""
    run = tmp_path_factory.mktemp("whole")
    shutil.copytree(longer, run, dirs_exist_ok=True)
    shutil.rmtree(run / "step-000012")
    return run


def flip(path: Path, place: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def replaced(step: Path, make: Callable[[], object]) -> None:
    shutil.rmtree(step)
    make()


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in the weights": (lambda step: flip(step / WEIGHTS, 5000), WEIGHTS),
    "a flipped bit in the moments": (lambda step: flip(step / ARRAYS), ARRAYS),
    "a flipped bit in the vocabulary": (lambda step: flip(step / "vocab.txt"), "vocab.txt"),
    "weights cut short": (lambda step: (step / WEIGHTS).write_bytes((step / WEIGHTS).read_bytes()[:-8]), WEIGHTS),
    "no weights": (lambda step: (step / WEIGHTS).unlink(), f"{WEIGHTS}: cannot be read: No such file or directory"),
    "no configuration": (lambda step: (step / "config.json").unlink(), "config.json: cannot be read"),
    "no state": (lambda step: (step / STATE).unlink(), f"no {STATE}: not the checkpoint of a run"),
    "half a state": (lambda step: write(step / STATE, (step / STATE).read_text()[:300]), STATE),
    "an empty state": (lambda step: write(step / STATE, ""), STATE),
    "another step in the state": (lambda step: edited(step / STATE, '"step": 8', '"step": 7'), "its own checksum"),
    "another sum in the state": (lambda step: edited(step / STATE, '"taken": 3', '"taken": 2'), "its own checksum"),
    "no checksums in the state": (lambda step: edited(step / STATE, '"crc32c"', '"crc"'), "its own checksum"),
    "the weights of another step": (
        lambda step: shutil.copyfile(step.parent / "step-000004" / WEIGHTS, step / WEIGHTS),
        "damaged, or of another step",
    ),
    "another step under its name": (
        lambda step: replaced(step, lambda: shutil.copytree(step.parent / "step-000004", step)),
        f"{STATE}: is of step 4, but lies in step-000008",
    ),
    "another release's": (lambda step: edited(step / STATE, '"version": 2', '"version": 1'), "another release wrote"),
    "an empty directory": (lambda step: replaced(step, step.mkdir), f"no {STATE}"),
    "a file": (lambda step: replaced(step, lambda: step.write_text("")), f"no {STATE}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole_and_says_so(
    corpus: Path, whole: Path, longer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    run, (spoil, said) = tmp_path / "run", DAMAGES[damage]
    shutil.copytree(whole, run)
    spoil(run / "step-000008")
    assert train(made(corpus, run), resume=True) == 12
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "is damaged" in line)
    assert "step-000008 is damaged and was renamed to step-000008.damaged: " in line
    assert said in line
    assert f"resumes from {run / 'step-000004'}" in out
    assert {path.name for path in run.glob("step-*")} == {
        "step-000004", "step-000008", "step-000008.damaged", "step-000012"
    }  # fmt: skip
    read_checkpoint(run / "step-000008")
    same_run(longer, run, 12)


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_none_is_whole_the_run_is_refused_with_each_named(
    corpus: Path, whole: Path, tmp_path: Path, damage: str
) -> None:
    run, (spoil, said) = tmp_path / "run", DAMAGES[damage]
    shutil.copytree(whole, run)
    flip(run / "step-000004" / ARRAYS)
    if damage == "another step under its name":
        spoil = lambda step: step.rename(step.with_name("step-000009"))  # noqa: E731  # the other one is damaged, too
        said = f"{STATE}: is of step 8, but lies in step-000009"
    spoil(run / "step-000008")
    before = sorted(run.rglob("*"))
    path = tiny_training.write_toml(tmp_path / "run.toml", tiny_training.tree(corpus, run))
    result = CliRunner().invoke(pretrain.cli, ["train", "--config", str(path), "--resume"])
    assert isinstance(result.exception, ConvertError)
    assert result.exception.exit_status == 2
    message = str(result.exception).splitlines()
    assert message[0] == f"{run} has no undamaged checkpoint (2 damaged)"
    assert said in message[1]
    assert f"step-000004/{ARRAYS}: its checksum is " in message[2]
    assert message[3].startswith("  Restore one from a copy")
    assert sorted(run.rglob("*")) == before


def test_a_damaged_checkpoint_is_refused_by_whoever_reads_it(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "step-000008", tmp_path / "step-000008")
    assert read_checkpoint(tmp_path / "step-000008").step == 8
    flip(tmp_path / "step-000008" / WEIGHTS, 5000)
    with pytest.raises(FormatError, match=rf"{WEIGHTS}: its checksum is \d+, training\.json wants \d+: damaged"):
        read_checkpoint(tmp_path / "step-000008")


def test_every_file_has_its_checksum(whole: Path) -> None:
    checksums = json.loads((whole / "step-000008" / STATE).read_text())["crc32c"]
    assert checksums.keys() == {path.name for path in (whole / "step-000008").iterdir()}


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    flip(run / "step-000008" / WEIGHTS)
    stopped = made(corpus, run, steps=6, keep_checkpoints=1)
    assert train(stopped, resume=True) == 6
    assert [step for step, _ in checkpoints(run)] == [6]


def test_what_is_set_aside_again_gets_a_number(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        (tmp_path / "step-000008").mkdir()
        names.append(set_aside(tmp_path / "step-000008").name)
    assert names == ["step-000008.damaged", "step-000008.damaged-2", "step-000008.damaged-3"]
    assert checkpoints(tmp_path) == []


def test_only_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    ours = [".step-000008.partial-roformer-convert", ".step-000004.old", ".step-000004.old-roformer-convert"]
    others = [".step-notes", ".step-000008", ".step-8.old", "step-000008.old"]
    for name in (*ours, *others):
        (tmp_path / name).mkdir()
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) == claim(tmp_path, resume=True) == (None, [])
    assert newest_whole(tmp_path / "none") == (None, [])
