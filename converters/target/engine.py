"""Run a plan: copy ranges, transpose kernels in strips, checksum on the way, read every byte back and compare.

One engine runs any plan. Payloads first, headers and directories last, so that a file whose writing was cut short is
refused by every loader. What is compared is still in the processor's cache or the page cache, and memory is a few
blocks, whatever the checkpoint's size.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConvertError
from ..source.checkpoint import Checkpoint
from ..table.mapping import POSITIONS
from ..tensors.checksums import Checksum, require, running, verify_checksum
from ..tensors.stored import ChecksummedExtent, Extent, FileLayout, OpenFiles, Slot
from .plan import Plan, Step
from .read_back import ReadBack, Written, as_target

# numpy takes a tenth of the time of a whole conversion to import, so nothing here asks for it before it is needed
if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..tensors.blocks import Scratch

#: Called with the number of bytes just written, and once more for the same bytes when they were compared.
Progress = Callable[[int], None]

#: Bytes that the kernel copies at a time, so that progress moves.
_COPY_BYTES = 64 << 20
#: Bytes written by one call. For more the kernel looks for larger runs of free memory, which now and then takes longer
#: than the writing.
_WRITE_BYTES = 128 << 10
#: Bytes written and then, if asked to, read back.
_PART_BYTES = 256 << 10
#: The file systems or the kernel cannot copy between these two files: the plain path does.
_FALLBACK = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF}


class _Output:
    """Files opened once for positioned writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.descriptors: dict[str, int] = {}

    def descriptor(self, filename: str) -> int:
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
                count = os.pwrite(descriptor, view[:_WRITE_BYTES], offset)
            else:
                os.lseek(descriptor, offset, os.SEEK_SET)
                count = os.write(descriptor, view[:_WRITE_BYTES])
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


def run(
    plan: Plan,
    directory: Path,
    *,
    verify: bool,
    fsync: bool,
    progress: Progress,
) -> list[Written]:
    """Write the weight files of ``plan`` into ``directory``; return where everything lies.

    Args:
        plan: What to write.
        directory: An empty directory.
        verify: Read every tensor back from the file and compare it with the source, bit by bit.
        fsync: Force the files to disk.
        progress: Called with the number of bytes of every piece.

    Raises:
        FormatError: A source file was cut short, or a checksum it carries is wrong.
        ConvertError: A cast overflows, or the bytes read back differ.
        OSError: A file cannot be written, for one because the disk is full.
    """
    written: list[Written] = []
    for file in plan.files:
        written += run_file(plan.lay_out(file), file.stored, directory, verify=verify, fsync=fsync, progress=progress)
    return written


def run_file(
    layout: FileLayout, steps: Iterable[Step], directory: Path, *, verify: bool, fsync: bool, progress: Progress
) -> list[Written]:
    """Write one file that is laid out, as :func:`run` does."""
    layout.create(directory)
    output = _Output(directory)
    try:
        with _Worker(output, layout.slots, layout.checksum, verify) as worker:
            done = [worker.convert(step, progress) for step in steps]
        for fragment in layout.fragments({one.step.new.name: one.checksum for one in done}):
            output.write(fragment.filename, fragment.offset, fragment.content)
    except BaseException:
        output.close(fsync=False)
        raise
    output.close(fsync=fsync)
    return done


