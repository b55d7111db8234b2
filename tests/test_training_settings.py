"""Configurations: what is read, what is refused and in which words, and every key as a flag."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from bounded_runs import run_bounded
from click.testing import CliRunner

from roformer_convert import pretrain
from roformer_convert.cmd_pretrain_train import train_command
from roformer_convert.converters.errors import ConvertError
from roformer_convert.setting_flags import given_flags, named_configuration
from roformer_convert.training.settings.reading import SHIPPED, SettingsError, read_settings, settings_from_tree
from roformer_convert.training.settings.tables import TABLES, Stage

STAGE = {"length": 32, "batch_size": 8, "steps": 10, "max_lr": 1e-3}
KEYS = [one.name for kind in (*TABLES.values(), Stage) for one in fields(kind)]


CASES = Path(__file__).resolve().parents[1] / "fixtures" / "cases"


def problems(tree: dict[str, Any], flags: dict[str, Any] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings_from_tree(tree, "some.toml", flags)
    assert str(caught.value).startswith(
        f"some.toml is not a configuration that can be run ({len(caught.value.problems)} problem"
    )
    return caught.value.problems


def test_every_key_is_a_flag_and_no_two_tables_share_one() -> None:
    assert len(set(KEYS)) == len(KEYS)
    flags = {parameter.name for parameter in train_command.params}
    assert flags == {*KEYS, "configuration", "resume"}


def test_a_flag_overrules_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "[run]\nseed = 3\n[model]\nhidden_size = 64\nnum_attention_heads = 4\n"
        "[[stages]]\nlength = 32\nbatch_size = 8\nsteps = 10\nmax_lr = 1e-3\n"
        "[[stages]]\nlength = 64\nbatch_size = 4\nsteps = 10\n"
    )
    line = "--config x --seed 5 --no-sop --corpus a --corpus b=2 --steps 7 --batch-size 6 --batch-size 3 -o there"
    context = train_command.make_context("train", line.split())
    flags = {key: value for key, value in context.params.items() if key not in ("configuration", "resume")}
    settings = read_settings(tmp_path / "c.toml", given_flags(flags))
    assert (settings.run.seed, settings.run.output, settings.data.sop) == (5, "there", False)
    assert settings.data.corpora == ("a", "b=2")
    assert settings.model.hidden_size == 64
    assert [stage.steps for stage in settings.stages] == [7, 7]
    assert [stage.batch_size for stage in settings.stages] == [6, 3]


def test_as_many_values_as_stages_are_wanted() -> None:
    tree = {"stages": [STAGE, STAGE, STAGE]}
    assert problems(tree, {"steps": [1, 2]}) == ("--steps: 2 values for 3 stages",)


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = problems(
        {
            "run": {"outptu": "x", "precision": "fp17", "seed": -1},
            "modle": {},
            "model": {"hidden_dropout_prob": 1.0, "hidden_size": 12.5},
            "data": {"mlm": 1, "corpora": "corpus"},
            "watch": 3,
            "stages": [{"length": 4, "batch_size": True, "max_lr": float("nan")}],
        }
    )
    assert found == (
        "modle: unknown; did you mean model?",
        "run.outptu: unknown; did you mean output?",
        "run.precision = 'fp17': want fp32 or fp16-o1 or fp16-o2 or bf16-o1 or bf16-o2",
        "run.seed = -1: want at least 0",
        "data.mlm = 1: want true or false",
        "data.corpora = 'corpus': want a list of strings",
        "model.hidden_dropout_prob = 1.0: want at least 0 and less than 1",
        "model.hidden_size = 12.5: want a whole number",
        "watch: want a table",
        "stages[0].length = 4: want at least 8",
        "stages[0].batch_size = True: want a whole number",
        "stages[0].max_lr = nan: want a number",
        "stages[0].steps: missing (Steps of the stage.)",
    )


def test_what_cannot_be_together_is_said() -> None:
    found = problems(
        {
            "data": {"mlm": False, "sop": False},
            "model": {"hidden_size": 18, "num_attention_heads": 6, "max_position_embeddings": 16},
            "scaling": {"min_loss_scaling": 4.0, "init_loss_scaling": 2.0},
            "stages": [
                {**STAGE, "max_lr": 1e-3, "min_lr": 1e-2, "warmup_steps": 5, "decay_steps": 5},
                {"length": 8, "batch_size": 2, "steps": 1, "micro_tokens": 7, "warmup_steps": 2},
            ],
        }
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "data.mlm and data.sop are both off",
        "model.num_attention_heads = 6",
        "scaling.min_loss_scaling = 4",
        "stages[0].length = 32",
        "stages[0].min_lr = 0.01",
        "stages[0].decay_steps = 5",
        "stages[1].micro_tokens = 7",
        "stages[1].warmup_steps",
    ]
    assert problems({"stages": [{**STAGE, "max_lr": None}]})[0].startswith("stages[0].max_lr: missing")
    assert problems({})[0].startswith("stages: want at least one")
    for batch, said in (
        ({"batch_size": 0}, "batch_size = 0: want one of batch_size and batch_tokens"),
        ({"batch_tokens": 500}, f"batch_size = {STAGE['batch_size']} and batch_tokens = 500: want one of"),
        ({"batch_size": 0, "batch_tokens": 31}, "batch_tokens = 31: want at least length = 32"),
    ):
        assert problems({"stages": [{**STAGE, **batch}]})[0].startswith(f"stages[0].{said}")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.name)
def test_a_shipped_configuration_is_found_by_its_name_and_can_be_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (path.name, path.stem, f"configs/{path.name}"):
        assert read_settings(Path(name)) == read_settings(path)
    with pytest.raises(ConvertError, match=r"no such configuration\n  Name a TOML file, or one of those shipped: conf"):
        read_settings(Path("configs/none.toml"))


def test_a_path_that_is_not_there_is_not_taken_for_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        tmp_path / "tiny.toml",
        Path("elsewhere/configs/tiny.toml"),
        Path("configs/tiny"),
        Path("../tiny.toml"),
    ):
        with pytest.raises(ConvertError, match=r"tiny(\.toml)?: no such configuration\n  Name a TOML file"):
            read_settings(name)


def test_taking_a_shipped_configuration_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_configuration(Path("configs/tiny.toml")) == SHIPPED / "tiny.toml"
    said = f"configs/tiny.toml: no such file here; taking the shipped configuration, {SHIPPED / 'tiny.toml'}\n"
    assert capsys.readouterr() == ("", said)
    assert named_configuration(Path("tiny")) == SHIPPED / "tiny.toml"
    assert capsys.readouterr() == ("", "")  # that name is no file's
    (tmp_path / "tiny.toml").write_text("")
    assert named_configuration(Path("tiny.toml")) == Path("tiny.toml")
    assert capsys.readouterr() == ("", "")


def test_the_shipped_configurations_are_listed_and_printed() -> None:
    listed = CliRunner().invoke(pretrain.cli, ["configs"])
    assert [line.split()[0] for line in listed.output.splitlines()] == [path.stem for path in sorted(SHIPPED.iterdir())]
    assert "tiny" in listed.output
    assert "  13,000 steps  A small model for two CPU cores\n" in listed.output
    for name in ("tiny", "tiny.toml", "configs/tiny.toml"):
        printed = CliRunner().invoke(pretrain.cli, ["configs", name])
        assert printed.output == (SHIPPED / "tiny.toml").read_text(encoding="utf-8")
    missing = CliRunner().invoke(pretrain.cli, ["configs", "huge"])
    assert str(missing.exception).startswith("huge: no such configuration\n  Name a TOML file, or one of those shipped")


def test_a_file_of_that_name_comes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text("[[stages]]\nlength = 32\nbatch_size = 8\nsteps = 77\nmax_lr = 1e-3\n")
    assert read_settings(Path("tiny.toml")).steps == 77


def test_settings_survive_a_checkpoint() -> None:
    settings = settings_from_tree({"data": {"corpora": ["a", "b=2"]}, "stages": [STAGE, {**STAGE, "max_lr": None}]})
    assert settings_from_tree(settings.as_tree()) == settings
    tokens = settings_from_tree({"stages": [{**STAGE, "batch_size": 0, "batch_tokens": 256}]})
    reckoned = replace(tokens, stages=(replace(tokens.stages[0], batch_size=8),))
    assert settings_from_tree(reckoned.as_tree()) == tokens


@pytest.mark.parametrize("text", ["", "0", "5-", "5-4", "-5", "5 - 6", "5,6", "٥", "x"])
def test_steps_to_skip_are_a_step_or_a_range(text: str) -> None:
    settings = settings_from_tree({"data": {"skip_steps": ["7", "9-11"]}, "stages": [STAGE]})
    assert [step for step in range(1, 13) if settings.skipped(step)] == [7, 9, 10, 11]
    assert settings.skipped(10) == (9, 11)
    assert problems({"data": {"skip_steps": ["7", text]}, "stages": [STAGE]}) == (
        f"data.skip_steps: {text!r}: want a step, such as 513, or a range, such as 510-520",
    )


def test_a_half_exchange_wants_a_half_type() -> None:
    tree: dict[str, Any] = {"run": {"exchange": "half", "precision": "fp16-o1"}, "stages": [STAGE]}
    assert settings_from_tree(tree).run.exchange == "half"
    tree["run"]["precision"] = "fp32"
    assert problems(tree) == ("run.exchange = 'half': want a precision with a half type, or 'float32'",)


def test_not_toml_and_an_error_of_click_end_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[run\n")
    with pytest.raises(ConvertError, match="not TOML"):
        read_settings(tmp_path / "c.toml")
    result = CliRunner().invoke(pretrain.cli, ["train", "--config", "configs/tiny.toml", "--decay", "square"])
    assert result.exit_code == 2
    assert "'square' is not one of" in result.output


HOSTILE = {
    "a bracket in a bracket": ("a = " + "[" * 5000, "nested deeper than 16 levels"),
    "tables in tables": ("a = " + "{b = " * 3000, "nested deeper than 16 levels"),
    "brackets behind a text": ('a = [ """b"""", ' + "[" * 5000, "nested deeper than 16 levels"),
    "brackets behind another": ("a = [ '''b'''', " + "[" * 5000, "nested deeper than 16 levels"),
    "dots": (".".join("a" * 100_000) + " = 1", "a key of more than 16 dots"),
    "dots of a table": ("[" + " . ".join(["'a'"] * 20_000) + "]", "a key of more than 16 dots"),
    "digits": ("[run]\nseed = " + "9" * 5000, "a number of more than 100 digits"),
    "hexadecimal digits": ("[run]\nseed = 0x" + "f" * 200_000, "a number of more than 100 digits"),
    "more than 64 bits": ("[run]\nseed = 9223372036854775808", "want a whole number of 64 bits"),
    "a long text": ("[run]\nseed = '" + "x" * 100_000 + "'", "x'…: want a whole number"),
    "a long key": ("[run]\n" + "x" * 100_000 + " = 1", "x'…: unknown"),
    "many keys": ("\n".join(f"k{number} = 1" for number in range(20_000)), "more"),
    "quotes without an end": ("a = " + '"\\' * 100_000, "not TOML"),
    "texts without an end": ("a = " + '"""\\' * 60_000, "not TOML"),
    "an escape sequence": ('"\\u001b[31m" = 1', r"'\x1b[31m': unknown"),
    "zeros": ("\0" * 1000, "not TOML"),
    "not UTF-8": ("# \udcff", "not UTF-8 text"),
    "a large file": ("#" * (1 << 20), "more than 262,144 bytes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_short_error(tmp_path: Path, kind: str) -> None:
    text, words = HOSTILE[kind]
    (tmp_path / "c.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConvertError) as caught:
        read_settings(tmp_path / "c.toml")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 10_000
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("path", sorted((CASES / "hostile-toml").iterdir()), ids=lambda path: path.stem)
def test_the_shipped_cases_take_no_time_and_no_memory(path: Path) -> None:
    code = "from roformer_convert.training.settings.reading import read_settings\n"
    done = run_bounded("-c", f"{code}read_settings(__import__('pathlib').Path({str(path)!r}))")
    assert done.status == 1
    assert "converters.errors.FormatError: " in done.error or (path.stem == "odd" and "SettingsError: " in done.error)
    assert done.seconds < 1
    assert done.megabytes < 64


def test_what_only_looks_hostile_is_read(tmp_path: Path) -> None:
    odd = "a." * 100 + "[" * 100 + "9" * 200
    text = (SHIPPED / "tiny.toml").read_text().replace('"output"', f"'{odd}'  # {odd}")
    (tmp_path / "c.toml").write_text(text)
    assert read_settings(tmp_path / "c.toml").run.output.startswith("a.a.")
