"""A command without its packages: one message that names all of them, status 2, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from random_checkpoints import write_random

TINY = str(Path(__file__).resolve().parent.parent / "training" / "configs" / "tiny.toml")
_PROGRAM = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # Python finds no such package
module = sys.argv[2]
sys.argv = [module, *sys.argv[3:]]
import importlib
importlib.import_module(module).main()
"""
ALL = (
    "paddle",
    "torch",
    "tensorflow",
    "tokenizers",
    "rjieba",
    "tensorboardX",
    "matplotlib",
    "zstandard",
    "ray",
    "onnx",
)


def without(missing: tuple[str, ...], *words: str | Path, pretrain: bool = False) -> subprocess.CompletedProcess[str]:
    module = "roformer_convert.pretrain" if pretrain else "roformer_convert.__main__"
    called = [sys.executable, "-c", _PROGRAM, ",".join(missing), module, *map(str, words)]
    return subprocess.run(called, capture_output=True, text=True, timeout=120)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint whose vocabulary is one of words."""
    write_random(tmp_path / "ckpt", "paddle")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows = special + [chr(0x4E00 + number) for number in range(61 - len(special))]
    (tmp_path / "ckpt" / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "ckpt" / "tokenizer_config.json").write_text('{"use_jieba": true}')
    return tmp_path / "ckpt"


def require_one_message(done: subprocess.CompletedProcess[str], first: str, extras: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    said, step = done.stderr.rstrip("\n").split("\n")
    assert said == first
    assert step == f"  Install it with: pip install '.[{extras}]' (in a checkout of roformer-convert)"


@pytest.mark.parametrize("command", ["fill-mask", "predict"])
def test_answering_texts_names_all_that_it_takes(checkpoint: Path, command: str) -> None:
    require_one_message(
        without(ALL, command, checkpoint, "x"),
        f"{command}: {command} needs torch, tokenizers and rjieba, which are not installed",
        "torch,jieba",
    )
    require_one_message(
        without(ALL, command, checkpoint, "x", "--framework", "all"),
        f"{command}: {command} --framework all needs paddle, torch, tensorflow, tokenizers and rjieba, which are not "
        "installed",
        "paddle,torch,tensorflow,jieba",
    )
    require_one_message(
        without(("rjieba",), command, checkpoint, "x", "--framework", "torch"),
        f"{command}: {command} --framework torch needs rjieba, which is not installed",
        "jieba",
    )


def test_the_gate_names_all_that_it_takes(checkpoint: Path) -> None:
    three = "paddle, torch, tensorflow, tokenizers and rjieba, which are not installed"
    extras = "paddle,torch,tensorflow,jieba"
    require_one_message(
        without(ALL, "parity", checkpoint), f"parity: parity --frameworks paddle,torch,tf needs {three}", extras
    )
    require_one_message(
        without(("tensorflow", "rjieba"), "parity", checkpoint, "--frameworks", "torch,tf"),
        "parity: parity --frameworks torch,tf needs tensorflow and rjieba, which are not installed",
        "tensorflow,jieba",
    )
    partly = without(("tensorflow",), "parity", checkpoint).stderr
    assert partly.endswith("(in a checkout of roformer-convert), or run what is here: --frameworks paddle,torch\n")
    write_random(checkpoint.parent / "other", "tf1")
    require_one_message(
        without(ALL, "parity", checkpoint.parent / "other", checkpoint),
        "parity: parity --frameworks tf,paddle needs tensorflow, paddle, tokenizers and rjieba, which are not "
        "installed",
        "tensorflow,paddle,jieba",
    )


def test_conversions_alone_take_no_package(checkpoint: Path) -> None:
    done = without(ALL, "parity", checkpoint, "--conversions", "only")
    assert done.returncode == 0, done.stderr


def test_a_gate_that_cannot_follow_is_said_before_anything_is_written(checkpoint: Path) -> None:
    require_one_message(
        without(ALL, "paddle2torch", checkpoint, "--parity"),
        "paddle2torch: --parity needs paddle, torch, tokenizers and rjieba, which are not installed",
        "paddle,torch,jieba",
    )
    require_one_message(
        without(("tensorflow",), "paddle2torch", checkpoint, "--set", "pooler_activation=linear", "--parity"),
        "paddle2torch: --parity needs tensorflow, which is not installed",
        "tensorflow",
    )
    assert [path.name for path in checkpoint.parent.iterdir()] == ["ckpt"]


@pytest.mark.parametrize(
    ("words", "packages", "extras"),
    [
        (["train", "--config", TINY, "-o", "run"], "paddle, tokenizers and tensorboardX, which are", "pretrain"),
        (
            ["train", "--config", TINY, "-o", "run", "--no-tensorboard"],
            "paddle and tokenizers, which are",
            "pretrain",
        ),
        (["doctor", "--config", TINY], "paddle and tokenizers, which are", "pretrain"),
        (["doctor", "--config", TINY, "--gpu", "V100-16GB"], "paddle and tokenizers, which are", "pretrain"),
        (["vocab", "a.txt", "-o", "v.txt"], "tokenizers, which is", "pretrain"),
        (["prepare", "a.txt", "--vocab", "v", "-o", "c"], "tokenizers and rjieba, which are", "pretrain"),
        (
            ["prepare", "a.zst", "--vocab", "v", "-o", "c", "--engine", "ray"],
            "tokenizers, rjieba, ray and zstandard, which are",
            "pretrain,ray",
        ),
    ],
)
def test_pretraining_names_all_that_it_takes(words: list[str], packages: str, extras: str) -> None:
    done = without(ALL, *words, pretrain=True)
    require_one_message(done, f"{words[0]}: {words[0]} needs {packages} not installed", extras)


def test_drawing_and_exporting_name_what_they_take(checkpoint: Path) -> None:
    done = without(ALL, "plot", checkpoint, pretrain=True)
    require_one_message(done, "plot: Drawing a run needs matplotlib, which is not installed", "pretrain")
    done = without(ALL, "export", checkpoint, "--to", "onnx")
    assert done.returncode == 2
    assert done.stderr.startswith("export: export --to onnx needs torch")


def test_converting_takes_no_package_of_an_extra(checkpoint: Path) -> None:
    assert without(ALL, "inspect", checkpoint).returncode == 0
    assert without(ALL, "paddle2torch", checkpoint).returncode == 0
    assert without(ALL, "diff", checkpoint, checkpoint.parent / "ckpt-torch").returncode == 0
