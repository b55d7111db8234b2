"""Comparing: no bit that differs in the result goes unnoticed, wherever it lies and however large the buffers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import memory_below
from random_checkpoints import UNPROJECTED, file_bytes, random_tensors, save

from roformer_convert.converters import ConvertOptions, convert
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.table.mapping import Dialect
from roformer_convert.converters.target import engine
from roformer_convert.converters.target.read_back import Written
from roformer_convert.converters.tensors import blocks
from roformer_convert.converters.tensors.stored import FileLayout, Fragment

#: As bert4keras calls them: one that torch has transposed, one that lies as it does.
TRANSPOSED, LYING = "bert/encoder/layer_0/intermediate/dense/kernel", "bert/embeddings/word_embeddings"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tmp_path / "ckpt", "paddle", random_tensors(UNPROJECTED), UNPROJECTED)
    return tmp_path / "ckpt"


@pytest.fixture(params=["whole", "in parts"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Turn and compare matrices whole, or a few rows and columns at a time."""
    if request.param == "in parts":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 1024)
        monkeypatch.setattr(blocks, "_PIECE_BYTES", 512)
        monkeypatch.setattr(engine, "_PART_BYTES", 200)
        monkeypatch.setattr(engine, "_WRITE_BYTES", 80)
    return str(request.param)


def damage(monkeypatch: pytest.MonkeyPatch, position: int, bit: int) -> Callable[[], bool]:
    """Have one bit of the payloads flipped on its way to the disk; return what says whether it was."""
    write, seen = engine._Output.write, [0]

    def damaged(output: Any, filename: str, offset: int, content: memoryview | bytes) -> None:
        if isinstance(content, memoryview):
            if seen[0] <= position < seen[0] + len(content):
                changed = bytearray(content)
                changed[position - seen[0]] ^= 1 << bit
                content = memoryview(changed)
            seen[0] += len(content)
        write(output, filename, offset, content)

    monkeypatch.setattr(engine._Output, "write", damaged)
    return lambda: seen[0] > position


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("there", ["torch", "tf", "tf1"])
def test_what_is_right_passes(source: Path, tmp_path: Path, way: str, there: Dialect, dtype: str | None) -> None:
    convert(source, tmp_path / "there", to=there, options=ConvertOptions(dtype=dtype))
    for back in {"torch", "paddle"} - {there}:  # one turns, the other does not
        convert(tmp_path / "there", tmp_path / back, to=back)  # type: ignore[arg-type]
    if dtype is None:
        made = {name: found for name, found in file_bytes(tmp_path / "paddle").items() if name != "conversion.json"}
        assert made == file_bytes(source)


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("share", [0.0, 0.17, 0.31, 0.5, 0.73, 0.9, 1.0])
def test_one_wrong_bit_anywhere_is_seen(
    source: Path, tmp_path: Path, way: str, share: float, dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convert(source, to="torch", options=ConvertOptions(dry_run=True, dtype=dtype)).plan
    done = damage(monkeypatch, round(share * (plan.nbytes - 1)), bit=round(share * 7))
    with pytest.raises(ConvertError, match="was read back with bits that differ"):
        convert(source, tmp_path / "out", to="torch", options=ConvertOptions(dtype=dtype))
    assert done()
    assert not (tmp_path / "out").exists()


class _Moving(np.ndarray[Any, Any]):
    """A matrix that goes wrong the first time it is transposed."""

    transposed = False

    @property
    def T(self) -> Any:  # noqa: N802 - numpy's name
        right = np.asarray(self).T
        if _Moving.transposed:
            return right
        _Moving.transposed = True
        return right[::-1]


def test_a_kernel_that_is_transposed_wrongly_is_seen(
    source: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strips = blocks._strips

    def moving(*arguments: Any, **options: Any) -> Any:
        for row, strip in strips(*arguments, **options):
            yield row, strip.view(_Moving)

    monkeypatch.setattr(blocks, "_strips", moving)
    monkeypatch.setattr(_Moving, "transposed", False)
    with pytest.raises(ConvertError, match="was transposed into bits that differ"):
        convert(source, tmp_path / "out", to="torch")
    monkeypatch.setattr(_Moving, "transposed", True)  # and nothing else about it is wrong
    convert(source, tmp_path / "out", to="torch")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", [TRANSPOSED, LYING])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_sources_own_checksum_is_checked(
    tmp_path: Path, way: str, verify: bool, name: str, dtype: str | None
) -> None:
    save(tmp_path / "ckpt", "tf1", random_tensors(UNPROJECTED), UNPROJECTED)
    plan = convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(dry_run=True)).plan
    step = next(step for step in plan.steps if step.binding.stored.name.startswith(name))
    assert step.transpose == (name == TRANSPOSED)
    data: Any = step.binding.stored.data
    content = bytearray(data.path.read_bytes())
    content[data.offset + data.nbytes - 1] ^= 0x40  # of a float32's exponent: no float16 holds what becomes of it
    data.path.write_bytes(content)
    with pytest.raises(FormatError, match="wrong CRC32C"):
        convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(verify=verify, dtype=dtype))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [None, "float64", "bfloat16"])
