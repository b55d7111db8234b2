"""The command: what it prints, where, and its exit status."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from peer_folders import PEERS
from random_checkpoints import CONFIG, file_bytes, random_tensors, save, write_random
from terminals import drawn_by

import roformer_convert
from roformer_convert.__main__ import COMMANDS, cli
from roformer_convert.converters import ConvertError, ConvertOptions, convert
from roformer_convert.converters.table.mapping import DIALECTS
from roformer_convert.parity.options import GateOptions

NAMED = ("paddle2torch", "paddle2tf", "torch2paddle", "torch2tf", "tf2torch", "tf2paddle")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=True)


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    called = [sys.executable, "-m", "roformer_convert", *map(str, words)]
    return subprocess.run(called, capture_output=True, text=True, timeout=120)


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_its_purpose() -> None:
    out = run("--help").output
    for name in ("convert", *NAMED, "inspect", "diff"):
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE), name
    assert "roformer-convert paddle2torch ckpt/" in out
    assert run("-h").output == out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert len(result.output.splitlines()) > 8
    assert f"roformer-convert {name} " in result.output


@pytest.mark.parametrize("name", ["convert", *NAMED])
def test_every_direction_has_the_same_options(name: str) -> None:
    out = run(name, "--help").output
    options = set(re.findall(r"--[a-z-]+", out))
    assert {
        "--output",
        "--force",
        "--dtype",
        "--container",
        "--max-shard-size",
        "--config",
        "--dry-run",
        "--no-verify",
        "--fsync",
        "--json",
        "--quiet",
        "--any-vocab",
        "--follow-links",
        "--set",
    } <= options
    assert ({"--to", "--from"} <= options) == (name == "convert")


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.strip() == f"roformer-convert, version {roformer_convert.__version__}"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", roformer_convert.__version__)


def test_the_command_is_installed_under_its_name() -> None:
    (entry,) = entry_points(group="console_scripts", name="roformer-convert")
    assert entry.value == "roformer_convert.__main__:main"


# --- convert --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_a_named_direction_converts_beside_its_source(tmp_path: Path, name: str) -> None:
    source, target = name.split("2")
    write_random(tmp_path / "ckpt", next(dialect for dialect in DIALECTS if dialect == source))
    result = run(name, tmp_path / "ckpt")
    assert result.exit_code == 0, result.output
    assert (tmp_path / f"ckpt-{target}").is_dir()
    for said in (
        f"ckpt ({source}, ",
        f"ckpt-{target} ({target}, ",
        "kernels transposed",
        "read back and equal bit for bit",
    ):
        assert said in result.output


def test_a_named_direction_refuses_another_dialect(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    done = command("paddle2tf", tmp_path / "ckpt")
    assert done.returncode == 2
    assert done.stderr.startswith("paddle2tf: ")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_convert_finds_the_source_dialect_out(tmp_path: Path) -> None:
    for source in DIALECTS:
        write_random(tmp_path / source, source)
        target = "paddle" if source != "paddle" else "tf1"
        assert run("convert", tmp_path / source, "--to", target).exit_code == 0
        assert (tmp_path / f"{source}-{target}").is_dir()


def test_the_options_reach_the_conversion(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / "config.json").rename(tmp_path / "settings.json")
    (tmp_path / "ckpt" / "vocab.txt").write_text("x\n")
    words: list[str | Path] = [
        "convert",
        tmp_path / "ckpt",
        "--to",
        "torch",
        "--from",
        "paddle",
        "-o",
        tmp_path / "out",
        "--force",
    ]
    words += ["--config", tmp_path / "settings.json", "--dtype", "bfloat16", "--container", "bin", "--any-vocab"]
    words += ["--max-shard-size", "2KB", "--fsync", "--no-verify", "--json"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["target"]["container"] == "bin"
    assert len(data["target"]["files"]) > 3
    assert {step["dtype"] for step in data["plan"]} == {"bfloat16"}
    assert not data["verified"]


def test_json_is_all_that_stdout_holds(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    done = command("paddle2torch", tmp_path / "ckpt", "--json")
    data = json.loads(done.stdout)
    assert set(data) == {
        "schema",
        "source",
        "target",
        "model_class",
        "differences",
        "tensors",
        "transposed",
        "cast",
        "computed",
        "bytes",
        "tied_in_source",
        "companions",
        "rewritten",
        "left_out",
        "notes",
        "optimizer",
        "written",
        "verified",
        "seconds",
        "plan",
    }
    for step in data["plan"]:
        assert set(step) == {
            "canonical",
            "source",
            "target",
            "file",
            "shape",
            "dtype",
            "transposed",
            "alias_of",
            "bytes",
        }
    assert done.stderr == ""
    dry = json.loads(command("paddle2torch", tmp_path / "ckpt", "-o", tmp_path / "x", "--json", "--dry-run").stdout)
    assert not dry["written"]
    assert dry["plan"] == data["plan"]


def test_quiet_prints_nothing_but_errors(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    done = command("paddle2torch", tmp_path / "ckpt", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    again = command("paddle2torch", tmp_path / "ckpt", "--quiet")
    assert (again.returncode, again.stdout) == (2, "")
    assert "already exists" in again.stderr


@pytest.mark.parametrize("options", [[], ["--max-shard-size", "4KB"], ["--dtype", "float16"], ["--container", "bin"]])
def test_a_dry_run_prints_every_tensor_and_writes_nothing(tmp_path: Path, options: list[str]) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    before = file_bytes(tmp_path)
    result = run("paddle2torch", tmp_path / "ckpt", "--dry-run", *options)
    assert result.exit_code == 0, result.output
    assert file_bytes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    out = result.output
    for tensor in ("cls.predictions.transform.dense.weight", "roformer.encoder.layer.2.output.LayerNorm.bias"):
        assert tensor in out
    line = next(line for line in out.splitlines() if "layer.0.intermediate.dense.weight" in line)
    for said in ("roformer.encoder.layers.0.linear1.weight", "34 × 24", "transposed"):
        assert said in line
    assert line.split()[-1] == ("1,632" if "float16" in options else "3,264")
    assert "nothing was written" in out
    if "--dtype" in options:
        assert "cast from float32" in out
    if "bin" in options:
        assert "second name of roformer.embeddings.word_embeddings.weight" in out


def test_notes_are_printed(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    (tmp_path / "ckpt" / "notes.md").write_text("x")
    out = run("convert", tmp_path / "ckpt", "--to", "torch").output
    assert "note: the pooler and the sentence-order head are written under BERT's names" in out
    assert "note: not copied: notes.md" in out


def test_no_bar_is_drawn_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    assert command("paddle2torch", tmp_path / "ckpt").stderr == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_bar_in_bytes_is_drawn_on_a_terminal_for_long_work(tmp_path: Path) -> None:

    import numpy as np

    config = replace(CONFIG, vocab_size=1_300_000)  # 73 MB of words
    tensors = random_tensors()
    tensors["embeddings.word.weight"] = np.zeros((1_300_000, 14), np.float32)
    tensors["mlm.bias"] = np.zeros(1_300_000, np.float32)
    save(tmp_path / "ckpt", "paddle", tensors, config)
    for quiet in (False, True):
        drawn = drawn_by("paddle2torch", str(tmp_path / "ckpt"), "--force", *["-q"] * quiet)
        assert (b"100%" in drawn) != quiet
        assert (b"writing and checking" in drawn) != quiet


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("fill-mask", "ckpt", "今天[MASK]很好"), "loading ckpt with torch"),
        (("export", "ckpt", "--to", "onnx", "--no-trial"), "making the export with torch"),
    ],
)
def test_a_terminal_shows_that_a_framework_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], shown: str
) -> None:
    for package in ("torch", "onnxscript"):
        pytest.importorskip(package)
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "tiny", tmp_path / "ckpt")
    monkeypatch.chdir(tmp_path)
    assert drawn_by(*words) == f"\r\x1b[K   0 s  {shown}\r\x1b[K".encode()


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("5GB", 5 * 10**9), ("2GiB", 2 << 30), ("1.5 kb", 1500)]
)
def test_sizes_are_read_as_transformers_reads_them(text: str, size: int) -> None:
    from roformer_convert.converters.amounts import parse_size

    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "many", "-5GB", "5PB", "1e9", "GB", "0.0001B", "5 G B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    from roformer_convert.converters.amounts import parse_size

    with pytest.raises(ConvertError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("words", "size"), [([], 64 << 20), (["--shard-size", "64MB"], 64_000_000), (["--shard-size", "1GiB"], 1 << 30)]
)
def test_a_size_means_one_thing_in_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], size: int
) -> None:
    prepare = pytest.importorskip("roformer_convert.training.corpus.prepare")
    from roformer_convert.pretrain import cli as pretrain

    def told(*_: object, shard_bytes: int, **__: object) -> None:
        raise ConvertError(f"shards of {shard_bytes}")

    monkeypatch.setattr(prepare, "prepare", told)
    command = ["prepare", "text", "--vocab", str(tmp_path / "vocab.txt"), "-o", str(tmp_path / "c"), "-q", *words]
    result = CliRunner().invoke(pretrain, command)
    assert str(result.exception) == f"shards of {size}"


# --- inspect and diff -----------------------------------------------------------------------------------------------


def test_inspect_prints_what_a_directory_is(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle", max_shard_size=4000)
    out = run("inspect", tmp_path / "ckpt").output
    assert out.startswith(f"{tmp_path}/ckpt: RoFormerForPretraining, paddle dialect, pdparams\n")
    for said in (
        "vocab_size 61, embedding_size 14, hidden_size 24",
        "47 tokens",
        "config.json",
        "float32",
        "files, ",
        "cls.predictions.decoder_weight",
        "embeddings, embeddings_project, encoder layers, pooler, masked-LM head, sentence-order head",
        "yes: every tensor has a row in the table",
    ):
        assert said in out
    data = json.loads(run("inspect", tmp_path / "ckpt", "--json").output)
    assert data["dialect"] == "paddle"
    assert data["problems"] == []


def test_inspect_tells_what_does_not_fit_and_exits_with_0(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    settings = json.loads((tmp_path / "ckpt" / "config.json").read_text())
    (tmp_path / "ckpt" / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 4}))
    result = run("inspect", tmp_path / "ckpt")
    assert result.exit_code == 0
    assert "the tensors show 3 layers" in result.output
    assert "no: 1 problem" in result.output


def test_diff_exits_with_0_where_all_bits_are_equal(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle", any_bits=True)
    run("paddle2torch", tmp_path / "ckpt")
    result = run("diff", tmp_path / "ckpt", tmp_path / "ckpt-torch")
    assert result.exit_code == 0
    assert "are equal" in result.output
    data = json.loads(run("diff", tmp_path / "ckpt", tmp_path / "ckpt-torch", "--json").output)
    assert data["equal"]
    assert {tensor["verdict"] for tensor in data["tensors"]} == {"equal"}


def test_diff_exits_with_1_and_says_where(tmp_path: Path) -> None:
    tensors = random_tensors()
    save(tmp_path / "one", "paddle", tensors, CONFIG)
    tensors["sop.weight"] = tensors["sop.weight"].copy()
    tensors["sop.weight"][1, 20] += 1.0
    save(tmp_path / "two", "tf1", tensors, CONFIG)
    result = run("diff", tmp_path / "one", tmp_path / "two")
    assert result.exit_code == 1
    line = next(line for line in result.output.splitlines() if line.startswith("sop.weight"))
    assert re.search(r"differs +1 +\[1, 20\] +-?\d", line), line
    assert f"differ: 1 of {len(tensors)} tensors" in result.output
    quiet = run("diff", tmp_path / "one", tmp_path / "two", "-q")
    assert (quiet.exit_code, quiet.output) == (1, "")
    data = json.loads(run("diff", tmp_path / "one", tmp_path / "two", "--json").output)
    assert not data["equal"]
    assert len(data["tensors"]) == len(tensors)


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        ((0.1, 0.3), np.float32, "0.1 / 0.3"),
        ((0.1, 0.3), np.float64, "0.1 / 0.3"),
        ((0.25, 1e300), np.float64, "0.25 / 1e+300"),
        ((1 / 3, 0.5), np.float32, "0.33333334 / 0.5"),
        ((1 / 3, 0.5), np.float64, "0.3333333333333333 / 0.5"),
        ((math.nan, 0.5), np.float32, "nan / 0.5"),
    ],
)
def test_diff_shows_as_many_digits_as_a_type_has(
    tmp_path: Path, values: tuple[float, float], dtype: Any, shown: str
) -> None:
    for name, value in zip(("a", "b"), values, strict=True):
        tensors = {key: array.astype(dtype) for key, array in random_tensors().items()}
        tensors["mlm.bias"][5] = value
        save(tmp_path / name, "torch", tensors, CONFIG)
    out = run("diff", tmp_path / "a", tmp_path / "b").output
    assert re.search(rf"\[5\] +{re.escape(shown)}( |$)", out, re.M), out


def test_diff_notes_another_vocabulary(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_random(tmp_path / name, "paddle")
        (tmp_path / name / "vocab.txt").write_text("".join(f"{number}\n" for number in range(61)))
    assert "vocab.txt" not in run("diff", tmp_path / "one", tmp_path / "two").output
    (tmp_path / "two" / "vocab.txt").write_text("".join(f"{number}\n" for number in range(1, 62)))
    result = run("diff", tmp_path / "one", tmp_path / "two")
    assert result.exit_code == 0
    assert "note: the two vocab.txt differ" in result.output
    assert len(json.loads(run("diff", tmp_path / "one", tmp_path / "two", "--json").output)["notes"]) == 1


@pytest.mark.parametrize("which", ["first", "second"])
def test_diff_takes_the_options_that_its_errors_name(tmp_path: Path, which: str) -> None:
    write_random(tmp_path / "whole", "paddle")
    write_random(tmp_path / "bare", "paddle")
    config = (tmp_path / "bare" / "config.json").rename(tmp_path / "config.json")
    pair = [tmp_path / "whole", tmp_path / "bare"][:: -1 if which == "first" else 1]
    done = command("diff", *pair)
    assert done.returncode == 2
    assert f"with --config-{which} FILE" in done.stderr
    assert run("diff", *pair, f"--config-{which}", config).exit_code == 0
    write_random(tmp_path / "other", "tf", seed=1)  # another model's
    (tmp_path / "other" / "tf_model.h5").rename(tmp_path / "whole" / "tf_model.h5")
    pair = [tmp_path / "whole", tmp_path / "other"][:: 1 if which == "first" else -1]
    write_random(tmp_path / "other", "tf1", force=True)
    done = command("diff", *pair)
    assert done.returncode == 2
    assert f"or its dialect with --from-{which} paddle or tf." in done.stderr
    assert run("diff", *pair, f"--from-{which}", "paddle").exit_code == 0


@pytest.mark.parametrize("which", ["first", "second"])
def test_diff_takes_class_and_fields_of_each_side(tmp_path: Path, which: str) -> None:
    """Paddle's heads are called alike: without ``architectures`` nobody knows which of them a file has."""
    whole = PEERS / "pd-TokenClassification_default_pd"
    shutil.copytree(whole, tmp_path / "bare")
    settings = json.loads((whole / "config.json").read_text())
    del settings["architectures"]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(settings))
    pair = [whole, tmp_path / "bare"][:: -1 if which == "first" else 1]
    done = command("diff", *pair)
    assert done.returncode == 2
    assert f"--class-{which} " in done.stderr
    given: list[str | Path] = ["diff", *pair, f"--class-{which}", "token-classification"]
    assert run(*given).exit_code == 0
    result = run(*given, f"--set-{which}", "attention=causal")
    assert result.exit_code == 1
    values = ["'causal'", "'bidirectional'"][:: 1 if which == "first" else -1]
    assert f"configuration: attention is {' / '.join(values)}" in result.output
    result = run(*given, f"--set-{which}", "attention")
    assert isinstance(result.exception, ConvertError)
    assert f"--set-{which} 'attention': want FIELD=VALUE" in str(result.exception)


