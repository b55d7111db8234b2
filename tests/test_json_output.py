"""What every command prints for ``--json``: objects that say which version of the keys they have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from roformer_convert.__main__ import cli as convert_cli
from roformer_convert.converters.conversion import convert
from roformer_convert.converters.json_output import SCHEMA, render_json
from roformer_convert.converters.table.mapping import DIALECTS
from roformer_convert.pretrain import cli as pretrain_cli

RANDOM = Path(__file__).resolve().parents[1] / "fixtures" / "random"


def commands_with_json() -> dict[str, click.Command]:
    """Every command of both programs that has a ``--json``, by its name."""
    found = {}
    for group in (convert_cli, pretrain_cli):
        assert isinstance(group, click.Group)
        with click.Context(group) as context:
            for name in group.list_commands(context):
                command = group.get_command(context, name)
                assert command is not None
                if any("--json" in each.opts for each in command.params):
                    found[name] = command
    return found


COMMANDS = commands_with_json()


def direction(name: str) -> Callable[[Path, pytest.MonkeyPatch], list[object]]:
    def arguments(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        dialect = next(known for known in reversed(DIALECTS) if name.startswith(f"{known}2"))
        if dialect == "paddle":
            shutil.copytree(RANDOM, here / dialect)
        else:
            convert(RANDOM, here / dialect, to=dialect)
        return [here / dialect, "--json", "--dry-run"]

    return arguments


def export(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Stand in for the framework, whose work is not what is looked at."""
    from roformer_convert.models.export import exporting as module

    def make(kind: str, exported: object, load: object, into: Path, *options: object) -> dict[str, Any]:
        (into / "graph").write_bytes(b"")
        return {"file": "graph", "version": "1", "trial": None, "notes": []}

    monkeypatch.setattr(module, "_make", make)
    monkeypatch.setattr(module, "require_packages", lambda what, packages: None)
    return [RANDOM, "-o", here / "out", "--to", "onnx", "--json"]


def fill_mask(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    pytest.importorskip("torch")
    first = (RANDOM / "vocab.txt").read_text(encoding="utf-8").split("\n")[50]
    return [RANDOM, f"{first}[MASK]", f"[MASK]{first}", "--framework", "torch", "--json"]


def predict(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    pytest.importorskip("torch")
    return [RANDOM, "一", "二\t三", "--vector", "--framework", "torch", "--json"]


def parity(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    pytest.importorskip("torch")
    (here / "sentences.txt").write_text("a\n", encoding="utf-8")
    words = ["--frameworks", "torch", "--no-gradients", "-q", "--sentences", here / "sentences.txt"]
    return [RANDOM, *words, "--json-file", here / "result.json"]


def text(here: Path) -> Path:
    (here / "text.txt").write_text("今天天气很好。我们去公园。\n\n明天会下雨。带上伞吧。\n", encoding="utf-8")
    return here / "text.txt"


ARGUMENTS: dict[str, Callable[[Path, pytest.MonkeyPatch], list[object]]] = {
    "convert": lambda here, _: [RANDOM, "-o", here / "out", "--to", "torch", "--json"],
    **{name: direction(name) for name in COMMANDS if "2" in name},
    "inspect": lambda here, _: [RANDOM, "--json"],
    "diff": lambda here, _: [RANDOM, RANDOM, "--json"],
    "fill-mask": fill_mask,
    "predict": predict,
    "export": export,
    "parity": parity,
    "doctor": lambda here, _: ["--config", "tiny", "--gpu", "V100-16GB", "--json"],
    "vocab": lambda here, _: [text(here), "-o", here / "out.txt", "--json"],
    "prepare": lambda here, _: [
        text(here), "-o", here / "out", "--vocab", RANDOM / "vocab.txt", "--segmenter", "none", "--json"
    ],
}  # fmt: skip


def test_every_command_with_json_is_looked_at() -> None:
    assert COMMANDS.keys() == ARGUMENTS.keys()
    assert "convert" in COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_json_output_says_its_schema_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(word) for word in ARGUMENTS[name](tmp_path, monkeypatch)]
    done = CliRunner().invoke(COMMANDS[name], words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = tmp_path / "result.json"
    out = written.read_text(encoding="utf-8") if written.exists() else done.stdout
    by_line = name in ("fill-mask", "predict")
    objects = [json.loads(line) for line in out.splitlines()] if by_line else [json.loads(out)]
    assert len(objects) == (2 if by_line else 1)
    for one in objects:
        assert next(iter(one.items())) == ("schema", 1)
        assert len(one) > 1


def test_the_schema_is_not_overwritten() -> None:
    assert SCHEMA == 1
    assert json.loads(render_json({"名": 1})) == {"schema": 1, "名": 1}
    with pytest.raises(AssertionError):
        render_json({"schema": 2})
