"""A run that is stopped, however that is, ends with what an uninterrupted one ends with."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

# not importorskip: Paddle is to be imported by start_paddle
if importlib.util.find_spec("paddle") is None:
    pytest.skip("could not import 'paddle'", allow_module_level=True)

import tiny_training
from click.testing import CliRunner

from roformer_convert import pretrain
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.training import state as state_module
from roformer_convert.training.loop import Loop, train
from roformer_convert.training.metrics import TIMES
from roformer_convert.training.start import changed_corpora, open_sources
from roformer_convert.training.state import ARRAYS, STATE, checkpoints, read_checkpoint
from roformer_convert.training.trainer import Trainer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_training.make_corpus(tmp_path_factory.mktemp("text"))


def same_run(one, other, step):
    """Hold two runs' last checkpoints against each other byte for byte, and their metrics but for clocks."""
    here, there = (run / f"step-{step:06d}" for run in (one, other))
    assert sorted(os.listdir(here)) == sorted(os.listdir(there))
    for name in os.listdir(here):
        if name == STATE:
            trees = [json.loads((each / name).read_text()) for each in (here, there)]
            for tree in trees:
                tree["settings"]["run"].pop("output")
            assert trees[0] == trees[1]
        else:
            assert (here / name).read_bytes() == (there / name).read_bytes(), name
    assert metrics(one) == metrics(other)


def metrics(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def run_and_kill(tree, kills):
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


def test_a_run_killed_many_times_also_while_saving_ends_bit_for_bit_as_an_uninterrupted_one(corpus, tmp_path):
    # saves, log lines and evaluations at steps that do not divide each other; dropout; two stages
    second = {"steps": 20, "length": 48, "batch_size": 6, "micro_tokens": 192, "max_lr": None, "warmup_steps": 0}
    stages = [{"steps": 20}, second]
    changes = {"log_steps": 4, "save_steps": 3, "eval_steps": 7, "keep_checkpoints": 2}
    run_and_kill(tiny_training.tree(corpus, tmp_path / "whole", stages, **changes), kills=0)
    counts = run_and_kill(tiny_training.tree(corpus, tmp_path / "killed", stages, **changes), kills=14)
    assert counts["killed"] >= 6, "the run was over before it was killed often: the test shows nothing"
    assert counts["while_saving"] >= 2
    assert len(counts["resumed_from"]) >= 3
    same_run(tmp_path / "whole", tmp_path / "killed", 40)
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {".lock", "metrics.jsonl", "samples", "step-000039", "step-000040"}, "leftovers of killed saves"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_the_first_ctrl_c_finish_the_step_and_save(corpus, tmp_path, number):
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


def when_begun(run, number):
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.001)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("save_steps", "said"),
    [(2, "stopped; {run}/step-000002 is whole, and --resume goes on from it\n"),
     (9, "stopped; no checkpoint was saved\n")],
)  # fmt: skip
def test_the_second_ctrl_c_interrupts_and_what_is_said_of_checkpoints_is_true(
    corpus, tmp_path, monkeypatch, capfd, save_steps, said
):
    def interrupted(trainer, *given, **options):
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


def test_nothing_is_overwritten_without_resume(corpus, tmp_path):
    settings = tiny_training.settings(corpus, tmp_path, steps=4)
    train(settings)
    with pytest.raises(ConvertError, match=r"holds step-000004 of another run\n  Go on with --resume"):
        train(settings)
    assert train(settings, resume=True) == 4


def test_records_without_a_checkpoint_are_not_overwritten_without_resume(corpus, tmp_path):
    settings = tiny_training.settings(corpus, tmp_path, steps=4)
    record = '{"kind": "step", "step": 3, "lm_loss": 2.5}\n'
    (tmp_path / "metrics.jsonl").write_text(record)
    with pytest.raises(
        ConvertError, match=r"holds the metrics\.jsonl of another run, which has no checkpoint\n  Begin"
    ):
        train(settings)
    assert (tmp_path / "metrics.jsonl").read_text() == record
    assert train(settings, resume=True) == 4
    assert [each["step"] for each in metrics(tmp_path)] == [0, 4]


