"""Thousands of truncated and mutated Keras HDF5 files are refused or indexed, whatever the HDF5 library makes of them.

Run as a script, this file is the loop that mutates, in a process of its own because it forks: what the library dies of
(seen: endless loops) is only counted, as the process that :func:`keras_h5.index` starts would only be an error.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from roformer_convert.converters.containers import keras_h5, keras_h5_child
from roformer_convert.converters.containers.keras_h5_layout import SIGNATURE
from roformer_convert.converters.containers.stored import Extent, NewTensor
from roformer_convert.converters.errors import FormatError


def outcomes(directory: Path, contents: Sequence[bytes]) -> Iterator[str]:
    """Index each of ``contents`` as :func:`keras_h5.index` does, in forks of this process, which has h5py already.

    A fork goes on until a file kills it or takes 0.2 s of processor time (usual: 2 ms); the next one
    takes the next file.
    """
    at = 0
    while at < len(contents):
        ours, its = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(ours)
                keras_h5_child.limit_process(None)
                with os.fdopen(its, "w") as pipe:
                    for number in range(at, len(contents)):
                        path = directory / f"{number}.h5"  # the library may still hold the last one
                        path.write_bytes(contents[number])
                        signal.setitimer(signal.ITIMER_PROF, 0.2)
                        print(json.dumps(keras_h5_child.describe(str(path), confined=False)), file=pipe, flush=True)
                        path.unlink()
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
            os._exit(0)
        os.close(its)
        with os.fdopen(ours) as lines:
            for line in lines:
                yield checked_answer(directory / f"{at}.h5", len(contents[at]), json.loads(line))
                at += 1
        _, status, used = os.wait4(child, 0)
        assert used.ru_maxrss < keras_h5_child.MEMORY_LIMIT >> 10
        if os.WIFSIGNALED(status):
            yield f"died ({os.WTERMSIG(status)})"
            at += 1
        assert not os.WIFEXITED(status) or (os.WEXITSTATUS(status) == 0 and at == len(contents))


def checked_answer(path: Path, size: int, answer: object) -> str:
    try:
        index = keras_h5.index_of_answer(path, size, answer)
    except FormatError as error:
        return "refused" if len(str(error)) < 1000 else "refused at length"
    for tensor in index.tensors:
        if isinstance(tensor.data, Extent):
            assert 0 <= tensor.data.offset <= tensor.data.offset + tensor.nbytes <= size
    return "indexed"


def mutations(content: bytes, rng: random.Random, count: int) -> list[bytes]:
    """Change single bytes and bits, put extreme numbers and offsets of the file itself in, move pieces about."""
    made = []
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
            at = rng.randrange(len(SIGNATURE), len(content) - 64)
            kind = rng.randrange(4)
            if kind == 0:
                changed[at] = rng.randrange(256)
            elif kind == 1:
                changed[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                number = rng.choice([0, (1 << 64) - 1, rng.randrange(len(content)), 1 << rng.randrange(64)])
                changed[at : at + 8] = struct.pack("<Q", number)
            else:
                size, source = rng.choice([1, 8, 24, 64]), rng.randrange(len(content) - 64)
                changed[at : at + size] = changed[source : source + size]
        made.append(bytes(changed))
    return made


def mutate(directory: Path, seed: int, count: int) -> None:
    """Print how many truncations and mutations of two small files were indexed and how many refused."""
    plain, packed = directory / "plain.h5", directory / "packed.h5"
    layout = keras_h5.lay_out(
        plain.name,
        [NewTensor("roformer/a/kernel", "float32", (3, 4)), NewTensor("head/b", "float16", (5,))],
        "m",
        {"head": ["roformer/a/kernel"]},
    )
    layout.create(directory)
    with open(plain, "r+b") as raw:
        raw.write(SIGNATURE)
    values = np.random.default_rng(3).random((9, 8))
    with h5py.File(packed, "w") as file:
        file.attrs["layer_names"] = np.asarray([b"roformer"])  # fixed-width text here, text of any length in the other
        file.create_group("roformer").attrs["weight_names"] = np.asarray([b"m/a:0", b"m/b:0"])
        file["roformer/m/a:0"] = values[0]
        file.create_dataset("roformer/m/b:0", data=values, chunks=(4, 3), compression="gzip", shuffle=True)
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for content in (plain.read_bytes(), packed.read_bytes()):
        cuts = [content[:length] for length in range(len(SIGNATURE), len(content), 37)]
        assert list(outcomes(directory, [content, *cuts])) == ["indexed"] + ["refused"] * len(cuts)
        counts.update(outcomes(directory, mutations(content, rng, count)))
    print(json.dumps(counts))


@pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits and forks are POSIX's")
def test_truncations_and_mutations_are_refused_or_indexed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), "20240521", "1000"],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == 2000
    assert counts["refused"] > 200
    assert counts["indexed"] > 200
    assert "refused at length" not in counts


if __name__ == "__main__":
    mutate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
