"""A run that is stopped, however that is, ends with what an uninterrupted one ends with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_training
from click.testing import CliRunner
from same_runs import metrics, same_run

from roformer_convert import pretrain
from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.run.loop import Loop, train
from roformer_convert.training.step import state as state_module
from roformer_convert.training.step.state import checkpoints
from roformer_convert.training.step.trainer import Trainer

HERE = Path(__file__).parent


def run_and_kill(tree: dict[str, Any], kills: int) -> Any:
    """Run settings in a process of its own kind: Paddle imported in another order takes other kernels."""
    path = Path(tree["run"]["output"]).with_suffix(".json")
    path.write_text(json.dumps(tree))
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_training.py"), str(path), str(kills), "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_many_times_also_while_saving_ends_bit_for_bit_as_an_uninterrupted_one(
    corpus: Path, tmp_path: Path
) -> None:
    # saves, log lines and evaluations at steps that do not divide each other; dropout; two stages
    second: dict[str, Any] = {
        "steps": 20,
        "length": 48,
        "batch_size": 6,
        "micro_tokens": 192,
        "max_lr": None,
        "warmup_steps": 0,
    }
    stages = [{"steps": 20}, second]
    changes: dict[str, Any] = {"log_steps": 4, "save_steps": 3, "eval_steps": 7, "keep_checkpoints": 2}
    run_and_kill(tiny_training.tree(corpus, tmp_path / "whole", stages, **changes), kills=0)
    counts = run_and_kill(tiny_training.tree(corpus, tmp_path / "killed", stages, **changes), kills=14)
    assert counts["killed"] >= 6, "the run was over before it was killed often: the test shows nothing"
    assert counts["while_saving"] >= 2
    assert len(counts["resumed_from"]) >= 3
    same_run(tmp_path / "whole", tmp_path / "killed", 40)
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {".lock", "metrics.jsonl", "samples", "step-000039", "step-000040"}, "leftovers of killed saves"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_the_first_ctrl_c_finish_the_step_and_save(
    corpus: Path, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(tiny_training.settings(corpus, tmp_path / "whole", steps=40, save_steps=1000))
    settings = tiny_training.settings(corpus, tmp_path / "ended", steps=40, save_steps=1000)
    threading.Timer(0, lambda: when_begun(tmp_path / "ended", number)).start()
    stopped = train(settings)
    assert 0 < stopped < 40
    assert [step for step, _ in checkpoints(tmp_path / "ended")] == [stopped]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert train(settings, resume=True) == 40
    same_run(tmp_path / "whole", tmp_path / "ended", 40)


def when_begun(run: Path, number: signal.Signals) -> None:
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.001)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("save_steps", "said"),
    [(2, "stopped; the newest checkpoint is {run}/step-000002; --resume goes on\n"),
     (9, "stopped; no checkpoint was saved\n")],
)  # fmt: skip
def test_the_second_ctrl_c_interrupts_and_what_is_said_of_checkpoints_is_true(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    save_steps: int,
    said: str,
) -> None:
    def interrupted(trainer: Trainer, *given: Any, **options: Any) -> bool:
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            assert "Ctrl-C again stops at once" in capfd.readouterr().err
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(trainer, *given, **options)

    take_step, before = Trainer.take_step, signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "take_step", interrupted)
    run = tmp_path / "run"
    configuration = tiny_training.write_toml(
        tmp_path / "run.toml", tiny_training.tree(corpus, run, save_steps=save_steps)
    )
    result = CliRunner().invoke(pretrain.cli, ["train", "--config", str(configuration)])
    assert result.exit_code == 130
    assert result.stderr == said.format(run=run)
    assert signal.getsignal(signal.SIGINT) == before


def test_nothing_is_overwritten_without_resume(corpus: Path, tmp_path: Path) -> None:
    settings = tiny_training.settings(corpus, tmp_path, steps=4)
    train(settings)
    with pytest.raises(ConvertError, match=r"holds step-000004 of another run\n  Go on with --resume"):
        train(settings)
    assert train(settings, resume=True) == 4


def test_records_without_a_checkpoint_are_not_overwritten_without_resume(corpus: Path, tmp_path: Path) -> None:
    settings = tiny_training.settings(corpus, tmp_path, steps=4)
    record = '{"kind": "step", "step": 3, "lm_loss": 2.5}\n'
    (tmp_path / "metrics.jsonl").write_text(record)
    with pytest.raises(
        ConvertError, match=r"holds the metrics\.jsonl of another run, which has no checkpoint\n  Start over"
    ):
        train(settings)
    assert (tmp_path / "metrics.jsonl").read_text() == record
    assert train(settings, resume=True) == 4
    assert [each["step"] for each in metrics(tmp_path)] == [0, 4]


def test_a_directory_in_which_another_process_trains_is_refused_until_that_one_is_dead(
    corpus: Path, tmp_path: Path
) -> None:
    settings = tiny_training.settings(corpus, tmp_path / "run", steps=4)
    code = (
        "import sys, time; from pathlib import Path; from roformer_convert.training.run.run_directory import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            for resume in (False, True):
                with pytest.raises(
                    ConvertError, match="run: another process is training there\n  Wait until it has ended"
                ):
                    train(settings, resume=resume)
            assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
        finally:
            other.kill()
    assert train(settings) == 4


def test_a_run_that_is_going_on_holds_its_directory(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def while_running(loop: Loop) -> None:
        with pytest.raises(ConvertError, match="another process is training there"):
            train(settings, resume=True)
        run(loop)

    settings, run = tiny_training.settings(corpus, tmp_path, steps=4), Loop.run
    monkeypatch.setattr(Loop, "run", while_running)
    assert train(settings) == 4


def test_an_output_that_is_a_file_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConvertError, match=r"run: cannot be written: (File exists|Not a directory)"):
        train(tiny_training.settings(corpus, tmp_path / "run"))


def test_the_last_checkpoints_are_kept(corpus: Path, tmp_path: Path) -> None:
    train(tiny_training.settings(corpus, tmp_path, steps=11, save_steps=2, keep_checkpoints=3))
    assert [step for step, _ in checkpoints(tmp_path)] == [8, 10, 11]


@pytest.mark.parametrize("part", ["arrays", "model"])
def test_a_save_that_fails_names_its_checkpoint_and_leaves_the_one_before_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    train(tiny_training.settings(corpus, tmp_path, steps=4, save_steps=2))
    before = checkpoints(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if part == "arrays":
        monkeypatch.setattr(state_module, "_write_arrays", full)
    else:
        monkeypatch.setattr(os, "pwrite", full)
    (tmp_path / "step-000004").rename(tmp_path / "aside")
    with pytest.raises(ConvertError, match=f"{tmp_path}/step-000004: cannot be written: No space left"):
        train(tiny_training.settings(corpus, tmp_path, steps=4, save_steps=2), resume=True)
    assert checkpoints(tmp_path) == before[:1]
    assert not list(tmp_path.glob(".step-*"))


def test_a_disk_without_room_for_a_checkpoint_is_told_by_its_name(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        ConvertError, match=f"{tmp_path}/step-000002: it needs [\\d,]+ bytes and the disk has 1,000 free"
    ):
        train(tiny_training.settings(corpus, tmp_path, steps=2))
    assert not list(tmp_path.glob(".step-*"))