def test_diff_of_what_cannot_be_read_exits_with_2(tmp_path: Path) -> None:
    write_random(tmp_path / "one", "paddle")
    done = command("diff", tmp_path / "one", tmp_path / "absent")
    assert done.returncode == 2
    assert "no such file or directory" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_report_that_cannot_be_printed_does_not_hide_the_result(tmp_path: Path, more: list[str]) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    words = [sys.executable, "-m", "roformer_convert", "paddle2torch", str(tmp_path / "ckpt"), *more]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        words += ["--dry-run", "-o", str(tmp_path / "planned")]
        planned = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    said = f"{tmp_path}/ckpt-torch is written and whole; only its report could not be printed: No space left on device"
    assert done.stderr == f"paddle2torch: {said}\n"
    assert done.returncode == 2
    assert run("diff", tmp_path / "ckpt", tmp_path / "ckpt-torch").exit_code == 0
    assert (planned.stderr, planned.returncode) == ("paddle2torch: No space left on device\n", 2)


def test_one_kernel_is_not_several() -> None:
    from roformer_convert.cmd_convert import _counted

    assert [_counted(number, "kernel") for number in (0, 1, 2)] == ["0 kernels", "1 kernel", "2 kernels"]


def test_a_reader_that_leaves_early_ends_the_command_without_a_word(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    words = [sys.executable, "-m", "roformer_convert", "paddle2torch", str(tmp_path / "ckpt"), "--dry-run"]
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.parametrize("status", [0, 1, 3])
@pytest.mark.parametrize("command", [["paddle2torch"], ["convert", "--to", "torch"]])
def test_convert_with_parity_writes_what_is_proven_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], status: int
) -> None:
    from roformer_convert.parity import command_line

    write_random(tmp_path / "ckpt", "paddle")
    source, target = tmp_path / "ckpt", tmp_path / "ckpt-torch"
    asked: list[Any] = []

    def gate(directories: list[Path], options: GateOptions, *, called: list[Path], only_failure: bool) -> int:
        assert (directories[-1] / "config.json").exists()
        assert only_failure
        asked.append((directories[:-1], options, called))
        return status

    monkeypatch.setattr(command_line, "require_proof", lambda *about: asked.append(about))
    monkeypatch.setattr(command_line, "run_gate", gate)
    words = [*command, str(source), "--parity", "--with", "transformers", "--with", "onnx"]
    result = run(*words)
    official = ("transformers", "onnx")
    options = GateOptions(official=official)
    assert asked == [(source, ("paddle", "torch"), official), ([source], options, [source, target])]
    if status == 0:
        assert result.exit_code == 0, result.output
        assert run("diff", source, target).exit_code == 0
        before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
        status = 1
        assert run(*words, "--force").exit_code != 0
        assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    else:
        assert isinstance(result.exception, ConvertError)
        assert result.exception.exit_status == status
        assert str(result.exception).startswith(f"{target}: nothing is written, for the gate ")
        assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    run(*words, "--json", "--force")
    assert asked[-1] == ([source], replace(options, as_json=True, quiet=True), [source, target])


