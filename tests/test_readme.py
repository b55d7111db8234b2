"""What README.md shows is what the command prints, and its Python runs."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_checkpoints import CONFIG, random_tensors, save

from roformer_convert.converters.table.mapping import MLM

ROOT = Path(__file__).resolve().parents[1]
#: Output is what stands between fences without a language.
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
SHOWN = [text for language, text in FENCED if not language]
PYTHON = [text for language, text in FENCED if language == "python"]


def printed(directory: Path) -> tuple[str, str]:
    """Run the README's first command in a directory; return its stdout and stderr."""
    words = [sys.executable, "-m", "roformer_convert", "paddle2torch", "ckpt/"]
    done = subprocess.run(words, cwd=directory, capture_output=True, text=True, encoding="utf-8", timeout=120)
    return done.stdout, done.stderr


def test_the_first_example_is_what_the_shipped_fixture_gives(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fixtures" / "tiny", tmp_path / "ckpt")
    out, err = printed(tmp_path)
    assert err == ""

    def stable(text: str) -> str:
        return re.sub(r"\d+\.\d+ s\n", "… s\n", text).replace(str(tmp_path.resolve()), "/data")

    assert stable(out) == stable(SHOWN[0])


def test_the_error_that_is_shown_is_the_error_that_is_printed(tmp_path: Path) -> None:
    """The tensors that it names have its sizes, the others small ones: 500 MB would say no more."""
    config = replace(CONFIG, embedding_size=768, num_hidden_layers=12)
    save(tmp_path / "ckpt", "paddle", random_tensors(config, (MLM,)), config)
    path = tmp_path / "ckpt" / "model_state.pdparams"
    state = pickle.loads(path.read_bytes())
    for layer in range(6, 12):
        del state[f"roformer.encoder.layers.{layer}.norm2.bias"]
    embeddings = np.zeros((12000, 768), np.float16)
    for name in ("roformer.embeddings.word_embeddings.weight", "cls.predictions.decoder_weight"):
        assert state[name].shape == (CONFIG.vocab_size, 768)
        state[name] = embeddings
    assert state["cls.predictions.decoder_bias"].shape == (CONFIG.vocab_size,)
    state["cls.predictions.decoder_bias"] = np.zeros(50000, np.float32)
    path.write_bytes(pickle.dumps(state, 4))
    settings = tmp_path / "ckpt" / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "vocab_size": 50000}))
    out, err = printed(tmp_path)
    assert out == ""
    assert err == SHOWN[1]


def test_the_python_that_is_shown_runs_in_its_order_after_the_first_command(tmp_path: Path) -> None:
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    shutil.copytree(ROOT / "fixtures" / "tiny", tmp_path / "ckpt")
    assert printed(tmp_path)[1] == ""
    program = "\n".join([*PYTHON, "assert 'layers.0.attention.query.weight' in model.state_dict()"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "192 (192, 192)\n"
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt", "ckpt-torch", "ckpt-tf", "ckpt-half"}
    assert len(PYTHON) == 3
