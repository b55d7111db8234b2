"""Have h5py make a plain copy of an HDF5 file in a form that our reader does not know.

The HDF5 library believes what it reads: a broken file can crash it, hold it up for ever, or make it ask for all the
memory there is. So it runs in a process of its own (:mod:`.copy_process`), under limits of memory, time and output
and unable to open any other file; and what it wrote is read by our own reader, which believes no file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from ...errors import ConvertError, FormatError, printable
from ...tensors.stored import Data, OpenFiles
from .file import DAMAGED, UnfamiliarError

#: The other process's exit status where it said why it does not copy.
REFUSED = 3


class PlainCopy(OpenFiles):
    """The copy: a file without a name, whose room on the disk is free again when the last tensor of it is let go.

    Whatever path it is asked for, it gives the copy.

    Attributes:
        size: Size of the copy in bytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def descriptor(self, path: Path) -> int:
        """Return the copy's descriptor."""
        return self._descriptor


@dataclass(frozen=True)
class CopiedExtent:
    """A tensor's bytes in a copy; ``data`` says where."""

    data: Data
    copy: PlainCopy = field(repr=False)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def read_into(self, files: OpenFiles, start: int, out: memoryview) -> None:
        self.data.read_into(self.copy, start, out)


def seconds_allowed(size: int) -> int:
    """Say how long copying a file of ``size`` bytes may take."""
    return 60 + size // (4 << 20)


def plain_copy(form: UnfamiliarError, source: int) -> PlainCopy:
    """Copy the weights of a file in the way that Keras writes them.

    Args:
        form: What our reader said of the file.
        source: Descriptor of the file, open for reading.

    Raises:
        FormatError: h5py is not there, or cannot read the file; or it crashed, or ran into a limit.
        ConvertError: The other process cannot be started.
    """
    path = form.path
    if find_spec("h5py") is None:
        what = f"{form.problem}, which is read with h5py, and that is not installed"
        raise FormatError(path, what, next_step="Install it, as this package's extra `h5` does: pip install h5py")
    seconds = seconds_allowed(os.fstat(source).st_size)
    # not -m, which puts the current directory first on the path: a numpy.py beside a checkpoint would be imported
    code = f"import sys; sys.path[:] = sys.argv[1:]; from {__package__}.copy_process import main; main()"
    try:
        with tempfile.TemporaryFile() as target:
            done = subprocess.run(
                [sys.executable, "-c", code, *filter(None, sys.path)],
                stdin=source,
                stdout=target,
                stderr=subprocess.PIPE,
                env={
                    **os.environ,
                    "OPENBLAS_NUM_THREADS": "1",  # or numpy reserves memory for a thread a core
                    "HDF5_PLUGIN_PRELOAD": "::",  # the library loads no filters from elsewhere
                },
                timeout=seconds,
                check=False,
            )
            if done.returncode == 0:
                return PlainCopy(target)
            raise _refusal(path, done.returncode, done.stderr)
    except subprocess.TimeoutExpired:
        what = f"the HDF5 library gave no answer within {seconds:,} seconds"
        raise FormatError(path, what, next_step=DAMAGED) from None
    except OSError as error:
        what = f"{path}: the process that reads it with h5py could not be started: {error.strerror or error}"
        raise ConvertError(what) from error


def _refusal(path: Path, status: int, words: bytes) -> FormatError:
    """Make the error for a process that ended with ``status`` and without a copy."""
    if status == REFUSED:
        try:
            what, next_step = json.loads(words)
        except ValueError:
            what, next_step = "the process that reads HDF5 gave no usable answer", DAMAGED
        return FormatError(path, printable(what), next_step=next_step)
    if status == -getattr(signal, "SIGXCPU", 0):
        what = "the HDF5 library used up its processor time"
    elif status < 0:
        what = f"the HDF5 library crashed (signal {-status}) on this file"
    else:
        *_, last = words.decode("utf-8", "replace").splitlines() or [""]
        what = f"the process that reads HDF5 ended with status {status}: {printable(last[:300])}"
    return FormatError(path, what, next_step=DAMAGED)
