"""Share numbered jobs with a process forked for them: two cores without one interpreter between them.

Two threads of Python hand the interpreter to each other after every piece of numpy's work, which costs a third of the
time. A forked process has an interpreter of its own, and knows what is to be done because it is a copy: nothing is sent
to it. Both take the numbers of jobs from one pipe, one byte each, and what the other process has to say comes back as
lines of JSON.

A fork copies one thread, and every lock as it stands. So only a program that knows its own threads may do it: the
command does, the library in somebody's program does not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NoReturn

from .errors import ConvertError, FormatError

#: Called with the number of bytes just written, and once more for the same bytes when they were compared.
Progress = Callable[[int], None]
#: Does the job of a number and returns what JSON can say.
Work = Callable[[int, Progress], Any]
#: Opens what the work needs, in the process that does it.
Begin = Callable[[], AbstractContextManager[Work]]

#: A job's number is one byte and the last value ends a task. A pipe holds at least 512 bytes on every system, so that
#: filling it never waits.
MOST_JOBS = 255
_END = 255
#: Bytes that the other process tells of at a time.
_PROGRESS_BYTES = 4 << 20
#: Signals that end the command, which makes exceptions of them.
_ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


def possible() -> bool:
    """Whether this process may fork and another core is there for the copy.

    Linux only: elsewhere a library may not survive a fork (macOS), or there is none (Windows).
    """
    if sys.platform != "linux":
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1 and len(os.sched_getaffinity(0)) > 1
    except OSError:  # no /proc
        return False


def share(begin: Begin, count: int, progress: Progress) -> list[Any]:
    """Do the jobs below ``count`` here and in a forked process, and return what each gave.

    Args:
        begin: Called once in either process.
        count: At most :data:`MOST_JOBS`. The costly ones first: whoever is free takes the next.
        progress: Told of both processes' progress, in this one.

    Raises:
        ConvertError: As the work does in either process, and then the other does not go on; or it was killed.
        OSError: As the work does.
    """
    if count > MOST_JOBS:
        raise ValueError(f"{count} jobs, more than {MOST_JOBS}")
    todo, jobs = os.pipe()
    os.write(jobs, bytes([*range(count), _END, _END]))
    os.close(jobs)
    second = None
    try:
        # a signal between the fork and the moment its result is held would leave the other process to itself
        with _signals_held() as mask, suppress(OSError):  # no room for another process: this one does it all
            second = _SecondProcess(begin, todo, mask)
        results: dict[int, Any] = {}
        with begin() as work:
            while (number := os.read(todo, 1)[0]) != _END:
                results[number] = work(number, progress)
                if second is not None:
                    second.listen(results, progress, wait=False)
        if second is not None:
            second.listen(results, progress, wait=True)
        return [results[number] for number in range(count)]
    finally:
        if second is not None:
            second.end()
        os.close(todo)


@contextmanager
def _signals_held() -> Iterator[Set[int]]:
    """Let signals that end the command wait; give those that waited before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _SecondProcess:
    """The forked process as this one sees it, made while signals are held; :meth:`end` must be called."""

    def __init__(self, begin: Begin, todo: int, mask: Set[int]) -> None:
        self._said, says = os.pipe()
        self._rest = b""
        self._at_work = True
        try:
            self._pid = os.fork()
            if self._pid == 0:
                os.close(self._said)  # so that its words find no reader where the parent is gone
                _take_part(begin, todo, says, mask)
        except OSError:
            os.close(self._said)
            raise
        finally:
            os.close(says)

    def listen(self, results: dict[int, Any], progress: Progress, *, wait: bool) -> None:
        """Take in what the other process said, or wait until it has done its share; raise its error."""
        os.set_blocking(self._said, wait)
        while self._at_work:
            try:
                said = os.read(self._said, 1 << 16)
            except BlockingIOError:
                return
            if not said:
                self._died()
            *lines, self._rest = (self._rest + said).split(b"\n")
            for line in lines:
                self._take_in(line, results, progress)

    def _take_in(self, line: bytes, results: dict[int, Any], progress: Progress) -> None:
        word, *content = json.loads(line)
        if word == "progress":
            progress(content[0])
        elif word == "done":
            results[content[0]] = content[1]
        elif word == "end":
            self._at_work = False
        elif word == "refused":
            raise ConvertError(*content)
        elif word == "broken file":
            path, problem, offset, next_step = content
            raise FormatError(path, problem, offset=offset, next_step=next_step)
        elif word == "failed":
            raise OSError(*content)
        else:
            raise RuntimeError(f"in the second process:\n{content[0]}")

    def _died(self) -> NoReturn:
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        except ChildProcessError:  # whoever started this one ignores SIGCHLD, and so does the system then
            how = "ended"
        self._pid = 0
        raise ConvertError(
            f"the second process of this conversion {how} before its work was done; nothing was kept",
            "Memory may be short, or somebody ended it: try again.",
        )

    def end(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        if self._pid:
            with suppress(ProcessLookupError, ChildProcessError):  # as in _died
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            self._pid = 0
        os.close(self._said)


def _take_part(begin: Begin, todo: int, says: int, mask: Set[int]) -> NoReturn:
    """Be the second process: do jobs until there are no more, and end without running anything that is the parent's.

    If the parent is gone, the next word to it fails: this process ends too.
    """
    status = 1
    try:
        # the parent is sent the same signal, ends this process and removes what both wrote
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _ENDING[1:]:
            if signal.getsignal(number) is not signal.SIG_IGN:  # which nohup asked for
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _do(begin, todo, says)
        status = 0
    finally:
        os._exit(status)


def _do(begin: Begin, todo: int, says: int) -> None:
    def say(*words: Any) -> None:
        line = memoryview(json.dumps(words).encode() + b"\n")
        while len(line):
            line = line[os.write(says, line) :]

    moved = 0

    def progress(nbytes: int) -> None:
        nonlocal moved
        moved += nbytes
        if moved >= _PROGRESS_BYTES:
            say("progress", moved)
            moved = 0

    try:
        with begin() as work:
            while (number := os.read(todo, 1)[0]) != _END:
                say("done", number, work(number, progress))
        say("progress", moved)
        say("end")
    except FormatError as error:
        say("broken file", str(error.path), error.problem, error.offset, error.next_step)
    except ConvertError as error:
        say("refused", error.what, error.next_step)
    except OSError as error:
        say("failed", error.errno, error.strerror)
    except Exception:
        say("broken", traceback.format_exc())
