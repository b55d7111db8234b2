"""Two processes over gloo train what one process trains."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("paddle") is None:
    pytest.skip("could not import 'paddle'", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("Paddle's launcher joins CPU processes on Linux", allow_module_level=True)

import tiny_training

from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.run.loop import train
from roformer_convert.training.settings.reading import settings_from_tree
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.state import read_checkpoint

HERE = Path(__file__).parent
STEPS = 10
#: float32 sums in another order, over some steps of AdamW: losses of about 5, weights of about 0.1.
LOSS_BOUND, WEIGHT_BOUND = 1e-5, 1e-4


def tree(corpus: Path, output: Path, **changes: Any) -> dict[str, Any]:
    # no dropout: each rank draws its own
    return tiny_training.tree(
        corpus, output, steps=STEPS, save_steps=5, log_steps=1, eval_steps=5, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone")
    train(settings_from_tree(tree(corpus, run)))
    return run


def launched(settings: dict[str, Any], directory: Path, *words: str) -> tuple[int, list[str]]:
    """Start two ranks with Paddle's own launcher; give its status and what each rank said, then the launcher."""
    path = directory / "settings.json"
    path.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir"]
    done = subprocess.run(
        [*command, str(directory / "log"), str(HERE / "run_rank.py"), str(path), *words],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    logs = [log.read_text(errors="replace")[-3000:] for log in sorted((directory / "log").glob("workerlog.*"))]
    return done.returncode, [*logs, done.stdout[-2000:] + done.stderr[-2000:]]


def launch(settings: dict[str, Any], directory: Path, *words: str) -> None:
    """Start two ranks that shall end well."""
    status, said = launched(settings, directory, *words)
    assert status == 0, "".join(said)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [
        record
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if (record := json.loads(line))["kind"] == kind
    ]


def assert_same_run(one: Path, other: Path) -> None:
    steps = records(one, "step"), records(other, "step")
    assert [record["step"] for record in steps[0]] == [record["step"] for record in steps[1]] == [*range(1, STEPS + 1)]
    for key in ("loss", "lm_loss", "sop_loss", "gradient_norm"):
        # null, where a step had no pair, becomes NaN, which must be in both
        losses = [np.array([record[key] for record in each], np.float64) for each in steps]
        np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=LOSS_BOUND, err_msg=key)
    assert [record["tokens"] for record in steps[0]] == [record["tokens"] for record in steps[1]]
    held_out = records(one, "evaluation"), records(other, "evaluation")
    assert len(held_out[0]) == len(held_out[1]) == 2
    for here, there in zip(*held_out, strict=True):
        assert here["lm_loss"] == pytest.approx(there["lm_loss"], abs=LOSS_BOUND)
    last = f"step-{STEPS:06d}"
    with open_checkpoint(one / last) as mine, open_checkpoint(other / last) as theirs:
        assert list(mine) == list(theirs)
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=0, atol=WEIGHT_BOUND, err_msg=name)
    moments = read_checkpoint(one / last).arrays, read_checkpoint(other / last).arrays
    assert moments[0].keys() == moments[1].keys()
    for name in moments[0]:
        np.testing.assert_allclose(moments[0][name], moments[1][name], rtol=0, atol=WEIGHT_BOUND, err_msg=name)


def test_two_ranks_equal_one(corpus: Path, alone: Path, tmp_path: Path) -> None:
    launch(tree(corpus, tmp_path / "run"), tmp_path)
    assert_same_run(alone, tmp_path / "run")


def test_two_ranks_with_a_divided_optimizer_go_on_from_one_and_equal_it_past_a_damaged_checkpoint(
    corpus: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    damaged = run / f"step-{STEPS:06d}" / "model_state.pdparams"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    launch(tree(corpus, run, shard_optimizer=True, recompute=True, micro_tokens=64), tmp_path, "--resume")
    assert_same_run(alone, run)
    assert (run / f"step-{STEPS:06d}.damaged").is_dir()
    said = [log.read_text() for log in sorted((tmp_path / "log").glob("workerlog.*"))]
    assert f"resumes from {run / 'step-000005'}\n" in said[0]
    assert "goes on" not in said[1], "the first rank alone speaks"


class Listening(Ranks):
    """One of two ranks, which hears what the first one would say."""

    def __init__(self, rank: int, said: str = "") -> None:
        self.count, self.rank, self.said = 2, rank, said

    def share(self, text: str) -> list[str]:
        if self.first:
            self.said = text
        return [self.said, text]


def test_what_the_first_rank_finds_and_what_it_refuses_holds_for_all() -> None:
    def refuse() -> None:
        raise ConvertError("no checkpoint is whole", "Bring one back.")

    first = Listening(0)
    assert first.decide(lambda: (4, [("step-000008", "why")])) == [4, [["step-000008", "why"]]]
    assert Listening(1, first.said).decide(refuse) == [4, [["step-000008", "why"]]]
    with pytest.raises(ConvertError, match=r"no checkpoint is whole\n  Bring one back\."):
        first.decide(refuse)
    with pytest.raises(ConvertError, match=r"no checkpoint is whole\n  Bring one back\."):
        Listening(1, first.said).decide(lambda: (4, []))


def test_ranks_that_would_go_on_from_different_steps_are_all_refused(corpus: Path, alone: Path, tmp_path: Path) -> None:
    for rank in (0, 1):  # each its own directory, as on hosts that share none; the first alone has a checkpoint
        (tmp_path / f"run-{rank}").mkdir()
    shutil.copytree(alone / "step-000005", tmp_path / "run-0" / "step-000005")
    before = sorted((tmp_path / "run-0").rglob("*"))
    status, said = launched(tree(corpus, tmp_path / "run-RANK"), tmp_path, "--resume")
    assert status != 0
    for words in said[:2]:
        assert "the 2 ranks do not agree on what they train; no step was taken" in words
        assert "rank 1: step = 0, and 5 on rank 0" in words
        assert "rank 1: weights = '" in words
        assert "rank 1: optimizer = 'nothing', and '" in words
        assert "seed" not in words
    written = [path for path in (tmp_path / "run-0").rglob("*") if path not in before]
    assert not [path for path in written if path.name.startswith(("step-", "metrics"))]
    assert not list((tmp_path / "run-1").glob("step-*"))
