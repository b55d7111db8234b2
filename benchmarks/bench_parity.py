"""What the parity gate costs at base size: the time and memory of one framework's process, beside the bare model's.

    python benchmarks/bench_parity.py [--frameworks torch,paddle,tf]

The bare model loads the same checkpoint in the same types and runs the same batches with no taps, nothing hashed,
nothing written and no gradients. Both processes have the machine to themselves, one after the other.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from roformer_convert.converters import RoFormerConfig, convert, save_checkpoint
from roformer_convert.converters.amounts import amount
from roformer_convert.converters.rendering import table
from roformer_convert.converters.table.mapping import MASKED_LM, SOP, Table
from roformer_convert.models.processes.process import Process
from roformer_convert.models.processes.processor import processor
from roformer_convert.parity.participants.dump import Dumper, peak_bytes
from roformer_convert.parity.participants.participants import NATIVE
from roformer_convert.parity.participants.side_by_side import WORKER
from roformer_convert.parity.questions.case_file import read_cases, write_cases
from roformer_convert.parity.questions.cases import make_cases
from roformer_convert.parity.questions.targets import make_training
from roformer_convert.parity.questions.tasks import TASKS


def make_checkpoint(directory: Path, layers: int, vocab: int) -> RoFormerConfig:
    """Write a masked-LM checkpoint of random weights as small as a trained model's."""
    config = RoFormerConfig(
        vocab_size=vocab,
        embedding_size=768,
        hidden_size=768,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
    )
    random = np.random.default_rng(0)
    tensors = {}
    for tensor in Table(layers, MASKED_LM).tensors:
        if tensor.group is SOP or tensor.canonical.startswith("embeddings.project"):
            continue
        values = random.standard_normal(tensor.shape(config.sizes), dtype=np.float32) * np.float32(0.03)
        tensors[tensor.canonical] = values + np.float32("norm.weight" in tensor.canonical)
    save_checkpoint(directory, tensors, config, dialect="torch")
    return config


def bare(framework: str, directory: str, cases_file: str, listed: str) -> None:
    """Load and run the model as the gate does, and nothing else; print seconds and bytes."""
    began = time.monotonic()
    dumper = Dumper(framework)
    module, runner = dumper.start()
    cases, _ = read_cases(Path(cases_file), json.loads(listed))
    parts = {"import": time.monotonic() - began}
    for dtype in ("float64", "float32"):
        began = time.monotonic()
        model = module.RoFormerForMaskedLM.from_pretrained(directory, dtype=dtype)
        parts["load"] = parts.get("load", 0.0) + time.monotonic() - began
        began = time.monotonic()
        for case in cases:
            with runner.at_rest(model):
                inputs = {name: runner.operations.to_tensor(array) for name, array in case.arrays().items()}
                runner.operations.as_numpy(model(**inputs))
        parts[dtype] = time.monotonic() - began
        del model
        gc.collect()
    print(json.dumps({"seconds": parts, "peak_bytes": peak_bytes()}))


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frameworks", default="torch,paddle,tf")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=50_000)
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_checkpoint(folder / "torch", chosen.layers, chosen.vocab)
        cases = make_cases(config, TASKS["RoFormerForMaskedLM"], None)
        cases_file = folder / "cases.npz"
        for framework in chosen.frameworks.split(","):
            directory = folder / NATIVE[framework]
            if not directory.exists():
                convert(folder / "torch", directory, to=NATIVE[framework])
            found: dict[str, Any] = {}
            listed = write_cases(cases_file, cases, None)
            done = subprocess.run(
                [sys.executable, __file__, "bare", framework, str(directory), str(cases_file), json.dumps(listed)],
                capture_output=True,
                text=True,
                check=True,
            )
            found["bare model"] = json.loads(done.stdout.splitlines()[-1])
            for what, training in (
                ("gate, no gradients", None),
                ("gate", make_training(config, TASKS["RoFormerForMaskedLM"])),
            ):
                listed = write_cases(cases_file, cases, training)
                out = folder / f"out-{framework}-{training is not None}"
                out.mkdir()
                with Process(framework, WORKER, [framework]) as process:
                    process.ask(
                        {
                            "dump": {
                                "directory": str(directory),
                                "class_name": "RoFormerForMaskedLM",
                                "out": str(out),
                                "cases_file": str(cases_file),
                                "cases": listed,
                                "dialect": None,
                            }
                        }
                    )
                    found[what] = process.answer()
                found[what]["written"] = sum(file.stat().st_size for file in out.iterdir())
                for file in out.iterdir():
                    file.unlink()
            for what, facts in found.items():
                seconds = facts["seconds"]
                rows.append(
                    [
                        framework,
                        what,
                        f"{sum(seconds.values()):.1f}",
                        amount(facts["peak_bytes"]),
                        amount(facts.get("written", 0)),
                        ", ".join(f"{part} {taken:.1f}" for part, taken in seconds.items()),
                    ]
                )
                print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    tokens = sum(case.input_ids.size for case in cases)
    print(f"{processor().name}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{chosen.layers} layers, hidden 768, vocabulary {chosen.vocab:,}; {len(cases)} batches, {tokens} tokens\n")
    print(table(["framework", "process", "s", "most memory", "written", "seconds a part"], rows, right=[2, 3, 4]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        bare(*sys.argv[2:])
    else:
        main()
