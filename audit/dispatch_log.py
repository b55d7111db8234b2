"""Read what the recording process logged: which kernels Paddle looked up, in which type, for whom.

Paddle logs at GLOG_v=6 every kernel that it selects, forward, backward and optimiser alike, with the type of its key.
Lines of :mod:`.marks` lie between them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import marks

#: "api.cc:88787] matmul API kernel key: [CPU, NCHW, float32]"
_KEY = re.compile(r"\] (\w+) API kernel key: \[\w+, [^,]*, (\w+)\]")
#: "api.cc:88794] matmul kernel: {"input":…": the kernel that was found, under its own name
_FOUND = re.compile(r"\] (\w+) (?:API )?kernel: \{")
#: "dygraph_functions.cc:58220] Running C++ API: embedding" and, when it is done, "Finish AD API: embedding"
_RUNNING = re.compile(r"\] Running C\+\+ API: (\w+)")
_FINISHED = re.compile(r"\] Finish AD API(?: GRAD)?: (\w+)")
#: What lines that matter contain.
_TELLING = (" kernel", "AMP type", " API: ", " API GRAD: ")
#: "amp_utils.h:97] Change matmul_v2's AMP type from float16 to FP32": on a CPU, what would have been half
_WOULD_HALVE = re.compile(r"\] Change (\w+)'s AMP type from (\w+) to FP32")


@dataclass(frozen=True, order=True)
class Operator:
    """An operator in a type, by phi's names."""

    name: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} in {self.dtype}"


@dataclass
class Recording:
    """What one scenario dispatched.

    Attributes:
        scenario: Its name.
        callers: From where in the project each operator was called.
        doubts: What Paddle's log says against the recording: it is not to be trusted where there is any.
    """

    scenario: str
    callers: defaultdict[Operator, set[str]] = field(default_factory=lambda: defaultdict(set))
    doubts: list[str] = field(default_factory=list)


def read_log(lines: Iterable[str]) -> list[Recording]:
    """Read a log into its scenarios, in their order."""
    out: list[Recording] = []
    within: list[str] = []  # marks that have not ended: a half type, or ASIDE
    caller, dtype, name = "", "", ""
    unconfirmed = ""  # operator that the recording halved, and Paddle did not say so yet
    missed = ""  # operator that Paddle would have halved, and the recording did not
    running = ""  # operator that logged no kernel yet
    for line in lines:
        if line.startswith(marks.PREFIX):
            _, word, *rest = line.split()
            if word == marks.SCENARIO:
                out.append(Recording(" ".join(rest)))
                caller, within = "", []
            elif word == marks.CALL:
                name, caller = rest
            elif word == marks.STANDS_FOR and out:
                out[-1].callers[Operator(rest[0], rest[1])].add(caller)
            elif word in (marks.HALF, marks.ASIDE):
                within.append(rest[0] if word == marks.HALF else marks.ASIDE)
            elif word == marks.LISTED:
                unconfirmed = name
            elif word == marks.END and within.pop() != marks.ASIDE and unconfirmed and out:
                out[-1].doubts.append(f"{unconfirmed} was halved by a list; Paddle's mixed precision would not")
                unconfirmed = ""
            continue
        if not out or marks.ASIDE in within[-1:] or not any(each in line for each in _TELLING):
            continue
        if key := _KEY.search(line):
            dtype = key[2]
            if missed and dtype in ("float32", "float16", "bfloat16"):  # of integers there is nothing to halve
                out[-1].doubts.append(f"{missed}, called from {caller}, would be half; it was recorded in {dtype}")
            missed = ""
        elif found := _FOUND.search(line):
            running = ""
            half = within[-1] if within and dtype == "float32" else dtype
            out[-1].callers[Operator(found[1], half)].add(caller)
        elif begun := _RUNNING.search(line):
            running = begun[1]
        elif (done := _FINISHED.search(line)) and done[1] == running:
            out[-1].doubts.append(f"{running}, called from {caller}, ran, and Paddle logged no kernel of it")
            running = ""
        elif halved := _WOULD_HALVE.search(line):
            unconfirmed, missed = "", "" if within else halved[1]
    return out
