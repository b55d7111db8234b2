"""Which batches are packed: the rule as a table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from roformer_convert.models.packing_choice import Batching, Way, how_to_batch
from roformer_convert.models.processes.frameworks import FRAMEWORKS, is_installed


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


@pytest.mark.skipif(not is_installed(FRAMEWORKS["tf"].package), reason="needs TensorFlow")
def test_tensorflow_packs_on_a_gpu_where_much_is_padding() -> None:
    """In a process of its own, as every test of TensorFlow: no GPU is needed to ask."""
    program = """
from types import SimpleNamespace
from roformer_convert.models import ops_tf
for device in ("CPU", "GPU"):
    like = SimpleNamespace(device=f"/job:localhost/replica:0/task:0/device:{device}:0")
    print(device, *(ops_tf.worth_packing(like, None, real, 1000) for real in (500, 900)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "CPU True True\nGPU True False\n"
