"""Training goes on where it stood: the next step in the other framework gives the parameters that its own would have.

The states, and what their writers' next step made of the weights, are PaddleNLP's and transformers' own
(``fixtures/optimizers``). Each framework computes in a process of its own, with its own AdamW.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from next_steps import (
    ADAM,
    PADDLE_STEP,
    PADDLENLP_STEP,
    STATES,
    TORCH_STEP,
    canonical,
    load,
    require_equal,
    rows,
)
from peer_folders import environment, in_process

from roformer_convert.converters import ConvertOptions, convert


@pytest.mark.parametrize("fresh", [False, True], ids=["from_pretrained", "from its configuration"])
def test_torch_goes_on_from_paddle(tmp_path: Path, fresh: bool) -> None:
    source = STATES / "pdnlp-MaskedLM"
    options = ConvertOptions(with_optimizer=True, adam=ADAM, frozen_positions=fresh)
    convert(source, tmp_path / "torch", to="torch", options=options)
    job = {"folder": str(tmp_path / "torch"), "next": str(source / "next.npz"), "out": str(tmp_path / "got.npz")}
    in_process(TORCH_STEP, [{**job, "fresh": fresh, "cwd": str(tmp_path)}])
    table = rows(source)
    want = canonical(table, load(source / "next.npz"), "paddle", "after.")
    del want["pooler.weight"], want["pooler.bias"]  # which transformers does not have, and no gradient reaches
    require_equal(canonical(table, load(tmp_path / "got.npz"), "torch"), want, source)


@pytest.mark.parametrize("file", ["optimizer.pdopt", "training.safetensors"])
@pytest.mark.parametrize(
    ("folder", "same_as"),
    [
        ("hf-MaskedLM", "pd-MaskedLM_default_pd"),
        ("hf-SequenceClassification", "pd-SequenceClassification_default_pd"),
    ],
)
def test_paddle_goes_on_from_torch(tmp_path: Path, folder: str, same_as: str, file: str) -> None:
    source, made = STATES / folder, tmp_path / "paddle"
    # without an activation of its own, its dense layer has the encoder's
    options = ConvertOptions(with_optimizer=True, optimizer_file=file)
    convert(source, made, to="paddle", options=options)
    names = json.loads((STATES / "paddle-names.json").read_text())[same_as]
    table = rows(made)
    job = {
        "folder": str(made),
        "file": file,
        "class": folder.replace("hf-", "RoFormerFor"),
        "names": {row.canonical: names[row.name("paddle")] for row in table.tensors if row.name("paddle") in names},
        "next": str(source / "next.npz"),
        "out": str(tmp_path / "got.npz"),
    }
    in_process(PADDLE_STEP, [{**job, **ADAM, "cwd": str(tmp_path)}])
    want = canonical(table, load(source / "next.npz"), "torch", "after.")
    require_equal(canonical(table, load(tmp_path / "got.npz"), None), want, source)


@pytest.mark.parametrize("folder", ["hf-MaskedLM", "hf-SequenceClassification"])
def test_paddlenlp_goes_on_from_torch(tmp_path: Path, folder: str) -> None:
    python, made = environment("paddlenlp"), tmp_path / "paddle"
    convert(STATES / folder, made, to="paddle", options=ConvertOptions(with_optimizer=True))
    job = {"folder": str(made), "next": str(STATES / folder / "next.npz"), "out": str(tmp_path / "got.npz"), **ADAM}
    in_process(PADDLENLP_STEP, [{**job, "cwd": str(tmp_path)}], python=python)
    table = rows(made)
    want = canonical(table, load(STATES / folder / "next.npz"), "torch", "after.")
    require_equal(canonical(table, load(tmp_path / "got.npz"), "paddle"), want, STATES / folder)
