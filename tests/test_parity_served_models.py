"""Any honest model gives every row the same in every batch, and loses in a half type what rounding explains."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from test_parity_bounds import Drawn, drawn

from roformer_convert.converters.tensors.stored import HALF_TYPES
from roformer_convert.parity.conditions.invariances import SAME

torch = pytest.importorskip("torch")

#: Models that are drawn; more of them in a campaign of one's own.
CAMPAIGN = int(os.environ.get("SERVED_MODELS", "12"))


@settings(
    max_examples=CAMPAIGN,
    deadline=None,
    database=None,
    derandomize=CAMPAIGN < 50,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
@given(model=drawn())
def test_honest_models_keep_their_rows_and_their_half_types(model: Drawn) -> None:
    # scores in the thousands come near the -10,000 that hide padding: such a model sees it, and is no honest one
    assume(model.weights * model.sharpness <= 6.0)
    with tempfile.TemporaryDirectory() as folder:
        half_types = HALF_TYPES if abs(model.offset) < 65504.0 else ("bfloat16",)  # float16 does not have it
        bench = model.bench(Path(folder) / "model", invariances=True, half_types=half_types)
        result = bench.judge({}, ("torch",))
        mine = [one for one in result.verdicts if one.check.startswith((SAME, *HALF_TYPES))]
        assert len(mine) > 7
        for one in mine:
            assert one.status != "differs", (model, one)
