"""What is computed in a half type is held to what rounding explains: honest models are within, more is found."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from family_models import MODELS
from honest_models import one_by_one, shuffled
from parity_faults import Bench, Plant
from random_checkpoints import Tensors
from test_parity_faults import within

from roformer_convert.converters import ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.tensors.stored import HALF_TYPES
from roformer_convert.models.config import tap_names
from roformer_convert.parity.command_line import parity_command
from roformer_convert.parity.conditions.half_types import LIMIT, HalfType
from roformer_convert.parity.explaining.sampling import choose_samples
from roformer_convert.parity.gate import run
from roformer_convert.parity.judging.verdicts import Verdict
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.participants.conversions import every_direction, tell_lacking
from roformer_convert.parity.participants.rounding import round_to
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import screen

torch = pytest.importorskip("torch")

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "random"

_benches: dict[str, Bench] = {}


@pytest.fixture
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    def find(name: str) -> Bench:
        if name not in _benches:
            _benches[name] = Bench(tmp_path_factory.mktemp("halves"), name, half_types=HALF_TYPES)
        return _benches[name]

    return find


def of_type(result: Result, dtype: str) -> list[Verdict]:
    return [one for one in result.verdicts if one.check.startswith(f"{dtype} ") and "against float64" in one.check]


def in_halves(plant: Plant) -> Plant:
    """Plant a fault in models of half types alone."""

    def planted(module: ModuleType, model: Any) -> None:
        if model.embeddings.word.weight.dtype in (torch.float16, torch.bfloat16):
            plant(module, model)

    return planted


@pytest.mark.parametrize("name", ["everything", *MODELS])
def test_every_class_and_trait_is_within_what_rounding_explains(bench_of: Callable[[str], Bench], name: str) -> None:
    bench = bench_of(name)
    result = bench.judge({}, ("torch",))
    assert result.passed, screen(result)
    for dtype in HALF_TYPES:
        found = of_type(result, dtype)
        assert found
        assert all(0.0 < one.value <= one.bound < LIMIT for one in found)
        assert max(one.share for one in found) > 1 / 32  # it was not computed in float32


@pytest.mark.parametrize("plant", [shuffled(3), one_by_one(3)], ids=["shuffled", "one by one"])
@pytest.mark.parametrize("name", ["everything", "causal LM", "labels"])
def test_sums_in_another_order_are_within_too(bench_of: Callable[[str], Bench], name: str, plant: Plant) -> None:
    bench = bench_of(name)
    result = bench.judge({"torch": bench.dump(in_halves(plant))}, ("torch",))
    assert result.passed, screen(result)


# Faults --------------------------------------------------------------------------------------------------------------


def moved(size: float) -> Plant:
    """Move one channel of the last hidden states."""

    def plant(module: ModuleType, model: Any) -> None:
        norm = model.layers[-1].feed_forward_norm
        add = norm.add

        def more(*inputs: Any) -> Any:
            hidden = add(*inputs)
            return hidden + size * torch.eye(hidden.shape[-1], dtype=hidden.dtype)[5]

        norm.add = more

    return in_halves(plant)


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_twice_the_bound_is_found_and_half_of_it_is_not(bench_of: Callable[[str], Bench], dtype: str) -> None:
    bench = bench_of("base")
    good = bench.judge({}, ("torch",))
    scale = float(good.measured.scales["layers.2.feed_forward_norm"][5])
    (verdict,) = of_type(good, dtype)
    for share in (2.0, 0.5):  # rounding, up to half of the bound, may be the other way
        result = bench.judge({"torch": bench.dump(moved(share * verdict.bound * scale))}, ("torch",))
        (found,) = of_type(result, dtype)
        assert (found.status == "differs") == (share > 1.0), found
        assert all(one.passed for one in result.verdicts if "float16" not in one.check)


def weak_feed_forward(module: ModuleType, model: Any) -> None:
    layer = model.layers[1].feed_forward
    forward = layer.forward
    layer.forward = lambda x: 0.5 * forward(x)


def overflowing_scores(module: ModuleType, model: Any) -> None:
    plain = module.attend

    def attend(query: Any, key: Any, *rest: Any) -> Any:
        return plain(query * 3e4, key * 3e4, *rest)

    within(module, "attend", attend, model)


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_the_step_that_loses_more_than_rounding_is_named(bench_of: Callable[[str], Bench], dtype: str) -> None:
    bench = bench_of("everything")
    result = bench.judge({"tf": bench.dump(in_halves(weak_feed_forward))}, ("torch", "tf"))
    assert result.exit_status == 1
    assert {one.about for one in of_type(result, dtype) if not one.passed} == {("tf",)}
    assert "float16 loses " in screen(result)
    where = [cause.where for cause in result.causes if cause.what.startswith(f"{dtype} loses")]
    assert where == ["layers.1.feed_forward"]


def exchanged_answers(module: ModuleType, model: Any) -> None:
    """Add more than the bound to the score of one label in half types."""
    forward = model.classifier.forward
    model.classifier.forward = lambda x: forward(x) + 4.0 * torch.eye(6, dtype=x.dtype)[2]


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_answers_are_ranked_by_their_margin(bench_of: Callable[[str], Bench], dtype: str) -> None:
    bench = bench_of("token labels")
    check = f"{dtype} token labels in order"
    (good,) = [one for one in bench.judge({}, ("torch", "tf")).verdicts if one.check == check]
    assert good.passed
    assert 0 < int(good.note.split()[2]) < int(good.note.split()[4])  # some are ties, and not all
    result = bench.judge({"tf": bench.dump(in_halves(exchanged_answers))}, ("torch", "tf"))
    (bad,) = [one for one in result.verdicts if one.check == check]
    assert bad.status == "differs"
    assert bad.value > 10
    assert "row " in bad.where


def test_numbers_that_overflow_are_a_difference(bench_of: Callable[[str], Bench]) -> None:
    bench = bench_of("everything")
    result = bench.judge({"torch": bench.dump(in_halves(overflowing_scores))}, ("torch",))
    assert {one.status for one in of_type(result, "float16")} == {"differs"}


def test_where_a_type_loses_everything_that_proves_nothing(tmp_path: Path) -> None:
    """Scores in the hundreds are rounded to whole numbers: what bfloat16 makes of that is no result."""

    def steep(tensors: Tensors) -> None:
        for name, array in tensors.items():
            if name.endswith(("query.weight", "key.weight")):
                array *= np.float32(20.0)

    bench = Bench(tmp_path, half_types=("bfloat16",), change=steep)
    found = of_type(bench.judge({}, ("torch",)), "bfloat16")
    assert "inconclusive" in {one.status for one in found}
    assert "differs" not in {one.status for one in found}


@pytest.mark.parametrize("computes", [True, False], ids=["computed in it", "widened"])
def test_a_value_that_the_type_does_not_have_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    def large(tensors: Tensors) -> None:
        tensors["mlm.bias"][3] = 1e6

    module = import_module("roformer_convert.models.roformer_torch")
    monkeypatch.setattr(module, "computes", lambda dtype: computes or dtype not in HALF_TYPES)
    with pytest.raises(ConvertError, match=r"mlm\.bias: .*float16(?s:.)*--half-types bfloat16"):
        Bench(tmp_path, half_types=("float16",), change=large)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--half-types", "fp8"], "wanted some of float16, bfloat16"),
        (["--half-types", ""], "wanted some of float16, bfloat16"),
        (["--half-types", "bfloat61"], "Did you mean 'bfloat16'?"),
        (["--max-length", "0"], "--max-length"),
        (["--device", "gpus"], "is no device"),
        (["--device", "jax=gpu"], "is no framework"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(option: list[str], said: str) -> None:
    done = CliRunner().invoke(parity_command, [str(FIXTURE), *option])
    assert done.exit_code == 2
    assert said in done.output


# Whole runs ----------------------------------------------------------------------------------------------------------


needs_all = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("paddle", "tensorflow")),
    reason="not all three frameworks are installed",
)


@needs_all
def test_a_checkpoint_that_is_stored_in_a_half_type_is_run_in_it(tmp_path: Path) -> None:
    convert(FIXTURE, tmp_path / "half", to="torch", options=ConvertOptions(dtype="float16"))
    with run([tmp_path / "half"], GateOptions(gradients=False)) as result:
        assert result.passed, screen(result)
        found = of_type(result, "float16")
        assert {one.about for one in found} == {("paddle",), ("torch",), ("tf",)}
        assert not of_type(result, "bfloat16")
        note = "paddle does not compute in float16 on this device: its weights are rounded and computed in float32"
        assert note in result.model.notes
        # rounded weights alone: less is lost than where every step rounds, and more than nothing
        for one in found:
            if one.about == ("paddle",):
                assert 0.0 <= one.value < 1e-4  # the weights are float16's as they are stored


@needs_all
def test_what_a_framework_lacks_is_widened_after_rounding() -> None:
    with run([FIXTURE], GateOptions(frameworks=["paddle"], gradients=False, half_types=["bfloat16"])) as result:
        assert result.passed, screen(result)
        assert max(one.value for one in of_type(result, "bfloat16")) > 1e-2, screen(result)
    with run([FIXTURE], GateOptions(frameworks=["paddle"], gradients=False)) as result:
        assert not of_type(result, "float16") + of_type(result, "bfloat16")


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_what_numpy_loses_is_what_a_framework_loses(bench_of: Callable[[str], Bench], dtype: str) -> None:
    """It begins with the weights, which alone are half of it, and goes on at every step."""
    bench = bench_of("everything")
    result = bench.judge({}, ("torch",))
    samples = choose_samples(bench.cases, bench.config, bench.model.task)
    order = tap_names(bench.config, pooler=True, mlm=True, sop=True)
    with open_checkpoint(bench.directory) as checkpoint:
        about = (bench.model, checkpoint, bench.good, result.measured.scales)
        half = HalfType(dtype, samples, samples, order, *about)
        for name, array in half._rounding.parameters.items():
            assert np.array_equal(array, round_to(array, dtype)), name
        for sample in samples:
            for name, array in half._emulate(sample).items():
                assert np.array_equal(array, round_to(array, dtype)), name
        lost = half._lost["logits"][1].relative
    (logits,) = [one for one in of_type(result, dtype) if " logits " in one.check]
    assert 0.7 < logits.value / lost < 1.4


def test_a_container_that_lacks_a_type_is_said(tmp_path: Path) -> None:
    for dtype in HALF_TYPES:
        convert(FIXTURE, tmp_path / dtype, to="torch", options=ConvertOptions(dtype=dtype))
    with open_checkpoint(tmp_path / "bfloat16") as narrow, open_checkpoint(tmp_path / "float16") as plain:
        assert tell_lacking(narrow, "tf") == "HDF5 has no bfloat16"
        assert {tell_lacking(narrow, dialect) for dialect in ("paddle", "torch", "tf1")} == {""}
        assert tell_lacking(plain, "tf") == ""
    made = list(every_direction(tmp_path / "bfloat16"))
    assert [(one.target, one.impossible) for one in made if one.impossible] == [("tf", "HDF5 has no bfloat16")]
    assert len(made) == 7
    assert not any(one.different for one in made)


@needs_all
def test_what_a_framework_cannot_load_in_bfloat16_is_widened_first(tmp_path: Path) -> None:
    convert(FIXTURE, tmp_path / "half", to="torch", options=ConvertOptions(dtype="bfloat16"))
    with run([tmp_path / "half"], GateOptions(frameworks=["torch", "tf"], gradients=False)) as result:
        assert result.exit_status != 1, screen(result)
        assert "what tf loads was widened to float32: HDF5 has no bfloat16" in result.model.notes
        assert {one.about for one in of_type(result, "bfloat16")} == {("torch",), ("tf",)}
        (same,) = [one for one in result.verdicts if one.check == "parameters as loaded"]
        assert same.passed
