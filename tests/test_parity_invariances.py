"""A row gives the same whatever batch it stands in: honest models of every kind do, and what does not is found.

The faults are in every participant alike, so that no comparison of one with another could show them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import honest_models
import pytest
from family_models import MODELS
from honest_models import one_by_one, shuffled
from parity_faults import Bench, Plant
from random_checkpoints import SHAPES, random_tensors, save
from test_parity_faults import within

from roformer_convert.parity.conditions.invariances import SAME
from roformer_convert.parity.gate import run
from roformer_convert.parity.judging.verdicts import Verdict
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import screen

torch = pytest.importorskip("torch")

_benches: dict[str, Bench] = {}


@pytest.fixture
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    def find(name: str) -> Bench:
        if name not in _benches:
            _benches[name] = Bench(tmp_path_factory.mktemp("invariances"), name, invariances=True)
        return _benches[name]

    return find


def judged(bench: Bench, plant: Plant | None) -> Result:
    dump = bench.dump(plant)
    return bench.judge(dict.fromkeys(("paddle", "torch"), dump), ("paddle", "torch"))


def broken(result: Result) -> dict[str, Verdict]:
    return {one.check.removeprefix(SAME): one for one in result.verdicts if not one.passed and one.about[0] == "torch"}


def kinds(result: Result) -> set[str]:
    return {one.check.removeprefix(SAME) for one in result.verdicts if one.check.startswith(SAME)}


ALL = {
    "in another order",
    "alone, without padding",
    "padded otherwise",
    "beside a row without a real token",
    "packed",
    "padded to 47 tokens",
    "at the end of 47 tokens",
    "token types left out",
}


@pytest.mark.parametrize("name", ["everything", *MODELS])
def test_honest_models_of_every_class_and_trait_give_every_row_the_same(
    bench_of: Callable[[str], Bench], name: str
) -> None:
    bench = bench_of(name)
    result = judged(bench, None)
    assert result.passed, screen(result)
    wanted = set(ALL)
    if bench.config.rotary_value:  # values say where they stand
        wanted.remove("at the end of 47 tokens")
    if name in ("choices, last, no projection", "choices, mean, activation"):  # padding is pooled there
        wanted.remove("packed")
    assert kinds(result) == wanted


@pytest.mark.parametrize("plant", [shuffled(3), one_by_one(3)], ids=["shuffled", "one by one"])
@pytest.mark.parametrize("name", ["everything", "causal LM", "labels"])
def test_sums_in_another_order_are_no_difference(
    bench_of: Callable[[str], Bench], name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = import_module("roformer_convert.models.ops_torch").attend, honest_models._attend

    def attend(query: Any, key: Any, value: Any, layout: Any, mix: Any) -> Any:
        if layout.lengths is not None:  # theirs knows no packed rows
            return ours(query, key, value, layout, 0.0)
        return theirs(query, key, value, layout, mix)

    monkeypatch.setattr(honest_models, "_attend", attend)
    result = judged(bench_of(name), plant)
    assert not broken(result), screen(result)


# Faults --------------------------------------------------------------------------------------------------------------


def hidden_changed(change: Callable[[Any], Any]) -> Plant:
    """Change the last hidden states (B, T, H) of a batch that is not packed."""

    def plant(module: ModuleType, model: Any) -> None:
        layer = model.layers[-1]
        layouts: list[Any] = []
        forward, add = layer.forward, layer.feed_forward_norm.add

        def noted(hidden: Any, layout: Any, *rest: Any) -> Any:
            layouts[:] = [layout]
            return forward(hidden, layout, *rest)

        def changed(*inputs: Any) -> Any:
            hidden, layout = add(*inputs), layouts[0]
            if layout.slots is not None:
                return hidden
            return change(hidden.reshape(layout.rows, layout.columns, -1)).reshape(hidden.shape)

        layer.forward, layer.feed_forward_norm.add = noted, changed

    return plant


def by_place(size: float, dtype: Any = None) -> Plant:
    """Add to the rows of a batch from the fourth on, in one type or in each."""

    def change(batch: Any) -> Any:
        late = (torch.arange(len(batch)) >= 3).to(batch.dtype)[:, None, None]
        return batch + size * late * (dtype in (None, batch.dtype))

    return hidden_changed(change)


def padding_is_seen(module: ModuleType, model: Any) -> None:
    plain = module.key_mask
    within(module, "key_mask", lambda mask, like, order=None: plain(torch.ones_like(mask), like, order), model)


def a_packed_row_begins_late(module: ModuleType, model: Any) -> None:
    plain = module.attend

    def attend(query: Any, key: Any, value: Any, layout: Any, dropout: float) -> Any:
        if layout.lengths is not None and len(layout.lengths) > 1:
            first, second, *rest = layout.lengths
            layout = layout._replace(lengths=(first + 1, second - 1, *rest))
        return plain(query, key, value, layout, dropout)

    within(module, "attend", attend, model)


def no_number_where_no_key_is_seen(module: ModuleType, model: Any) -> None:
    plain = module.attend

    def attend(query: Any, key: Any, value: Any, layout: Any, dropout: float) -> Any:
        context = plain(query, key, value, layout, dropout)
        if layout.lengths is not None or layout.mask is None or layout.mask.shape[2] > 1:
            return context
        unseen = (layout.mask < 0).all(-1).reshape(-1, 1, 1)
        batch = context.reshape(layout.rows, layout.columns, -1)
        return batch.masked_fill(unseen, float("nan")).reshape(context.shape)

    within(module, "attend", attend, model)


def turns_clipped_at(last: int, module: ModuleType) -> Callable[..., Any]:
    def turns(table: Any, rows: int, columns: int, heads: int) -> Any:
        return module.turns_of_tokens(table, torch.arange(columns).clamp(max=last).repeat(rows), heads)

    return turns


def clipped_positions(module: ModuleType, model: Any) -> None:
    within(module, "turns_of_rows", turns_clipped_at(40, module), model)


def another_type(module: ModuleType, model: Any) -> None:
    forward = model.embeddings.forward

    def typed(ids: Any, types: Any) -> Any:
        return forward(ids, torch.ones_like(ids) if types is None else types)

    model.embeddings.forward = typed


def mean_of_the_batch(module: ModuleType, model: Any) -> None:
    hidden_changed(lambda batch: batch - 1e-4 * batch.mean(0, keepdim=True))(module, model)


#: Fault → the invariances that break and no other.
FAULTS: dict[str, tuple[Plant, set[str]]] = {
    "a row's place": (
        by_place(1e-3),
        {"in another order", "alone, without padding", "beside a row without a real token", "packed"}
        | {"padded to 47 tokens", "at the end of 47 tokens"},
    ),
    "padding is seen": (
        padding_is_seen,
        {"alone, without padding", "padded otherwise", "packed", "padded to 47 tokens", "at the end of 47 tokens"},
    ),
    "a packed row begins late": (a_packed_row_begins_late, {"packed"}),
    "no number where no key is seen": (no_number_where_no_key_is_seen, {"beside a row without a real token"}),
    "clipped positions": (clipped_positions, {"at the end of 47 tokens"}),
    "another type": (another_type, {"token types left out"}),
    "the mean of a batch": (
        mean_of_the_batch,
        {"in another order", "alone, without padding", "packed", "padded to 47 tokens", "at the end of 47 tokens"}
        | {"beside a row without a real token", "padded otherwise"},
    ),
}


@pytest.mark.parametrize("name", ["everything", "token labels", "answers", "choices, first", "masked LM V2"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_breaks_its_invariances_and_is_explained(
    bench_of: Callable[[str], Bench], name: str, fault: str
) -> None:
    plant, wanted = FAULTS[fault]
    if (name, fault) == ("choices, first", "a row's place"):  # three options are rows: all but one question stand late
        wanted = wanted - {"beside a row without a real token"}
    result = judged(bench_of(name), plant)
    assert result.exit_status == 1
    found = broken(result)
    assert set(found) & ALL == wanted
    said = {cause.where: cause.what for cause in result.causes if cause.kind == "batch" and cause.label == "torch"}
    assert set(said) == {found[one].where for one in wanted}
    assert all("row" in where for where in said)


@pytest.mark.parametrize("fault", ["a row's place", "a packed row begins late", "clipped positions", "another type"])
def test_a_causal_model_has_them_too(bench_of: Callable[[str], Bench], fault: str) -> None:
    plant, wanted = FAULTS[fault]
    assert set(broken(judged(bench_of("causal LM"), plant))) & ALL == wanted


def test_a_limit_past_the_trained_one_is_reached(tmp_path: Path) -> None:
    bench = Bench(tmp_path, invariances=True, max_length=61)
    assert not broken(judged(bench, None))

    def clipped(module: ModuleType, model: Any) -> None:
        within(module, "turns_of_rows", turns_clipped_at(46, module), model)  # the last that was trained

    result = judged(bench, clipped)
    assert set(broken(result)) == {"at the end of 61 tokens", "every step recomputed in numpy"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_twice_the_bound_is_found_and_half_of_it_is_not(bench_of: Callable[[str], Bench], dtype: str) -> None:
    bench = bench_of("base")
    good = judged(bench, None)
    tap = "layers.2.feed_forward_norm"
    scale = float(good.measured.scales[tap].min())  # of the channel that is farthest by it
    bound = good.bounds.of(dtype, tap).value
    for share in (2.0, 0.5):
        faulty = bench.dump(by_place(share * bound * scale, getattr(torch, dtype)))
        result = bench.judge({"torch": faulty}, ("paddle", "torch"))  # the other one sets float32's bound
        found = {one for one in broken(result) if one in ALL}
        assert ("in another order" in found) == (share > 1.0), (share, found)


def test_the_screen_says_them_in_one_line_where_all_hold_and_each_that_breaks(
    bench_of: Callable[[str], Bench],
) -> None:
    lines = screen(judged(bench_of("everything"), None)).splitlines()
    assert [line for line in lines if line.startswith(SAME)] == [
        line for line in lines if line.startswith(f"{SAME}in {len(ALL)} kinds of batch")
    ]
    said = screen(judged(bench_of("everything"), clipped_positions))
    assert f"{SAME}at the end of 47 tokens" in said
    assert f"{SAME}in {len(ALL) - 1} kinds of batch" in said
    assert "likely cause: torch: a row near the limit is computed otherwise than one at the beginning" in said


def test_directories_with_two_limits_are_compared_up_to_the_lower(tmp_path: Path) -> None:
    config, groups = SHAPES["masked-lm"]
    tensors = random_tensors(config, groups)
    for name, limit in (("long", 47), ("short", 21)):
        save(tmp_path / name, "torch", tensors, replace(config, max_position_embeddings=limit))
    with run([tmp_path / "long", tmp_path / "short"], GateOptions(frameworks=["torch"], gradients=False)) as result:
        assert result.passed, screen(result)
        assert max(case.input_ids.shape[-1] for case in result.cases) == 21
        assert f"{SAME}at the end of 21 tokens" in {one.check for one in result.verdicts}
        assert any("max_position_embeddings is 47" in note for note in result.model.notes)
