"""Checkpoints that other software wrote, converted to every dialect: what several tests hold their loaders against.

``fixtures/peers`` holds them with the logits that their writers computed; its README says who they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_roformer import Array

from roformer_convert.converters import ConvertOptions, convert
from roformer_convert.converters.table.mapping import DIALECTS, Dialect

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "fixtures" / "peers"
#: Trained by PaddleNLP on real text; ``expected.json`` has its own tokens and best words for five sentences.
TRAINED = PEERS / "trained-tiny-paddlenlp"

#: Folder → the tensors in it that transformers has no place for.
FOLDERS: dict[str, set[str]] = {
    "pd-MaskedLM_default_pd": {"roformer.pooler.dense.weight", "roformer.pooler.dense.bias"},
    "hf4-MaskedLM_default_bin": set(),
    "hf4-MaskedLM_emb32_bin": set(),
    "hf5-MaskedLM_default_st": set(),
    "hf5-MaskedLM_default_stshard": set(),
    "hf5-MaskedLM_default_bfloat16_st": set(),
    "hf4-MaskedLM_default_tf": set(),
    "b4k-MaskedLM_default": set(),
    "b4k-MaskedLM_pool_nsp": {
        "roformer.pooler.dense.weight",
        "roformer.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    },
    "junn-MaskedLM_default_bin": set(),
}
#: One model, saved by transformers 4 (torch and TF), transformers 5 (whole and sharded) and JunnYu's package.
ONE_MODEL = (
    "hf4-MaskedLM_default_bin",
    "hf4-MaskedLM_default_tf",
    "hf5-MaskedLM_default_st",
    "hf5-MaskedLM_default_stshard",
    "junn-MaskedLM_default_bin",
)
#: What the peers, which take a second or two for each model, are asked about: every model once.
DISTINCT = tuple(folder for folder in FOLDERS if folder not in ONE_MODEL[1:] and folder != "b4k-MaskedLM_default")
#: The two that are made in every container, whole and sharded: how a name of ``Converted.path`` ends says which.
BOTH = ("pd-MaskedLM_default_pd", "hf4-MaskedLM_emb32_bin")
BFLOAT16 = "hf5-MaskedLM_default_bfloat16_st"
POSITIONS = "roformer.encoder.embed_positions.weight"
#: float32 logits of standard deviation 0.8; the farthest pair of programs, bert4keras and transformers, is 4.6e-6
#: apart.
TOLERANCE = 1e-5
#: The bfloat16 folder's writer used the rotary table as its file holds it, rounded to 8 bits: each entry up to 2**-9
#: off. Ours is computed from the configuration, exactly. test_the_bfloat16_folder_differs_by_its_rounded_table shows
#: that this is all of the difference (1.8e-3).
ROUNDED_TABLE = 2.0**-8


def tolerance(folder: str) -> float:
    return ROUNDED_TABLE if folder == BFLOAT16 else TOLERANCE


def inputs_of(folder: str) -> dict[str, Array]:
    with np.load(PEERS / folder / "inputs.npz") as inputs:
        return dict(inputs)


def worst(folder: str, logits: Array, *, everywhere: bool = True) -> float:
    """Largest difference from what the writer computed, at every token or at those that are no padding."""
    difference = np.abs(logits - np.load(PEERS / folder / "logits.npy"))
    assert difference.shape == (3, 16, 70)
    return float(difference.max() if everywhere else difference[inputs_of(folder)["attention_mask"] != 0].max())


@dataclass
class Converted:
    """Every folder in every dialect, and each of those back in torch's."""

    root: Path

    def path(self, folder: str, dialect: Dialect, note: str = "") -> Path:
        return self.root / f"{folder}.{dialect}{note}"

    def back(self, folder: str, via: Dialect) -> Path:
        return self.root / f"{folder}.{via}.torch"


#: Dialect, container, and what the tests call the two together.
_KINDS: tuple[tuple[Dialect, str, str], ...] = (
    ("torch", "bin", "bin"),
    ("paddle", "pdparams", "pd"),
    ("torch", "safetensors", "st"),
    ("paddle", "safetensors", "st"),
)


def convert_all(root: Path, folders: tuple[str, ...], *, back: bool = False) -> Converted:
    """Convert ``folders`` to every dialect (and each of those back to torch's), two of them to every container."""
    made = Converted(root)
    for folder in folders:
        for dialect in DIALECTS:
            dtype = "float32" if (folder, dialect) == (BFLOAT16, "tf") else None
            convert(PEERS / folder, made.path(folder, dialect), to=dialect, options=ConvertOptions(dtype=dtype))
            if dialect != "torch" and back:
                convert(made.path(folder, dialect), made.back(folder, dialect), to="torch")
    for folder in BOTH:
        source = made.path(folder, "tf1")
        for note, size in (("", None), ("-sharded", "50KB")):
            for to, container, word in _KINDS:
                options = ConvertOptions(container=container, max_shard_size=size)
                convert(source, made.path(folder, to, f"-{word}{note}"), to=to, options=options)
    return made


def environment(name: str) -> Path:
    """The Python of a peer's environment; without it the test is skipped."""
    python = ROOT / ".peers" / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f".peers/{name} is absent: make peers")
    return python


def in_process(program: str, jobs: list[dict[str, Any]], *, python: str | Path = sys.executable, **env: str) -> str:
    """Run a program over all its jobs; its last words are the failure's message."""
    done = subprocess.run(
        [str(python), "-c", program, json.dumps(jobs)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", **env},
        cwd=jobs[0]["cwd"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
