"""Files that appear whole: the directories above them, what is tried before, and what is never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roformer_convert.converters import ConvertError
from roformer_convert.converters.target.whole_files import make_parents, require_writable, write_whole


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_missing_directories_are_made_and_named(tmp_path: Path) -> None:
    assert make_parents(tmp_path / "a" / "b" / "file") == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_parents(tmp_path / "a" / "b" / "file") == []
    write_whole(tmp_path / "c" / "d" / "file", b"x")
    assert everything(tmp_path) == ["a", "a/b", "c", "c/d", "c/d/file"]


def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    for name in ("new", "old", "a/b/new"):
        require_writable(tmp_path / name)
    assert everything(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "why"), [("folder", "it is a directory"), ("file/x", "file: Not a directory"), ("file/a/x", "Not a")]
)
def test_what_cannot_be_written_is_told_by_the_trial(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConvertError, match=f"cannot be written: .*{why}"):
        require_writable(tmp_path / name)
    with pytest.raises(ConvertError):
        write_whole(tmp_path / name, b"x")
    assert everything(tmp_path) == ["file", "folder"]


def test_a_directory_without_permission_is_told_by_the_trial(tmp_path: Path, not_root: None) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(ConvertError, match=r"closed: Permission denied"):
        require_writable(tmp_path / "closed" / "a" / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    require_writable(tmp_path / "pipe")
    write_whole(tmp_path / "pipe", b"said")
    assert os.read(reader, 10) == b"said"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
