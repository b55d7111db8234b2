"""What a training run reports: the log line, metrics.jsonl, the progress line, TensorBoard."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from same_runs import TIMES

from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.training.reporting import curves
from roformer_convert.training.reporting.log import EvaluationRecord, RunLog, StageRecord, StepRecord
from roformer_convert.training.reporting.metrics import read_metrics
from roformer_convert.training.reporting.progress import Progress, duration

CARD = (
    "global step 170100, loss: 2.651634932, lm_loss: 2.603405, sop_loss: 0.048229, speed: 1.06 steps/s, "
    "ips: 271.68 seqs/s, learning rate: 6.66465e-05, loss_scaling: 137438.96875, num_good_steps: 356, "
    "num_bad_steps: 0"
)

RECORD = StepRecord(
    step=170100,
    loss=2.651634932,
    lm_loss=2.603405,
    sop_loss=0.048229,
    learning_rate=1e-4 * (500000 - 170100) / 495000,
    steps_per_second=1.06125,
    sequences_per_second=271.68,
    tokens_per_second=139_100.2,
    loss_scaling=137438.96875,
    good_steps=356,
    bad_steps=0,
)
EVALUATION = EvaluationRecord(10, 4.79, 0.237, 0.4, 0.797, 1000, 150, 8)


def quiet(directory: Path, **options: Any) -> RunLog:
    return RunLog(directory, echo=lambda line: None, **options)


def lines(directory: Path) -> list[str]:
    return (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


# The line ------------------------------------------------------------------------------------------------------------


def test_the_line_is_the_model_cards_character_for_character() -> None:
    assert RECORD.line() == CARD


def test_the_line_has_every_field_where_nothing_is_scaled() -> None:
    plain = replace(RECORD, loss_scaling=1.0, good_steps=0)
    assert re.sub(r"[\d.e-]+", "#", plain.line()) == re.sub(r"[\d.e-]+", "#", CARD)


def test_the_line_says_nan_where_there_was_no_loss() -> None:
    line = replace(RECORD, loss=float("nan"), lm_loss=float("nan"), sop_loss=float("nan")).line()
    assert line.startswith("global step 170100, loss: nan, lm_loss: nan, sop_loss: nan, speed: ")


def test_the_line_goes_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path) as log:
        log.step(RECORD)
        log.fill_mask(["paddle: 今天[天||气]很好"], step=170100)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (lines[0], lines[2], err) == (CARD, "  paddle: 今天[天||气]很好", "")


def test_every_line_has_the_time_but_the_reference_runs_and_what_hangs_below_another(tmp_path: Path) -> None:
    lines: list[str] = []
    noon = time.mktime((2026, 11, 27, 12, 0, 0, 0, 0, -1))
    with RunLog(tmp_path, echo=lines.append, now=lambda: noon, plan=[(200_000, 512)]) as log:
        log.say("goes on", "changed: this", "changed: that")
        log.stage(StageRecord(0, 1, 128, 64, 10))
        log.stage(StageRecord(10, 2, 128, 33, 10, 2500))
        log.step(replace(RECORD, peak_share=0.169))
        log.evaluation(EVALUATION)
    stamp = "[2026-11-27 12:00:00] "
    assert lines == [
        f"{stamp}goes on",
        "  changed: this",
        "  changed: that",
        f"{stamp}stage 1: 10 steps of 64 sequences of at most 128 tokens",
        f"{stamp}stage 2: 10 steps of 2,500 tokens, on average 33 sequences of at most 128 tokens",
        CARD,
        f"{stamp}step 170,100 of 200,000 · 85.0 % · 139,100 tokens/s (16.9 % of the peak)",
        f"{stamp}{EVALUATION.line()}",
    ]


# metrics.jsonl -------------------------------------------------------------------------------------------------------


def report(log: RunLog, first: int, last: int) -> None:
    """What a run with two stages of ten steps reports between two steps."""
    for step in range(first, last + 1):
        if step in (1, 11):
            log.stage(StageRecord(step - 1, 1 + step // 11, 128, 64, 10))
        log.step(replace(RECORD, step=step, loss=1 / step, tokens_per_second=first * 7.0 + step))
        if step % 5 == 0:
            log.evaluation(replace(EVALUATION, step=step))
            log.fill_mask([f"paddle: 今天[{step}]很好"], step=step)


def test_every_record_is_a_line_of_json_at_once(tmp_path: Path) -> None:
    log = quiet(tmp_path)
    log.stage(StageRecord(0, 1, 128, 64, 10))
    log.step(RECORD)
    log.evaluation(EVALUATION)
    log.fill_mask(["paddle: 今天[天||气]很好"], step=10)
    found = [json.loads(line) for line in lines(tmp_path)]  # before it is closed
    log.close()
    assert [one.pop("kind") for one in found] == ["stage", "step", "evaluation", "fill_mask"]
    assert found[1] == asdict(RECORD)
    assert found[2] == asdict(EVALUATION)
    assert found[3] == {"step": 10, "lines": ["paddle: 今天[天||气]很好"]}


@pytest.mark.parametrize("saved", [0, 3, 5, 10, 14, 20])
def test_a_resumed_runs_file_equals_an_uninterrupted_ones_but_for_times(tmp_path: Path, saved: int) -> None:
    with quiet(tmp_path / "whole") as log:
        log.rewind(0)
        report(log, 1, 20)
    with quiet(tmp_path / "cut") as log:
        log.rewind(0)
        report(log, 1, 20)
        (tmp_path / "cut" / "metrics.jsonl").open("a").write('{"kind": "step", "st')  # killed inside a line
    with quiet(tmp_path / "cut") as log:
        log.rewind(saved)
        report(log, saved + 1, 20)

    def without_times(directory: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in one.items() if k not in TIMES} for one in read_metrics(directory / "metrics.jsonl")]

    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    assert lines(tmp_path / "cut")[:1] == lines(tmp_path / "whole")[:1]


def test_a_stage_is_reported_once_though_it_is_resumed_inside(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        report(log, 1, 14)
    with quiet(tmp_path) as log:
        log.rewind(12)
        log.stage(StageRecord(10, 2, 128, 64, 10))
    kinds = [(one["kind"], one["step"]) for one in read_metrics(tmp_path / "metrics.jsonl")]
    assert [step for kind, step in kinds if kind == "stage"] == [0, 10]


def test_a_stage_that_is_yet_to_begin_is_reported_as_it_is_now(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        report(log, 1, 11)  # whose second stage begins after step 10, and killed before a checkpoint of it
    with quiet(tmp_path) as log:
        log.rewind(10)
        log.stage(now := StageRecord(12, 2, 64, 32, 5))
    found = [one for one in read_metrics(tmp_path / "metrics.jsonl") if one.pop("kind") == "stage"]
    assert found[1:] == [asdict(now)]


def test_rewinding_is_one_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quiet(tmp_path) as log:
        report(log, 1, 10)
    before = lines(tmp_path)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with quiet(tmp_path) as log, pytest.raises(ConvertError, match=r"metrics\.jsonl: No space left"):
        log.rewind(5)
    assert lines(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_torn_line_is_not_glued_to_the_next_record(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    with quiet(tmp_path) as log:
        log.step(RECORD)
    assert [one["step"] for one in read_metrics(tmp_path / "metrics.jsonl")] == [1, 170100]


def test_a_loss_that_is_not_a_number_is_null(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        log.step(replace(RECORD, loss=float("nan"), gradient_norm=float("inf")))
    record = json.loads(lines(tmp_path)[0], parse_constant=pytest.fail)
    assert record["loss"] is None
    assert record["gradient_norm"] is None


@pytest.mark.parametrize(
    "line", ["loss 2.3", "[1, 2]", '{"kind": "step"}', '{"kind": "step", "step": true}', "[" * 5000, "\x00\xff"]
)
def test_a_line_that_is_no_record_is_named_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n' + line + '\n{"kind": "step", "step": 2}\n')
    with pytest.raises(FormatError, match=r"at byte 28: this line is not a record"):
        read_metrics(path)


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with quiet(tmp_path) as log, pytest.raises(ConvertError, match=r"metrics\.jsonl: Is a directory"):
        log.step(RECORD)


# The progress line ---------------------------------------------------------------------------------------------------


#: Eleven o'clock, in seconds since 1970.
EVENING = time.mktime((2026, 11, 27, 23, 0, 0, 0, 0, -1))


class Terminal(io.StringIO):
    def __init__(self, live: bool = True) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live


def test_time_left_is_reckoned_in_tokens_of_the_stages() -> None:
    now = [0.0]
    progress = Progress([(100, 1000), (100, 4000)], Terminal(), clock=lambda: now[0], now=lambda: EVENING)
    progress.start(0)
    now[0] = 50.0
    progress.move(50)
    # a token takes a millisecond: 50 steps of the first stage and 100 of the second are left, 450 s
    assert progress.text() == "step 50 of 200 · 25.0 % · stage 1 of 2 · 8 min left, until 23:07"


def test_the_end_has_a_date_where_it_is_not_today() -> None:
    now = [0.0]
    progress = Progress([(100, 1000)], Terminal(), clock=lambda: now[0], now=lambda: EVENING)
    progress.start(0)
    now[0] = 3600.0
    progress.move(50)
    assert progress.text().endswith("60 min left, until 2026-11-28 00:00")


def test_what_was_done_before_a_resume_is_no_speed() -> None:
    now = [0.0]
    progress = Progress([(100, 10)], Terminal(), clock=lambda: now[0], now=lambda: EVENING)
    progress.start(90)
    now[0] = 10.0
    progress.move(95)
    assert progress.text() == "step 95 of 100 · 95.0 % · 10 s left, until 23:00"


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    stream = Terminal(live=False)
    progress = Progress([(100, 10)], stream)
    progress.start(0)
    progress.move(1)
    progress.draw()
    progress.clear()
    assert stream.getvalue() == ""


def test_the_progress_line_makes_room_for_a_log_line() -> None:
    stream = Terminal()
    now = [0.0]
    progress = Progress([(100, 10)], stream, clock=lambda: now[0], now=lambda: EVENING)
    progress.start(0)
    now[0] = 1.0
    progress.move(1)
    progress.clear()
    assert stream.getvalue() == "\r\x1b[Kstep 1 of 100 · 1.0 % · 2 min left, until 23:01\r\x1b[K"


@pytest.mark.parametrize(("seconds", "text"), [(4, "4 s"), (600, "10 min"), (12_060, "3 h 21 min"), (1e6, "11.6 days")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# TensorBoard ---------------------------------------------------------------------------------------------------------


def events(directory: Path) -> list[Any]:
    """Every event of every file, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped,import-not-found,unused-ignore]

    found = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event()
            event.ParseFromString(data[at + 12 : at + 12 + length])
            found.append(event)
            at += 16 + length
    return found


