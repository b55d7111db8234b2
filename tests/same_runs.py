"""Whether two runs are the same: their last checkpoints byte for byte, and their metrics but for clocks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from roformer_convert.training.step.state import STATE

#: Fields of a record that a clock decides: they alone differ between two runs of one configuration on one machine.
TIMES = frozenset({"steps_per_second", "sequences_per_second", "tokens_per_second", "peak_share"})


def same_run(one: Path, other: Path, step: int, *, history: bool = True) -> None:
    """Hold two runs' checkpoints of a step against each other, and their metrics.

    Args:
        one: A run's directory.
        other: Another's.
        step: Of both.
        history: Whether what was changed on resumes must be the same, and where the data begin that go on.
    """
    here, there = (run / f"step-{step:06d}" for run in (one, other))
    assert sorted(os.listdir(here)) == sorted(os.listdir(there))
    for name in os.listdir(here):
        if name == STATE:
            trees = [json.loads((each / name).read_text()) for each in (here, there)]
            for tree in trees:
                del tree["settings"]["run"]["output"], tree["crc32c"][STATE]
                if not history:
                    del tree["history"], tree["settings"], tree["position"]["begun"]
            assert trees[0] == trees[1]
        else:
            assert (here / name).read_bytes() == (there / name).read_bytes(), name
    assert metrics(one) == metrics(other)


def metrics(run: Path) -> list[dict[str, Any]]:
    """A run's records without what a clock says."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]