class _Worker:
    """Writes the tensors of one file into their slots and compares them with the source; a context manager.

    Args:
        output: Where to write.
        slots: Place of each tensor, by its name in the target.
        checksum: Which one the container keeps of each payload, or None.
        verify: Compare what was written with the source.
    """

    def __init__(self, output: _Output, slots: Mapping[str, Slot], checksum: str | None, verify: bool) -> None:
        self._output = output
        self._slots = slots
        self._checksum = checksum
        self._verify = verify
        self._files = OpenFiles()
        self._scratch: Scratch | None = None
        self._read_back = ReadBack()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        self._read_back.close()

    def convert(self, step: Step, progress: Progress) -> Written:
        """Write one tensor and, if asked to, compare it; its checksum is 0 where the container keeps none.

        Raises:
            FormatError: The source was cut short, or has a checksum that is wrong.
            ConvertError: A cast overflows, or the bits read back differ.
        """
        slot = self._slots[step.new.name]
        written = Written(self._output.directory / slot.filename, slot, step, 0)
        data = step.binding.stored.data
        # with a checksum to look at, or bytes to compare, they come here anyway
        plain = not (step.transpose or step.casts or self._verify) and self._checksum is None
        if plain and type(data) is Extent and _copy_in_kernel(data, self._files, self._output, slot, progress):
            return written
        return replace(written, checksum=self._convert(written, progress))

    def _convert(self, written: Written, progress: Progress) -> int:
        from ..tensors.blocks import Scratch, blocks, in_order

        if self._scratch is None:
            self._scratch = Scratch()
        step = written.step
        stored, start = step.binding.stored, 0
        checksum_read = running(stored)
        passing = checksum_read.update if checksum_read.kind else None
        # a cast of damaged bytes would fail for another reason; and what is not read in order is checked beforehand
        if step.casts or not in_order(stored, transpose=step.transpose):
            verify_checksum(self._files, stored)
            passing = None
        checksum = Checksum(self._checksum)
        on_transposed = partial(self._read_back.transposed, step) if self._verify else None
        for block in blocks(
            self._files,
            stored,
            transpose=step.transpose,
            scratch=self._scratch,
            passing=passing,
            on_transposed=on_transposed,
        ):
            for bits in _parts(block):
                part = as_target(bits, step)
                checksum.update(part.data.cast("B"))
                self._output.write(written.slot.filename, written.slot.offset + start, part.data.cast("B"))
                progress(part.nbytes)
                if self._verify:
                    self._read_back.written(written, start, part)
                    progress(part.nbytes)
                start += part.nbytes
        if passing is not None:
            require(stored, checksum_read)
        return checksum.value


def _parts(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut into parts that are still in the processor's cache when they are read back."""
    count = _PART_BYTES // values.itemsize
    for first in range(0, len(values), count):
        yield values[first : first + count]


def _copy_in_kernel(extent: Extent, files: OpenFiles, output: _Output, slot: Slot, progress: Progress) -> bool:
    """Copy a run of bytes without bringing it here; say whether all of it was copied, which not every kernel can."""
    if not hasattr(os, "copy_file_range"):
        return False
    source, target = files.descriptor(extent.path), output.descriptor(slot.filename)
    done = 0
    while done < extent.nbytes:
        count = min(_COPY_BYTES, extent.nbytes - done)
        try:
            count = os.copy_file_range(source, target, count, extent.offset + done, slot.offset + done)
        except OSError as error:
            if error.errno in _FALLBACK:
                return False
            raise
        if count == 0:  # the source ends early: the plain path says where
            return False
        done += count
        progress(count)
    return True


def check_index(written: list[Written], found: Checkpoint) -> None:
    """Check that the result's own reader finds each tensor just where the compared bytes are.

    Together with the comparison of those bytes this is the result, read back under canonical names.

    Raises:
        ConvertError: It finds another tensor, place, shape or type: this program is at fault.
    """
    places: dict[str, list[Written]] = {}
    for one in written:
        places.setdefault(one.step.binding.tensor.canonical, []).append(one)
    lying = {canonical: binding.stored for canonical, binding in found.bindings.items()}
    # whose values the reader computed for itself and compared
    lying.update((POSITIONS.canonical, each) for each in found.found.index.tensors if each.name in found.derived)
    if places.keys() != lying.keys():
        lost = sorted(places.keys() ^ lying.keys())
        raise ConvertError(f"{found.path}: reading back what was written, these tensors differ: {', '.join(lost)}")
    for canonical, stored in lying.items():
        data = stored.data
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
            raise ConvertError(f"{found.path}: {canonical} is found elsewhere than where it was written: {stored}")
