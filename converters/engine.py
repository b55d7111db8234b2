"""Run a plan: copy ranges, turn kernels in tiles, checksum on the way, read every byte back and compare.

One engine runs any plan. Payloads first, headers and directories last, so that a file whose writing was cut short is
refused by every loader. One thread writes (writers of one file exclude each other in the kernel anyway) and a second
compares what the first has written with the source, while both are still in the page cache. Memory is two blocks,
whatever the checkpoint's size.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .containers.checksums import Checksum, verify_checksum
from .containers.stored import ChecksummedExtent, Extent, OpenFiles, Slot, StoredTensor
from .errors import ConvertError
from .plan import FilePlan, Plan, Step

# numpy takes 0.1 s to import: what the kernel can copy by itself is copied meanwhile, so nothing here asks for it early
if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .blocks import Scratch

#: Called with the number of bytes just written, and once more for the same bytes when they were compared.
Progress = Callable[[int], None]

#: Bytes that the kernel copies at a time, so that progress moves.
_COPY_BYTES = 64 << 20
#: The file systems or the kernel cannot copy between these two files: the plain path does.
_FALLBACK = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF}


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


@dataclass(frozen=True)
class Written:
    """Where a tensor's bytes were put, and their checksum where the container keeps one."""

    path: Path
    slot: Slot
    step: Step
    checksum: int


def run(
    plan: Plan,
    source: Checkpoint,
    directory: Path,
    *,
    verify: bool = True,
    fsync: bool = False,
    progress: Progress = nothing,
) -> list[Written]:
    """Write the weight files of ``plan`` into ``directory``; return where everything lies.

    Args:
        plan: What to write.
        source: Where it comes from.
        directory: An empty directory.
        verify: Read every tensor back from the file and compare it with the source, bit by bit.
        fsync: Force the files to disk.
        progress: Told of every piece.

    Raises:
        FormatError: A source file was cut short, or a checksum it carries is wrong.
        ConvertError: A cast overflows, the disk is full, or the bytes read back differ.
    """
    written: list[Written] = []
    for file in plan.files:
        try:
            written += _run_file(plan, file, source, directory, verify, fsync, progress)
        except OSError as error:
            raise writing_failed(directory, error) from error
    return written


def writing_failed(directory: Path, error: OSError) -> ConvertError:
    """Say that the result could not be written: reading failures have errors of their own."""
    step = "Make room, or name another disk with -o." if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return ConvertError(f"{directory.parent}: writing failed: {error.strerror or error}", step)


def _run_file(
    plan: Plan, file: FilePlan, source: Checkpoint, directory: Path, verify: bool, fsync: bool, progress: Progress
) -> list[Written]:
    layout = plan.lay_out(file)
    slots = layout.create(directory)
    output = _Output(directory)
    scratch: list[Scratch] = []
    # what the kernel copies goes first, while numpy is imported
    steps = sorted(file.stored, key=lambda step: not _plain(step, layout.checksum))
    done: list[Written] = []
    try:
        with _Comparer(source, verify, progress) as comparer:
            if any(not _plain(step, layout.checksum) for step in steps) or verify:
                comparer.prepare()
            for step in steps:
                slot = slots[step.new.name]
                checksum = Checksum(layout.checksum)
                _copy(step, source.files, output, slot, checksum, scratch, progress)
                done.append(Written(directory / slot.filename, slot, step, checksum.value))
                comparer.compare(done[-1])
        for fragment in layout.fragments({one.step.new.name: one.checksum for one in done}):
            output.write(fragment.filename, fragment.offset, fragment.content)
    except BaseException:
        output.close(fsync=False)
        raise
    output.close(fsync=fsync)
    return done


