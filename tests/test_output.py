"""Where the result goes: what is refused before a byte moves, what --force replaces, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import CONFIG, file_bytes, random_tensors, read_all, same_bits, save, write_random

from roformer_convert.converters import ConvertError, ConvertOptions, Watcher, convert, save_checkpoint
from roformer_convert.converters.table.mapping import Dialect
from roformer_convert.converters.target import output

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_random(tmp_path / "ckpt", "paddle")
    return tmp_path / "ckpt"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_default_output_lies_beside_the_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert(source, to="torch").target == source.parent / "ckpt-torch"
    monkeypatch.chdir(source)
    # the name of a relative source is its real one
    assert convert(".", to="tf1").target == source.parent / "ckpt-tf1"
    monkeypatch.chdir(source.parent)
    assert convert("ckpt/", to="tf").target.resolve() == source.parent / "ckpt-tf"
    assert names(source.parent) == ["ckpt", "ckpt-tf", "ckpt-tf1", "ckpt-torch"]


def test_an_existing_output_is_refused_without_force(source: Path) -> None:
    convert(source, to="torch")
    before = file_bytes(source.parent)
    with pytest.raises(ConvertError, match="already exists") as caught:
        convert(source, to="torch")
    assert "--force" in str(caught.value)
    assert file_bytes(source.parent) == before


def test_force_replaces_a_whole_checkpoint_directory(source: Path) -> None:
    target = source.parent / "out"
    write_random(target, "tf1", "base", seed=9)
    (target / "vocab.txt").write_text("old\n")
    convert(source, target, to="torch", options=ConvertOptions(force=True))
    assert names(target) == ["config.json", "conversion.json", "model.safetensors"]
    assert same_bits(read_all(target), read_all(source)) == []
    assert names(source.parent) == ["ckpt", "out"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([], "it is a file"),
        (["thesis.tex"], "it holds thesis.tex"),
        (["config.json", "thesis.tex"], "it holds thesis.tex"),
        (["config.json", "src/main.py"], r"it holds a directory \(src\)"),
        (["model.safetensors.jpg"], "it holds model.safetensors.jpg"),
    ],
)
def test_force_replaces_nothing_but_a_checkpoint(source: Path, files: list[str], why: str) -> None:
    target = source.parent / "out"
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("precious")
    if not files:
        target.write_text("a file")
    before = file_bytes(source.parent)
    with pytest.raises(ConvertError, match=f"is not replaced: {why}"):
        convert(source, target, to="torch", options=ConvertOptions(force=True))
    assert file_bytes(source.parent) == before
    assert names(source.parent) == ["ckpt", "out"]


@pytest.mark.parametrize("force", [False, True])
def test_an_empty_directory_is_filled(source: Path, force: bool) -> None:
    (source.parent / "out").mkdir()
    convert(source, source.parent / "out", to="torch", options=ConvertOptions(force=force))
    assert names(source.parent / "out") == ["config.json", "conversion.json", "model.safetensors"]
    with pytest.raises(ConvertError, match="already exists"):
        convert(source, source.parent / "out", to="torch")


def test_what_somebody_puts_into_an_empty_directory_meanwhile_is_kept(source: Path) -> None:
    out = source.parent / "out"
    out.mkdir()
    with output.OutputDirectory(out) as made:
        (made.path / "new").write_text("new")
        (out / "thesis.tex").write_text("precious")
        with pytest.raises(ConvertError, match="already exists"):
            made.commit()
    assert names(out) == ["thesis.tex"]
    assert (out / "thesis.tex").read_text() == "precious"
    assert names(source.parent) == ["ckpt", "out"]


def test_missing_directories_above_the_output_are_made(source: Path) -> None:
    convert(source, source.parent / "a" / "b" / "out", to="torch")
    assert names(source.parent / "a" / "b") == ["out"]


def test_directories_made_for_a_result_that_fails_are_removed(source: Path) -> None:
    (source.parent / "there").mkdir()
    with output.OutputDirectory(source.parent / "there" / "a" / "b" / "out") as made:
        assert made.path.is_dir()  # and no commit
    convert(source, source.parent / "c" / "out", to="torch", options=ConvertOptions(dry_run=True))
    assert names(source.parent) == ["ckpt", "there"]
    assert names(source.parent / "there") == []


def test_a_file_above_the_output_is_said_to_be_one(source: Path) -> None:
    (source.parent / "file").write_text("x")
    for target in ("file/out", "file/a/out"):
        with pytest.raises(ConvertError, match=r"file: it is a file, not a directory"):
            convert(source, source.parent / target, to="torch")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("ckpt", "the output is the source"),
        ("ckpt/.", "the output is the source"),
        ("ckpt/out", "inside the source"),
        ("ckpt/../ckpt/deep", "inside the source"),
        ("link", "the output is the source"),
        ("link/out", "inside the source"),
        (".", "holds the source"),
        ("..", "holds the source"),
        ("ckpt/config.json/out", "inside the source"),
    ],
)
def test_an_output_in_the_sources_way_is_refused(source: Path, target: str, words: str, force: bool) -> None:
    (source.parent / "link").symlink_to("ckpt")
    before = file_bytes(source.parent)
    with pytest.raises(ConvertError, match=words):
        convert(source, source.parent / target, to="torch", options=ConvertOptions(force=force))
    with pytest.raises(ConvertError, match=words):
        convert(source.parent / "link", source.parent / target, to="torch", options=ConvertOptions(force=force))
    assert file_bytes(source.parent) == before
    assert names(source.parent) == ["ckpt", "link"]


@pytest.mark.parametrize("force", [False, True])
def test_the_directory_of_a_source_file_is_no_output(source: Path, force: bool) -> None:
    weights, config = source / "model_state.pdparams", source / "config.json"
    before = file_bytes(source.parent)
    for target, words in (
        (source, "holds the source"),
        (weights, "the output is the source"),
        (source.parent, "holds"),
    ):
        with pytest.raises(ConvertError, match=words):
            convert(weights, target, to="torch", options=ConvertOptions(config=config, force=force))
    assert file_bytes(source.parent) == before


def test_a_target_that_is_a_link_to_an_old_result_replaces_what_it_leads_to(source: Path) -> None:
    convert(source, source.parent / "v1", to="torch")
    (source.parent / "current").symlink_to("v1")
    convert(source, source.parent / "current", to="torch", options=ConvertOptions(force=True, dtype="float16"))
    assert (source.parent / "current").is_symlink()
    assert {str(a.dtype) for a in read_all(source.parent / "v1").values()} == {"float16"}


def test_no_permission_is_told_before_a_byte_moves(source: Path, not_root: None) -> None:
    closed = source.parent / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(ConvertError, match="no permission to write here"):
        convert(source, closed / "out", to="torch")
    assert names(closed) == []


def test_no_permission_is_told_whoever_runs_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConvertError, match="no permission to write here"):
        convert(source, to="torch")
    assert names(source.parent) == ["ckpt"]


def test_no_room_is_told_before_a_byte_moves(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = convert(source, to="torch", options=ConvertOptions(dry_run=True)).plan.nbytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - planned, planned))
    with pytest.raises(ConvertError, match=f"the disk has {planned:,} free"):
        convert(source, to="torch")
    assert names(source.parent) == ["ckpt"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, planned + (2 << 20)))
    convert(source, to="torch")


def test_a_disk_that_fills_up_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def pwrite(descriptor: int, content: Any, offset: int) -> int:
        nonlocal written
        written += 1
        if written > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content, offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(ConvertError) as caught:
        convert(source, to="torch")
    assert caught.value.what == f"{source.parent}/ckpt-torch: cannot be written: No space left on device"
    assert "Make room" in str(caught.value)
    assert names(source.parent) == ["ckpt"]


@pytest.mark.parametrize("target", ["paddle", "torch", "tf", "tf1"])
def test_a_bit_that_the_disk_turns_is_found(tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tensor it is in: every one is read back and compared."""
    save(tmp_path / "ckpt", "torch", random_tensors(), CONFIG)
    steps = [
        step
        for step in convert(tmp_path / "ckpt", to=target, options=ConvertOptions(dry_run=True)).plan.steps
        if not step.new.alias_of
    ]
    real = os.pwrite
    for step in steps[:: max(1, len(steps) // 8)]:
        size = step.new.nbytes

        def pwrite(descriptor: int, content: Any, offset: int, size: int = size) -> int:
            if len(content) == size:
                content = bytearray(content)
                content[size // 2] ^= 0x10
            return real(descriptor, content, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(ConvertError, match="read back"):
                convert(tmp_path / "ckpt", tmp_path / "out", to=target)
        assert names(tmp_path) == ["ckpt"]


class Told(Watcher):
    """Notes what it is told of."""

    def __init__(self) -> None:
        self.advances: list[int] = []

    def advance(self, nbytes: int) -> None:
        self.advances.append(nbytes)


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="no such call here")
@pytest.mark.parametrize("answer", ["all", "half", "nothing", "refused", "absent"])
def test_what_the_kernel_copies_is_what_the_plain_path_writes(
    source: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only without a comparison is anything left to the kernel: otherwise the bytes come here anyway."""
    targets: tuple[Dialect, ...] = ("torch", "tf", "tf1")
    for target in targets:
        convert(source, source.parent / f"{target}-plain", to=target)
    real, copied = os.copy_file_range, 0

    def copy(one: int, other: int, count: int, here: int, there: int) -> int:
        nonlocal copied
        if answer == "refused":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        done = (
            0 if answer == "nothing" else real(one, other, -(-count // 2) if answer == "half" else count, here, there)
        )
        copied += done
        return done

    if answer == "absent":
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", copy)
    for target in targets:
        copied, told = 0, Told()
        options = ConvertOptions(verify=False)
        report = convert(source, source.parent / f"{target}-kernel", to=target, options=options, watcher=told)
        assert sum(told.advances) == report.plan.nbytes
        made = [file_bytes(source.parent / f"{target}-{how}", but="conversion.json") for how in ("kernel", "plain")]
        assert made[0] == made[1]
        stored = [step for step in report.plan.steps if step.new.alias_of is None and not step.computed]
        lying = sum(step.new.nbytes for step in stored if not step.transpose)
        assert copied == (lying if answer in ("all", "half") and target != "tf1" else 0)  # tf1 wants checksums


def test_where_no_directories_can_be_exchanged_force_still_replaces(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, to="torch")
    monkeypatch.setattr(output, "_exchange", lambda one, other: False)
    convert(source, to="torch", options=ConvertOptions(force=True, dtype="float64"))
    assert names(source.parent) == ["ckpt", "ckpt-torch"]
    assert {str(a.dtype) for a in read_all(source.parent / "ckpt-torch").values()} == {"float64"}


def test_a_rename_that_fails_puts_the_old_result_back(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(source, to="torch")
    before = file_bytes(source.parent)
    monkeypatch.setattr(output, "_exchange", lambda one, other: False)
    real = os.rename

    def rename(one: Any, other: Any) -> None:
        if Path(other).name == "ckpt-torch":
            calls.append(1)
        if calls == [1]:
            calls.append(2)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(one, other)

    calls: list[int] = []
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(ConvertError, match="cannot be put in place"):
        convert(source, to="torch", options=ConvertOptions(force=True, dtype="float64"))
    assert file_bytes(source.parent) == before


def test_names_with_brackets_and_spaces_are_names(tmp_path: Path) -> None:
    folder = tmp_path / "a [b] *c ？"
    folder.mkdir()
    write_random(folder / "ck[pt] 模型", "paddle")
    report = convert(folder / "ck[pt] 模型", to="torch")
    assert names(folder) == ["ck[pt] 模型", "ck[pt] 模型-torch"]
    assert same_bits(read_all(report.target), read_all(folder / "ck[pt] 模型")) == []


@pytest.mark.parametrize("dialect", ["paddle", "torch", "tf", "tf1"])
def test_big_endian_arrays_are_saved_with_their_values(tmp_path: Path, dialect: Dialect) -> None:
    tensors = random_tensors()
    save_checkpoint(tmp_path / "little", tensors, CONFIG, dialect=dialect)
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in tensors.items()}
    save_checkpoint(tmp_path / "big", swapped, CONFIG, dialect=dialect)
    assert file_bytes(tmp_path / "big") == file_bytes(tmp_path / "little")


def test_save_checkpoint_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    tensors = random_tensors()
    del tensors["layers.1.feed_forward_norm.bias"]
    tensors["layers.1.unknown"] = tensors["mlm.bias"]
    with pytest.raises(ConvertError, match="unknown"):
        save_checkpoint(tmp_path / "out", tensors, CONFIG, dialect="tf1")
    del tensors["layers.1.unknown"]
    with pytest.raises(ConvertError, match="missing"):
        save_checkpoint(tmp_path / "out", tensors, CONFIG, dialect="tf1")
    assert names(tmp_path) == []
