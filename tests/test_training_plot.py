"""The picture of a run: what is read from metrics.jsonl, what is drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from roformer_convert.cmd_pretrain_plot import plot_command
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.models.processes.frameworks import MissingPackageError
from roformer_convert.training.reporting import plot as module
from roformer_convert.training.reporting.log import EvaluationRecord, RunLog, StageRecord, StepRecord
from roformer_convert.training.reporting.plot import draw, plot
from roformer_convert.training.reporting.run_curves import distinct_names, read_runs, smooth


def write_run(directory: Path, steps: int = 200, stages: int = 2, sop: bool = True) -> Path:
    """A run whose loss is 8 - step / 100, with a jump of the speed where its second stage begins."""
    with RunLog(directory, echo=lambda line: None) as log:
        for step in range(10, steps + 1, 10):
            if step == 10:
                log.stage(StageRecord(0, 1, 128, 64, steps // 2))
            if stages == 2 and step == steps // 2 + 10:
                log.stage(StageRecord(steps // 2, 2, 512, 16, steps // 2))
            lm, order = 8 - step / 100, (0.7 - step / 1000) * sop
            speed = 6000.0 if step <= steps // 2 else 3000.0
            log.step(StepRecord(step, lm + order, lm, order, 1e-3, 2.0, 128.0, speed))
            if step % 50 == 0:
                loss, right = (order + 0.1, 0.8) if sop else (None, None)
                log.evaluation(EvaluationRecord(step, lm + 0.2, 0.25, loss, right, 1000))
    return directory


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def panel(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


# Reading -------------------------------------------------------------------------------------------------------------


def test_curves_are_the_files_numbers(tmp_path: Path) -> None:
    (run,) = read_runs([write_run(tmp_path / "one")])
    loss = run["step", "lm_loss"]
    assert loss.steps.tolist() == list(range(10, 201, 10))
    assert loss.values.tolist() == [8 - step / 100 for step in range(10, 201, 10)]
    assert run["evaluation", "lm_accuracy"].values.tolist() == [0.25] * 4
    assert run.stages == ((0, "128 tokens × 64"), (100, "512 tokens × 16"))


def test_curves_under_the_names_of_earlier_releases_are_drawn(tmp_path: Path) -> None:
    step = {"kind": "step", "step": 1, "lm_loss": 5.0}
    evaluation = {"kind": "evaluation", "step": 1, "mlm_loss": 5.5, "mlm_accuracy": 0.25}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(step)}\n{json.dumps(evaluation)}\n")
    (run,) = read_runs([tmp_path])
    assert run["evaluation", "lm_loss"].values.tolist() == [5.5]
    assert run["evaluation", "lm_accuracy"].values.tolist() == [0.25]


def test_a_directory_and_its_file_are_the_same_run(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    by_directory, by_file = (read_runs([path])[0] for path in (tmp_path / "one", tmp_path / "one" / "metrics.jsonl"))
    assert by_directory.name == by_file.name == "one"
    assert by_directory["step", "lm_loss"].values.tolist() == by_file["step", "lm_loss"].values.tolist()


def test_what_was_not_finite_is_no_point(tmp_path: Path) -> None:
    records = [{"kind": "step", "step": step, "lm_loss": value} for step, value in ((1, 5.0), (2, None), (3, 4.0))]
    lines = [*map(json.dumps, records), '{"kind": "step", "step": 4, "lm_loss": 1e999}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert read_runs([tmp_path])[0]["step", "lm_loss"].steps.tolist() == [1, 3]


def test_runs_are_named_by_what_tells_them_apart() -> None:
    paths = [Path("/a/run"), Path("/b/run"), Path("/b/other")]
    assert distinct_names(paths) == ["a/run", "b/run", "b/other"]
    assert distinct_names(paths[1:]) == ["run", "other"]
    assert distinct_names([paths[0], paths[0]]) == ["run", "run"]


def test_averages_do_not_lag_on_a_straight_line() -> None:
    line = np.arange(50, dtype=np.float64)
    assert smooth(line, 5)[:45] == pytest.approx(line[:45])
    assert smooth(line, 0).tolist() == line.tolist()
    assert smooth(np.array([1.0, 3.0, 1.0, 3.0, 1.0]), 1) == pytest.approx([1, 5 / 3, 7 / 3, 5 / 3, 2])


def test_no_average_reaches_across_a_stage(tmp_path: Path) -> None:
    (run,) = read_runs([write_run(tmp_path / "one")])
    parts = run.by_stage(run["step", "tokens_per_second"])
    assert [set(part.values) for part in parts] == [{6000.0}, {3000.0}]


# Drawing -------------------------------------------------------------------------------------------------------------


def test_every_line_is_named_at_its_end_with_its_value(tmp_path: Path) -> None:
    figure = draw(read_runs([write_run(tmp_path / "one")]))
    found = texts(figure)
    assert {"held out 6.200", "order 80.0 %", "words 25.0 %", "1e-3", "3 k"} <= set(found)
    assert any(text.startswith("train 6.") for text in found)
    assert {"1: 128 tokens × 64", "2: 512 tokens × 16"} <= set(found)


def test_panels_have_units_and_share_their_steps(tmp_path: Path) -> None:
    figure = draw(read_runs([write_run(tmp_path / "one")]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "masked-word loss (nats a masked token)",
        "sentence-order loss (nats)",
        "held-out accuracy (%)",
        "learning rate",
        "throughput (tokens a second)",
    ]
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 200.0)}


def test_several_runs_are_told_apart_by_colour_and_name(tmp_path: Path) -> None:
    figure = draw(read_runs([write_run(tmp_path / "one"), write_run(tmp_path / "two", steps=100, stages=1)]))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["one", "two"]
    assert "● 6.200" in texts(figure)
    assert "● 7.200" in texts(figure)
    lines = [line for line in panel(figure, "learning rate").lines if len(np.asarray(line.get_xdata())) > 2]
    assert len({line.get_color() for line in lines}) == 2
    # the second run has one stage: only the first's boundary is marked
    ends = [np.asarray(line.get_xdata()).tolist() for line in panel(figure, "learning rate").lines]
    upright = [set(steps) for steps in ends if len(steps) == 2]
    assert upright == [{100}]


def test_an_objective_that_is_off_leaves_an_empty_panel(tmp_path: Path) -> None:
    figure = draw(read_runs([write_run(tmp_path / "one", sop=False)]))
    assert [text.get_text() for text in panel(figure, "sentence-order").texts] == ["not recorded"]
    assert "words 25.0 %" in texts(figure)


def test_labels_of_equal_ends_do_not_overlap(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in "abcde"]
    figure = draw(read_runs(runs))
    heights = sorted(text.xyann[1] for text in panel(figure, "throughput").texts if isinstance(text, Annotation))
    assert len(heights) == 5
    assert min(np.diff(heights)) >= 10.9


def test_one_point_can_be_drawn(tmp_path: Path) -> None:
    figure = draw(read_runs([write_run(tmp_path / "one", steps=10, stages=1)]))
    assert "train 7.900" in texts(figure)


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_ending_says_what_is_written(tmp_path: Path, ending: str, start: bytes) -> None:
    write_run(tmp_path / "one")
    picture = tmp_path / f"picture{ending}"
    plot([tmp_path / "one"], picture)
    assert picture.read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", picture.name]


def test_the_same_metrics_give_the_same_bytes(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    for name in ("a.svg", "b.svg"):
        plot([tmp_path / "one"], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_name_that_looks_like_a_formula_is_only_a_name(tmp_path: Path) -> None:
    write_run(tmp_path / "$x^$_%")
    plot([tmp_path / "$x^$_%"], tmp_path / "picture.svg")


# Refusing ------------------------------------------------------------------------------------------------------------


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"metrics\.jsonl: No such file"):
        plot([tmp_path], tmp_path / "picture.png")
    with pytest.raises(ConvertError, match="No such file"):
        plot([tmp_path / "nowhere"], tmp_path / "picture.png")


def test_a_run_without_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ConvertError, match="no step is recorded"):
        plot([tmp_path], tmp_path / "picture.png")


@pytest.mark.parametrize(
    "record",
    [
        "not JSON",
        '{"kind": "step", "step": 1, "lm_loss": "low"}',
        '{"kind": "step", "step": 1, "lm_loss": [1]}',
        '{"kind": "step", "step": 1, "learning_rate": true}',
    ],
)
def test_garbled_metrics_are_refused_by_name(tmp_path: Path, record: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(record + "\n")
    with pytest.raises(FormatError, match=r"metrics\.jsonl"):
        plot([tmp_path], tmp_path / "picture.png")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_step_past_every_float_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 1' + "0" * 400 + ', "lm_loss": 1}\n')
    with pytest.raises(FormatError, match="not a record"):
        plot([tmp_path], tmp_path / "picture.png")


def test_a_stage_that_is_no_stage_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "stage", "step": 5, "length": {"a": "\\u001b"}}\n')
    with pytest.raises(FormatError, match="not a record"):
        plot([tmp_path], tmp_path / "picture.png")


def test_other_endings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"must end in \.png, \.svg, \.pdf"):
        plot([tmp_path], tmp_path / "picture.gif")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_installed", lambda package: False)
    with pytest.raises(MissingPackageError, match=r"'\.\[pretrain\]'"):
        plot([write_run(tmp_path)], tmp_path / "picture.png")


def test_a_picture_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    with pytest.raises(ConvertError, match=r"picture\.png: cannot be written: .*metrics\.jsonl: Not a directory"):
        plot([tmp_path / "one"], tmp_path / "one" / "metrics.jsonl" / "picture.png")
    plot([tmp_path / "one"], tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").is_file()


def test_the_command_says_what_it_drew(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    found = CliRunner().invoke(plot_command, [str(tmp_path / "one")])
    assert found.exit_code == 0, found.output
    assert found.output == f"one: 20 records, to step 200\nwrote {tmp_path / 'one' / 'run.png'}\n"
    assert (tmp_path / "one" / "run.png").is_file()
