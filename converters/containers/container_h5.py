"""Keras HDF5: ``tf_model.h5``, as transformers' TF classes write it; read as bert4keras writes it, too."""

from __future__ import annotations

import re
from pathlib import Path

from ..table.mapping import EMBEDDINGS, MASKED_LM, MLM, PRETRAINING
from ..tensors import signatures
from ..tensors.stored import FileLayout, Index
from .container import Container, NewFile


class KerasH5(Container):
    """HDF5 has no bfloat16, and Keras stores a weight under each layer that uses it."""

    name = "h5"
    title = "HDF5"
    dialects = ("tf",)
    also_read = ("tf1",)
    default_of = ("tf",)
    single = "tf_model.h5"
    endings = (".h5",)
    dtypes = ("float32", "float16", "float64")
    own_metadata = ("backend", "keras_version")

    @property
    def shard_index(self) -> str:
        """What transformers' TF classes write beside shards, which are read and not written."""
        return "tf_model.h5.index.json"

    def listed_as(self, name: str) -> str:
        """Leave out the model's name and TensorFlow's number of an output."""
        return name.partition("/")[2].removesuffix(":0")

    def recognises(self, head: bytes, tail: bytes) -> bool:
        return head.startswith(signatures.HDF5)

    def index(self, entry: Path) -> Index:
        from .hdf5 import keras_h5

        return keras_h5.index(entry)

    def lay_out(self, file: NewFile) -> FileLayout:
        from .hdf5 import keras_h5

        # the prefix that transformers' TF classes put before every weight (readers ignore it)
        suffix = (MASKED_LM if file.kind is PRETRAINING else file.kind).suffix
        model_name = "tf_ro_former" + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", f"_{suffix}").lower()
        if MLM not in file.groups.values():
            return keras_h5.lay_out(file.filename, file.tensors, model_name)
        # the masked-LM layer is built on the embeddings, and lists them again
        layer = (MLM.prefix.in_(file.dialect) or "").partition("/")[0]
        shared = [tensor.name for tensor in file.tensors if file.groups[tensor.name] is EMBEDDINGS]
        return keras_h5.lay_out(file.filename, file.tensors, model_name, {layer: shared})