def test_a_directory_in_which_another_process_trains_is_refused_until_that_one_is_dead(corpus, tmp_path):
    settings = tiny_training.settings(corpus, tmp_path / "run", steps=4)
    code = (
        "import sys, time; from pathlib import Path; from roformer_convert.training.run_directory import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
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


def test_a_run_that_is_going_on_holds_its_directory(corpus, tmp_path, monkeypatch):
    def while_running(loop):
        with pytest.raises(ConvertError, match="another process is training there"):
            train(settings, resume=True)
        return run(loop)

    settings, run = tiny_training.settings(corpus, tmp_path, steps=4), Loop.run
    monkeypatch.setattr(Loop, "run", while_running)
    assert train(settings) == 4


def test_an_output_that_is_a_file_is_refused(corpus, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConvertError, match="run: cannot be written: File exists"):
        train(tiny_training.settings(corpus, tmp_path / "run"))


def test_a_changed_configuration_is_refused_with_its_fields_named(corpus, tmp_path):
    train(tiny_training.settings(corpus, tmp_path, steps=4))
    changed = tiny_training.settings(corpus, tmp_path, steps=8, seed=43, weight_decay=0.1, ngrams=2)
    with pytest.raises(ConvertError) as caught:
        train(changed, resume=True)
    for line in (
        "run.seed = 43, and 42 there",
        "data.ngrams = 2, and 1 there",
        "optimizer.weight_decay = 0.1, and 0.01 there",
        "stages[0].steps = 8, and 4 there",
    ):
        assert line in str(caught.value)


def test_what_does_not_change_the_numbers_may_change(corpus, tmp_path):
    train(tiny_training.settings(corpus, tmp_path, steps=8, save_steps=4))
    (tmp_path / "step-000008").rename(tmp_path / "elsewhere")
    free = {"log_steps": 1, "save_steps": 2, "eval_steps": 2, "recompute": True, "micro_tokens": 96}
    assert train(tiny_training.settings(corpus, tmp_path, steps=8, **free), resume=True) == 8


def test_another_corpus_is_refused_wherever_it_lies(corpus, tmp_path):
    settings = tiny_training.settings(corpus, tmp_path / "run", steps=4)
    train(settings)
    moved = tmp_path / "moved"
    moved.symlink_to(corpus)
    assert train(tiny_training.settings(moved, tmp_path / "run", steps=4), resume=True) == 4
    other = tiny_training.make_corpus(tmp_path / "other", documents=59)
    with pytest.raises(ConvertError) as caught:
        train(tiny_training.settings(other, tmp_path / "run", steps=4), resume=True)
    assert str(caught.value).splitlines()[:3] == [
        f"{tmp_path / 'run' / 'step-000004'} was written by another configuration (2 differences)",
        f"  corpora: {other} is added",
        f"  corpora: {corpus} is missing",
    ]


def test_changed_corpora_are_named_with_what_changed(corpus, tmp_path):
    one, two, three = (
        str(corpus),
        *(
            str(tiny_training.make_corpus(tmp_path / name, documents))
            for name, documents in (("two", 50), ("three", 40))
        ),
    )
    before = open_sources([one, f"{two}=3"])

    def changed(*entries, names=(one, f"{two}=3")):
        return changed_corpora(open_sources(entries), before.contents, names)

    assert changed(one, f"{two}=3") == []
    assert changed(f"{one}=1", f"{two}=3.0", names=("/gone", "/a=b")) == []
    assert changed(f"{one}=2", two) == [
        f"corpora: {one} has weight 2, and 1 there",
        f"corpora: {two} has weight 1, and 3 there",
    ]
    assert changed(one) == [f"corpora: {two} is missing"]
    assert changed(one, f"{two}=3", three) == [f"corpora: {three} is added"]
    assert changed(one, f"{three}=3", names=(one, f"{three}=3")) == [f"corpora: {three} holds other text than it did"]
    assert changed(f"{two}=3", one) == [f"corpora: another order than {one}, {two}=3"]


def test_one_difference_is_no_differences(corpus, tmp_path):
    train(tiny_training.settings(corpus, tmp_path, steps=4))
    with pytest.raises(ConvertError, match=r"another configuration \(1 difference\)\n  run\.seed = 43, and 42 there"):
        train(tiny_training.settings(corpus, tmp_path, steps=4, seed=43), resume=True)


def test_the_last_checkpoints_are_kept(corpus, tmp_path):
    train(tiny_training.settings(corpus, tmp_path, steps=11, save_steps=2, keep_checkpoints=3))
    assert [step for step, _ in checkpoints(tmp_path)] == [8, 10, 11]


def test_a_directory_without_its_state_is_no_checkpoint(corpus, tmp_path):
    train(tiny_training.settings(corpus, tmp_path, steps=8, save_steps=4))
    (tmp_path / "step-000008" / STATE).unlink()
    assert [step for step, _ in checkpoints(tmp_path)] == [4]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (ARRAYS, lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]),
        (ARRAYS, lambda data: data[:-8]),
        (STATE, lambda data: data.replace(b'"version": 1', b'"version": 7')),
        (STATE, lambda data: data.replace(b'"step": 4', b'"step": "4"', 1)),
        (STATE, lambda data: data.replace(b'"lm_loss"', b'"other"')),
        (STATE, lambda data: data.replace(b'"corpora": [', b'"corpora": [7,', 2)),
        (STATE, lambda data: data[: len(data) // 2]),
    ],
)
def test_a_damaged_state_is_refused_by_name(corpus, tmp_path, name, damage):
    train(tiny_training.settings(corpus, tmp_path, steps=4))
    path = tmp_path / "step-000004" / name
    data = path.read_bytes()
    assert damage(data) != data
    path.write_bytes(damage(data))
    with pytest.raises(FormatError, match=name):
        read_checkpoint(tmp_path / "step-000004")


def test_a_save_that_fails_leaves_the_checkpoint_before_it(corpus, tmp_path, monkeypatch):
    train(tiny_training.settings(corpus, tmp_path, steps=4, save_steps=2))
    before = checkpoints(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_module, "_write_arrays", full)
    (tmp_path / "step-000004").rename(tmp_path / "aside")
    with pytest.raises(OSError, match="No space left"):
        train(tiny_training.settings(corpus, tmp_path, steps=4, save_steps=2), resume=True)
    assert checkpoints(tmp_path) == before[:1]
    assert not list(tmp_path.glob(".step-*"))
