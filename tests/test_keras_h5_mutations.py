"""Thousands of truncated and mutated Keras HDF5 files are refused or indexed; what is indexed is what h5py reads too.

Those in the form that Keras writes meet our own reader. The others meet h5py in the process that makes copies, and take
longer, so that there are fewer of them.

Run as a script, this file is what reads with h5py, in forks of a process of its own, under limits: the HDF5 library
crashes on some broken files and loops on others, and then it has no opinion.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from broken_hdf5 import FILES, OTHER_FILES, mutation

from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.errors import FETCH_AGAIN, FormatError
from roformer_convert.converters.tensors.stored import OpenFiles

MEMORY = 1 << 30  # bytes of address space for h5py
SECONDS = 0.5  # of processor time for h5py on one file; usual are 2 ms
#: A file of a few kB takes 3 ms here; none may take as long as this, whatever it says.
LONGEST = 1.0

# --- what h5py reads, in a process of its own -------------------------------------------------------------------------


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


# --- what we read -----------------------------------------------------------------------------------------------------


def outcome(path: Path) -> list[list[Any]] | str:
    """Return the tensors of a file as :func:`contents` does, or a word for how it was refused."""
    found = []
    try:
        tensors = keras_h5.index(path).tensors
        with OpenFiles() as files:
            for tensor in tensors:
                out = bytearray(tensor.nbytes)
                tensor.data.read_into(files, 0, memoryview(out))
                found.append([tensor.name, tensor.dtype, list(tensor.shape), out.hex()])
    except FormatError as error:
        return "refused" if len(str(error)) < 1000 else "refused at length"
    return found


@pytest.mark.parametrize("kind", FILES)
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
    write, libver = FILES[kind]
    write(tmp_path / "whole.h5", libver)
    assert len(keras_h5.index(tmp_path / "whole.h5").tensors) in (4, 24)
    content = (tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(content)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(FormatError) as caught:
            keras_h5.index(path)
        assert caught.value.next_step == FETCH_AGAIN, length


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_some_truncations_of_other_forms_are_refused(tmp_path: Path, kind: str) -> None:
    write, libver = OTHER_FILES[kind]
    write(tmp_path / "whole.h5", libver)
    content = (tmp_path / "whole.h5").read_bytes()
    for length in [9, 47, 48, 100, *range(400, len(content), len(content) // 6), len(content) - 1]:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(FormatError):
            keras_h5.index(tmp_path / "cut.h5")


def mutated(tmp_path: Path, kind: str, seed: int, count: int) -> Counter[str]:
    """Compare ours and h5py's reading of ``count`` mutated files; return how often what happened."""
    write, libver = (FILES | OTHER_FILES)[kind]
    whole = tmp_path / "whole.h5"
    write(whole, libver)
    content = whole.read_bytes()
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    found: dict[Path, list[list[Any]]] = {whole: outcome(whole)}  # type: ignore[dict-item]
    for number in range(count):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(mutation(content, rng))
        start = time.process_time()
        ours = outcome(path)
        assert time.process_time() - start < LONGEST, path
        if isinstance(ours, str):
            counts[ours] += 1
            path.unlink()
        else:
            found[path] = ours
    theirs = subprocess.run(
        [sys.executable, __file__],
        input="\n".join(map(str, found)),
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for (path, ours), line in zip(found.items(), theirs.stdout.splitlines(), strict=True):
        word, their = json.loads(line)
        counts[f"indexed, {word} by h5py"] += 1
        if word == "read":
            assert ours == their, path
        assert word == "read" or path != whole
    return counts


@pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits and forks are POSIX's")
@pytest.mark.parametrize("kind", FILES)
def test_mutations_are_refused_or_read_as_h5py_does(tmp_path: Path, kind: str) -> None:
    counts = mutated(tmp_path, kind, 20240521, 1500)
    assert sum(counts.values()) == 1501
    assert "refused at length" not in counts
    assert counts["refused"] > 300, counts
    assert counts["indexed, read by h5py"] > 150, counts


@pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits and forks are POSIX's")
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_mutations_of_other_forms(tmp_path: Path, kind: str) -> None:
    counts = mutated(tmp_path, kind, 20240521, 15)
    assert sum(counts.values()) == 16
    assert "refused at length" not in counts
    assert counts["indexed, read by h5py"], counts


if __name__ == "__main__":
    main()