def test_memory_is_a_block_whatever_is_cast(tmp_path: Path, dtype: str | None) -> None:
    config = replace(UNPROJECTED, embedding_size=768, hidden_size=768, intermediate_size=3072, num_hidden_layers=1)
    save(tmp_path / "ckpt", "paddle", random_tensors(config), config)
    convert(
        tmp_path / "ckpt", tmp_path / "first", to="torch", options=ConvertOptions(dtype=dtype)
    )  # imports are not counted
    with memory_below(blocks.BLOCK_BYTES + (4 << 20)):
        convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(dtype=dtype))


# Where it lies -------------------------------------------------------------------------------------------------------


def misplaced(one: Written, what: str) -> Written:
    """Say of a tensor that was written that it lies elsewhere, or is another one."""
    slot, new = one.slot, one.step.new
    return {
        "path": replace(one, path=one.path.with_name("other")),
        "offset": replace(one, slot=replace(slot, offset=slot.offset + 4)),
        "length": replace(one, slot=replace(slot, nbytes=slot.nbytes + 4)),
        "checksum": replace(one, checksum=one.checksum ^ 1),
        "name": replace(one, step=replace(one.step, new=replace(new, name="other"))),
        "type": replace(one, step=replace(one.step, new=replace(new, dtype="int32"))),
        "shape": replace(one, step=replace(one.step, new=replace(new, shape=(*new.shape, 1)))),
    }[what]


@pytest.mark.parametrize("what", ["path", "offset", "length", "checksum", "name", "type", "shape"])
def test_a_tensor_that_the_results_reader_finds_elsewhere_is_told(
    source: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = engine.check_index

    def checked(written: list[Written], found: Any) -> None:
        check([*written[:3], misplaced(written[3], what), *written[4:]], found)

    monkeypatch.setattr(engine, "check_index", checked)
    with pytest.raises(ConvertError, match="is found elsewhere than where it was written"):
        convert(source, to="tf1")
    assert [path.name for path in source.parent.iterdir()] == ["ckpt"]


def test_a_tensor_that_the_results_reader_does_not_find_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = engine.check_index
    monkeypatch.setattr(engine, "check_index", lambda written, found: check(written[:-1], found))
    with pytest.raises(ConvertError, match=r"reading back what was written, these tensors differ: \S+$"):
        convert(source, to="torch")


def test_a_file_is_made_once_and_as_long_as_its_layout_says(tmp_path: Path) -> None:
    layout = FileLayout({"weights": 10}, {}, lambda checksums: [Fragment("weights", 0, b"ab")])
    engine.run_file(layout, [], tmp_path, verify=True, fsync=False, progress=lambda nbytes: None)
    assert (tmp_path / "weights").read_bytes() == b"ab" + bytes(8)
    with pytest.raises(FileExistsError):
        engine.run_file(layout, [], tmp_path, verify=True, fsync=False, progress=lambda nbytes: None)
