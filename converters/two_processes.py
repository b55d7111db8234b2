"""Share numbered jobs with a process forked from this one: two cores without one interpreter between them.

Two threads of Python hand the interpreter to each other after every piece of numpy's work, which costs a third of the
time. A forked process has an interpreter of its own. It is told a task once, pickled; then both take the numbers of
jobs from one pipe, one byte each, and what the other process has to say comes back as lines of JSON.

A fork copies one thread, and every lock as it stands. So only a process without threads may do it, before it has loaded
anything: the command does, the library in somebody's program does not.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol

from .errors import ConvertError

#: Called with the number of bytes just written, and once more for the same bytes when they were compared.
Progress = Callable[[int], None]
#: Does the job of a number and returns what JSON can say.
Work = Callable[[int, Progress], Any]

#: A job's number is one byte and the last value ends a task. A pipe holds at least 512 bytes on every system, so that
#: filling it never waits.
MOST_JOBS = 255
_END = 255
#: Signals that end the command, which makes exceptions of them.
_ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


class Task(Protocol):
    """What is shared; it can be pickled."""

    def begin(self) -> AbstractContextManager[Work]:
        """Open what the work needs, in the process that does it."""


class Helper:
    """A forked process that waits for tasks; made by :meth:`start`, and ended by :meth:`end` whatever happens."""

    @classmethod
    def start(cls) -> Helper | None:
        """Fork one, or return None where that is not possible or another core is not there for it.

        Linux only: elsewhere a library may not survive a fork (macOS), or there is none (Windows).
        """
        if sys.platform != "linux":
            return None
        try:
            if len(os.listdir("/proc/self/task")) > 1 or len(os.sched_getaffinity(0)) < 2:
                return None
            return cls()
        except OSError:  # no processes left, or no /proc
            return None

    def __init__(self) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (tasks, self._tasks), (self._todo, self._jobs), (self._said, says) = pipes
        self._rest = b""
        # a signal between the fork and the moment its result is held would leave the other process to itself
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                for descriptor in (self._tasks, self._jobs, self._said):
                    os.close(descriptor)
                _other_process(tasks, self._todo, says)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        os.close(tasks)
        os.close(says)

    def share(self, task: Task, count: int, progress: Progress) -> list[Any]:
        """Do the jobs of ``task`` that have the numbers below ``count``, here and there, and return what each gave.

        Args:
            task: What is to be done.
            count: At most :data:`MOST_JOBS`. The costly ones first: whoever is free takes the next.
            progress: Told of both processes' progress, in this one.

        Raises:
            ConvertError: As the work does in either process, and then the other does not go on; or it was killed.
            OSError: As the work does.
        """
        if count > MOST_JOBS:
            raise ValueError(f"{count} jobs, more than {MOST_JOBS}")
        os.write(self._jobs, bytes([*range(count), _END, _END]))
        try:
            content = memoryview(pickle.dumps(task))
            while len(content):
                content = content[os.write(self._tasks, content) :]
        except BrokenPipeError:
            self._died()
        results: dict[int, Any] = {}
        at_work = True
        with task.begin() as work:
            while (number := os.read(self._todo, 1)[0]) != _END:
                results[number] = work(number, progress)
                at_work = at_work and self._listen(results, progress, wait=False)
        while at_work:
            at_work = self._listen(results, progress, wait=True)
        return [results[number] for number in range(count)]

    def _listen(self, results: dict[int, Any], progress: Progress, *, wait: bool) -> bool:
        """Take in what the other process said; raise its error. False when it has done its share."""
        os.set_blocking(self._said, wait)
        try:
            said = os.read(self._said, 1 << 16)
        except BlockingIOError:
            return True
        if not said:
            self._died()
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            word, *content = json.loads(line)
            if word == "progress":
                progress(content[0])
            elif word == "done":
                results[content[0]] = content[1]
            elif word == "end":
                return False
            elif word == "refused":
                raise ConvertError(*content)
            elif word == "failed":
                raise OSError(*content)
            else:
                raise RuntimeError(f"in the second process:\n{content[0]}")
        return True

    def _died(self) -> NoReturn:
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = 0
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ConvertError(
            f"the second process of this conversion {how} before its work was done; nothing was kept",
            "Memory may be short, or somebody ended it: try again.",
        )

    def end(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        for descriptor in (self._tasks, self._todo, self._jobs, self._said):
            os.close(descriptor)


def _other_process(tasks: int, todo: int, says: int) -> NoReturn:
    """Do tasks until there are no more, and end without running anything that is the parent's.

    If the parent is gone, waiting for the next task ends, or the next word to it fails: this process ends too.
    """
    status = 1
    try:
        # the parent is sent the same signal, ends this process and removes what both wrote
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _ENDING[1:]:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        from . import blocks, engine  # noqa: F401  # and numpy: the task will need them

        with open(tasks, "rb") as stream:
            while stream.peek(1):
                _do(pickle.load(stream), todo, says)
        status = 0
    finally:
        os._exit(status)


def _do(task: Task, todo: int, says: int) -> None:
    def say(*words: Any) -> None:
        line = memoryview(json.dumps(words).encode() + b"\n")
        while len(line):
            line = line[os.write(says, line) :]

    try:
        with task.begin() as work:
            while (number := os.read(todo, 1)[0]) != _END:
                say("done", number, work(number, lambda nbytes: say("progress", nbytes)))
        say("end")
    except ConvertError as error:
        say("refused", error.what, error.next_step)
    except OSError as error:
        say("failed", error.errno, error.strerror)
    except Exception:
        say("broken", traceback.format_exc())
