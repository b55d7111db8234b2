"""What a resumed run may have another value of, and what that changes; what it may not, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_training
from click.testing import CliRunner
from same_runs import metrics, same_run

from roformer_convert import pretrain
from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.run.loop import train
from roformer_convert.training.samples.batches import Batch
from roformer_convert.training.samples.position import Position
from roformer_convert.training.settings.tables import Settings
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step.resume import changed_corpora, last_stage
from roformer_convert.training.step.state import STATE, read_checkpoint
from roformer_convert.training.step.trainer import Trainer


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.make_corpus(tmp_path_factory.mktemp("second"), documents=40)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """The numbers of the samples of every step that is taken, by its number from 1."""
    steps: dict[int, list[int]] = {}
    take_step = Trainer.take_step

    def watched(trainer: Trainer, batches: Sequence[Batch], **options: bool) -> bool:
        steps[trainer.step + 1] = sorted(int(number) for batch in batches for number in batch.samples)
        return take_step(trainer, batches, **options)

    monkeypatch.setattr(Trainer, "take_step", watched)
    return steps


def go(corpus: Path, run: Path, *stages: list[dict[str, Any]], steps: int = 4, **changes: Any) -> int:
    """Train to a step, resuming where there is something to resume; a rate that does not depend on the steps."""
    values = {"decay": "constant", "log_steps": 1, "save_steps": 100, **changes}
    return train(tiny_training.settings(corpus, run, *stages, steps=steps, **values), resume=True)


def refused(corpus: Path, run: Path, *stages: list[dict[str, Any]], **changes: Any) -> list[str]:
    with pytest.raises(ConvertError) as caught:
        go(corpus, run, *stages, **changes)
    first, *lines = str(caught.value).splitlines()
    assert " was written with another configuration (" in first
    assert lines.pop().startswith("  Resume with the values of the run")
    return [line.strip() for line in lines]


def history(run: Path, step: int) -> Any:
    return json.loads((run / f"step-{step:06d}" / STATE).read_text())["history"]


def change(key: str, before: Any, now: Any) -> dict[str, Any]:
    return {"key": key, "before": before, "now": now}


# what may change


def test_more_steps_are_the_steps_of_a_longer_run(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(corpus, tmp_path / "long", steps=9)
    go(corpus, tmp_path / "run", steps=4)
    capsys.readouterr()
    assert go(corpus, tmp_path / "run", steps=9) == 9
    out = capsys.readouterr().out
    assert "\n  changed: stages[0].steps: 4 → 9\n" in out
    assert "learning rate at" not in out
    assert history(tmp_path / "run", 9) == [{"step": 4, "changes": [change("stages[0].steps", 4, 9)]}]
    long, run = (read_checkpoint(tmp_path / name / "step-000009") for name in ("long", "run"))
    assert long.position == run.position
    for name, array in long.arrays.items():
        assert array.tobytes() == run.arrays[name].tobytes(), name
    assert [each for each in metrics(tmp_path / "run") if each["kind"] == "step"] == [
        each for each in metrics(tmp_path / "long") if each["kind"] == "step"
    ]


def test_another_rate_and_schedule_hold_from_the_next_step_on(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(corpus, tmp_path, steps=4)
    capsys.readouterr()
    go(corpus, tmp_path, steps=8, max_lr=5e-3, min_lr=1e-3, decay="linear", warmup_steps=0)
    rates = {each["step"]: each["learning_rate"] for each in metrics(tmp_path) if each["kind"] == "step"}
    assert rates[4] == 1e-2
    assert [rates[step] for step in range(5, 9)] == pytest.approx([2.5e-3, 2e-3, 1.5e-3, 1e-3])
    out = capsys.readouterr().out
    for line in (
        "  changed: stages[0].max_lr: 0.01 → 0.005",
        "  changed: stages[0].min_lr: 0.0 → 0.001",
        "  changed: stages[0].warmup_steps: 3 → 0",
        "  changed: stages[0].decay: constant → linear",
        "  learning rate at step 4: 1.00000e-02 → 3.00000e-03",
    ):
        assert f"{line}\n" in out


def test_another_batch_goes_on_with_the_next_sample_of_the_epoch(
    corpus: Path, tmp_path: Path, seen: dict[int, list[int]]
) -> None:
    go(corpus, tmp_path, steps=4, batch_size=8)
    go(corpus, tmp_path, steps=7, batch_size=5)
    go(corpus, tmp_path, steps=9, batch_size=12)
    go(corpus, tmp_path, steps=11, batch_size=0, batch_tokens=300)
    assert [len(seen[step]) for step in range(1, 10)] == [8] * 4 + [5] * 3 + [12] * 2
    numbers = [number for step in range(1, 12) for number in seen[step]]
    assert numbers == list(range(len(numbers)))
    assert history(tmp_path, 11) == [
        {"step": 4, "changes": [change("stages[0].steps", 4, 7), change("stages[0].batch_size", 8, 5)]},
        {"step": 7, "changes": [change("stages[0].steps", 7, 9), change("stages[0].batch_size", 5, 12)]},
        {
            "step": 9,
            "changes": [
                change("stages[0].steps", 9, 11),
                change("stages[0].batch_size", 12, 0),
                change("stages[0].batch_tokens", 0, 300),
            ],
        },
    ]
    position = read_checkpoint(tmp_path / "step-000011").position
    assert position.begun.sample == 4 * 8 + 3 * 5 + 2 * 12
    assert position.reached.sample == position.reached.taken[0] == len(numbers)


def test_corpora_may_come_go_and_weigh_more_and_each_goes_on_where_it_was(
    corpus: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(corpus, tmp_path, steps=4)
    capsys.readouterr()
    go(corpus, tmp_path, steps=6, corpora=[f"{corpus}=1", f"{second}=3"])
    assert f"\n  changed: corpus {second}: none → weight 3\n" in capsys.readouterr().out
    go(corpus, tmp_path, steps=8, corpora=[str(second)])
    go(corpus, tmp_path, steps=10, corpora=[str(second), f"{corpus}=2"])
    out = capsys.readouterr().out
    assert f"\n  changed: corpus {second}: weight 3 → weight 1\n" in out
    assert f"\n  changed: corpus {corpus}: weight 1 → none\n" in out
    assert f"\n  changed: corpus {corpus}: none → weight 2\n" in out
    position = read_checkpoint(tmp_path / "step-000010").position
    digests = [open_sources([str(each)]).contents[0][0] for each in (corpus, second)]
    assert list(position.corpora) == digests
    # 4 steps of 8 of the first; 16 of which 12 are the second's; 16 of the second; 16 of which 5 or 6 are
    first, other = position.reached.taken
    assert first + other == position.reached.sample == 80
    assert first in (32 + 4 + 10, 32 + 4 + 11)
    assert position.begun.taken == (36, 28)
    assert [each["step"] for each in history(tmp_path, 10)] == [4, 6, 8]


def test_a_run_goes_on_bit_for_bit_after_a_change(corpus: Path, second: Path, tmp_path: Path) -> None:
    # of the changed batch and the changed corpora, two of which are mixed
    changed: dict[str, Any] = {"corpora": [str(corpus), f"{second}=3"], "batch_size": 6}
    for name, stops in (("whole", [10]), ("cut", [5, 7, 10])):
        go(corpus, tmp_path / name, steps=3)
        for stop in stops:
            train_until(corpus, tmp_path / name, stop, steps=10, **changed)
    same_run(tmp_path / "whole", tmp_path / "cut", 10)


def train_until(corpus: Path, run: Path, stop: int, **changes: Any) -> None:
    """Train, and be asked to end after a step."""
    take_step = Trainer.take_step

    def ending(trainer: Trainer, batches: Sequence[Batch], **options: bool) -> bool:
        take_step(trainer, batches, **options)
        return trainer.step == stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", ending)
        assert go(corpus, run, **changes) == stop


def test_how_a_run_is_watched_may_change_and_is_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(corpus, tmp_path, steps=6)
    capsys.readouterr()
    free: dict[str, Any] = {
        "log_steps": 2,
        "save_steps": 3,
        "eval_steps": 2,
        "recompute": True,
        "micro_tokens": 96,
        "grad_clip": 0.5,
    }
    assert go(corpus, tmp_path, steps=9, **free) == 9
    out = capsys.readouterr().out
    for line in (
        "run.recompute: False → True",
        "optimizer.grad_clip: 1.0 → 0.5",
        "watch.log_steps: 1 → 2",
        "watch.save_steps: 100 → 3",
        "watch.eval_steps: 0 → 2",
        "stages[0].micro_tokens: 0 → 96",
    ):
        assert f"\n  changed: {line}\n" in out
    assert len(history(tmp_path, 9)[0]["changes"]) == 7


def test_nothing_is_told_where_nothing_changes_but_the_place(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(corpus, tmp_path / "run", steps=4)
    (tmp_path / "run").rename(tmp_path / "moved")
    link = tmp_path / "link"
    link.symlink_to(corpus)
    capsys.readouterr()
    assert go(link, tmp_path / "moved", steps=4) == 4
    out = capsys.readouterr().out
    assert "changed" not in out
    assert history(tmp_path / "moved", 4) == []


# steps that are passed over


def test_steps_are_passed_over_with_their_data_and_the_schedule_goes_on(
    corpus: Path, tmp_path: Path, seen: dict[int, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"decay": "linear", "decay_steps": 20}
    go(corpus, tmp_path / "whole", steps=12, **changes)
    everything = dict(seen)
    seen.clear()
    go(corpus, tmp_path / "run", steps=4, **changes)
    capsys.readouterr()
    go(corpus, tmp_path / "run", steps=12, skip_steps=["6", "9-11"], save_steps=10, **changes)
    assert seen == {step: everything[step] for step in (1, 2, 3, 4, 5, 7, 8, 12)}
    out = capsys.readouterr().out
    assert "skipped, together with their data: step 6 (skip_steps)\n" in out
    assert out.count("skipped, together with their data") == 2
    assert "skipped, together with their data: steps 9 to 11 (skip_steps)\n" in out
    rates = [{each["step"]: each["learning_rate"] for each in metrics(tmp_path / name) if each["kind"] == "step"}
             for name in ("whole", "run")]  # fmt: skip
    assert rates[1] == {step: rate for step, rate in rates[0].items() if step not in (6, 9, 10, 11)}
    assert history(tmp_path / "run", 12)[0]["changes"][0] == change("data.skip_steps", [], ["6", "9-11"])
    # a checkpoint in the midst of them knows the place in the data, too
    inside, whole = (read_checkpoint(tmp_path / "run" / f"step-{step:06d}") for step in (10, 12))
    assert (inside.position.reached.sample, whole.position.reached.sample) == (80, 96)


def _poisoned(take_step: Callable[..., bool], *steps: int) -> Callable[..., bool]:
    def poisoned(trainer: Trainer, batches: Sequence[Batch], **options: bool) -> bool:
        if trainer.step in steps:
            for master in trainer.weights.masters.values():
                master.set_value(master.numpy() * float("nan"))
        return take_step(trainer, batches, **options)

    return poisoned


def test_a_bad_step_is_named_with_the_flag_that_passes_it_over(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "take_step", _poisoned(Trainer.take_step, 5))
    tree = tiny_training.tree(corpus, tmp_path / "run", steps=8)
    command = ["train", "--config", str(tiny_training.write_toml(tmp_path / "run.toml", tree))]
    failed = CliRunner().invoke(pretrain.cli, command)
    assert "Skip these data (--resume --skip-steps 6)" in str(failed.exception)
    assert CliRunner().invoke(pretrain.cli, [*command, "--resume", "--skip-steps", "6"]).exit_code == 0
    assert history(tmp_path / "run", 8)[0] == {"step": 4, "changes": [change("data.skip_steps", [], ["6"])]}


def test_a_second_bad_step_is_named_with_the_flags_of_the_first(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # none was saved between them, so that without its flag the first would be met again
    monkeypatch.setattr(Trainer, "take_step", _poisoned(Trainer.take_step, 5, 6))
    tree = tiny_training.tree(corpus, tmp_path / "run", steps=8)
    command = ["train", "--config", str(tiny_training.write_toml(tmp_path / "run.toml", tree))]
    assert CliRunner().invoke(pretrain.cli, command).exit_code != 0
    failed = CliRunner().invoke(pretrain.cli, [*command, "--resume", "--skip-steps", "6"])
    flags = "--resume --skip-steps 6 --skip-steps 7"
    assert f"Skip these data ({flags})" in str(failed.exception)
    assert CliRunner().invoke(pretrain.cli, [*command, *flags.split()]).exit_code == 0


# what may not


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 32}, "model.hidden_size = 32, but 16 in the checkpoint"),
        ({"num_hidden_layers": 3}, "model.num_hidden_layers = 3, but 2 in the checkpoint"),
        ({"embedding_size": 8}, "model.embedding_size = 8, but 0 in the checkpoint"),
        ({"seed": 43}, "run.seed = 43, but 42 in the checkpoint"),
        ({"sop": False}, "data.sop = False, but True in the checkpoint"),
        ({"ngrams": 2}, "data.ngrams = 2, but 1 in the checkpoint"),
        ({"beta2": 0.99}, "optimizer.beta2 = 0.99, but 0.999 in the checkpoint"),
        ({"held_out_fraction": 0.2}, "data.held_out_fraction = 0.2, but 0.1 in the checkpoint"),
        (
            {"length": 48},
            "stages[0].length = 48, but 4 of its steps were taken with 32: "
            "end the stage there, and add one of another length",
        ),
        ({"steps": 3}, "stages[0].steps = 3, but 4 of its steps were already taken"),
    ],
)
def test_sizes_objectives_and_samples_are_refused_by_name(
    corpus: Path, four: Path, changes: dict[str, Any], said: str
) -> None:
    assert refused(corpus, four, **changes) == [said]


@pytest.fixture(scope="module")
def four(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("four")
    go(corpus, run, steps=4)
    return run


def test_all_that_is_refused_is_said_at_once_and_what_is_allowed_is_not(corpus: Path, four: Path) -> None:
    lines = refused(corpus, four, steps=8, seed=43, ngrams=2, max_lr=1.0)
    assert lines == ["run.seed = 43, but 42 in the checkpoint", "data.ngrams = 2, but 1 in the checkpoint"]


def test_another_vocabulary_is_refused(corpus: Path, four: Path, tmp_path: Path) -> None:
    assert "the vocabulary has changed" in refused(tiny_training.make_classic(tmp_path), four, held_out_fraction=0.0)


def test_what_is_left_of_the_stages_may_change_and_what_is_past_may_not(corpus: Path, tmp_path: Path) -> None:
    one, two, three = {"steps": 3}, {"steps": 5, "length": 16}, {"steps": 2, "length": 48}

    def made(*stages: dict[str, Any]) -> Settings:
        return tiny_training.settings(corpus, tmp_path, list(stages))

    assert train(made(one, {**two, "steps": 2})) == 5
    for stages, said in (
        ([{"steps": 4}, two], "stages[0].steps = 4, but 3 of its steps were already taken"),
        ([{"steps": 2}, two], "stages[0].steps = 2, but 3 of its steps were already taken"),
        ([{"steps": 8}], "stages[1] is missing, but steps of it were already taken"),
        ([one, {**two, "steps": 1}], "stages[1].steps = 1, but 2 of its steps were already taken"),
        ([one, {**two, "length": 32}], "stages[1].length = 32, but 2 of its steps were taken with 16"),
    ):
        with pytest.raises(ConvertError) as caught:
            train(made(*stages), resume=True)
        assert said in str(caught.value)
    assert train(made(one, two, three), resume=True) == 10
    assert [each["key"] for each in history(tmp_path, 10)[0]["changes"]] == ["stages[1].steps", "stages[2]"]


def test_a_stage_that_has_just_ended_may_be_longer(corpus: Path, tmp_path: Path, seen: dict[int, list[int]]) -> None:
    train(tiny_training.settings(corpus, tmp_path, [{"steps": 3}]))
    train(tiny_training.settings(corpus, tmp_path, [{"steps": 5}, {"steps": 2, "length": 16}]), resume=True)
    assert [number for step in range(1, 6) for number in seen[step]] == list(range(40))
    assert [number for step in (6, 7) for number in seen[step]] == list(range(16))


def test_the_last_stage_is_that_of_the_last_step(corpus: Path, tmp_path: Path) -> None:
    settings = tiny_training.settings(corpus, tmp_path, [{"steps": 3}, {"steps": 2}])
    assert [last_stage(settings, step) for step in range(6)] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]


# corpora by their contents


def test_changed_corpora_are_named_with_what_changed(corpus: Path, second: Path, tmp_path: Path) -> None:
    third = tiny_training.make_corpus(tmp_path / "third", 50)
    one, two, three = str(corpus), str(second), str(third)
    before = open_sources([one, f"{two}=3"])

    def changed(*entries: str, names: Sequence[str] = (one, f"{two}=3")) -> list[str]:
        return [str(each) for each in changed_corpora(open_sources(entries), before.contents, names)]

    assert changed(one, f"{two}=3") == []
    assert changed(f"{one}=1", f"{two}=3.0", names=("/gone", "/a=b")) == []
    assert changed(f"{one}=2", two) == [f"corpus {one}: weight 1 → weight 2", f"corpus {two}: weight 3 → weight 1"]
    assert changed(one) == [f"corpus {two}: weight 3 → none"]
    assert changed(one, f"{two}=3", f"{three}=2") == [f"corpus {three}: none → weight 2"]
    assert changed(one, f"{three}=3", names=(one, f"{three}=3")) == [
        f"corpus {three}: weight 3 of other text → none",
        f"corpus {three}: none → weight 3",
    ]
    assert changed(f"{two}=3", one) == ["corpora: their order → another order"]


def test_a_corpus_keeps_its_number() -> None:
    position = Position(("a", "b", "a"))
    assert position.numbers([["b", 1.0], ["a", 2.0], ["a", 1.0]]) == [1, 0, 2]
    assert position.with_corpora([["c", 1.0], ["b", 1.0], ["b", 1.0]]).corpora == ("a", "b", "a", "c", "b")
    assert position.with_corpora([["c", 1.0], ["b", 1.0]]).numbers([["c", 1.0], ["b", 1.0]]) == [3, 1]
