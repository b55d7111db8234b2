"""Run the HDF5 library in a process of its own, under limits, and take its answers as claims to be checked.

:mod:`.keras_h5` asks :func:`describe` for a file's structure once; :class:`Unpacked` is the data of a tensor that only
the library can read (chunked, compressed), streamed through a second such process that lives as long as the index does.
A library that crashes, hangs or runs into its limits becomes a :class:`FormatError`; this process never imports h5py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConvertError, FormatError
from .stored import OpenFiles

CHILD = Path(__file__).with_name("keras_h5_child.py")
ANSWER_SECONDS = 120.0  # of the wall clock for one answer; a network disk may be slow, a hang is for ever
MAX_ANSWER = 1 << 26  # bytes of one description
REQUEST = 1 << 22  # bytes of one tensor asked for at a time

_DAMAGED = "The file is damaged, or made to break its readers; get it again from where it came from."


def _start(task: str, path: Path, stdin: int) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise ConvertError(
            f"{path}: HDF5 files are read in a process of their own, and this Python does not know its own interpreter",
            "Run the conversion with a Python started from the command line.",
        )
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",  # numpy's OpenBLAS starts (and reserves memory for) a thread a core at import
        "HDF5_PLUGIN_PRELOAD": "::",  # the library loads no filter plugins
        "HDF5_USE_FILE_LOCKING": "FALSE",  # a read-only network disk may refuse locks
    }
    # Isolated (-I, -S): a numpy.py beside a downloaded checkpoint must not be what the child imports. It finds h5py
    # where this process would.
    search_path = json.dumps([entry for entry in sys.path if entry])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(CHILD), task, os.path.abspath(path), search_path],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


class _Watchdog:
    """Kill a process that does not answer in time (a context manager round the wait for its answer)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._timer = threading.Timer(ANSWER_SECONDS, self._bite)
        self._timer.daemon = True
        self.bit = False

    def _bite(self) -> None:
        self.bit = True
        self._process.kill()

    def __enter__(self) -> _Watchdog:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # at once; a process with a thread may not fork (two_processes.py)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """End a process if it still runs, close our ends of its pipes and return its exit status."""
    process.kill()
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was still buffered for a process that is gone
                continue
    return status


def death(path: Path, status: int, timed_out: bool) -> FormatError:
    """Say how the process that read ``path`` ended without an answer."""
    if timed_out:
        how = f"the HDF5 library gave no answer within {ANSWER_SECONDS:g} seconds"
    elif status == -getattr(signal, "SIGXCPU", 0) and status:
        how = "the HDF5 library used up its processor time"
    elif status < 0:
        how = f"the HDF5 library crashed (signal {-status}) on this file"
    else:
        how = f"the process that reads HDF5 ended with status {status} and no usable answer"
    return FormatError(path, how, next_step=_DAMAGED)


def describe(path: Path) -> object:
    """Ask a process of its own what ``path`` holds; the answer is parsed JSON and nothing more is known of it.

    Raises:
        FormatError: The process died, hung, or answered something endless or unreadable.
    """
    process = _start("describe", path, subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        with _Watchdog(process) as watchdog:
            text = process.stdout.read(MAX_ANSWER + 1)
            status = process.wait() if len(text) <= MAX_ANSWER else 0
    finally:
        _stop(process)
    if status != 0 or len(text) > MAX_ANSWER:
        raise death(path, status, watchdog.bit)
    try:
        answer: object = json.loads(text)
    except (ValueError, RecursionError):
        raise death(path, status, watchdog.bit) from None
    return answer


class Server:
    """A process that reads ranges of one file's tensors through the HDF5 library; started when first asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[[subprocess.Popen[bytes]], Server] | None = None

    def read_into(self, tensor: str, start: int, out: memoryview) -> None:
        """Fill ``out`` with bytes of the tensor at path ``tensor`` from ``start``.

        Raises:
            FormatError: The library cannot read it, died or hung.
        """
        with self._lock:
            for done in range(0, len(out), REQUEST):
                self._ask(tensor, start + done, out[done : done + REQUEST])

    def _ask(self, tensor: str, start: int, out: memoryview) -> None:
        if self._process is None:
            self._process = _start("serve", self.path, subprocess.PIPE)
            self._stop = weakref.finalize(self, _stop, self._process)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        request = json.dumps([tensor, start, len(out)]).encode() + b"\n"
        with _Watchdog(process) as watchdog:
            try:
                process.stdin.write(request)
                process.stdin.flush()
                status = process.stdout.read(1)
                if status == b"+" and process.stdout.readinto(out) == len(out):  # type: ignore[attr-defined]
                    return
                reason = process.stdout.readline(1000) if status == b"-" else b""
            except OSError:  # a broken pipe: it died before it read the request
                reason = b""
        if reason:
            raise FormatError(self.path, reason.decode("ascii", "replace").strip())
        self._process = None
        assert self._stop is not None
        raise death(self.path, self._stop() or 0, watchdog.bit)


@dataclass(frozen=True)
class Unpacked:
    """A tensor whose bytes only the HDF5 library can give: chunked, compressed, or kept inside its header."""

    path: Path
    tensor: str
    nbytes: int
    server: Server = field(compare=False, repr=False)

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        if start < 0 or start + len(out) > self.nbytes:
            raise ValueError(f"bytes {start} to {start + len(out)} are outside the tensor's {self.nbytes}")
        self.server.read_into(self.tensor, start, out)
