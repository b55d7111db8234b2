"""Every report in ``fixtures/cases`` as its owner would bring it: what becomes of it, and of what is said about it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from roformer_convert.converters import open_checkpoint

CASES = Path(__file__).resolve().parents[1] / "fixtures" / "cases"


@dataclass(frozen=True)
class Case:
    """One report and one way to convert it.

    Attributes:
        name: Its folder, with the file in it that is named.
        said: What the person says beside the target.
        refused: Whether the exit status is 2, and nothing written.
        words: What the output must say.
        attention: Of the result, where it matters.
        pooler: Activation of the result's pooler, where it matters.
        to: The dialect.
    """

    name: str
    said: tuple[str, ...] = ()
    refused: bool = False
    words: tuple[str, ...] = ()
    attention: str | None = None
    pooler: str | None = None
    to: str = "torch"


ASSUMED = "attention in both directions is assumed"
# fmt: off
# ruff: noqa: E501
REPORTS = (
    Case("01-sim-pooler-linear", words=("pooler_activation = tanh is assumed", "--set pooler_activation=linear", ASSUMED)),
    Case("01-sim-pooler-linear", ("--set", "pooler_activation=linear", "--set", "attention=bidirectional"), pooler="linear", to="paddle"),
    Case("02-unilm-causal", words=(ASSUMED, "--set attention=causal", "--set attention=unilm"), attention="bidirectional"),
    Case("02-unilm-causal", ("--set", "attention=causal"), attention="causal"),
    Case("02-unilm-causal", ("--set", "attention=causal"), refused=True, words=("PaddleNLP lets every token see every other",), to="paddle"),
    Case("02-unilm-causal", ("--set", "attention=unilm"), refused=True, words=("4-D mask",)),
    Case("02-unilm-causal", ("--set", "attention=unilm", "--allow-different"), attention="unilm"),
    Case("03-bert4keras-save-weights", words=("bert4keras' layer names",)),
    Case("03-bert4keras-save-weights-tf", words=("bert4keras' layer names",)),
    Case("04-keras-layer-names-ckpt", words=("bert4keras' layer names",)),
    Case("06-custom-class-prefix", refused=True, words=("--prefix", "--encoder-only")),
    Case("06-custom-class-prefix", ("--prefix", "roformer.bert."), words=("left out",)),
    Case("09-lightning", words=("state_dict.model.", "left out")),
    Case("10-bert-to-roformer", refused=True, words=("--from bert",)),
    Case("10-bert-to-roformer", ("--from", "bert"), words=("must be trained",)),
    Case("16-hub-cache"),
    Case("16-hub-cache/models--junnyu--roformer_x"),
    Case("20-deepspeed", words=("module.",)),
    Case("21-dataparallel", words=("module.",)),
    Case("23-paddle-static", refused=True, words=("exported Paddle program", "Start from")),
    Case("25-trainer-checkpoint-parent", refused=True, words=("they are in checkpoint-500/",)),
    Case("26-tf2-object-ckpt"),
    Case("27-lora", refused=True, words=("merge_and_unload",)),
    Case("28-electra-discriminator", refused=True, words=("--encoder-only",)),
    Case("28-electra-discriminator", ("--encoder-only",), words=("discriminator_predictions",)),
    Case("29-bert4torch", words=("bert4torch's names",)),
    Case("30-gamma-beta", words=("gamma and beta",)),
    Case("33-word-tokenizer-to-paddle", to="paddle", words=("use_jieba",)),
    Case("38-word-tf1-to-paddle", to="paddle", words=("use_jieba",)),
    Case("40-optimizer-in-file", words=("optimizer.",)),
    Case("43-is-decoder-of-software-without-mask", attention="bidirectional", words=("is_decoder = true", "--set attention=causal")),
    Case("43-is-decoder-of-software-without-mask-tf", attention="bidirectional", words=("is_decoder = true",)),
    Case("49-nezha-tf1", refused=True, words=("function", "another model's are not converted")),
    Case("50-nezha-torch-base", refused=True, words=("function", "another model's are not converted")),
    Case("hostile-bin_views_not_checksummed", refused=True, words=("wrong CRC32",)),
    Case("hostile-config_duplicate_key_quadratic", refused=True, words=("is given twice",)),
    Case("hostile-expanded_bomb", refused=True),
    Case("hostile-layer_9999", refused=True, words=("layer.9999.",)),
    Case("hostile-layer_digits", refused=True),
    Case("hostile-toml", refused=True, words=("no RoFormer weights here",)),  # what it is for: test_training_settings
)
# fmt: on


@pytest.mark.parametrize("case", REPORTS, ids=lambda case: " ".join([case.name, case.to, *case.said]))
def test_a_report_gets_the_outcome_that_its_owner_needs(tmp_path: Path, case: Case) -> None:
    words = [sys.executable, "-m", "roformer_convert", "convert", str(CASES / case.name), "--to", case.to, *case.said]
    done = subprocess.run([*words, "-o", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = done.stderr if case.refused else done.stdout
    assert done.returncode == (2 if case.refused else 0), done.stderr
    for each in case.words:
        assert each in said
    assert "Traceback" not in done.stderr
    assert len(said) < 20_000  # no name is printed whole that a stranger made endless
    assert [path.name for path in tmp_path.iterdir()] == ([] if case.refused else ["out"])
    if not case.refused:
        with open_checkpoint(tmp_path / "out") as made:
            assert case.attention in (None, made.config.attention)
            assert case.pooler in (None, made.config.pooler_activation)


def test_every_folder_is_tried() -> None:
    folders = {path.name for path in CASES.iterdir() if path.is_dir()}
    extra = {"03-bert4keras-head-tf", "03-bert4keras-v2"}  # siblings: tests/test_spellings.py
    assert folders - extra == {case.name.partition("/")[0] for case in REPORTS}
