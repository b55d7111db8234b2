"""In half types too a row gives the same whatever batch it stands in; some mistakes are made there alone."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from family_models import MODELS
from parity_faults import Bench, Plant
from test_parity_faults import within
from test_parity_half_types import in_halves
from test_parity_invariances import ALL, by_place, no_number_where_no_key_is_seen

from roformer_convert.converters.tensors.stored import HALF_TYPES
from roformer_convert.parity.conditions.invariances import SAME
from roformer_convert.parity.judging.verdicts import Verdict
from roformer_convert.parity.result import Result
from roformer_convert.parity.screen import screen

torch = pytest.importorskip("torch")

_benches: dict[str, Bench] = {}


@pytest.fixture
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    def find(name: str, **asked: Any) -> Bench:
        if name not in _benches:
            asked = {"invariances": True, "half_types": HALF_TYPES, **asked}
            _benches[name] = Bench(tmp_path_factory.mktemp("rows"), name, **asked)
        return _benches[name]

    return find


def rows(result: Result, dtype: str) -> dict[str, Verdict]:
    begin = f"{dtype} {SAME}"
    return {one.check.removeprefix(begin): one for one in result.verdicts if one.check.startswith(begin)}


def broken(result: Result) -> list[str]:
    return [one.check for one in result.verdicts if one.status == "differs"]


@pytest.mark.parametrize("name", ["everything", "causal LM", "labels", "answers", "choices, first", "masked LM V2"])
def test_honest_models_give_every_row_the_same(bench_of: Callable[..., Bench], name: str) -> None:
    assert name == "everything" or name in MODELS
    result = bench_of(name).judge({}, ("torch",))
    assert broken(result) == [], screen(result)
    for dtype in HALF_TYPES:
        found = rows(result, dtype)
        assert found.keys() == ALL - ({"at the end of 47 tokens"} if bench_of(name).config.rotary_value else set())
        assert max(one.share for one in found.values()) <= 0.5


def test_one_line_says_those_of_a_type(bench_of: Callable[..., Bench]) -> None:
    lines = screen(bench_of("everything").judge({}, ("torch",))).splitlines()
    assert [line.partition("  ")[0] for line in lines if SAME in line] == [
        f"{begin}{SAME}in 8 kinds of batch" for begin in ("", "float16 ", "bfloat16 ")
    ]


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_twice_the_bound_is_found_and_half_of_it_is_not(bench_of: Callable[..., Bench], dtype: str) -> None:
    bench = bench_of("base")
    good = bench.judge({}, ("torch",))
    bound = rows(good, dtype)["in another order"].bound
    scale = float(good.measured.scales["layers.2.feed_forward_norm"].min())  # of the channel that is farthest by it
    for share in (2.0, 0.5):
        plant = by_place(share * bound * scale, getattr(torch, dtype))
        result = bench.judge({"torch": bench.dump(in_halves(plant))}, ("torch",))
        assert ("in another order" in {check.rpartition(SAME)[2] for check in broken(result)}) == (share > 1.0)


def test_a_row_that_is_no_number_in_a_half_type_is_found(bench_of: Callable[..., Bench]) -> None:
    """A mask that becomes minus infinity there leaves a row without a key nothing to average."""
    bench = bench_of("everything")
    result = bench.judge({"torch": bench.dump(in_halves(no_number_where_no_key_is_seen))}, ("torch",))
    assert broken(result) == [f"{dtype} {SAME}beside a row without a real token" for dtype in HALF_TYPES]
    said = [cause.what for cause in result.causes if cause.kind == "batch"]
    assert said == ["a row without a real token is no number, or changes what the others give"] * 2


def positions_in(dtype: Any) -> Plant:
    """Count positions in a half type, in which 256 and 257 are one number."""

    def plant(module: ModuleType, model: Any) -> None:
        def turns(table: Any, rows: int, columns: int, heads: int) -> Any:
            positions = torch.arange(columns, dtype=dtype).long().clamp(max=columns - 1)
            return module.turns_of_tokens(table, positions.repeat(rows), heads)

        within(module, "turns_of_rows", turns, model)

    return in_halves(plant)


def test_positions_that_are_counted_in_a_half_type_are_found(bench_of: Callable[..., Bench]) -> None:
    """Of a large model nothing else shows it: what is compared with float64 has rows far from the limit there."""
    bench = bench_of("masked-lm", max_length=600)
    assert broken(bench.judge({}, ("torch",))) == []
    result = bench.judge({"torch": bench.dump(positions_in(torch.bfloat16))}, ("torch",))
    found = [check for check in broken(result) if SAME in check]
    assert found == [f"{dtype} {SAME}at the end of 600 tokens" for dtype in HALF_TYPES]
    assert sum("near the limit" in cause.what for cause in result.causes) == 2
