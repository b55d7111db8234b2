"""Reading back: no bit that differs in the result goes unnoticed, wherever it lies and however the file is read."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import UNPROJECTED, file_bytes, random_tensors, save

from roformer_convert.converters import blocks, convert, engine, read_back
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.mapping import Dialect

#: As bert4keras calls them: one that torch has turned, one that lies as it does.
TURNED, LYING = "bert/encoder/layer_0/intermediate/dense/kernel", "bert/embeddings/word_embeddings"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tmp_path / "ckpt", "paddle", random_tensors(UNPROJECTED), UNPROJECTED)
    return tmp_path / "ckpt"


@pytest.fixture(params=["mapped", "read", "read in parts"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read the result through a map, or as systems without one do, whole or a few rows at a time."""
    if request.param != "mapped":
        monkeypatch.setattr(read_back, "_mapped", lambda *_: None)
    if request.param == "read in parts":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 1024)
        monkeypatch.setattr(blocks, "_PIECE_BYTES", 512)
    return str(request.param)


def damage(monkeypatch: pytest.MonkeyPatch, position: int, bit: int) -> Callable[[], bool]:
    """Have one bit of the payloads flipped on its way to the disk; return what says whether it was."""
    write, seen = engine._Output.write, [0]

    def damaged(output: Any, filename: str, offset: int, content: memoryview | bytes) -> None:
        if isinstance(content, memoryview):
            if seen[0] <= position < seen[0] + len(content):
                content = bytearray(content)
                content[position - seen[0]] ^= 1 << bit
            seen[0] += len(content)
        write(output, filename, offset, content)

    monkeypatch.setattr(engine._Output, "write", damaged)
    return lambda: seen[0] > position


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("there", ["torch", "tf", "tf1"])
def test_what_is_right_passes(source: Path, tmp_path: Path, way: str, there: Dialect, dtype: str | None) -> None:
    convert(source, tmp_path / "there", to=there, dtype=dtype)
    convert(tmp_path / "there", tmp_path / "back", to="paddle")
    if dtype is None:
        assert file_bytes(tmp_path / "back") == file_bytes(source)


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("share", [0.0, 0.17, 0.31, 0.5, 0.73, 0.9, 1.0])
def test_one_wrong_bit_anywhere_is_seen(
    source: Path, tmp_path: Path, way: str, share: float, dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convert(source, to="torch", dry_run=True, dtype=dtype).plan
    done = damage(monkeypatch, round(share * (plan.nbytes - 1)), bit=round(share * 7))
    with pytest.raises(ConvertError, match="was read back with other bits"):
        convert(source, tmp_path / "out", to="torch", dtype=dtype)
    assert done()
    assert not (tmp_path / "out").exists()


def test_a_kernel_that_is_turned_wrongly_is_seen(
    source: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing does not turn: a fault in turning cannot hide itself."""
    strips = blocks.strips

    def shifted(*arguments: Any, **options: Any) -> Any:
        for row, strip in strips(*arguments, **options):
            yield row, strip[:, ::-1]

    turn = blocks.blocks

    def turned(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as wrong:  # whoever compares takes strips that are right
            wrong.setattr(blocks, "strips", shifted)
            yield from turn(*arguments, **options)

    monkeypatch.setattr(blocks, "blocks", turned)
    with pytest.raises(ConvertError, match="was read back with other bits"):
        convert(source, tmp_path / "out", to="torch")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", [TURNED, LYING])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_sources_own_checksum_is_checked(
    tmp_path: Path, way: str, verify: bool, name: str, dtype: str | None
) -> None:
    save(tmp_path / "ckpt", "tf1", random_tensors(UNPROJECTED), UNPROJECTED)
    plan = convert(tmp_path / "ckpt", to="torch", dry_run=True).plan
    step = next(step for step in plan.steps if step.held.stored.name.startswith(name))
    assert step.turn == (name == TURNED)
    data: Any = step.held.stored.data
    content = bytearray(data.path.read_bytes())
    content[data.offset + data.nbytes - 1] ^= 0x40  # of a float32's exponent: no float16 holds what becomes of it
    data.path.write_bytes(content)
    with pytest.raises(FormatError, match="wrong CRC32C"):
        convert(tmp_path / "ckpt", tmp_path / "out", to="torch", verify=verify, dtype=dtype)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(read_back.sys.platform != "linux", reason="only Linux is asked for a map")
@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 5000])
def test_a_map_shows_the_files_bytes(tmp_path: Path, offset: int) -> None:
    content = os.urandom(3 * mmap.ALLOCATIONGRANULARITY)
    (tmp_path / "file").write_bytes(content)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        shown = read_back._mapped(descriptor, offset, 6000)
        assert shown is not None
        assert shown.tobytes() == content[offset : offset + 6000]
        with pytest.raises(ValueError, match="read-only"):
            shown[0] = 0
        # beyond the end a map would end the process
        assert read_back._mapped(descriptor, len(content) - 100, 200) is None
    finally:
        os.close(descriptor)


@pytest.mark.skipif(read_back.sys.platform != "linux", reason="only Linux is asked for a map")
def test_a_map_that_would_end_the_process_is_not_looked_at(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Failing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            asked.append(1)
            raise OSError(errno.EFAULT, "Bad address")

    monkeypatch.setattr(read_back.mmap, "mmap", Failing)
    convert(source, tmp_path / "out", to="torch")
    assert asked
