"""The directory beside a target: one run has it, a killed one's is put right, and nobody else's is touched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import file_bytes, read_all, same_bits, write_random

from roformer_convert.converters import ConvertError, ConvertOptions, convert
from roformer_convert.converters.target import output, working_directory
from roformer_convert.converters.target.output import OutputDirectory
from roformer_convert.converters.target.working_directory import MADE_BY, WorkingDirectory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and forks are POSIX's")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_random(tmp_path / "ckpt", "paddle")
    return tmp_path / "ckpt"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def killed(run: Callable[[], object]) -> None:
    """Run in a process that ends without putting anything in order; ``run`` must end it with :func:`die`."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "the run ended before it was killed"


def die(*_: Any, **__: Any) -> None:
    os._exit(1)


def test_what_a_killed_run_left_is_removed_by_the_next(source: Path) -> None:
    def half() -> None:
        with OutputDirectory(source.parent / "ckpt-torch") as running:
            (running.path / "model.safetensors").write_bytes(b"half")
            die()

    killed(half)
    assert names(source.parent) == [".ckpt-torch.partial-roformer_convert", "ckpt"]
    convert(source, to="tf")
    assert names(source.parent) == [".ckpt-torch.partial-roformer_convert", "ckpt", "ckpt-tf"], "another target's"
    convert(source, to="torch")
    assert names(source.parent) == ["ckpt", "ckpt-tf", "ckpt-torch"]


