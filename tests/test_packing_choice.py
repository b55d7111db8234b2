"""Which batches are packed: the rule as a table."""

from __future__ import annotations

import pytest

from roformer_convert.models.packing_choice import Batching, Way, how_to_batch


@pytest.mark.parametrize(
    ("device", "way", "real", "want"),
    [
        ("cpu", "rows", 1, "packed"),
        ("cpu", "rows", 1000, "packed"),
        ("cpu", "batch", 1000, "packed"),
        ("cuda", "kernel", 1, "packed"),
        ("cuda", "kernel", 1000, "packed"),
        ("cuda", "batch", 550, "packed"),
        ("cuda", "batch", 750, "packed"),
        ("cuda", "batch", 751, "padded"),
        ("cuda", "batch", 1000, "padded"),
        ("cuda", "rows", 1, "padded"),
        ("mps", "batch", 1000, "padded"),
        ("gpu", "kernel", 1000, "packed"),
    ],
)
def test_a_batch_of_a_thousand_tokens_is_packed_where_that_is_faster(
    device: str, way: Way, real: int, want: Batching
) -> None:
    assert how_to_batch(device, way, real, 1000) == want
