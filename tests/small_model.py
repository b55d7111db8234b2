"""The configuration of a model that is small enough for a CPU and has sizes that fast kernels take."""

from __future__ import annotations

from roformer_convert.models.config import RoFormerConfig

SMALL = RoFormerConfig(
    vocab_size=60,
    embedding_size=24,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
)
