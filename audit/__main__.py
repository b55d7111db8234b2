"""Say of every operator that a GPU would be asked for whether Paddle's GPU build has a kernel for it in its type.

    python -m audit [--list FILE] [--types] [--write]

Exit status 0: every operator has one. 1: some have none, or the recording contradicts Paddle's own log. 2: nothing
could be recorded. `make audit-gpu` runs it in an environment with the GPU build itself; any other Paddle can record as
well, and is held against the committed list.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from roformer_convert.converters.errors import ConvertError

from .dispatch_log import Recording, read_log
from .kernel_list import KernelList, read_kernel_list, registered_kernels, write_kernel_list
from .marks import PREFIX
from .verdicts import judge

KERNEL_LIST = Path(__file__).resolve().parent / "gpu_kernels.txt"
_LAST_WORDS = 40  # lines of a recording that failed
#: "I1127 08:29:08.563290  7539 api.cc:88787] …", and the lines of a tensor's description
_LOG_LINE = re.compile(r"[IWEF]\d{4} |\s*[\](){}\"\t]|$")


class RecordingError(ConvertError):
    """The recording process ended early."""


def record(kernel_list: Path) -> list[Recording]:
    """Run every scenario in a process of its own, whose log is read as it comes: it is a few hundred megabytes.

    Raises:
        RecordingError: The process failed.
    """
    command = [sys.executable, "-m", "audit.scenarios", str(kernel_list)]
    environment = {**os.environ, "GLOG_v": "6"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment, text=True, errors="replace", cwd=KERNEL_LIST.parents[1]
    ) as process:
        assert process.stderr is not None
        said: list[str] = []
        try:
            recordings = read_log(_kept(process.stderr, said))
            process.wait()
        finally:
            process.kill()  # where reading failed it waits for room in the pipe
    if process.returncode:
        raise RecordingError(
            "\n  ".join(["the scenarios could not be run", *said[-_LAST_WORDS:]]),
            "Run `python -m audit.scenarios audit/gpu_kernels.txt` to see it by itself.",
        )
    return recordings


def _kept(lines: Iterable[str], said: list[str]) -> Iterator[str]:
    """Pass lines on, and keep the last of those that are not Paddle's log."""
    for line in lines:
        if not line.startswith(PREFIX) and not _LOG_LINE.match(line):
            said.append(line.rstrip())
            del said[:-_LAST_WORDS]
        yield line


def table(recordings: Sequence[Recording]) -> list[str]:
    """Count each scenario's operators by type."""
    counts = {each.scenario: Counter(operator.dtype for operator in each.callers) for each in recordings}
    types = sorted({dtype for count in counts.values() for dtype in count}, key=_by_width)
    width = max(map(len, counts))
    head = "scenario".ljust(width) + "".join(dtype.rjust(len(dtype) + 2) for dtype in types)
    rows = [
        name.ljust(width) + "".join(str(count[dtype] or "").rjust(len(dtype) + 2) for dtype in types)
        for name, count in counts.items()
    ]
    return [head, *rows]


def types(recording: Recording) -> list[str]:
    """Name every operator of a scenario with its types."""
    found: dict[str, list[str]] = {}
    for operator in sorted(recording.callers):
        found.setdefault(operator.name, []).append(operator.dtype)
    return [f"{recording.scenario}:", *(f"  {name}: {', '.join(dtypes)}" for name, dtypes in found.items())]


def _by_width(dtype: str) -> tuple[str, int]:
    name = dtype.rstrip("0123456789")
    return name, int(dtype[len(name) :] or 0)


def main(arguments: Sequence[str]) -> int:
    """Record, judge and print."""
    parser = argparse.ArgumentParser(prog="python -m audit", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", type=Path, default=KERNEL_LIST, help="kernels to hold operators against")
    parser.add_argument("--types", action="store_true", help="print the type of every operator, not of O2's alone")
    parser.add_argument("--write", action="store_true", help="write the list anew from the GPU build that runs this")
    given = parser.parse_args(arguments)
    try:
        kernels = _kernels(given.list, write=given.write)
        recordings = record(given.list)
    except ConvertError as error:
        print(error, file=sys.stderr)
        return 2
    print(*table(recordings), sep="\n")
    for recording in recordings:
        if given.types or recording.scenario.startswith("train fp16-o2, fast, 7.0"):
            print("", *types(recording), sep="\n")
    faults = judge(recordings, kernels)
    count = len({operator for each in recordings for operator in each.callers})
    if faults:
        print(f"\n{len(faults)} of these would go wrong on a GPU:", *faults, sep="\n", file=sys.stderr)
        return 1
    print(
        f"\n{count} operators in their types, over {len(recordings)} scenarios: {kernels.build} has a kernel for each"
    )
    return 0


def _kernels(path: Path, *, write: bool) -> KernelList:
    """Read the list, which must be that of a GPU build that runs this."""
    registered = registered_kernels()
    if write:
        if registered is None:
            raise ConvertError("--write: this Paddle is built for CPUs alone", "Run `make audit-gpu WRITE=1`.")
        write_kernel_list(path, registered)
    try:
        kernels = read_kernel_list(path)
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} is not a list of kernels: {error}", "Take the one that is committed.") from None
    if registered is not None and registered != kernels:
        raise ConvertError(
            f"{path} is not what {registered.build} registers; it says it is of {kernels.build}",
            "Write it anew: make audit-gpu WRITE=1.",
        )
    return kernels


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