def scalars(directory: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(directory)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_tensorboard_gets_every_curve(tmp_path: Path) -> None:
    with quiet(tmp_path, tensorboard=True) as log:
        log.rewind(0)
        log.step(replace(RECORD, lm_accuracy=0.5))
        log.evaluation(EVALUATION)
        log.fill_mask(["paddle: 今天[天||气]很好"], step=10)
    found = scalars(tmp_path / "tensorboard")
    given = {**curves.STEP_CURVES, **curves.EVALUATION_CURVES}
    absent = {"train/sop_accuracy", "train/gradient_norm"}  # None in the record
    assert {tag for tag, _ in found} == set(given) - absent
    for (tag, step), value in found.items():
        record = EVALUATION if tag.startswith("held_out") else replace(RECORD, lm_accuracy=0.5)
        assert step == record.step
        assert value == pytest.approx(getattr(record, given[tag]), rel=1e-6)
    texts = [value for event in events(tmp_path / "tensorboard") for value in event.summary.value if value.tensor.dtype]
    assert "今天[天||气]很好" in texts[0].tensor.string_val[0].decode()


def test_a_loss_that_is_not_a_number_is_no_point_of_a_curve(tmp_path: Path) -> None:
    nan = float("nan")
    with quiet(tmp_path, tensorboard=True) as log:
        log.rewind(0)
        log.step(replace(RECORD, loss=nan, lm_loss=nan, sop_loss=nan))
    found = {tag for tag, _ in scalars(tmp_path / "tensorboard")}
    assert "train/learning_rate" in found
    assert not found & {"train/loss", "train/lm_loss", "train/sop_loss"}


def test_a_resumed_run_tells_tensorboard_which_points_no_longer_hold(tmp_path: Path) -> None:
    with quiet(tmp_path, tensorboard=True) as log:
        log.rewind(0)
        report(log, 1, 8)
    with quiet(tmp_path, tensorboard=True) as log:
        log.rewind(5)
        report(log, 6, 9)
    starts = [event for event in events(tmp_path / "tensorboard") if event.HasField("session_log")]
    assert [event.step for event in starts] == [6]
    assert scalars(tmp_path / "tensorboard")["train/loss", 9] == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("tensorboard", r"TensorBoard needs tensorboardX, which is not installed\n.*\[pretrain\]"),
        ("visualdl", "VisualDL needs"),
    ],
)
def test_curves_without_their_package_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, sentence: str
) -> None:
    monkeypatch.setattr(curves, "is_installed", lambda package: False)
    asked: dict[str, Any] = {option: True}
    with pytest.raises(ConvertError, match=sentence):
        RunLog(tmp_path, **asked)
    assert not list(tmp_path.iterdir())