def test_what_says_nothing_by_itself_is_proven_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roformer_convert.parity import command_line

    write_random(tmp_path / "ckpt", "paddle")
    asked: list[Any] = []
    monkeypatch.setattr(command_line, "require_proof", lambda *about: asked.append(about))

    def gate(directories: list[Path], options: GateOptions, *, called: list[Path], only_failure: bool) -> int:
        asked.append(called)
        return 0

    monkeypatch.setattr(command_line, "run_gate", gate)
    done = run("paddle2torch", tmp_path / "ckpt", "--set", "layer_norm_eps=1e-5", "--parity")
    assert done.exit_code == 0, done.output
    assert asked == [(tmp_path / "ckpt", None, ()), [tmp_path / "ckpt-torch"]]


def test_who_takes_part_is_named_where_something_is_proven(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["paddle2torch", str(tmp_path / "ckpt"), "--with", "transformers"])
    assert result.exit_code == 2
    assert "--with names who takes part in --parity: add --parity" in result.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["convert", "nowhere", "--to", "torch"], ["convert", "nowhere", "--to", "mars"]])
def test_an_error_that_cannot_be_printed_has_its_status(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "roformer_convert", *words], stderr=full, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["convert", "tf2torch", "inspect"])
def test_a_field_is_set_on_the_command_line(tmp_path: Path, name: str) -> None:
    write_random(tmp_path / "ckpt", "tf")
    words = {"convert": ("--to", "torch"), "tf2torch": (), "inspect": ("--json",)}[name]
    given = ("--set", "pooler_activation=linear", "--set", "layer_norm_eps=1e-5")
    result = run(name, tmp_path / "ckpt", *words, *given)
    assert result.exit_code == 0, result.output
    assert "pooler_activation = linear, as it was set" in result.output
    if name == "inspect":
        there = json.loads(result.output)["config"]
    else:
        there = json.loads((tmp_path / "ckpt-torch" / "config.json").read_text())
    assert (there["pooler_activation"], there["layer_norm_eps"]) == ("linear", 1e-5)
    for wrong in ("pooler=linear", "pooler_activation=lienar", "pooler_activation"):
        result = run(name, tmp_path / "ckpt", *words, "--set", wrong)
        assert isinstance(result.exception, ConvertError)
        assert result.exception.exit_status == 2


