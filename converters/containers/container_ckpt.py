"""A TF checkpoint: ``bert_model.ckpt.index`` and its data files, which together are called by their common prefix."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..tensors import signatures
from ..tensors.stored import FileLayout, Index
from .container import Container, NewFile

_INDEX = ".index"
#: What follows the prefix: the index, the graph, which nobody here reads, and the payloads.
_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})")
#: The file beside a checkpoint that says which one is the newest.
_STATE = "checkpoint"


class TensorBundle(Container):
    """Training writes ``model-9.ckpt.index`` and the like: any name that ends so may be one."""

    name = "ckpt"
    title = "a TF checkpoint's .index"
    dialects = ("tf1",)
    also_read = ("tf",)
    default_of = ("tf1",)
    single = "bert_model.ckpt"
    endings = (_INDEX,)

    def recognises(self, head: bytes, tail: bytes) -> bool:
        return tail == signatures.LEVELDB_END

    def index(self, entry: Path) -> Index:
        from .bundle import tensor_bundle

        return tensor_bundle.index(entry)

    def lay_out(self, file: NewFile) -> FileLayout:
        from .bundle import tensor_bundle

        return tensor_bundle.lay_out(file.filename, file.tensors)

    def entry(self, filename: str) -> str:
        return f"{filename}{_INDEX}"

    def candidates(self, directory: Path, sniff: Callable[[Path], Container | None]) -> Iterator[Path]:
        standard = directory / self.entry(self.single)
        # whatever lies under the standard name is meant to be one, and its faults are reported as such
        if os.path.lexists(standard):
            yield standard
        others = (path for path in directory.glob(f"*{_INDEX}") if path != standard and path.is_file())
        yield from sorted(path for path in others if sniff(path) is self)

    def is_named(self, name: str) -> bool:
        return name.endswith(_INDEX) or super().is_named(name)

    def belongs(self, name: str, entry: str) -> bool:
        prefix = entry.removesuffix(_INDEX)
        return name == _STATE or (name.startswith(prefix) and _PART.fullmatch(name, len(prefix)) is not None)

    def parts(self, entry: Path) -> tuple[Path, ...]:
        data = f"{entry.name.removesuffix(_INDEX)}.data-"
        return (entry, *sorted(path for path in entry.parent.iterdir() if path.name.startswith(data)))

    def writes(self, name: str) -> bool:
        return self.belongs(name, self.entry(self.single))
