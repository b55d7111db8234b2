"""What every worker does alike: requests in, answers out, parameters hashed, outputs written as files.

A request and its answer are one line of JSON each. Standard output carries the answers alone: whatever a library prints
there goes to standard error.

    {"versions": [[package, [distribution, ...]], ...]}    which of them can be imported, and in which version
    {"run": job}                                           load a directory, run every case (:func:`run`)
    {"parameters": {"names": [...], "out": file}}          write some parameters as they were loaded

Arrays go through .npz files without pickles. What the software raises is an answer too, ``{"failed": ...}``: that a
directory cannot be loaded is a result.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from importlib import metadata
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

Json = Dict[str, Any]
Arrays = Dict[str, Any]
_MOST_WARNINGS = 50
_LONGEST_WARNING = 2000  # characters


class Software:
    """One software's ways; each worker file has a subclass called ``Worker``.

    Attributes:
        types: What it computes in, in this order.
        half_types: What it computes in besides, where it is asked to.
    """

    types: Tuple[str, ...] = ("float32",)
    half_types: Tuple[str, ...] = ()

    def load(self, job: Json) -> Json:
        """Load ``job["directory"]``.

        Returns the class that was loaded, what was missing, unexpected and mismatched, and what was warned of.
        """
        raise NotImplementedError

    def parameters(self) -> Iterator[Tuple[str, Any]]:
        """Name every parameter as the software does, in float64 or float32, as it lies in the software."""
        return iter(())

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run one batch: ``scores`` of the class, ``pooled``, and ``hidden``, a list, where it exposes them."""
        raise NotImplementedError

    def tokenizer(self, job: Json) -> Optional[Tuple[str, Callable[..., List[int]]]]:
        """Return the name of the tokenizer's class, and what turns one or two texts into ids; None without one."""
        return None


