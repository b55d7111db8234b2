"""Paddle's ``.pdparams``: ``model_state.pdparams``, a pickled dict of arrays."""

from __future__ import annotations

from pathlib import Path

from ..tensors import signatures
from ..tensors.stored import FileLayout, Index
from .container import Container, NewFile


class Pdparams(Container):
    """A pickle may refer to one array twice."""

    name = "pdparams"
    title = ".pdparams"
    dialects = ("paddle",)
    default_of = ("paddle",)
    single = "model_state.pdparams"
    shard = "model_state-{number:05d}-of-{total:05d}.pdparams"
    endings = (".pdparams",)
    shares_storage = True

    def recognises(self, head: bytes, tail: bytes) -> bool:
        return head.startswith(signatures.PICKLE)

    def index(self, entry: Path) -> Index:
        from .pickles import pdparams

        return pdparams.index(entry)

    def lay_out(self, file: NewFile) -> FileLayout:
        from .pickles import pdparams

        return pdparams.lay_out(file.filename, file.tensors)
