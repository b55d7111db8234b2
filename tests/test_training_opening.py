"""What a run says of itself: what runs, how it goes on and ends, and the share of a device's peak."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_training
from click.testing import CliRunner

from roformer_convert import __version__, pretrain
from roformer_convert.__main__ import cli
from roformer_convert.converters import ConvertError
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.training.run import loop as loop_module
from roformer_convert.training.run import opening as opening_module
from roformer_convert.training.run.feed import Feed
from roformer_convert.training.run.loop import train
from roformer_convert.training.run.opening import opening, peak
from roformer_convert.training.run.run_directory import LOCK, locked
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step.estimate import flop_per_token, peak_flops
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.trainer import Trainer

STAMP = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The log's lines without their times."""
    return [STAMP.sub("", line) for line in capsys.readouterr().out.splitlines()]


def test_the_log_opens_with_what_runs_and_ends_with_the_result_and_the_command_that_converts_it(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(tiny_training.settings(corpus, run, steps=4))
    lines = said(capsys)
    assert lines[0] == f"roformer-pretrain {__version__}, Paddle {paddle.version.full_version}, into {run}"
    parameters = 118 * 16 + 2 * 16 + 32 + 2 * (4 * (16 * 16 + 16) + 2 * 16 * 24 + 24 + 16 + 4 * 16)
    parameters += 16 * 16 + 16 + 16 * 16 + 16 + 32 + 118 + 2 * 16 + 2
    assert lines[1] == f"model    {parameters:,} parameters: 2 layers of 16, a vocabulary of 118"
    assert re.fullmatch(r"device   .+, fp32", lines[2])
    data = Feed(tiny_training.settings(corpus, run), open_sources([str(corpus)])).stage(0)
    assert lines[3] == f"corpus   {corpus} (weight 1): {sum(data.tokens):,} tokens an epoch"
    assert lines[4] == f"steps    4 in one stage; an epoch is {data.steps_per_epoch}"
    assert lines[5] == "starts from random weights"
    assert lines[-2] == f"saved {run / 'step-000004'}"
    assert lines[-1].startswith(f"done: the model is in {run / 'step-000004'}; convert it with: roformer-convert ")
    command = shlex.split(lines[-1].partition("convert it with: ")[2])
    assert CliRunner().invoke(cli, [*command[1:], "-o", str(tmp_path / "torch")]).exit_code == 0
    assert (tmp_path / "torch" / "config.json").is_file()


def test_a_finished_run_that_is_resumed_says_so_and_ends_well(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny_training.tree(corpus, tmp_path / "run", steps=4)
    train(tiny_training.settings(corpus, tmp_path / "run", steps=4))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "step-000004").iterdir()}
    command = ["train", "--config", str(tiny_training.write_toml(tmp_path / "run.toml", tree)), "--resume"]
    result = CliRunner().invoke(pretrain.cli, command)
    assert result.exit_code == 0
    lines = [STAMP.sub("", line) for line in result.output.splitlines()]
    assert lines[-3:] == [
        f"resumes from {tmp_path / 'run' / 'step-000004'}",
        "nothing is left to do: all 4 steps are taken; for more, raise --steps",
        f"done: the model is in {tmp_path / 'run' / 'step-000004'}; "
        f"convert it with: roformer-convert paddle2torch {tmp_path / 'run' / 'step-000004'}",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_init_left_out_is_said_below_where_the_run_begins(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_training.settings(corpus, tmp_path / "first", steps=2))
    began = tmp_path / "first" / "step-000002"
    (began / "vocab.txt").unlink()
    capsys.readouterr()
    train(tiny_training.settings(corpus, tmp_path / "second", steps=2, init=str(began)))
    lines = said(capsys)
    place = lines.index(f"starts from {began}")
    assert lines[place + 1].startswith("  it has no vocab.txt")


def test_devices_ranks_kernels_stages_and_corpora_are_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda device: f"Tesla V100 of {device}")
    stages = [{"steps": 2}, {"steps": 3, "length": 48, "batch_size": 4}]
    settings = tiny_training.settings(corpus, tmp_path, stages)
    sources = open_sources([f"{corpus}=2", str(corpus)])
    trainer = Trainer(settings, sources, Ranks())
    trainer.step = 2
    trainer.ranks.count = 4
    lines = opening(trainer, Feed(settings, sources), "gpu:0", ["fused attention: FlashAttention"])
    assert lines[2] == "device   4 × Tesla V100 of gpu:0, fp32, gradients exchanged in float32"
    assert lines[3] == "kernels  fused attention: FlashAttention"
    data = Feed(settings, sources).stage(1)
    first, second = data.tokens
    assert lines[4] == (
        f"corpus   {corpus} (weight 2): {first:,} tokens, {corpus} (weight 1): {second:,} tokens an epoch"
    )
    assert lines[5] == f"steps    5 in 2 stages; an epoch is {data.steps_per_epoch}"


@pytest.mark.parametrize(
    ("device", "precision", "flops"),
    [
        ("Tesla V100-SXM2-32GB", "fp16-o2", 125e12),
        ("Tesla V100-PCIE-16GB", "fp32", 15.7e12),
        ("NVIDIA A100-SXM4-80GB", "bf16-o1", 312e12),
        ("NVIDIA RTX A1000", "fp16-o1", None),
        ("AMD EPYC 7B13", "fp32", None),
    ],
)
def test_a_devices_peak_is_known_by_its_name(device: str, precision: str, flops: float | None) -> None:
    assert peak_flops(device, precision) == flops


def test_the_peak_is_that_of_all_devices_and_a_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module, "device_name", lambda device: "Tesla V100-SXM2-16GB")
    assert peak("gpu:1", "fp16-o2", 4) == 4 * 125e12
    assert peak("cpu", "fp32", 4) is None


def test_the_share_of_the_peak_is_what_the_tokens_cost(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop_module, "peak", lambda *given: 1e9)
    settings = tiny_training.settings(corpus, tmp_path, steps=5)
    train(settings)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    record = next(each for each in records if each["kind"] == "step")
    config = Trainer(settings, open_sources([str(corpus)]), Ranks()).model.config
    share = record["tokens_per_second"] * flop_per_token(config, 32) / 1e9
    assert record["peak_share"] == pytest.approx(share)
    assert f"{record['tokens_per_second']:,.0f} tokens/s ({100 * share:.1f} % of the peak)" in capsys.readouterr().out


def test_a_run_that_cannot_begin_leaves_no_directory(tmp_path: Path) -> None:
    def begin(run: Path) -> None:
        with locked(run):
            assert (run / LOCK).exists()
            raise ConvertError("no corpus")

    for _ in range(2):
        with pytest.raises(ConvertError, match="no corpus"):
            begin(tmp_path / "a" / "run")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConvertError, match="no corpus"):
        begin(tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_a_run_that_fails_later_keeps_what_it_wrote(tmp_path: Path) -> None:
    def begin() -> None:
        with locked(tmp_path / "run"):
            (tmp_path / "run" / "metrics.jsonl").write_text("{}")
            raise ConvertError("no room")

    with pytest.raises(ConvertError, match="no room"):
        begin()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK, "metrics.jsonl"]
