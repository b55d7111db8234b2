"""A container is one object: a format made up here converts in both directions, and is found and told of like any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from random_checkpoints import read_all, same_bits, write_random

from roformer_convert.converters import ConvertError, ConvertOptions, convert
from roformer_convert.converters.containers import registry
from roformer_convert.converters.containers.container import Container, NewFile
from roformer_convert.converters.containers.registry import all_containers, containers_of, recognise, register
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.converters.tensors.stored import (
    Extent,
    FileLayout,
    Fragment,
    Index,
    Slot,
    StoredTensor,
)

_MAGIC = b"TOY 1\n"


class Toy(Container):
    """Payloads first; behind them a directory in JSON, and behind that its length in twelve digits."""

    name = "toy"
    title = "a toy"
    dialects = ("torch", "paddle")
    single = "weights.toy"
    shard = "weights-{number:05d}-of-{total:05d}.toy"
    endings = (".toy",)
    dtypes = ("float32", "float64")
    own_metadata = ("tool",)

    def recognises(self, head: bytes, tail: bytes) -> bool:
        return head.startswith(_MAGIC)

    def index(self, entry: Path) -> Index:
        content = entry.read_bytes()
        if not content[-12:].isdigit():
            raise FormatError(entry, "a toy without its directory's length")
        directory = json.loads(content[-12 - int(content[-12:]) : -12])
        return Index(
            tuple(
                StoredTensor(name, dtype, tuple(shape), Extent(entry, offset, nbytes))
                for name, dtype, shape, offset, nbytes in directory["tensors"]
            ),
            {"tool": "a test"},
        )

    def lay_out(self, file: NewFile) -> FileLayout:
        assert file.groups.keys() == {tensor.name for tensor in file.tensors}
        slots, end = {}, 64
        for tensor in file.tensors:
            slots[tensor.name] = Slot(file.filename, end, tensor.nbytes)
            end += tensor.nbytes
        rows = [[each.name, each.dtype, each.shape, slots[each.name].offset, each.nbytes] for each in file.tensors]
        directory = json.dumps({"tensors": rows}).encode()
        directory += b"%012d" % len(directory)
        fragments = [Fragment(file.filename, end, directory), Fragment(file.filename, 0, _MAGIC)]
        return FileLayout({file.filename: end + len(directory)}, slots, lambda checksums: fragments)

    def notes(self, dialect: Dialect, dtypes: set[str]) -> list[str]:
        return [f"nothing of {dialect} reads a toy"]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy, known for the length of a test."""
    monkeypatch.setattr(registry, "_KNOWN", list(registry._KNOWN))
    container = Toy()
    register(container)
    return container


@pytest.mark.parametrize("limit", [None, 4000], ids=["one", "shards"])
@pytest.mark.parametrize("other", DIALECTS)
@pytest.mark.parametrize("dialect", Toy.dialects)
def test_a_new_container_converts_in_both_directions(
    tmp_path: Path, toy: Toy, dialect: Dialect, other: Dialect, limit: int | None
) -> None:
    tensors = write_random(tmp_path / "ckpt", other, any_bits=True)
    there = convert(
        tmp_path / "ckpt", tmp_path / "toy", to=dialect, options=ConvertOptions(container="toy", max_shard_size=limit)
    )
    assert there.verified
    assert f"nothing of {dialect} reads a toy" in there.notes
    assert there.as_dict()["target"]["container"] == "toy"
    found = sorted(path.name for path in (tmp_path / "toy").iterdir() if "toy" in path.name)
    assert found == ["weights.toy"] if limit is None else (len(found) > 2 and "weights.toy.index.json" in found)
    assert same_bits(read_all(tmp_path / "toy"), tensors) == []
    back = convert(tmp_path / "toy", tmp_path / "back", to=other)
    assert (back.source_dialect, back.source_container) == (dialect, "toy")
    assert not any("left out because they are not tensors" in note for note in back.notes)
    assert same_bits(read_all(tmp_path / "back"), tensors) == []


