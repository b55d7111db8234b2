"""safetensors: ``model.safetensors``, which both PaddleNLP and transformers read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..table.mapping import Dialect
from ..tensors.stored import FileLayout, Index
from .container import Container, NewFile

#: ``__metadata__``'s ``format``: transformers wants "pt", PaddleNLP 2.8.1 loads only "np".
_FORMAT: Mapping[Dialect, str] = {"paddle": "np", "torch": "pt"}


class Safetensors(Container):
    """Behind eight bytes, its header's length, comes JSON."""

    name = "safetensors"
    title = "safetensors"
    dialects = ("torch", "paddle")
    also_read = ("tf",)
    default_of = ("torch",)
    single = "model.safetensors"
    shard = "model-{number:05d}-of-{total:05d}.safetensors"
    endings = (".safetensors",)
    own_metadata = ("format",)

    def recognises(self, head: bytes, tail: bytes) -> bool:
        return head[8:9] == b"{"

    def index(self, entry: Path) -> Index:
        from . import safetensors

        return safetensors.index(entry)

    def lay_out(self, file: NewFile) -> FileLayout:
        from . import safetensors

        return safetensors.lay_out(file.filename, file.tensors, {"format": _FORMAT[file.dialect]})

    def notes(self, dialect: Dialect, dtypes: set[str]) -> list[str]:
        if dialect == "paddle" and "bfloat16" in dtypes:
            return ["PaddleNLP 2.8.1 cannot read bfloat16 from safetensors: use --container pdparams for it"]
        return []
