"""Run a plan: copy ranges, turn kernels in strips, checksum on the way, read everything back.

One engine runs any plan. Payloads first, headers and directories last, so that a file whose writing was cut short is
refused by every loader. Memory is a scratch block for each worker, whatever the checkpoint's size.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .blocks import BLOCK_BYTES, blocks, new_scratch, together
from .checkpoint import Checkpoint, Held
from .containers.stored import Extent, OpenFiles, Slot
from .dtypes import cast
from .errors import ConvertError
from .plan import FilePlan, Plan, Step

#: Called with the number of bytes just written (or, while verifying, compared).
Progress = Callable[[int], None]

#: Bytes that the kernel copies at a time, so that progress moves.
_COPY_BYTES = 64 << 20
_FALLBACK = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF}

#: Two workers keep one core turning while the other waits for pages. Windows has no positioned read, so one there.
WORKERS = 1 if sys.platform == "win32" else 2


def nothing(_: int) -> None:
    """Progress that nobody watches."""


@dataclass
class _Output:
    """Files opened once for positioned writes, from several threads."""

    directory: Path
    descriptors: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def descriptor(self, filename: str) -> int:
        with self.lock:
            found = self.descriptors.get(filename)
            if found is None:
                found = os.open(self.directory / filename, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
                self.descriptors[filename] = found
            return found

    def write(self, filename: str, offset: int, content: memoryview | bytes) -> None:
        descriptor = self.descriptor(filename)
        view = memoryview(content)
        while len(view):
            if hasattr(os, "pwrite"):
                count = os.pwrite(descriptor, view, offset)
            else:
                os.lseek(descriptor, offset, os.SEEK_SET)
                count = os.write(descriptor, view)
            offset += count
            view = view[count:]

    def close(self, *, fsync: bool) -> None:
        try:
            for descriptor in self.descriptors.values():
                if fsync:
                    os.fsync(descriptor)
        finally:
            for descriptor in self.descriptors.values():
                os.close(descriptor)
            self.descriptors.clear()


class _Scratch(threading.local):
    """One block for each worker, made when it is first needed."""

    def __init__(self) -> None:
        self._block: NDArray[numpy.uint8] | None = None

    @property
    def block(self) -> NDArray[numpy.uint8]:
        if self._block is None:
            self._block = new_scratch(BLOCK_BYTES)
        return self._block


class _Checksum:
    """CRC-32 or CRC-32C of what passes by; nothing for a container that wants none."""

    def __init__(self, kind: str | None) -> None:
        self.value = 0
        self._update: Callable[[Any, int], int] | None = None
        if kind == "crc32":
            self._update = zlib.crc32
        elif kind == "crc32c":
            import crc32c

            self._update = crc32c.crc32c

    def update(self, content: memoryview) -> None:
        if self._update is not None:
            self.value = self._update(content, self.value)


def write(
    plan: Plan, source: Checkpoint, directory: Path, *, progress: Progress = nothing, fsync: bool = False
) -> None:
    """Write the weight files of ``plan`` into ``directory``.

    Raises:
        FormatError: A source file was cut short, or a checksum it carries is wrong.
        ConvertError: A cast overflows; the disk is full.
    """
    for file in plan.files:
        try:
            _write_file(plan, file, source, directory, progress, fsync)
        except OSError as error:
            raise _written(error, directory) from error


def _written(error: OSError, directory: Path) -> ConvertError:
    step = "Make room, or name another disk with -o." if error.errno == errno.ENOSPC else None
    return ConvertError(f"{directory}: writing failed: {error.strerror or error}", step)


def _write_file(
    plan: Plan, file: FilePlan, source: Checkpoint, directory: Path, progress: Progress, fsync: bool
) -> None:
    layout = plan.lay_out(file)
    slots = layout.create(directory)
    output = _Output(directory)
    scratch = _Scratch()
    checksums: dict[str, int] = {}
    try:
        # the same source under two names goes to one worker: a streamed payload is read by one thread
        jobs: dict[str, list[Step]] = {}
        for step in file.stored:
            jobs.setdefault(step.held.tensor.canonical, []).append(step)

        def copy(steps: list[Step]) -> None:
            for step in steps:
                checksum = _Checksum(layout.checksum)
                _copy(step, source.files, output, slots[step.new.name], checksum, scratch, progress)
                checksums[step.new.name] = checksum.value

        in_threads(copy, jobs.values())
        for fragment in layout.fragments(checksums):
            output.write(fragment.filename, fragment.offset, fragment.content)
    except BaseException:
        output.close(fsync=False)
        raise
    output.close(fsync=fsync)


def in_threads(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do ``work`` on every item by :data:`WORKERS` threads; the first failure stops the rest and is raised."""
    if WORKERS == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, pending = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # an interrupt: let the running pieces end, start no other
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for future in pending:
            future.cancel()
        for future in done:
            future.result()


