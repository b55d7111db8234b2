"""Of a large model some rows are recomputed in numpy: whole ones, and of every case before two of any."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import MODELS
from parity_faults import LABELS, Bench
from random_checkpoints import CONFIG, SHAPES, random_tensors, save
from test_parity_faults import tanh_gelu

from roformer_convert.converters import RoFormerConfig, open_checkpoint
from roformer_convert.models.config import supported, tap_names
from roformer_convert.parity import gate
from roformer_convert.parity.explaining import sampling, stored_parameters
from roformer_convert.parity.explaining.causes import check_steps
from roformer_convert.parity.explaining.reference import Reference
from roformer_convert.parity.explaining.sampling import BUDGET, choose_samples, tell_sampled
from roformer_convert.parity.explaining.stored_parameters import StoredParameters
from roformer_convert.parity.judging.measure import channels
from roformer_convert.parity.participants.dumps import Dump
from roformer_convert.parity.participants.run import run
from roformer_convert.parity.questions.cases import Case, make_cases
from roformer_convert.parity.questions.tasks import TASKS
from roformer_convert.parity.screen import screen

torch = pytest.importorskip("torch")

BASE = replace(
    CONFIG,
    vocab_size=50_000,
    embedding_size=768,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    max_position_embeddings=512,
)
PRETRAINING = TASKS["RoFormerForPretraining"]


def test_all_of_a_small_model_is_recomputed() -> None:
    cases = make_cases(CONFIG, PRETRAINING, None)
    samples = choose_samples(cases, CONFIG, PRETRAINING)
    assert [sample.case for sample in samples] == cases
    assert tell_sampled(samples, cases) == ""


@pytest.mark.parametrize("layers", [12, 48])
def test_of_a_large_one_what_the_budget_allows(layers: int) -> None:
    config = replace(BASE, num_hidden_layers=layers)
    cases = [replace(case, taps=True) for case in make_cases(config, PRETRAINING, None)]
    cases += [replace(case, name=f"{case.name} again") for case in cases]
    samples = choose_samples(cases, config, PRETRAINING)
    cost = sum(_least_work(sample.case, config) for sample in samples)
    assert BUDGET / 8 < cost <= BUDGET
    counts = [len(sample.rows) for sample in samples]
    assert len(samples) == len(cases) or max(counts) == 1  # one of each before two of any
    rows = sum(counts)
    assert 0 < rows < sum(len(case.input_ids) for case in cases)
    assert tell_sampled(samples, cases) == f"{rows} of 18 rows, what 40 GFLOP allow"


def _least_work(case: Case, config: RoFormerConfig) -> int:
    """The products by kernels alone, twice a multiplication each."""
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    return 2 * case.input_ids.size * config.num_hidden_layers * layer


def test_one_row_is_taken_whatever_it_costs() -> None:
    cases = make_cases(CONFIG, PRETRAINING, None)
    (sample,) = choose_samples(cases, CONFIG, PRETRAINING, budget=0.0)
    assert len(sample.rows) == 1


ALL = [(name, False) for name in MODELS]
SOME = [(name, True) for name, model in MODELS.items() if TASKS[model.kind.class_name].mlm]


@pytest.mark.parametrize(("name", "chosen"), [*ALL, *SOME])
def test_rows_follow_from_their_own_inputs(tmp_path: Path, name: str, chosen: bool) -> None:
    model = MODELS[name]
    task, config = TASKS[model.kind.class_name], supported(model.config)
    model.write(tmp_path / "ckpt")
    module = importlib.import_module("roformer_convert.models.roformer_torch")
    runner = importlib.import_module("roformer_convert.parity.participants.run_torch")
    loaded = getattr(module, model.kind.class_name).from_pretrained(tmp_path / "ckpt", dtype="float64")
    cases = make_cases(config, task, None)
    if chosen:
        some = np.array([1, 4, 12, 13, 30])
        cases = [replace(case, positions=some[some < case.input_ids.size], ranked=()) for case in cases]
    for case in cases:
        np.savez(tmp_path / f"float64.{case.name}.npz", allow_pickle=False, **run(runner, loaded, case))
    dump = Dump("torch", "torch", tmp_path / "ckpt", tmp_path)
    samples = choose_samples(cases, config, task, budget=5e5)
    assert 0 < sum(len(sample.rows) for sample in samples) < 8
    order = tap_names(config, pooler=True, mlm=task.mlm, sop=task.sop, classifier=task.head is not None)
    with open_checkpoint(tmp_path / "ckpt") as checkpoint:
        reference = Reference(config, StoredParameters(checkpoint), task)
        steps = check_steps(reference, dump, samples, order, channels([dump], cases)[0])
    assert not steps.wrong, steps
    assert steps.verdict.value > 0.0


def test_a_mistake_that_all_share_is_found_in_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    faulty = bench.dump(tanh_gelu)
    monkeypatch.setattr(gate, "choose_samples", partial(choose_samples, budget=1e6))
    result = bench.judge(dict.fromkeys(LABELS, faulty))
    (check,) = {one.check for one in result.verdicts if not one.passed}
    assert check == "every step recomputed in numpy"
    assert all(" rows, what 40 GFLOP allow" in one.note for one in result.verdicts if not one.passed)
    assert "gelu (tanh) instead of gelu (erf), in layers.2.feed_forward" in screen(result)


def test_parameters_are_read_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = random_tensors(*SHAPES["everything"])
    save(tmp_path / "ckpt", "torch", tensors, CONFIG)
    monkeypatch.setattr(stored_parameters, "_MOST_KEPT", 40_000)
    other = {"pooler.bias": np.zeros(24), "beside": np.ones(3)}
    with open_checkpoint(tmp_path / "ckpt") as checkpoint:
        read: list[str] = []
        plain = checkpoint.read

        def noted(name: str, dtype: str | None = None) -> Any:
            read.append(name)
            return plain(name, dtype)

        monkeypatch.setattr(type(checkpoint), "read", lambda self, name, dtype=None: noted(name, dtype))
        found = StoredParameters(checkpoint, others=other)
        assert set(found) == {*tensors, "beside"}
        assert len(found) == len(tensors) + 1
        assert "beside" in found
        assert "nothing" not in found
        assert not read
        for name, array in tensors.items():
            assert np.array_equal(found[name], other.get(name, array.astype(np.float64)))
            assert found[name] is found[name]
            assert sum(one.nbytes for one in found._kept.values()) <= max(40_000, array.nbytes * 2)
        assert sorted(read) == sorted(name for name in tensors if name not in other)


def test_the_budget_is_said_where_it_is_used() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs" / "ci-gate.md"
    assert f"{sampling.BUDGET / 1e9:.0f} GFLOP" in docs.read_text(encoding="utf-8")
