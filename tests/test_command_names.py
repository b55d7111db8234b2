"""What people type instead of a name, in a wrong place or the wrong way round, and the answer to it."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from random_checkpoints import write_random

from roformer_convert.__main__ import COMMANDS, cli
from roformer_convert.converters.other_names import did_you_mean, usual_direction, usual_name
from roformer_convert.converters.table.mapping import CLASSES, DIALECTS, Dialect
from roformer_convert.converters.tensors.stored import FLOATS
from roformer_convert.pretrain import cli as pretrain


def run(*words: str | Path, program: object = cli) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words])  # type: ignore[arg-type]


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    called = [sys.executable, "-m", "roformer_convert", *map(str, words)]
    return subprocess.run(called, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("typed", "direction"),
    [
        ("pytorch2paddle", "torch2paddle"),
        ("pd2pytorch", "paddle2torch"),
        ("paddle-to-torch", "paddle2torch"),
        ("Paddle2Torch", "paddle2torch"),
        ("tf22torch", "tf2torch"),
        ("tensorflow22torch", "tf2torch"),
        ("tensorflow2torch", "tf2torch"),
        ("torch2tf2", "torch2tf"),
        ("tf12torch", "tf12torch"),
        ("bert4keras2paddle", "tf12paddle"),
        ("hf2paddlenlp", "torch2paddle"),
        ("paddle2mars", "paddle2mars"),
        ("convert", "convert"),
        ("2", "2"),
    ],
)
def test_a_direction_is_known_by_what_people_call_its_ends(typed: str, direction: str) -> None:
    assert usual_direction(typed) == direction


def test_every_direction_is_its_own_usual_name_and_a_command() -> None:
    for pair in permutations(DIALECTS, 2):
        name = "2".join(pair)
        assert usual_direction(name) == name
        assert name in COMMANDS
        assert run(name, "--help").exit_code == 0
    shown = run("--help").output
    assert "tf2torch" in shown
    assert "tf12torch" not in shown


@pytest.mark.parametrize(
    ("typed", "names", "name"),
    [
        ("fp16", FLOATS, "float16"),
        ("BF16", FLOATS, "bfloat16"),
        ("double", FLOATS, "float64"),
        ("pytorch", DIALECTS, "torch"),
        ("TensorFlow", DIALECTS, "tf"),
        ("RoFormerForMaskedLM", CLASSES, "masked-lm"),
        ("TFRoFormerForMultipleChoice", CLASSES, "multiple-choice"),
        ("RoFormerModel", CLASSES, "base"),
        ("pytorch", FLOATS, "pytorch"),
    ],
)
def test_a_name_is_known_by_what_people_call_it(typed: str, names: tuple[str, ...], name: str) -> None:
    assert usual_name(typed, names) == name


def test_the_other_names_reach_the_commands(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    out = run("convert", tmp_path / "ckpt", "--to", "pytorch", "--from", "PaddleNLP", "--dtype", "fp16").output
    assert f"{tmp_path}/ckpt-torch (torch, safetensors)" in out
    assert "cast to float16" in out
    done = run("pytorch2paddle", tmp_path / "ckpt-torch")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "ckpt-torch-paddle").is_dir()
    done = run("parity", tmp_path / "ckpt", "--class", "RoFormerForPreTraining", "--conversions", "only")
    assert done.exit_code == 0, done.output


def test_a_direction_begins_a_roformer_with_a_bert_where_it_is_said(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "fixtures/cases/10-bert-to-roformer"
    done = run("torch2paddle", source, "--from", "bert", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "it must be trained before it is of use" in done.output
    other = run("paddle2torch", source, "--from", "bert", "-o", tmp_path / "no")
    assert f"torch2paddle {source} --from bert" in str(other.exception)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["inspekt", "x"], "No such command 'inspekt'. Did you mean 'inspect'?"),
        (["padle2torch", "x"], "Did you mean 'paddle2torch'?"),
        (["paddle2paddle", "x"], "in the same dialect: roformer-convert convert SOURCE --to paddle"),
        (["train"], "It is one of the other program's: roformer-pretrain train"),
        (["help"], "Did you mean '--help'?"),
        (["version"], "Did you mean '--version'?"),
        (["torch2onnx", "x"], "That is an export: roformer-convert export DIR --to onnx"),
        (["convert", "x", "--to", "saved_model"], "That is an export: roformer-convert export DIR --to savedmodel"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["convert", "x", "--to", "trch"], "Did you mean 'torch'?"),
        (["inspect", "x", "--class", "masked"], "Did you mean 'masked-lm'?"),
        (["parity", "x", "--class", "masked"], "Did you mean 'masked-lm'?"),
        (["torch2paddle", "x", "--from", "brt"], "'brt' is not 'bert'. Did you mean 'bert'?"),
        (["paddle2torch", "x", "--dtype", "flaot16"], "Did you mean 'float16'?"),
        (["parity", "x", "--frameworks", "paddle,pytroch"], "Did you mean 'torch'?"),
        (["paddle2torch", "x", "my out"], "('my out'). The output is named with -o: -o 'my out'"),
        (["convert", "x", "y", "--to", "tf"], "(y). The output is named with -o: -o y"),
        (["export", "x", "y", "--to", "onnx"], "(y). The output is named with -o: -o y"),
        (["inspect", "x", "y"], "(y). Two checkpoints are compared by `roformer-convert diff`."),
        (["paddle2torch", "-o", "out", "x", "y"], "Got unexpected extra argument (y)."),
        (["paddle2torch", "x", "y", "z"], "unexpected extra arguments (y z)."),
    ],
)
def test_what_is_no_name_is_answered_with_what_is_meant(words: list[str], answer: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert done.output.rstrip().endswith(answer)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("convert", "[pdparams|safetensors|bin|h5|ckpt] default: pdparams for paddle, safetensors for torch]"),
        ("paddle2torch", "[safetensors|bin] default: safetensors]"),
        ("torch2tf", "[h5]"),
    ],
)
def test_a_directions_help_offers_the_containers_that_its_target_reads(command: str, says: str) -> None:
    words = run(command, "--help").output.partition("--container ")[2].partition("--max-shard-size")[0].split()
    assert " ".join(words).replace("Format of the weight files. [", "").startswith(says)


def test_a_path_in_the_place_of_a_command_is_said_to_be_one(tmp_path: Path) -> None:
    write_random(tmp_path / "my ckpt", "paddle")
    done = run(tmp_path / "my ckpt")
    assert done.exit_code == 2
    assert f"For example: roformer-convert inspect '{tmp_path}/my ckpt'" in command(tmp_path / "my ckpt").stderr


def test_the_other_program_knows_its_commands_too() -> None:
    assert "Did you mean 'train'?" in run("trian", program=pretrain).output


def test_nothing_near_is_nothing_said() -> None:
    assert did_you_mean("xyzzy", DIALECTS) == ""
    assert did_you_mean("Padle", DIALECTS) == " Did you mean 'paddle'?"


@pytest.mark.parametrize(
    ("typed", "of", "right"),
    [
        (["torch2tf"], "paddle", "The right direction: roformer-convert paddle2tf {}"),
        (["tf2torch"], "tf1", "The right direction: roformer-convert tf12torch {}"),
        (["torch2paddle"], "paddle", "The other way round: roformer-convert paddle2torch {}"),
        (["convert", "--from", "torch", "--to", "tf"], "paddle", "The right direction: roformer-convert paddle2tf {}"),
    ],
)
def test_the_wrong_direction_is_answered_with_the_right_one(
    tmp_path: Path, typed: list[str], of: Dialect, right: str
) -> None:
    source = tmp_path / "my ckpt"
    write_random(source, of)
    done = command(*typed, source)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].strip() == right.format(f"'{source}'")
    name = right.split("roformer-convert ")[1].split()[0]
    assert run(name, source).exit_code == 0  # the answer works as it stands


@pytest.mark.parametrize("program", [cli, pretrain])
def test_the_summaries_in_help_are_whole(program: object) -> None:
    listed = run("--help", program=program).output.split("Commands:\n")[1]
    assert listed.strip()
    assert "..." not in listed


def test_the_default_output_is_named_in_help() -> None:
    assert "[default: ckpt-tf beside ckpt]" in " ".join(run("paddle2tf", "--help").output.split())
    assert "[default: ckpt-TO beside ckpt]" in " ".join(run("convert", "--help").output.split())
