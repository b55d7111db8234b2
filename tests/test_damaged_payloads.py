"""A file that keeps checksums of its payloads is believed by nobody once a bit of one is another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import CONFIG, random_tensors, save

from roformer_convert.converters import ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.compare import compare
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.table.mapping import Dialect

#: A kernel, and the embeddings, of which torch's file may hold a part of a larger storage.
NAMES = ("layers.1.attention.query.weight", "embeddings.word.weight", "mlm.bias")


def to_paddle(ckpt: Path, name: str) -> None:
    convert(ckpt, to="paddle")


def to_float16(ckpt: Path, name: str) -> None:
    convert(ckpt, to="torch", options=ConvertOptions(dtype="float16"))


def unverified(ckpt: Path, name: str) -> None:
    convert(ckpt, to="torch", options=ConvertOptions(container="safetensors", verify=False))


def read_it(ckpt: Path, name: str) -> None:
    with open_checkpoint(ckpt) as checkpoint:
        checkpoint.read(name)


def diff_it(ckpt: Path, name: str) -> None:
    with open_checkpoint(ckpt) as one, open_checkpoint(ckpt) as other:
        compare(one, other)


READERS: tuple[Callable[[Path, str], None], ...] = (to_paddle, to_float16, unverified, read_it, diff_it)


@pytest.fixture(params=["ckpt", "bin", "bin, sliced"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind: str = request.param
    dialect: Dialect = "tf1" if kind == "ckpt" else "torch"
    options: dict[str, Any] = {} if kind == "ckpt" else {"container": "bin"}
    save(tmp_path / "it", dialect, random_tensors(), CONFIG, **options)
    if kind == "bin, sliced":
        torch = pytest.importorskip("torch")
        path = tmp_path / "it" / "pytorch_model.bin"
        sliced = {}
        for name, tensor in torch.load(path).items():
            # rows of a larger matrix, as a vocabulary that was cut is saved
            larger = torch.cat([tensor, torch.randn(3, *tensor.shape[1:])])
            sliced[name] = larger[: len(tensor)]
        torch.save(sliced, path)
    return tmp_path / "it"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reader", READERS)
def test_one_bit_is_told_by_whoever_reads_it(checkpoint: Path, reader: Callable[[Path, str], None], name: str) -> None:
    reader(checkpoint, name)
    with open_checkpoint(checkpoint) as intact:
        array, paths = intact.read(name), intact.paths
    for path in paths:
        stored = bytearray(path.read_bytes())
        place = max(stored.find(array.tobytes()), stored.find(array.T.tobytes()))
        if place > 0:
            break
    assert place > 0
    stored[place + array.nbytes // 2] ^= 1
    path.write_bytes(stored)
    for left in checkpoint.parent.glob("it-*"):
        for file in left.iterdir():
            file.unlink()
        left.rmdir()
    with pytest.raises(FormatError, match="wrong CRC32"):
        reader(checkpoint, name)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["it"]
