"""Thousands of truncated and mutated Keras HDF5 files are refused or indexed; what is indexed is what h5py reads too.

Those in the form that Keras writes meet our own reader. The others meet h5py in the process that makes copies, and take
longer, so that there are fewer of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fuzz.campaign import Campaign, mutation
from fuzz.hdf5_files import FILES, OTHER_FILES
from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.errors import FETCH_AGAIN, FormatError
from roformer_convert.converters.tensors.stored import OpenFiles

H5PY = Path(__file__).with_name("read_with_h5py.py")


def contents(path: Path) -> list[list[Any]]:
    """Return (name, dtype, shape, bytes) of each tensor that we find, as that program does."""
    found = []
    tensors = keras_h5.index(path).tensors
    with OpenFiles() as files:
        for tensor in tensors:
            out = bytearray(tensor.nbytes)
            tensor.data.read_into(files, 0, memoryview(out))
            found.append([tensor.name, tensor.dtype, list(tensor.shape), out.hex()])
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


def mutated(directory: Path, kind: str, campaign: Campaign, count: int) -> Counter[str]:
    """Compare ours and h5py's reading of ``count`` mutants; return how often what happened."""
    write, libver = (FILES | OTHER_FILES)[kind]
    whole = directory / "whole.h5"
    write(whole, libver)
    found = {whole: contents(whole)}

    def read(path: Path) -> None:
        tensors = contents(path)
        kept = directory / f"{len(found)}.h5"
        kept.write_bytes(path.read_bytes())
        found[kept] = tensors

    ends = campaign.run(directory / "it.h5", [whole.read_bytes()], mutation, read, count=count, memory=None)
    theirs = subprocess.run(
        [sys.executable, H5PY],
        input="\n".join(map(str, found)),
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for (path, ours), line in zip(found.items(), theirs.stdout.splitlines(), strict=True):
        word, their = json.loads(line)
        ends[f"read, {word} by h5py"] += 1
        if word == "read" and ours != their:
            campaign.keep(path, path.read_bytes())
            assert ours == their
        assert word == "read" or path != whole
        path.unlink()
    return ends


@pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits and forks are POSIX's")
@pytest.mark.parametrize("kind", FILES)
def test_mutants_are_refused_or_read_as_h5py_does(tmp_path: Path, kind: str, campaign: Campaign) -> None:
    ends = mutated(tmp_path, kind, campaign, 1500)
    assert ends["refused"] > 300, ends
    assert ends["read, read by h5py"] > 150, ends
    while campaign.goes_on():
        mutated(tmp_path, kind, campaign, 1500)


@pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: limits and forks are POSIX's")
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_mutants_of_other_forms(tmp_path: Path, kind: str, campaign: Campaign) -> None:
    ends = mutated(tmp_path, kind, campaign, 15)
    assert ends["read, read by h5py"], ends
    while campaign.goes_on():
        mutated(tmp_path, kind, campaign, 15)
