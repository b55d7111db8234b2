"""What every contestant of a benchmark runs: prepare a job, run it when asked, say how long it took.

Run by the interpreter of each contestant's own environment: the standard library and numpy are all it knows. Requests
come as JSON, one a line, on standard input; answers leave by what was standard output, which frameworks print on.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

#: Runs the job once, to its end, and returns what it computed.
Job = Callable[[], Any]
#: mode and batch (arrays by name) to a job.
Prepare = Callable[[str, dict[str, np.ndarray]], Job]
#: Multiplies a (m, k) by b (k, n), both given as the framework's own arrays.
Product = Callable[[], Any]

_OUT = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def read_batch(path: str) -> dict[str, np.ndarray]:
    """Read a batch: input_ids, token_type_ids and, where something is padded, attention_mask and positions."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def serve(
    prepare: Prepare,
    as_numpy: Callable[[Any], np.ndarray],
    versions: dict[str, str],
    product: Callable[..., Product],
) -> None:
    """Answer until the input ends.

    Args:
        prepare: Makes a job; what it costs to trace or compile is not counted.
        as_numpy: Turns a job's result into an array of logits.
        versions: Of the libraries that compute.
        product: ``product(m, k, n)`` makes a job that multiplies matrices as the framework does.
    """
    jobs: dict[str, Job] = {}
    batch = ""
    _answer({"versions": versions})
    for line in sys.stdin:
        request = json.loads(line)
        clock = time.process_time if request.get("processor_time") else time.perf_counter
        key = request.get("job")
        if "prepare" in request:
            began = time.perf_counter()
            if request["batch"] != batch:
                batch, jobs = request["batch"], {}  # what the case before compiled and keeps goes
            try:
                jobs[key] = prepare(request["prepare"], read_batch(batch))
                logits = as_numpy(jobs[key]())
            except Exception as error:  # a mode that cannot do this job is left out, and the others are not lost
                traceback.print_exc()
                _answer({"error": f"{type(error).__name__}: {error}"[:500]})
                continue
            np.save(request["sample"], logits.reshape(-1, logits.shape[-1])[: request["rows"]])
            _answer({"seconds": time.perf_counter() - began})
        elif "product" in request:
            _answer({"gflops": _rate(product(*request["product"]), *request["product"], clock)})
        else:
            began = clock()
            jobs[key]()
            _answer({"seconds": clock() - began})
    os._exit(0)


def _rate(run: Product, m: int, k: int, n: int, clock: Callable[[], float]) -> float:
    best = float("inf")
    for _ in range(4):
        began = clock()
        run()
        best = min(best, clock() - began)
    return 2e-9 * m * k * n / best


def _answer(content: dict[str, Any]) -> None:
    _OUT.write(json.dumps(content) + "\n")
    _OUT.flush()
