"""The three models load every folder of the family as its writer left it, and compute what the writer computed."""

from __future__ import annotations

import numpy as np
import pytest
from family_folders import FAMILY, SET, TOLERANCE, difference
from model_runner import FRAMEWORKS, Arrays, Runners, runners
from peer_folders import PEERS, inputs_of

from roformer_convert.converters import open_checkpoint

__all__ = ["runners"]  # a fixture


def run(runners: Runners, framework: str, folder: str, kind: str | None = None) -> Arrays:
    """Run a folder in the class that its files say, or in another."""
    if kind is None:
        with open_checkpoint(PEERS / folder, set=SET.get(folder)) as checkpoint:
            kind = checkpoint.model_class
    loading = {"set": SET.get(folder), "dtype": "float32" if "bfloat16" in folder else None}
    return runners[framework].forward(PEERS / folder, inputs_of(folder), loading=loading, **{"class": kind})


@pytest.mark.parametrize("folder", FAMILY)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_writers_logits_are_reproduced(runners: Runners, framework: str, folder: str) -> None:
    got = run(runners, framework, folder)
    assert difference(folder, got["out0"], everywhere=False) <= TOLERANCE


@pytest.mark.parametrize(
    ("folder", "vectors"),
    [
        ("junn-Model_poollin_bin", "pooled"),
        ("pd-Model_discriminator_pd", "pooled"),
        ("b4k-MaskedLM_poollin", "out0"),
        ("b4k-UniLM_sim", "out0"),
    ],
)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_encoder_alone_gives_the_writers_vectors(
    runners: Runners, framework: str, folder: str, vectors: str
) -> None:
    got = run(runners, framework, folder, "RoFormerModel")["out1"]
    assert np.abs(got - np.load(PEERS / folder / f"{vectors}.npy")).max() <= TOLERANCE
