"""What every contestant of ``bench_inference.py`` runs: prepare a job, run it when asked, say how many seconds it took.

Run by the interpreter of each contestant's own environment, so the standard library and numpy are all it knows. Requests
come as JSON, one a line, on standard input; answers leave by what was standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy

#: Runs the job once, to its end, and returns what it computed.
Job = Callable[[], Any]
#: mode and batch (arrays by name) to a job.
Prepare = Callable[[str, dict[str, numpy.ndarray]], Job]
#: Multiplies a (m, k) by b (k, n), both given as the framework's own arrays.
Product = Callable[[], Any]

_OUT = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def read_batch(path: str) -> dict[str, numpy.ndarray]:
    """Read a batch: input_ids, token_type_ids and, where something is padded, attention_mask and positions."""
    with numpy.load(path) as file:
        return {name: file[name] for name in file.files}


def serve(
    prepare: Prepare, as_numpy: Callable[[Any], numpy.ndarray], versions: dict[str, str], product: Callable[..., Product]
) -> None:
    """Answer until the input ends.

    Args:
        prepare: Makes a job; what it costs to trace or compile is not counted.
        as_numpy: Turns a job's result into an array of logits.
        versions: Of the libraries that compute.
        product: ``product(m, k, n)`` makes a job that multiplies matrices as the framework does.
    """
    jobs: dict[str, Job] = {}
    _answer({"versions": versions})
    for line in sys.stdin:
        request = json.loads(line)
        key = request.get("job")
        if "prepare" in request:
            began = time.perf_counter()
            jobs = {key: prepare(request["prepare"], read_batch(request["batch"]))}  # one at a time, for memory
            logits = as_numpy(jobs[key]())
            if "sample" in request:
                numpy.save(request["sample"], logits.reshape(-1, logits.shape[-1])[: request["rows"]])
            _answer({"seconds": time.perf_counter() - began})
        elif "product" in request:
            _answer({"gflops": _rate(product(*request["product"]), *request["product"])})
        else:
            began = time.perf_counter()
            jobs[key]()
            _answer({"seconds": time.perf_counter() - began})
    os._exit(0)


def _rate(run: Product, m: int, k: int, n: int) -> float:
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return 2e-9 * m * k * n / best


def _answer(content: dict[str, Any]) -> None:
    _OUT.write(json.dumps(content) + "\n")
    _OUT.flush()
