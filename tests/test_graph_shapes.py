"""The shapes that batches are padded to for CUDA graphs, as a table."""

from __future__ import annotations

import pytest

from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.proving.graph_shapes import Shape, fit, most_tokens

BASE = RoFormerConfig(
    vocab_size=50_000,
    embedding_size=768,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
)


@pytest.mark.parametrize(
    ("rows", "columns", "positions", "masked", "want"),
    [
        (1, 32, None, False, Shape(1, 32, None, False)),
        (8, 128, None, False, Shape(8, 128, None, False)),
        (2, 512, None, False, Shape(2, 512, None, False)),
        (8, 128, None, True, Shape(8, 128, None, True)),
        (1, 1, None, False, Shape(1, 16, None, True)),
        (3, 17, None, False, Shape(4, 24, None, True)),
        (5, 25, 1, False, Shape(8, 32, 16, True)),
        (8, 33, 17, True, Shape(8, 48, 32, True)),
        (2, 49, 64, True, Shape(2, 64, 64, True)),
        (4, 64, 65, False, Shape(4, 64, 128, False)),
        (1, 513, None, False, Shape(1, 600, None, True)),
        (1, 600, None, False, Shape(1, 600, None, False)),
        (1, 601, None, False, None),
        (9, 128, None, False, Shape(16, 128, None, True)),
        (17, 128, None, False, None),
        (16, 129, None, False, None),
        (0, 16, None, False, None),
        (4, 0, None, False, None),
        (4, 16, 0, False, None),
    ],
)
def test_a_batch_is_padded_to_the_next_shape(
    rows: int, columns: int, positions: int | None, masked: bool, want: Shape | None
) -> None:
    assert fit(rows, columns, positions, masked, limit=600, most=2048) == want


def test_a_shape_holds_its_batch_and_is_at_most_three_times_as_large() -> None:
    for rows in range(1, 65):
        for columns in range(16, 513):
            shape = fit(rows, columns, None, False, limit=512, most=10**9)
            assert shape is not None
            assert shape.rows >= rows
            assert columns <= shape.columns <= 512
            assert shape.rows * shape.columns < 3 * rows * columns
            assert fit(*shape, limit=512, most=10**9) == shape


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "dtype", "least", "largest"),
    [
        ((9, 0), 132, "bfloat16", 4096, 8192),  # H200: 1,024 tokens wait for the host, 16,384 do not
        ((9, 0), 132, "float32", 256, 1024),
        ((8, 0), 108, "float16", 2048, 4096),  # A100
        ((8, 9), 128, "bfloat16", 512, 1024),  # RTX 4090, counted as 8.6
        ((7, 0), 80, "float16", 1000, 2048),  # V100
        ((7, 5), 40, "float32", 32, 128),  # T4
        ((9, 0), 132, "float64", 0, 0),
        ((6, 1), 28, "float32", 0, 0),
    ],
)
def test_a_graph_pays_while_a_card_waits_for_the_host(
    capability: tuple[int, int], multiprocessors: int, dtype: str, least: int, largest: int
) -> None:
    assert least <= most_tokens(capability, multiprocessors, dtype, BASE) <= largest


def test_a_model_of_twice_the_size_pays_for_a_quarter_of_the_tokens() -> None:
    large = RoFormerConfig(**{**BASE.__dict__, "hidden_size": 1536, "intermediate_size": 6144})
    found = most_tokens((9, 0), 132, "bfloat16", large)
    assert found == pytest.approx(most_tokens((9, 0), 132, "bfloat16", BASE) / 4, abs=1)