# --- parity -----------------------------------------------------------------------------------------------------------


def test_the_program_and_the_module_are_one_command_line() -> None:
    from roformer_convert.cmd_parity import COMMANDS
    from roformer_convert.parity.command_line import parity_command

    assert COMMANDS["parity"] is parity_command
    words = [sys.executable, "-m", "roformer_convert.parity", "nowhere", "--conversions", "only"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("parity: nowhere: no such file or directory\n")


def test_parity_takes_a_checkpoint_through_every_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random(tmp_path / "ckpt", "tf1", any_bits=True)
    done = run("parity", tmp_path / "ckpt", "--conversions", "only")
    assert done.exit_code == 0, done.output
    assert done.output.endswith("12 directions, every tensor equal bit for bit\n\n")
    assert done.output.count("every bit equal") == 12
    # one of the twelve loses something, and the status says so

    def lossy(source: Path, target: Path, *, to: Any, options: ConvertOptions) -> Any:
        if target.name == "tf2tf1":
            options = replace(options, dtype="float16")
        return convert(source, target, to=to, options=options)

    write_random(tmp_path / "fine", "tf1")
    monkeypatch.setattr("roformer_convert.parity.participants.conversions.convert", lossy)
    done = run("parity", tmp_path / "fine", "--conversions", "only")
    assert done.exit_code == 1
    assert "1 of 12 directions changed something" in done.output
    assert done.output.count("DIFFER") == 1
