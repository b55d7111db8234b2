"""A program that says what h5py reads of Keras's files, one named in a line.

The HDF5 library crashes on some broken files and hangs on others. So it reads in forks of a process of its own, under
limits; where one dies, the library has no opinion.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

MEMORY = 1 << 30  # bytes of address space
SECONDS = 0.5  # of processor time on one file; usual are 2 ms


def names_of(owner: Any, name: str) -> list[Any]:
    if name in owner.attrs:
        return list(owner.attrs[name])
    found: list[Any] = []
    part = 0
    while f"{name}{part}" in owner.attrs:
        found += list(owner.attrs[f"{name}{part}"])
        part += 1
    return found


def contents(path: Path) -> list[list[Any]]:
    """Return (name, dtype, shape, bytes) of each tensor, as h5py finds them."""
    found = []
    with h5py.File(path) as file:
        layers = [name.encode() if isinstance(name, str) else bytes(name) for name in names_of(file, "layer_names")]
        if "top_level_model_weights" in file and b"top_level_model_weights" not in layers:
            layers.append(b"top_level_model_weights")
        for layer in layers:
            for weight in names_of(file[layer], "weight_names"):
                name = weight.encode() if isinstance(weight, str) else bytes(weight)
                data = file[layer][name]
                plain = name.partition(b"/")[2].removesuffix(b":0").decode()
                found.append([plain, str(data.dtype), list(data.shape), data[()].tobytes().hex()])
    return found


def limit() -> None:
    import resource

    for what, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (value, resource.getrlimit(what)[1]))


def answers(paths: list[Path]) -> Iterator[tuple[str, Any]]:
    """Give h5py's answer about each file. A fork goes on until a file kills it; the next one takes the next file."""
    at = 0
    while at < len(paths):
        ours, its = os.pipe()
        child = os.fork()
        if child == 0:
            limit()
            with os.fdopen(its, "w") as pipe:
                for path in paths[at:]:
                    signal.setitimer(signal.ITIMER_PROF, SECONDS)
                    try:
                        answer = ["read", contents(path)]
                    except BaseException as error:
                        answer = ["refused", repr(error)[:200]]
                    print(json.dumps(answer), file=pipe, flush=True)
            os._exit(0)
        os.close(its)
        with os.fdopen(ours) as lines:
            for line in lines:
                yield json.loads(line)
                at += 1
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            yield "died", None
            at += 1


def main() -> None:
    for kind, found in answers([Path(line) for line in sys.stdin.read().splitlines()]):
        print(json.dumps([kind, found]))


if __name__ == "__main__":
    main()