def _copy(
    step: Step,
    files: OpenFiles,
    output: _Output,
    slot: Slot,
    checksum: _Checksum,
    scratch: _Scratch,
    progress: Progress,
) -> None:
    stored = step.held.stored
    _check_source(files, step.held)
    plain = not step.turn and not step.casts
    if plain and isinstance(stored.data, Extent) and checksum._update is None:
        done = _copy_in_kernel(stored.data, files, output, slot, progress)
        if done == stored.nbytes:
            return
    offset = slot.offset
    for piece in blocks(files, stored, turn=step.turn, scratch=scratch.block):
        if step.casts:
            values = cast(_as(piece, stored.dtype), stored.dtype, step.new.dtype, name=stored.name)
            content = values.view(numpy.uint8).data
        else:
            content = piece.view(numpy.uint8).data
        checksum.update(content)
        output.write(slot.filename, offset, content)
        offset += len(content)
        progress(len(content))


def _as(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Bit patterns → the numpy type that holds ``dtype``."""
    from .dtypes import numpy_dtype

    return bits.view(numpy_dtype(dtype))


def _check_source(files: OpenFiles, held: Held) -> None:
    """Check the checksum that a TF checkpoint carries for each tensor, before its bytes are believed."""
    from .containers import stored

    if isinstance(held.stored.data, stored.ChecksummedExtent):
        from .containers import tensor_bundle

        tensor_bundle.verify_checksum(files, held.stored)


def _copy_in_kernel(extent: Extent, files: OpenFiles, output: _Output, slot: Slot, progress: Progress) -> int:
    """Copy a run of bytes without bringing it here; return how many were copied (0 where the kernel cannot)."""
    if not hasattr(os, "copy_file_range"):
        return 0
    source, target = files.descriptor(extent.path), output.descriptor(slot.filename)
    done = 0
    while done < extent.nbytes:
        count = min(_COPY_BYTES, extent.nbytes - done)
        try:
            count = os.copy_file_range(source, target, count, extent.offset + done, slot.offset + done)
        except OSError as error:
            if error.errno in _FALLBACK:
                return 0
            raise
        if count == 0:  # the source ends early: the plain path says where
            return 0
        done += count
        progress(count)
    return done


def verify(written: Checkpoint, plan: Plan, source: Checkpoint, *, progress: Progress = nothing) -> None:
    """Compare what was written, reopened by its own reader, with the source, bit by bit under canonical names.

    Raises:
        ConvertError: They differ: the disk, the memory or this program is at fault, and the result must not be used.
    """
    if set(written.held) != set(source.held):
        lost = sorted(set(written.held) ^ set(source.held))
        raise ConvertError(f"{written.path}: reading back what was written, these tensors differ: {', '.join(lost)}")
    steps = {step.held.tensor.canonical: step for step in plan.steps}
    scratch = _Scratch()
    second = _Scratch()

    def compare(canonical: str) -> None:
        ours, theirs = source.held[canonical], written.held[canonical]
        _check_source(written.files, theirs)
        # The target is turned back to the source's layout, not the source forward again: a fault in turning one way
        # would otherwise hide itself.
        turn = ours.turned != theirs.turned and len(ours.stored.shape) == 2
        back = blocks(written.files, theirs.stored, turn=turn, scratch=second.block)
        forth = blocks(source.files, ours.stored, turn=False, scratch=scratch.block)
        if not _same_bits(forth, back, ours, steps[canonical]):
            raise ConvertError(
                f"{written.path}: {theirs.stored.name} was read back with other bits than {ours.stored.name} has",
                "Nothing was kept. The disk or the memory may be failing: try another disk, and report it if it stays.",
            )
        progress(theirs.stored.nbytes)

    in_threads(compare, source.held)


def _same_bits(forth: Iterable[NDArray[Any]], back: Iterable[NDArray[Any]], ours: Held, step: Step) -> bool:
    """Compare two streams of elements, casting the first as the plan did."""
    count = 0
    for left, right in together(iter(forth), iter(back)):
        if step.casts:
            values = cast(_as(left, ours.stored.dtype), ours.stored.dtype, step.new.dtype, name=ours.stored.name)
            left = values.view(f"u{values.itemsize}")
        if left.dtype != right.dtype or not numpy.array_equal(left, right):
            return False
        count += len(left)
    return count == ours.stored.size