class _Comparer:
    """A thread that reads back what was written and compares it with the source; a context manager.

    Leaving the context waits for it, and raises what it found. It does nothing where nothing is to be verified. Where
    files have no positioned read (Windows) it works in the caller's thread.
    """

    def __init__(self, source: Checkpoint, verify: bool, progress: Progress) -> None:
        self._source = source
        self._verify = verify
        self._progress = progress
        self._files = OpenFiles()
        self._scratch: list[Scratch] = []
        self._failure: BaseException | None = None
        self._work: queue.SimpleQueue[Written | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if verify and hasattr(os, "preadv"):
            self._thread = threading.Thread(target=self._run, name="compare", daemon=True)

    def __enter__(self) -> _Comparer:
        return self

    def prepare(self) -> None:
        """Start the thread, which begins with importing numpy."""
        if self._thread is not None:
            self._thread.start()

    def compare(self, written: Written) -> None:
        """Have one tensor compared; raise what was found wrong with an earlier one."""
        if self._failure is not None:
            raise self._failure
        if self._thread is not None:
            self._work.put(written)
        elif self._verify:
            self._compare(written)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None and self._thread.is_alive():
            if kind is not None:
                self._failure = self._failure or ConvertError("writing failed")  # stops at the next tensor
            self._work.put(None)
            self._thread.join()
        self._files.__exit__(None, None, None)
        if kind is None and self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            import numpy  # noqa: F401

            while self._failure is None and (written := self._work.get()) is not None:
                self._compare(written)
        except BaseException as error:
            self._failure = error

    def _compare(self, written: Written) -> None:
        from .blocks import Scratch, blocks

        if not self._scratch:
            self._scratch = [Scratch(), Scratch()]
        step, path = written.step, written.path
        ours = step.held.stored
        back = StoredTensor(
            step.new.name, step.new.dtype, step.new.shape, Extent(path, written.slot.offset, written.slot.nbytes)
        )
        # The target is turned back to the source's layout, not the source forward again: a fault in turning one way
        # would otherwise hide itself.
        read = blocks(self._files, back, turn=step.turn, scratch=self._scratch[0])
        if not _same_bits(blocks(self._source.files, ours, turn=False, scratch=self._scratch[1]), read, step):
            raise ConvertError(
                f"{path.name}: {step.new.name} was read back with other bits than {ours.name} of the source has",
                "Nothing was kept. The disk or the memory may be failing: try another disk, and report it if it stays.",
            )
        self._progress(back.nbytes)


def _plain(step: Step, checksum: str | None) -> bool:
    """Whether the bytes are copied as they lie."""
    return not step.turn and not step.casts and checksum is None and isinstance(step.held.stored.data, Extent)


def _copy(
    step: Step,
    files: OpenFiles,
    output: _Output,
    slot: Slot,
    checksum: Checksum,
    scratch: list[Scratch],
    progress: Progress,
) -> None:
    stored = step.held.stored
    verify_checksum(files, stored)
    if isinstance(stored.data, Extent) and _plain(step, checksum.kind):
        done = _copy_in_kernel(stored.data, files, output, slot, progress)
        if done == stored.nbytes:
            return
    import numpy

    from .blocks import Scratch, blocks

    if not scratch:
        scratch.append(Scratch())
    offset = slot.offset
    for piece in blocks(files, stored, turn=step.turn, scratch=scratch[0]):
        values = _cast(piece, step) if step.casts else piece
        content = values.view(numpy.uint8).data
        checksum.update(content)
        output.write(slot.filename, offset, content)
        offset += len(content)
        progress(len(content))


def _cast(bits: NDArray[Any], step: Step) -> NDArray[Any]:
    """Bit patterns of the source → the target's elements."""
    from .dtypes import cast, numpy_dtype

    stored = step.held.stored
    return cast(bits.view(numpy_dtype(stored.dtype)), stored.dtype, step.new.dtype, name=stored.name)


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


def check_index(written: list[Written], found: Checkpoint) -> None:
    """Check that the result's own reader finds each tensor just where the compared bytes are.

    Together with the comparison of those bytes this is the result, read back under canonical names.

    Raises:
        ConvertError: It finds another tensor, place, shape or type: this program is at fault.
    """
    places: dict[str, list[Written]] = {}
    for one in written:
        places.setdefault(one.step.held.tensor.canonical, []).append(one)
    if places.keys() != found.held.keys():
        lost = sorted(places.keys() ^ found.held.keys())
        raise ConvertError(f"{found.path}: reading back what was written, these tensors differ: {', '.join(lost)}")
    for canonical, held in found.held.items():
        stored, data = held.stored, held.stored.data
        for one in places[canonical]:
            if one.step.new.name == stored.name:
                break
        want = (one.path, one.slot.offset, one.slot.nbytes)
        same = isinstance(data, Extent) and (data.path, data.offset, data.nbytes) == want
        if isinstance(data, ChecksummedExtent):
            same = same and data.checksum == one.checksum
        if not same or (stored.name, stored.dtype, stored.shape, stored.order) != (
            one.step.new.name,
            one.step.new.dtype,
            one.step.new.shape,
            "C",
        ):
            raise ConvertError(f"{found.path}: {canonical} is read back from elsewhere than it was written: {stored}")


def _same_bits(forth: Iterator[NDArray[Any]], back: Iterator[NDArray[Any]], step: Step) -> bool:
    """Compare two streams of elements, casting the first as the plan did."""
    import numpy

    from .blocks import together

    ours, count = step.held.stored, 0
    for left, right in together(forth, back):
        if step.casts:
            values = _cast(left, step)
            left = values.view(f"u{values.itemsize}")
        if left.dtype != right.dtype or not numpy.array_equal(left, right):
            return False
        count += len(left)
    return count == ours.size
