"""What tests of all containers do with files: write a layout as the engine does, read tensors back, watch memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roformer_convert.converters.tensors.checksums import verify_checksum
from roformer_convert.converters.tensors.stored import FileLayout, OpenFiles, StoredTensor


def write_layout(
    layout: FileLayout,
    directory: Path,
    payloads: Mapping[str, bytes],
    checksum: Callable[[bytes], int] = lambda content: 0,
    *,
    finish: bool = True,
) -> None:
    """Write as the engine does: create the files at their size, payloads into their slots, then the rest."""
    directory.mkdir(parents=True, exist_ok=True)
    layout.create(directory)
    slots = layout.slots
    assert set(slots) == set(payloads)
    assert {name: (directory / name).stat().st_size for name in layout.sizes} == layout.sizes
    pieces = [(slot.filename, slot.offset, payloads[name]) for name, slot in slots.items()]
    assert [len(content) for _, _, content in pieces] == [slot.nbytes for slot in slots.values()]
    if finish:
        checksums = {name: checksum(content) for name, content in payloads.items()}
        pieces += [(each.filename, each.offset, each.content) for each in layout.fragments(checksums)]
    for filename, offset, content in pieces:
        with open(directory / filename, "r+b") as file:
            file.seek(offset)
            file.write(content)
    assert {name: (directory / name).stat().st_size for name in layout.sizes} == layout.sizes


def write_without_payloads(layout: FileLayout, directory: Path) -> None:
    """Write all but the payloads, which stay holes: a file as large as a model that takes no room."""
    layout.create(directory)
    for each in layout.fragments(dict.fromkeys(layout.slots, 0)):
        with open(directory / each.filename, "r+b") as file:
            file.seek(each.offset)
            file.write(each.content)


def read_stored(tensor: StoredTensor, step: int = 1 << 20) -> bytes:
    """Read a tensor's bytes, ``step`` at a time, as the engine does; a checksum that the file has must fit."""
    out = bytearray(tensor.nbytes)
    with OpenFiles() as files, memoryview(out) as view:
        for start in range(0, len(out), step):
            tensor.data.read_into(files, start, view[start : start + step])
        verify_checksum(files, tensor)
    return bytes(out)


@contextmanager
def memory_below(nbytes: int) -> Iterator[None]:
    """Hold what Python allocates inside to less than ``nbytes`` at any moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < nbytes


class Runs:
    """Pickles as a call of something that would leave a mark."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced
