"""A process of its own for each framework: started, asked, answered, and reported when it dies.

``import tensorflow`` and then ``import paddle`` in one process is a segmentation fault, and whatever a framework does
to its process (a signal, the memory killer) must reach the person as a sentence. Requests and answers are JSON, one a
line: the child (:func:`serve`) reads its standard input and writes what was its standard output; everything else that
is printed there, by whatever library, goes to standard error, which is kept for the last words.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ...converters.errors import ConvertError

Json = dict[str, Any]

_LONGEST_ANSWER = 64 << 20  # bytes
_LAST_LINES = 12
_LAST_BYTES = 4096
_ENDING_SECONDS = 5.0  # to leave by itself once its input is closed


class DeathError(ConvertError):
    """A process ended without an answer.

    Args:
        name: What ran in it.
        status: Its exit status, negative for a signal.
        last_words: The end of what it wrote to standard error.
    """

    def __init__(self, name: str, status: int, last_words: str) -> None:
        if status >= 0:
            end = f"ended with status {status}"
        else:
            try:
                number = signal.Signals(-status)
                end = f"was ended by {number.name} ({_MEANING.get(number.name, signal.strsignal(number) or 'signal')})"
            except ValueError:
                end = f"was ended by signal {-status}"
        words = "\n".join(f"  | {line}" for line in last_words.splitlines())
        super().__init__(
            f"the {name} process {end} before it answered" + (f"; its last words:\n{words}" if words else "")
        )
        self.name = name
        self.status = status
        self.last_words = last_words


#: What a signal usually means when a framework's process dies of it.
_MEANING = {
    "SIGKILL": "killed from outside: by the system, if memory ran out",
    "SIGSEGV": "segmentation fault",
    "SIGABRT": "aborted by the framework or the C library",
    "SIGILL": "illegal instruction: the installed wheel needs another processor",
    "SIGBUS": "bus error: a mapped file was cut short, or memory ran out",
}


class Process:
    """One child, as a context manager; its end is waited for.

    Args:
        name: For messages.
        module: A module with ``main(*arguments)`` that calls :func:`serve`.
        arguments: Strings for ``main``.
        environment: Variables to set in it, or to unset where None.
        command: What to start in the module's place: another Python, with a file that serves as :func:`serve` does.
        folder: The directory that it starts in; by default this process's own.
    """

    def __init__(
        self,
        name: str,
        module: str = "",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str | None] | None = None,
        *,
        command: Sequence[str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        # not -m, which puts the current directory first on the path: a file there called json.py would be imported
        code = (
            "import sys, importlib; sys.path[:] = [p for p in sys.path if p]; "
            f"importlib.import_module({module!r}).main(*sys.argv[1:])"
        )
        changed = environment or {}
        kept = {key: value for key, value in os.environ.items() if key not in changed}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments] if command is None else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**kept, **{key: value for key, value in changed.items() if value is not None}},
            cwd=folder,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(0.0 if kind else _ENDING_SECONDS)

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request; the answer is fetched by :meth:`answer`.

        Raises:
            DeathError: The process is gone.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, OSError):
            raise self._death() from None

    def answer(self) -> Json:
        """Wait for the answer to the request before.

        Raises:
            DeathError: The process ended without one.
            ConvertError: It answered with an error, which carries its name, or with what is no answer.
        """
        assert self._child.stdout is not None
        line = self._child.stdout.readline(_LONGEST_ANSWER)
        if len(line) == _LONGEST_ANSWER:
            raise ConvertError(f"{self.name}: its answer is longer than {_LONGEST_ANSWER:,} bytes")
        if not line.endswith(b"\n"):
            raise self._death()
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ConvertError(f"{self.name}: what it answered is no JSON object: {line[:80]!r}")
        if "error" in found:
            raise ConvertError(f"{self.name}: {found['error']}", found.get("next_step"))
        return found

    def words(self) -> str:
        """Return the end of what it wrote to standard error so far."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_BYTES))
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        return "\n".join([line.rstrip() for line in lines if line.strip()][-_LAST_LINES:])

    def close(self, patience: float = _ENDING_SECONDS) -> None:
        """End it: by closing its input, and after ``patience`` seconds by force."""
        if self._errors.closed:
            return
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(patience)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._errors.close()

    def _death(self) -> DeathError:
        try:
            status = self._child.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its output and lives on
            self._child.kill()
            status = self._child.wait()
        return DeathError(self.name, status, self.words())


def serve(answer: Callable[[Json], Json]) -> None:
    """Answer requests until the input ends, then leave at once; an error of the user's input is an answer too.

    Any other exception ends the process, and its traceback is the last words.
    """
    faulthandler.enable()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        try:
            found = answer(json.loads(line))
        except ConvertError as error:
            found = {"error": error.what, "next_step": error.next_step}
        out.write(json.dumps(found).encode("ascii") + b"\n")
        out.flush()
    # a framework's own farewell takes a second and may crash, and there is nothing to save
    sys.stderr.flush()
    os._exit(0)
