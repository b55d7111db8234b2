"""The command's second process: the same bytes as without it, and no fault, death or signal in it is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, file_bytes, random_tensors, save

from roformer_convert.converters import convert
from roformer_convert.converters.mapping import Dialect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the command forks on Linux only")

#: Runs the command on a small model as on a large one, after ``{fault}``, with this process too slow to do all alone.
COMMAND = """
import os, signal, sys, time
from roformer_convert.converters import engine, two_processes
engine._SHARED_BYTES = 0
os.sched_getaffinity = lambda _: {{0, 1}}
PARENT, shared = os.getpid(), []
convert, share = engine._Worker.convert, two_processes.share
def slow(*arguments):
    if os.getpid() == PARENT:
        time.sleep(0.05)
    return convert(*arguments)
def noted(*arguments):
    shared.append(1)
    return share(*arguments)
engine._Worker.convert, engine.share = slow, noted
{fault}
from roformer_convert.__main__ import cli
from roformer_convert.command_group import run
try:
    run(cli, "roformer-convert", {{}}, stopped="stopped")
finally:
    assert shared, "no work was shared"
"""
WRITE = """
pwrite = os.pwrite
def other(descriptor, content, offset):
    if os.getpid() != PARENT:
        {action}
    return pwrite(descriptor, content, offset)
os.pwrite = other
"""


def start(source: Path, to: Dialect, target: Path, fault: str = "") -> subprocess.Popen[str]:
    words = ["convert", str(source), "--to", to, "-o", str(target), "--quiet"]
    script = [sys.executable, "-c", COMMAND.format(fault=fault), *words]
    return subprocess.Popen(script, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("two") / "ckpt"
    save(path, "paddle", random_tensors(), CONFIG)
    return path


@pytest.mark.parametrize("to", ["torch", "tf", "tf1"])
def test_two_processes_write_what_one_writes(source: Path, tmp_path: Path, to: Dialect) -> None:
    process = start(source, to, tmp_path / "two")
    assert process.communicate()[1] == "" and process.returncode == 0  # noqa: PT018
    convert(source, tmp_path / "one", to=to)
    assert file_bytes(tmp_path / "two") == file_bytes(tmp_path / "one")


def test_progress_counts_every_byte_of_both_twice(source: Path, tmp_path: Path) -> None:
    fault = f"""
two_processes._PROGRESS_BYTES = 100
from roformer_convert import cmd_convert
def advance(bar, count):
    with open({str(tmp_path / "told")!r}, "a") as file:
        print(count, file=file)
cmd_convert._Bar.advance = advance
"""
    process = start(source, "torch", tmp_path / "out", fault)
    assert process.communicate()[1] == "" and process.returncode == 0  # noqa: PT018
    plan = convert(source, to="torch", dry_run=True).plan
    assert sum(map(int, (tmp_path / "told").read_text().split())) == 2 * plan.nbytes


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("content = bytearray(content); content[-1] ^= 1", "read back with other bits"),
        ("offset += 1", "read back with other bits"),
        ("raise OSError(28, 'No space left on device')", "writing failed: No space left on device"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("os._exit(7)", "ended with status 7"),
        ("raise RuntimeError('a bug of ours')", "a bug of ours"),
    ],
)
def test_what_goes_wrong_in_the_second_process_is_told(source: Path, tmp_path: Path, action: str, said: str) -> None:
    process = start(source, "torch", tmp_path / "out", WRITE.format(action=action))
    words = process.communicate(timeout=60)[1]
    assert said in words
    assert process.returncode == (1 if "bug" in said else 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_the_caller_ignores_ends_neither_process(
    source: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As nohup does: the whole group is sent it."""
    action = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); os.kill(os.getpid(), {int(number)})"
    before = signal.signal(number, signal.SIG_IGN)  # inherited
    try:
        process = start(source, "torch", tmp_path / "out", WRITE.format(action=action))
    finally:
        signal.signal(number, before)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0  # noqa: PT018
    assert (tmp_path / "pid").exists()