def test_a_new_container_is_found_inspected_and_replaced(tmp_path: Path, toy: Toy) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=ConvertOptions(container="toy"))
    assert (inspect(tmp_path / "out").container, inspect(tmp_path / "out").dialect) == ("toy", "paddle")
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(force=True))
    names = ["config.json", "conversion.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_new_container_is_told_of_in_errors_and_in_help(tmp_path: Path, toy: Toy) -> None:
    write_random(tmp_path / "ckpt", "torch")
    with pytest.raises(ConvertError, match=r"a toy has no float16, which --dtype asks for\n.*--dtype float32"):
        convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(container="toy", dtype="float16"))
    with pytest.raises(ConvertError, match="toy files are not read by bert4keras; wanted ckpt"):
        convert(tmp_path / "ckpt", to="tf1", options=ConvertOptions(container="toy"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ConvertError, match=r"looked for .*weights\.toy.*model_state\.pdparams.*bert_model\.ckpt\.index"
    ):
        inspect(tmp_path / "empty")
    (tmp_path / "noise").write_bytes(b"\1" * 100)
    with pytest.raises(FormatError, match=r"wanted .*a toy"):
        inspect(tmp_path / "noise")
    (tmp_path / "weights.toy").write_bytes(b"\1its name alone says what it is meant to be")
    with pytest.raises(FormatError, match=r"weights\.toy: a toy without its directory's length"):
        inspect(tmp_path / "weights.toy")
    with pytest.raises(ValueError, match="there is a container called toy"):
        register(Toy())


def test_the_command_offers_every_container() -> None:
    from roformer_convert.__main__ import cli

    offered = CliRunner().invoke(cli, ["convert", "--help"]).output
    listed = re.search(r"--container \[([\w|]+)\]", offered)
    assert listed is not None
    assert listed[1].split("|") == [container.name for container in all_containers()]


def test_every_dialect_has_one_container_that_is_written_unless_another_is_asked_for() -> None:
    for dialect in DIALECTS:
        first, *others = containers_of(dialect)
        assert dialect in first.default_of
        assert not any(dialect in other.default_of for other in others)


@pytest.mark.parametrize(
    ("head", "tail", "name"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(24), b"", "h5"),
        (b"PK\x03\x04" + bytes(28), b"", "bin"),
        (b"PK\x05\x06" + bytes(18), b"", "bin"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", b"", "bin"),
        (b"\x00\x00\x06\x08\x01", bytes.fromhex("57fb808b247547db"), "ckpt"),
        (b"\x80\x00\x00\x00\x00\x00\x00\x00{", b"", "safetensors"),  # a header of 128 bytes begins as a pickle does
        (b"\x80\x04\x95\x00", b"", "pdparams"),
        (b"not weights", b"at all", None),
        (b"", b"", None),
    ],
)
def test_bytes_tell_the_container(head: bytes, tail: bytes, name: str | None) -> None:
    found = recognise(head, tail)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("model.safetensors", True),
        ("model-00002-of-00010.safetensors", True),
        ("model.safetensors.index.json", True),
        ("pytorch_model-00002-of-00010.bin", True),
        ("bert_model.ckpt.data-00000-of-00001", True),
        ("bert_model.ckpt.meta", True),
        ("checkpoint", True),
        ("model-2-of-10.safetensors", False),
        ("model-00002-of-00010.safetensors.bak", False),
        ("model-00002-of-00010xsafetensors", False),
        ("tf_model-00001-of-00002.h5", False),
        ("bert_model.ckpt", False),
        ("my_model.ckpt.index", False),
        ("photo.jpg", False),
    ],
)
def test_the_names_that_a_conversion_writes_are_known(name: str, writes: bool) -> None:
    assert any(container.writes(name) for container in all_containers()) == writes
