"""Ranks that differ in anything that they must have in common are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training

from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step.agreement import DisagreementError, digest, require_agreement, settings_facts
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.trainer import Trainer


class Joined(Ranks):
    """Stands for ranks that have all said their facts; the one that asks is any of them."""

    def __init__(self, *facts: dict[str, Any]) -> None:
        self.count, self._texts = len(facts), [json.dumps(each) for each in facts]

    def share(self, text: str) -> list[str]:
        assert text in self._texts
        return self._texts


def facts(corpus: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings = tiny_training.settings(corpus, output, **changes)
    return Trainer(settings, open_sources(settings.data.corpora), Ranks()).facts()


def test_ranks_with_the_same_facts_may_train(corpus: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(corpus)
    one, other = facts(corpus, tmp_path / "here"), facts(link, tmp_path / "there")
    require_agreement(Joined(one, other, one), other)
    require_agreement(Ranks(), one)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seed": 1}, {"run.seed", "weights"}),
        ({"micro_tokens": 64}, {"stages[0].micro_tokens"}),
        ({"save_steps": 3}, {"watch.save_steps"}),
        ({"masked_lm_probability": 0.2}, {"data.masked_lm_probability"}),
    ],
)
def test_settings_that_differ_are_named_with_their_rank_on_every_rank(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], names: set[str]
) -> None:
    one, other = facts(corpus, tmp_path), facts(corpus, tmp_path, **changes)
    for asking in (one, other):
        with pytest.raises(DisagreementError, match=r"the 3 ranks do not agree on what they train") as caught:
            require_agreement(Joined(one, one, other), asking)
        assert {(rank, name) for rank, name, _, _ in caught.value.problems} == {(2, name) for name in names}


def test_other_corpora_and_another_vocabulary_are_named(corpus: Path, tmp_path: Path) -> None:
    one = facts(corpus, tmp_path)
    other = facts(tiny_training.make_corpus(tmp_path / "other", documents=59), tmp_path)
    with pytest.raises(DisagreementError, match=r"rank 1: corpora\[0\] = \["):
        require_agreement(Joined(one, other), one)
    with pytest.raises(DisagreementError, match="rank 1: vocabulary = 'x', and '"):
        require_agreement(Joined(one, {**one, "vocabulary": "x"}), one)


def test_a_stage_that_a_rank_has_more_is_named() -> None:
    stage = {"length": 8, "steps": 2}
    one, other = (settings_facts({"run": {"output": "x"}, "stages": [stage] * count}) for count in (1, 2))
    with pytest.raises(DisagreementError, match=r"rank 1: stages\[1\]\.length = 8, and None on rank 0"):
        require_agreement(Joined(one, other), one)


def test_a_digest_changes_with_names_values_and_shapes() -> None:
    values = np.arange(6, dtype=np.float32)
    found = {digest([(name, array)]) for name in "ab" for array in (values, values + 1, values.reshape(2, 3))}
    assert len(found) == 6
