"""The rotary table in what we write: bit for bit what transformers' own save_pretrained puts there, or left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from numpy_roformer import Array
from peer_folders import PEERS, POSITIONS
from random_checkpoints import CONFIG, rotary_table, write_random

from roformer_convert.converters import ConvertError, ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.source.identification import identify
from roformer_convert.converters.table.mapping import Dialect
from roformer_convert.converters.target.positions import MOST_POSITIONS, RotaryTable
from roformer_convert.converters.target.read_back import ReadBack, Written
from roformer_convert.converters.tensors.stored import OpenFiles, StoredTensor

#: Every folder of transformers' own: each class, torch and TF, whole and sharded, float32 and bfloat16.
FOLDERS = sorted(path.name for path in PEERS.iterdir() if path.name.startswith(("hf4-", "hf5-")))


def stored_table(directory: Path) -> StoredTensor:
    (table,) = (each for each in identify(directory).index.tensors if "embed_positions" in each.name)
    return table


def content(table: StoredTensor) -> bytes:
    out = bytearray(table.nbytes)
    with OpenFiles() as files:
        table.data.read_into(files, 0, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_is_what_transformers_wrote_itself(tmp_path: Path, folder: str) -> None:
    """Through PaddleNLP's files, which hold no table."""
    to: Dialect = "tf" if folder.endswith("_tf") else "torch"
    own = stored_table(PEERS / folder)
    options = ConvertOptions(allow_different=True, dtype=own.dtype)
    convert(PEERS / folder, tmp_path / "paddle", to="paddle", options=options)
    convert(tmp_path / "paddle", tmp_path / "out", to=to, options=options)
    ours = stored_table(tmp_path / "out")
    assert (ours.name, ours.dtype, ours.shape, ours.order) == (own.name, own.dtype, own.shape, own.order)
    assert content(ours) == content(own)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_in_each_type_it_is_what_transformers_saves_of_a_model_in_that_type(
    tmp_path: Path, container: str, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    write_random(tmp_path / "ckpt", "paddle")
    options = ConvertOptions(dtype=dtype, container=container)
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=options)
    model = transformers.RoFormerForMaskedLM(transformers.RoFormerConfig.from_pretrained(tmp_path / "out"))
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "own")
    own, ours = stored_table(tmp_path / "own"), stored_table(tmp_path / "out")
    assert (ours.dtype, ours.shape) == (own.dtype, own.shape) == (dtype, (47, 6))
    assert content(ours) == content(own)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_type_of_the_sources_own_table_is_kept_and_who_has_none_computes_in_float32(
    tmp_path: Path, dtype: str
) -> None:
    """So that whoever loads the result computes with the table that the source was computed with."""
    write_random(tmp_path / "ckpt", "torch", dtype=dtype)
    convert(tmp_path / "ckpt", tmp_path / "computed", to="torch")
    assert stored_table(tmp_path / "computed").dtype == "float32"
    convert(tmp_path / "ckpt", tmp_path / "cast", to="torch", options=ConvertOptions(dtype=dtype))
    convert(tmp_path / "cast", tmp_path / "kept", to="torch", options=ConvertOptions(container="bin"))
    assert stored_table(tmp_path / "kept").dtype == dtype


def test_any_part_of_it_is_the_same_as_the_whole() -> None:
    table, files = RotaryTable(47, 6), OpenFiles()
    want = rotary_table().astype("<f4").tobytes()
    assert table.nbytes == len(want)
    for start, stop in ((0, len(want)), (0, 1), (5, 6), (23, 49), (24, 48), (1000, len(want)), (7, 7)):
        out = bytearray(stop - start)
        table.read_into(files, start, memoryview(out))
        assert out == want[start:stop]


def test_it_is_in_the_shard_index(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    report = convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(max_shard_size=4000))
    assert report.plan.shard_index is not None
    assert POSITIONS in (report.target / report.plan.shard_index).read_text()
    with open_checkpoint(report.target) as opened:
        assert opened.derived == (POSITIONS,)


@pytest.mark.parametrize("to", ["torch", "tf"])
def test_it_is_left_out_on_request_and_that_is_said(tmp_path: Path, to: Dialect) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    report = convert(tmp_path / "ckpt", to=to, options=ConvertOptions(positions=False))
    with open_checkpoint(report.target) as opened:
        assert opened.derived == ()
    assert report.as_dict()["computed"] == []
    (note,) = (note for note in report.notes if "embed_positions" in note)
    assert note.startswith("embed_positions is left out; transformers")


def test_a_number_in_a_small_file_fills_no_disk(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    for length, written in ((MOST_POSITIONS, True), (MOST_POSITIONS + 1, False), (1 << 31, False)):
        options = ConvertOptions(set={"max_position_embeddings": length}, dry_run=True)
        report = convert(tmp_path / "ckpt", to="torch", options=options)
        assert bool(report.as_dict()["computed"]) == written
        assert any(f"max_position_embeddings is {length:,}" in note for note in report.notes) != written


@pytest.mark.parametrize("to", ["paddle", "tf1"])
def test_software_that_keeps_none_gets_none(tmp_path: Path, to: Dialect) -> None:
    write_random(tmp_path / "ckpt", "torch")
    report = convert(tmp_path / "ckpt", to=to)
    assert "embed_positions" not in str(report.as_dict())


def test_a_wrong_byte_of_it_on_the_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    compare: Callable[..., None] = ReadBack.written

    def damage(self: ReadBack, written: Written, start: int, values: Array) -> None:
        if written.step.computed:
            with open(written.path, "r+b") as file:
                file.seek(written.slot.offset + start + 3)
                file.write(b"\x7f")
        compare(self, written, start, values)

    monkeypatch.setattr(ReadBack, "written", damage)
    with pytest.raises(ConvertError, match=f"{POSITIONS} was read back with bits that differ from what was computed"):
        convert(tmp_path / "ckpt", to="torch")
    assert not (tmp_path / "ckpt-torch").exists()


def test_a_table_computed_wrongly_is_seen_when_the_result_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    right: Callable[..., None] = RotaryTable.read_into

    def shifted(self: RotaryTable, files: OpenFiles, start: int, out: memoryview) -> None:
        right(RotaryTable(self.positions + 1, self.head_size), files, start + 4 * CONFIG.head_size, out)

    monkeypatch.setattr(RotaryTable, "read_into", shifted)
    with pytest.raises(ConvertError, match="differs from the rotary table of this configuration"):
        convert(tmp_path / "ckpt", to="torch")
    assert not (tmp_path / "ckpt-torch").exists()
