"""Blocks: matrices larger than every buffer come out as numpy's transposition has them, at any width and alignment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import memory_below
from numpy.typing import NDArray

from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors import blocks as module
from roformer_convert.converters.tensors.blocks import Scratch, blocks, together
from roformer_convert.converters.tensors.stored import Extent, OpenFiles, StoredTensor

Array = NDArray[Any]

#: Rows and columns around every border: strips, pieces, blocks, and columns too many to read in whole rows.
SHAPES = [(1, 1), (1, 900), (900, 1), (7, 13), (16, 768), (17, 769), (33, 770), (770, 33), (1537, 24), (24, 1537)]
SHAPES += [(100, 2000), (2000, 100), (260, 1031), (63, 65), (129, 64)]


@dataclass(frozen=True)
class Elsewhere:
    """A tensor's bytes that no file offset leads to: a decoded pickle string, a strided view."""

    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        out[:] = self.content[start : start + len(out)]


def stored(path: Path, array: Array, *, offset: int = 0, addressed: bool = True, order: str = "C") -> StoredTensor:
    """Put an array's bytes into a file at an odd place."""
    content = array.tobytes()
    path.write_bytes(b"\xa5" * offset + content + b"\x5a" * 3)
    data = Extent(path, offset, len(content)) if addressed else Elsewhere(content)
    shape = array.shape if order == "C" else array.shape[::-1]
    return StoredTensor("x", array.dtype.name, shape, data, order)


def read(tensor: StoredTensor, *, transpose: bool) -> bytes:
    """Join the pieces, each copied before the next is asked for."""
    with OpenFiles() as files:
        return b"".join(piece.tobytes() for piece in blocks(files, tensor, transpose=transpose, scratch=Scratch()))


def random(shape: tuple[int, int], dtype: str) -> Array:
    bits = np.random.default_rng(shape).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    return bits.view(dtype).reshape(shape)


#: How large the buffers are: as they are, or so small that every matrix crosses their borders.
BUFFERS = {"large": None, "small": (40_000, 8192), "tiny": (2048, 1024)}
CASES = pytest.mark.parametrize(
    ("shape", "buffers"),
    # the largest in tiny buffers would be thousands of reads that say nothing new
    [(shape, name) for shape in SHAPES for name in BUFFERS if name != "tiny" or shape[0] * shape[1] < 30_000],
)


def set_buffers(monkeypatch: pytest.MonkeyPatch, buffers: str) -> None:
    sizes = BUFFERS[buffers]
    if sizes is not None:
        block, piece = sizes
        monkeypatch.setattr(module, "BLOCK_BYTES", block)
        monkeypatch.setattr(module, "_PIECE_BYTES", piece)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
@CASES
def test_a_transposed_matrix_is_numpys_transpose(
    tmp_path: Path, shape: tuple[int, int], buffers: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_buffers(monkeypatch, buffers)
    array = random(shape, dtype)
    for offset, addressed in ((13, True), (0, False)):
        tensor = stored(tmp_path / "file", array, offset=offset, addressed=addressed)
        assert read(tensor, transpose=True) == np.ascontiguousarray(array.T).tobytes()
        assert read(tensor, transpose=False) == array.tobytes()


@CASES
def test_a_matrix_that_lies_by_columns_is_transposed_into_rows(
    tmp_path: Path, shape: tuple[int, int], buffers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are those of the transposed matrix in C order, so a turn gives back its own rows."""
    set_buffers(monkeypatch, buffers)
    lying = random(shape, "float32")
    tensor = stored(tmp_path / "file", lying, order="F")
    assert tensor.shape == shape[::-1]
    assert read(tensor, transpose=True) == np.ascontiguousarray(lying.T).tobytes()
    assert read(tensor, transpose=False) == lying.tobytes()


def test_an_empty_tensor_has_no_blocks(tmp_path: Path) -> None:
    assert read(stored(tmp_path / "file", np.empty((0, 5), np.float32)), transpose=True) == b""


def test_memory_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    """31 MB, read as a vocabulary's matrix is transposed: two buffers, whatever its size."""
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(10_000 * 768 * 4)
    tensor = StoredTensor("x", "float32", (10_000, 768), Extent(path, 0, 10_000 * 768 * 4))
    with OpenFiles() as files, memory_below(16 << 20):
        count = sum(len(piece) for piece in blocks(files, tensor, transpose=True, scratch=Scratch()))
    assert count == 10_000 * 768


def test_a_file_that_was_cut_short_since_is_told(tmp_path: Path) -> None:
    tensor = stored(tmp_path / "file", random((40, 30), "float32"))
    (tmp_path / "file").write_bytes(b"\0" * 4000)
    for transpose in (False, True):
        with pytest.raises(FormatError, match=r"ends .* bytes early"):
            read(tensor, transpose=transpose)


def test_two_streams_are_cut_at_each_others_borders() -> None:
    def cut(values: Array, sizes: list[int]) -> Iterator[Array]:
        start = 0
        for size in sizes:
            yield values[start : start + size]
            start += size

    values = np.arange(300_000)
    pairs = list(together(cut(values, [1, 99_999, 200_000]), cut(values, [150_000, 150_000])))
    assert all(np.array_equal(left, right) for left, right in pairs)
    assert sum(len(left) for left, _ in pairs) == 300_000
