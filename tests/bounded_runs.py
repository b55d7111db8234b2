"""Python code, or a command, run in a process of its own: how it ended, what it took of time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

#: Longer than any input may take on any machine, so that a test ends.
_LONGEST = 30
#: A small process between us and what is measured: the system counts our memory, too, in a process that we start.
_MEASURE = """
import json, os, sys
child = os.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
_, status, used = os.wait4(child, 0)
print("\\n" + json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Exit status; negative for a signal.
        output, error: What it wrote.
        seconds: Processor time, its own and the system's, the start of Python included.
        megabytes: Most memory that it had at any moment.
    """

    status: int
    output: str
    error: str
    seconds: float
    megabytes: float


def run_bounded(*arguments: str) -> Ended:
    """Run Python with arguments: ``-m`` and a module's, or ``-c`` and code."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_LONGEST,
        check=True,
    )
    output, _, measured = done.stdout.removesuffix("\n").rpartition("\n")
    status, seconds, memory = json.loads(measured)
    return Ended(status, output, done.stderr, seconds, memory / (1 << 20 if sys.platform == "darwin" else 1 << 10))
