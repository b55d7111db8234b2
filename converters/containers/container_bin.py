"""torch's ``.bin``: ``pytorch_model.bin``, a pickle beside its storages, in a zip or in the older plain form."""

from __future__ import annotations

from pathlib import Path

from ..tensors import signatures
from ..tensors.stored import FileLayout, Index
from .container import Container, NewFile


class TorchBin(Container):
    """Two tensors may be views of one storage."""

    name = "bin"
    title = "torch .bin"
    dialects = ("torch",)
    single = "pytorch_model.bin"
    shard = "pytorch_model-{number:05d}-of-{total:05d}.bin"
    endings = (".bin", ".pt", ".pth", ".ckpt", ".weights")
    shares_storage = True

    def recognises(self, head: bytes, tail: bytes) -> bool:
        return head.startswith((signatures.ZIP, signatures.ZIP_WITHOUT_MEMBERS)) or bool(
            signatures.LEGACY_TORCH.match(head)
        )

    def index(self, entry: Path) -> Index:
        from .pickles import torch_bin

        return torch_bin.index(entry)

    def lay_out(self, file: NewFile) -> FileLayout:
        from .pickles import torch_bin

        return torch_bin.lay_out(file.filename, file.tensors)
