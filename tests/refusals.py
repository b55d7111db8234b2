"""Conversions that must fail: nothing may be left behind, and the error is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import file_bytes
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, ConvertOptions, MisfitError, convert
from roformer_convert.converters.table.mapping import Dialect

Arrays = dict[str, Any]


def drop(arrays: Arrays, *names: str) -> None:
    for name in tuple(names):
        del arrays[name]


def edit(directory: Path, change: Callable[[Arrays], None]) -> None:
    """Rewrite a safetensors file with some tensors changed."""
    path = directory / "model.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)


def refused(directory: Path, to: Dialect = "tf1", **options: Any) -> ConvertError:
    """Convert, which must fail and leave the parent as it was; return the error."""
    before = file_bytes(directory.parent)
    folders = sorted(path.name for path in directory.parent.iterdir())
    with pytest.raises(ConvertError) as caught:
        convert(directory, directory.parent / "out", to=to, options=ConvertOptions(**options))
    assert sorted(path.name for path in directory.parent.iterdir()) == folders
    assert file_bytes(directory.parent) == before
    return caught.value


def misfit(directory: Path, to: Dialect = "tf1", **options: Any) -> list[tuple[str, str]]:
    """Convert, which must fail with a misfit; return (kind, name) of its problems."""
    error = refused(directory, to, **options)
    assert isinstance(error, MisfitError), error
    return [(problem.kind, problem.name) for problem in error.problems]