@pytest.mark.parametrize("action", ["pass", "os._exit(7)"])
def test_a_caller_that_ignores_its_children_is_no_matter(source: Path, tmp_path: Path, action: str) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # inherited
    try:
        process = start(source, "torch", tmp_path / "out", WRITE.format(action=action))
    finally:
        signal.signal(signal.SIGCHLD, before)
    words = process.communicate(timeout=60)[1]
    assert words == "" if action == "pass" else "ended with status 7" in words
    assert process.returncode == (0 if action == "pass" else 2)


@pytest.mark.parametrize("action", ["pass", "os._exit(7)"])
def test_a_program_that_ignores_its_children_may_share(source: Path, tmp_path: Path, action: str) -> None:
    script = f"""
import os, signal
from roformer_convert.converters import convert, engine, two_processes
from roformer_convert.converters.errors import ConvertError
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
engine._SHARED_BYTES, os.sched_getaffinity, parent = 0, lambda _: {{0, 1}}, os.getpid()
work = engine._Worker.convert
def worked(*arguments):
    if os.getpid() != parent:
        {action}
    return work(*arguments)
engine._Worker.convert = worked
try:
    convert({str(source)!r}, {str(tmp_path / "out")!r}, to="torch", may_fork=True)
except ConvertError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "" or (action != "pass" and "the second process of this conversion ended" in done.stdout)
    assert (tmp_path / "out").exists() == (done.stdout == "")


def test_an_error_keeps_its_kind_and_its_place(tmp_path: Path) -> None:
    """Whichever process met it."""
    save(tmp_path / "ckpt", "tf1", random_tensors(), CONFIG)
    path = tmp_path / "ckpt" / "bert_model.ckpt.data-00000-of-00001"
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    script = f"""
import os
from roformer_convert.converters import convert, engine
from roformer_convert.converters.errors import FormatError
engine._SHARED_BYTES, os.sched_getaffinity, parent = 0, lambda _: {{0, 1}}, os.getpid()
work = engine._Worker.convert
def worked(*arguments):
    while os.getpid() == parent:
        __import__("time").sleep(0.01)  # until the other one has met it
        two.listen({{}}, print, wait=False)
    return work(*arguments)
from roformer_convert.converters import two_processes
made = two_processes._SecondProcess.__init__
def noted(process, *arguments):
    global two
    two = process
    made(process, *arguments)
two_processes._SecondProcess.__init__ = noted
engine._Worker.convert = worked
try:
    convert({str(tmp_path / "ckpt")!r}, {str(tmp_path / "out")!r}, to="torch", may_fork=True)
except FormatError as error:
    print(error.path.name, error.offset is not None, "wrong CRC32C" in error.problem, error.next_step)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[0] == f"{path.name} True True The file is damaged: fetch it again."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_second_process_ends_with_the_first(source: Path, tmp_path: Path, number: signal.Signals) -> None:
    action = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(0.2)"
    fault = "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + WRITE.format(action=action)
    process = start(source, "torch", tmp_path / "out", fault)
    while process.poll() is None and not (tmp_path / "pid").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_a_signal_right_after_the_fork_ends_both(source: Path, tmp_path: Path) -> None:
    fault = f"""
fork = os.fork
def forked():
    pid = fork()
    if pid:
        open({str(tmp_path / "pid")!r}, "w").write(str(pid))
        os.kill(PARENT, signal.SIGTERM)
    return pid
os.fork = forked
"""
    process = start(source, "torch", tmp_path / "out", fault)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")


def test_where_no_process_can_be_made_one_does_it_all(source: Path, tmp_path: Path) -> None:
    fault = "def refused():\n    raise BlockingIOError(11, 'no more processes')\nos.fork = refused"
    process = start(source, "torch", tmp_path / "out", fault)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    convert(source, tmp_path / "one", to="torch")
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "one")
