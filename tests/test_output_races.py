"""Several runs to one target at once, in processes and in threads: one has it, and each of the others says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from random_checkpoints import file_bytes, write_random

from roformer_convert.converters import ConvertError, ConvertOptions, convert

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and forks are POSIX's")

ROUNDS = 20
#: What a run that came too late may say; anything else is a fault.
TOO_LATE = ("another run is writing it", "already exists")

Run = Callable[[], None]


def outcome(run: Run) -> str:
    """What became of a run: "" where it succeeded, or the first line of its error, with its class if Python's."""
    try:
        run()
    except ConvertError as error:
        return str(error).splitlines()[0]
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def in_processes(runs: list[Run]) -> list[str]:
    """Let each run have a process of its own, all at the same moment; return what became of them."""
    ready, go = os.pipe()
    children = []
    for run in runs:
        answer, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(ready, 1)  # until the parent closes its end
            os.write(told, outcome(run).encode() or b"-")
            os._exit(0)
        os.close(told)
        children.append((pid, answer))
    os.close(ready)
    os.close(go)
    said = []
    for pid, answer in children:
        with open(answer, "rb") as file:
            said.append(file.read().decode())
        os.waitpid(pid, 0)
    return ["" if words == "-" else words for words in said]


def in_threads(runs: list[Run]) -> list[str]:
    barrier = threading.Barrier(len(runs))
    said = ["never ran"] * len(runs)

    def go(number: int) -> None:
        barrier.wait()
        said[number] = outcome(runs[number])

    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_random(tmp_path / "ckpt", "paddle")
    return tmp_path / "ckpt"


@pytest.mark.parametrize("at_once", [in_processes, in_threads])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("force", [False, True])
def test_of_several_runs_to_one_target_one_has_it_and_the_others_say_so(
    source: Path, at_once: Callable[[list[Run]], list[str]], count: int, force: bool
) -> None:
    target = source.parent / "out"
    kinds = ("float32", "float16", "float64", "bfloat16")[:count]
    whole = {}
    for kind in kinds:
        convert(source, source.parent / kind, to="torch", options=ConvertOptions(dtype=kind))
        whole[kind] = file_bytes(source.parent / kind)
    beside = sorted(path.name for path in source.parent.iterdir())
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        each = [ConvertOptions(dtype=kind, force=force) for kind in kinds]
        runs = [lambda options=options: convert(source, target, to="torch", options=options) for options in each]
        said = at_once(runs)  # type: ignore[arg-type]
        won = [kind for kind, words in zip(kinds, said, strict=True) if not words]
        lost = [words for words in said if words]
        assert all(any(known in words for known in TOO_LATE) for words in lost), said
        # with --force a run that starts after another has finished replaces what that one made
        assert len(won) >= 1 if force else len(won) == 1, said
        assert file_bytes(target) in [whole[kind] for kind in won]
        assert sorted(path.name for path in source.parent.iterdir()) == sorted([*beside, "out"])
        seen.update(len(lost) * ["lost"])
        if not force:
            for path in target.iterdir():
                path.unlink()
            target.rmdir()
    assert seen["lost"], "no two runs ever met"


def test_commands_at_once(source: Path) -> None:
    """The front door: status 2, one line that says why, no traceback."""
    target = source.parent / "out"
    command = [sys.executable, "-m", "roformer_convert", "paddle2torch", str(source), "-o", str(target)]
    for number in range(6):
        options = ["--force"] if number else []
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([*command, *options], **pipes) for _ in range(4)]  # type: ignore[call-overload]
        ended = [(process.communicate()[1], process.returncode) for process in processes]
        assert {status for _, status in ended} <= {0, 2}, ended
        assert [status for _, status in ended].count(0) >= 1
        for words, status in ended:
            if status:
                assert any(known in words for known in TOO_LATE), words
                assert "Traceback" not in words
        assert sorted(path.name for path in source.parent.iterdir()) == ["ckpt", "out"]