def serve(name: str) -> None:
    """Answer requests until the input ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    software: Optional[Software] = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "versions" in request:
                answer = versions(request["versions"])
            else:
                if software is None:
                    software = importlib.import_module(f".run_{name}", __package__).Worker()
                assert software is not None
                answer = (
                    run(software, request["run"]) if "run" in request else write_some(software, **request["parameters"])
                )
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"[:_LONGEST_WARNING]}
        out.write(json.dumps(answer).encode("ascii") + b"\n")
        out.flush()
    sys.stderr.flush()
    os._exit(0)  # a framework's own farewell takes a second and may crash, and there is nothing to save


def versions(asked: List[Tuple[str, List[str]]]) -> Json:
    """Say which packages can be imported, without importing them: name → version, "" for one that none is known of."""
    found: Dict[str, Optional[str]] = {}
    for package, distributions in asked:
        found[package] = None
        try:
            there = importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):
            there = False
        if there:
            found[package] = next((v for v in map(_version, distributions) if v), "")
    return {"python": platform.python_version(), "packages": found}


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def run(software: Software, job: Json) -> Json:
    """Load, hash, run and tokenize.

    A job has ``directory`` and ``class``, the class as this family calls it (``RoFormerForMaskedLM``); ``cases_file``
    with ``<number>.input_ids`` and the like, and ``cases``, a name each, with ``hidden`` where hidden states are
    wanted; ``out``, the folder for ``<type>.<name>.npz``; ``called``, the names under which ``scores``, ``pooled`` and
    each of ``hidden`` are written; ``transposed``, the parameters that are hashed as (out, in) though the software
    holds them (in, out); ``tables``, parameter → file of what it is replaced with in the types of ``exact``; ``texts``,
    one or two each; ``half_types``, in which the cases with hidden states are computed too; and what one software alone
    needs to be told.
    """
    clock = Clock()
    report = software.load(job)
    report["warned"] = [text[:_LONGEST_WARNING] for text in report["warned"][:_MOST_WARNINGS]]
    clock.lap("import and load")
    transposed = set(job.get("transposed", ()))
    parameters = {}
    for name, array in software.parameters():
        array = np.asarray(array)
        parameters[name] = {"shape": list(array.shape), "sha256": digest(array.T if name in transposed else array)}
    clock.lap("hash")
    computed, without = [], {}
    halves = [dtype for dtype in job.get("half_types", ()) if dtype in software.half_types]
    for dtype in [*software.types, *halves]:
        try:
            compute_cases(software, job, dtype, [case["hidden"] or dtype not in halves for case in job["cases"]])
        except Exception as error:
            if dtype not in halves:
                raise
            traceback.print_exc()
            without[dtype] = f"{type(error).__name__}: {error}"[:_LONGEST_WARNING]
        else:
            computed.append(dtype)
        clock.lap(dtype)
    return {
        **report,
        "parameters": parameters,
        "types": computed,
        "without": without,
        **encode(software, job),
        "seconds": {**clock.seconds, **clock.last("tokenize")},
        "peak_bytes": peak_bytes(),
    }


def compute_cases(software: Software, job: Json, dtype: str, chosen: List[bool]) -> None:
    """Run the chosen cases in a type and write what comes of them."""
    with np.load(job["cases_file"], allow_pickle=False) as arrays:
        for number, case in enumerate(job["cases"]):
            if chosen[number]:
                given = {key.partition(".")[2]: arrays[key] for key in arrays if key.startswith(f"{number}.")}
                positions = given.pop("positions", None)
                found = software.compute(given, dtype, case["hidden"])
                write(job["out"], f"{dtype}.{case['name']}", named(found, positions, job["called"]))


def named(found: Arrays, positions: Any, called: Json) -> Arrays:
    """Call what was computed what the job calls it; words are scored at ``positions`` alone, where there are any."""
    arrays: Arrays = {}
    for name, state in zip(called["hidden"], found.get("hidden", [])):
        arrays[name] = state
    if "pooled" in found and called.get("pooled"):
        arrays[called["pooled"]] = found["pooled"]
    scores = found["scores"]
    arrays[called["scores"]] = scores if positions is None else scores.reshape(-1, scores.shape[-1])[positions]
    return arrays


def all_inputs(given: Arrays) -> Arrays:
    """Give an export all three of its inputs."""
    ids = given["input_ids"]
    types, mask = given.get("token_type_ids"), given.get("attention_mask")
    return {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids) if types is None else types,
        "attention_mask": np.ones_like(ids) if mask is None else mask,
    }


def encode(software: Software, job: Json) -> Json:
    """Tokenize the texts; a tokenizer that fails takes nothing else along."""
    if not job.get("texts"):
        return {"ids": None}
    try:
        tokenizer = software.tokenizer(job)
        if tokenizer is None:
            return {"ids": None}
        name, ids_of = tokenizer
        return {"ids": [[int(one) for one in ids_of(*parts)] for parts in job["texts"]], "tokenizer": name}
    except Exception as error:
        traceback.print_exc()
        return {"ids": None, "no_ids": f"{type(error).__name__}: {error}"[:_LONGEST_WARNING]}


def write_some(software: Software, names: List[str], out: str) -> Json:
    """Write some parameters of the model that was loaded last."""
    wanted = set(names)
    arrays = {name: np.asarray(array) for name, array in software.parameters() if name in wanted}
    numbered: Arrays = {str(names.index(name)): array for name, array in arrays.items()}
    np.savez(out, **numbered)
    return {}


def write(folder: str, name: str, arrays: Arrays) -> None:
    """Write the results of one case."""
    np.savez(os.path.join(folder, name + ".npz"), **arrays)


def digest(array: Any) -> str:
    """Hash an array's values in float64."""
    return hashlib.sha256(np.ascontiguousarray(array, "<f8").tobytes()).hexdigest()


def peak_bytes() -> Optional[int]:
    """Most memory this process held, where the system says."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Clock:
    """Seconds a part."""

    def __init__(self) -> None:
        self.seconds: Dict[str, float] = {}
        self._then = time.monotonic()

    def lap(self, part: str) -> None:
        """End a part."""
        self.seconds.update(self.last(part))
        self._then = time.monotonic()

    def last(self, part: str) -> Dict[str, float]:
        """Return what has passed since the last part ended."""
        return {part: round(time.monotonic() - self._then, 3)}
