"""Learning rates, those that the reference run printed among them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from roformer_convert.training.settings.reading import read_settings, settings_from_tree
from roformer_convert.training.step.schedule import learning_rate


def rates(*stages: dict[str, Any]) -> list[float]:
    tree = {"stages": [{"length": 32, "batch_size": 8, **stage} for stage in stages]}
    settings = settings_from_tree(tree)
    return [learning_rate(settings, step) for step in range(1, settings.steps + 1)]


@pytest.mark.parametrize(
    ("step", "printed"),
    [
        (170100, "6.66465e-05"),
        (170200, "6.66263e-05"),
        (170300, "6.66061e-05"),
        (170400, "6.65859e-05"),
        (170500, "6.65657e-05"),
        (170600, "6.65455e-05"),
    ],
)
def test_the_shipped_configuration_has_the_rates_that_the_model_card_prints(step: int, printed: str) -> None:
    settings = read_settings(Path("configs/roformer_base_wwm.toml"))
    assert f"{learning_rate(settings, step):.5e}" == printed


def test_warm_up_ends_at_the_most_and_a_straight_line_leads_to_the_least() -> None:
    found = rates({"steps": 10, "max_lr": 1.0, "min_lr": 0.2, "warmup_steps": 2})
    assert found == pytest.approx([0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])


def test_the_least_stays_after_the_decay_and_a_decay_may_outlast_the_run() -> None:
    assert rates({"steps": 4, "max_lr": 1.0, "min_lr": 0.5, "decay_steps": 2}) == pytest.approx([0.75, 0.5, 0.5, 0.5])
    assert rates({"steps": 2, "max_lr": 1.0, "decay_steps": 10}) == pytest.approx([0.9, 0.8])


def test_cosine_is_half_way_in_the_middle_and_flat_at_its_ends() -> None:
    found = rates({"steps": 100, "max_lr": 1.0, "min_lr": 0.1, "decay": "cosine"})
    assert found[49] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1)
    assert found[24] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_constant_stays_at_the_most() -> None:
    assert rates({"steps": 4, "max_lr": 1.0, "decay": "constant", "warmup_steps": 2}) == [0.5, 1.0, 1.0, 1.0]


def test_a_stage_without_a_rate_goes_on_along_the_schedule_before_it() -> None:
    whole = rates({"steps": 9, "max_lr": 1.0, "warmup_steps": 3})
    assert rates({"steps": 4, "max_lr": 1.0, "warmup_steps": 3}, {"steps": 2}, {"steps": 3}) == whole


def test_a_stage_with_a_rate_begins_a_schedule_of_its_own() -> None:
    one, two = {"steps": 4, "max_lr": 1.0, "warmup_steps": 3}, {"steps": 5, "max_lr": 0.5, "warmup_steps": 1}
    assert rates(one, two, {"steps": 2}) == rates(one) + rates({**two, "steps": 7})


def test_a_run_shorter_than_its_warm_up_is_all_warm_up() -> None:
    assert rates({"steps": 2, "max_lr": 1.0, "warmup_steps": 4}) == [0.25, 0.5]
