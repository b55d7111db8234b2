"""What holds for the layouts of all containers alike; what is each one's own has a file of tests of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from file_contents import memory_below, write_without_payloads

from roformer_convert.converters.containers import safetensors
from roformer_convert.converters.containers.bundle import tensor_bundle
from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.containers.pickles import pdparams, torch_bin
from roformer_convert.converters.tensors.stored import FileLayout, Index, NewTensor

#: Container → lay tensors out, the file that an index is asked of, the index.
CONTAINERS: dict[str, tuple[Callable[[Sequence[NewTensor]], FileLayout], str, Callable[[Path], Index]]] = {
    "safetensors": (
        lambda tensors: safetensors.lay_out("model.safetensors", list(tensors), {}),
        "model.safetensors",
        safetensors.index,
    ),
    "pdparams": (lambda tensors: pdparams.lay_out("m.pdparams", tensors), "m.pdparams", pdparams.index),
    "bin": (lambda tensors: torch_bin.lay_out("m.bin", tensors), "m.bin", torch_bin.index),
    "h5": (lambda tensors: keras_h5.lay_out("tf_model.h5", tensors, "model"), "tf_model.h5", keras_h5.index),
    "ckpt": (lambda tensors: tensor_bundle.lay_out("m.ckpt", tensors), "m.ckpt.index", tensor_bundle.index),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_indexing_half_a_gigabyte_takes_next_to_no_memory(tmp_path: Path, container: str) -> None:
    lay_out, filename, index = CONTAINERS[container]
    write_without_payloads(
        lay_out([NewTensor(f"layers/{n}/weight", "float32", (768 + n, 768)) for n in range(200)]), tmp_path
    )
    with memory_below(2 << 20):
        found = index(tmp_path / filename)
    assert sum(tensor.nbytes for tensor in found.tensors) > 500_000_000


@pytest.mark.parametrize("container", ["pdparams", "bin", "h5"])
def test_an_alias_costs_no_payload(container: str) -> None:
    lay_out, filename, _ = CONTAINERS[container]
    whole = NewTensor("layer/w", "float32", (1000, 1000))
    alone, tied = (
        lay_out(tensors).sizes[filename]
        for tensors in ([whole], [whole, NewTensor("layer/t", "float32", (1000, 1000), "layer/w")])
    )
    assert alone < tied < alone + 300


@pytest.mark.parametrize(
    "module", ["safetensors", "bundle.tensor_bundle", "pickles.pdparams", "pickles.torch_bin", "hdf5.keras_h5"]
)
def test_importing_a_container_imports_no_numpy(module: str) -> None:
    code = f"import sys, roformer_convert.converters.containers.{module}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