@pytest.mark.parametrize("moment", ["mkdir", "open"])
def test_a_run_killed_while_it_makes_the_directory_leaves_nothing_that_stays(
    source: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the directory is signed, and before the signature is locked."""
    real = getattr(os, moment)

    def once(path: Any, *arguments: Any) -> None:
        result = real(path, *arguments)
        if "partial" in str(path):
            die()
        return result  # type: ignore[no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, once)
        killed(lambda: convert(source, to="torch") and None)
    left = source.parent / ".ckpt-torch.partial-roformer_convert"
    assert names(left) == ([] if moment == "mkdir" else [MADE_BY])
    convert(source, to="torch")
    assert names(source.parent) == ["ckpt", "ckpt-torch"]


@pytest.mark.parametrize("force", [False, True])
def test_a_run_is_refused_while_another_has_the_target(source: Path, force: bool) -> None:
    with OutputDirectory(source.parent / "out") as slow:
        (slow.path / "config.json").write_text("{}")
        with pytest.raises(ConvertError, match=r"out: another run is writing it; wait until it has finished") as caught:
            convert(source, source.parent / "out", to="torch", options=ConvertOptions(force=force))
        assert "\n" not in str(caught.value)
        assert (slow.path / "config.json").read_text() == "{}"
        slow.commit()
    assert names(source.parent / "out") == ["config.json"]
    assert names(source.parent) == ["ckpt", "out"]


def test_what_appears_while_a_run_writes_is_not_replaced(source: Path) -> None:
    """Whatever made it: a person's directory, or another program's."""
    for kind in ("directory", "file"):
        target = source.parent / kind
        with OutputDirectory(target) as running:
            (running.path / "config.json").write_text("{}")
            if kind == "file":
                target.write_text("precious")
            else:
                target.mkdir()
                (target / "notes").write_text("precious")
            with pytest.raises(ConvertError, match="already exists"):
                running.commit()
        assert "precious" in (target.read_text() if kind == "file" else (target / "notes").read_text())
    assert names(source.parent) == ["ckpt", "directory", "file"]


def test_what_appears_in_the_moment_of_the_renaming_is_not_replaced(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = source.parent / "out"
    rename = os.rename

    def late(one: Path, other: Path) -> None:
        target.mkdir()
        (target / "notes").write_text("precious")
        rename(one, other)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ConvertError, match="already exists"):
        convert(source, target, to="torch")
    assert (target / "notes").read_text() == "precious"
    assert names(source.parent) == ["ckpt", "out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        ".out.old-backup",
        ".out.old-0123456789ab",
        ".out.partial-backup",
        ".out.partial-0123456789ab",
        ".out.partial-roformer_convert.bak",
        ".out.partial",
        ".out.old",
    ],
)
def test_somebodys_own_directories_beside_the_target_stay(source: Path, name: str, force: bool) -> None:
    """A backup of the target was deleted by --force, or given the target's name where there was none."""
    backup = source.parent / name
    write_random(backup, "torch", "base", seed=9)
    before = file_bytes(backup)
    if force:
        convert(source, source.parent / "out", to="torch")
    convert(source, source.parent / "out", to="torch", options=ConvertOptions(force=force))
    assert same_bits(read_all(source.parent / "out"), read_all(source)) == []
    assert file_bytes(backup) == before
    assert names(source.parent) == sorted(["ckpt", "out", name])


@pytest.mark.parametrize("kind", ["directory", "signed and more", "file", "link", "dangling link", "link as proof"])
def test_something_else_under_the_working_directorys_name_is_in_the_way_and_stays(source: Path, kind: str) -> None:
    precious = source.parent / "precious"
    precious.mkdir()
    (precious / "a").write_text("x")
    (precious / MADE_BY).write_text("")
    place = source.parent / ".out.partial-roformer_convert"
    if kind == "file":
        place.write_text("x")
    elif kind == "link":
        place.symlink_to("precious")
    elif kind == "dangling link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("x")
        if kind == "signed and more":
            (place / MADE_BY).write_text("")
        elif kind == "link as proof":
            (place / MADE_BY).symlink_to(precious / MADE_BY)
    before = file_bytes(source.parent)
    with pytest.raises(ConvertError, match="is in the way: no run made it") as caught:
        convert(source, source.parent / "out", to="torch")
    assert "Move it away" in str(caught.value)
    assert file_bytes(source.parent) == before
    assert names(source.parent) == [".out.partial-roformer_convert", "ckpt", "precious"]


def test_where_there_are_no_locks_what_lies_there_is_left_alone(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On some network file systems nothing tells a killed run from one that is writing."""
    monkeypatch.setattr(working_directory, "_locked", lambda descriptor, wait: None)
    convert(source, to="torch")
    with OutputDirectory(source.parent / "out") as running:
        (running.path / "config.json").write_text("{}")
        with pytest.raises(ConvertError, match="nothing shows whether a run is still writing out") as caught:
            convert(source, source.parent / "out", to="torch")
        assert "remove that directory" in str(caught.value)
        assert (running.path / "config.json").exists()
    assert names(source.parent) == ["ckpt", "ckpt-torch"]


def replacement_killed_between_its_renames(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace ``target`` where the system cannot exchange two directories, and be killed after the first rename."""
    rename = os.rename

    def once(one: Path, other: Path) -> None:
        rename(one, other)
        die()

    def replace() -> None:
        with OutputDirectory(target, force=True) as running:
            (running.path / "config.json").write_text("new")
            running.commit()

    with monkeypatch.context() as patch:
        patch.setattr(output, "_exchange", lambda one, other: False)
        patch.setattr(os, "rename", once)
        killed(replace)
    assert not target.exists()


def old_result(target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("old")


def test_a_replacement_killed_between_its_renames_is_undone_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    old_result(target)
    replacement_killed_between_its_renames(target, monkeypatch)
    with OutputDirectory(target, force=True):
        assert (target / "config.json").read_text() == "old"
    assert (target / "config.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_an_old_state_is_kept_where_something_else_has_its_name_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    old_result(target)
    replacement_killed_between_its_renames(target, monkeypatch)
    target.mkdir()
    (target / "config.json").write_text("third")
    with (
        pytest.raises(ConvertError, match="was killed, and"),
        OutputDirectory(target, force=True),
    ):
        pass
    assert (target / "config.json").read_text() == "third"
    assert (WorkingDirectory(target).old / "config.json").read_text() == "old"


@pytest.mark.parametrize("moment", ["mkdir", "open", "lock"])
def test_a_signal_while_the_directory_is_made_leaves_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    mkdir, opened = os.mkdir, os.open

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def made(path: Any, *arguments: Any) -> None:
        mkdir(path, *arguments)
        stop()

    def signed(path: Any, *arguments: Any) -> int:
        descriptor = opened(path, *arguments)
        if MADE_BY in str(path):
            os.close(descriptor)
            monkeypatch.undo()
            stop()
        return descriptor

    if moment == "mkdir":
        monkeypatch.setattr(os, "mkdir", made)
    elif moment == "open":
        monkeypatch.setattr(os, "open", signed)
    else:
        monkeypatch.setattr(WorkingDirectory, "_is_mine", stop)
    before = names(source.parent)
    with pytest.raises(KeyboardInterrupt):
        convert(source, to="torch")
    monkeypatch.undo()
    left = [name for name in names(source.parent) if name not in before]
    assert not left or moment == "lock"  # the patch stops putting in order too
    convert(source, to="torch")
    assert names(source.parent) == [*before, "ckpt-torch"]


def test_a_signal_while_another_run_has_the_target_does_not_touch_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def stop(path: Any, *arguments: Any) -> None:
        try:
            mkdir(path, *arguments)
        finally:
            raise KeyboardInterrupt

    with OutputDirectory(source.parent / "out") as running:
        (running.path / "config.json").write_text("{}")
        monkeypatch.setattr(os, "mkdir", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(source, source.parent / "out", to="torch")
        monkeypatch.undo()
        assert (running.path / "config.json").read_text() == "{}"


def test_long_names_have_room_for_the_working_directorys(source: Path) -> None:
    for name in ("x" * 255, "模" * 85):
        with OutputDirectory(source.parent / name) as running:
            (running.path / "config.json").write_text("{}")
            running.commit()
        assert (source.parent / name / "config.json").exists()


def test_a_target_that_the_run_before_has_made_is_refused_before_a_byte_is_written(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = source.parent / "out"
    take = WorkingDirectory.take

    def late(working: WorkingDirectory) -> None:
        take(working)
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(WorkingDirectory, "take", late)
    with pytest.raises(ConvertError, match="already exists"), OutputDirectory(target):
        raise AssertionError("it was let begin")
    assert names(source.parent) == ["ckpt", "out"]
