"""Turn a RoFormer's checkpoint into one as BERT's software writes it: other prefix, learned positions, other head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from file_contents import write_layout
from numpy.typing import NDArray

from roformer_convert.converters.containers.bundle import tensor_bundle
from roformer_convert.converters.conversion import convert
from roformer_convert.converters.source.identification import identify
from roformer_convert.converters.table.mapping import Dialect
from roformer_convert.converters.tensors.stored import NewTensor, OpenFiles

Arrays = dict[str, NDArray[Any]]


def make_bert(source: Path, target: Path, dialect: Dialect, *, old_norms: bool = False) -> Path:
    """Write ``source`` as a BERT of a dialect with a next-sentence head; old torch files spell norms gamma and beta."""
    convert(source, target, to=dialect)
    arrays: Arrays = {}
    with OpenFiles() as files:
        for tensor in identify(target, dialect=dialect).index.tensors:
            flat: np.ndarray[Any, Any] = np.empty(tensor.size, tensor.dtype)
            tensor.data.read_into(files, 0, flat.view(np.uint8).data)
            arrays[_bert_name(tensor.name, dialect, old_norms)] = flat.reshape(tensor.shape)
    hidden = max(arrays.items(), key=lambda item: "word_embeddings" in item[0])[1].shape[-1]
    slash = "/" if dialect == "tf1" else "."
    position = slash.join(("bert", "embeddings", "position_embeddings")) + ("" if dialect == "tf1" else ".weight")
    arrays[position] = np.ones((64, hidden), np.float32)
    if dialect == "torch":
        arrays["bert.embeddings.position_ids"] = np.arange(64)[None]
    _write(target, dialect, arrays)
    return target


def _bert_name(name: str, dialect: Dialect, old_norms: bool) -> str:
    name = name.replace("roformer.", "bert.", 1)
    if old_norms and "LayerNorm" in name:
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return name


def _write(target: Path, dialect: Dialect, arrays: Arrays) -> None:
    if dialect == "torch":
        from safetensors.numpy import save_file

        save_file(arrays, target / "model.safetensors", {"format": "pt"})
        _set(target / "config.json", model_type="bert", architectures=["BertForPreTraining"])
    elif dialect == "paddle":
        from roformer_convert.models.processes.start_paddle import paddle

        tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        paddle.save(tensors, str(target / "model_state.pdparams"))
        _set(target / "config.json", model_type="bert", architectures=["BertForPretraining"])
    else:
        for path in target.glob("bert_model.ckpt*"):
            path.unlink()
        (target / "checkpoint").unlink(missing_ok=True)
        layout = tensor_bundle.lay_out(
            "bert_model.ckpt", [NewTensor(name, array.dtype.name, array.shape) for name, array in arrays.items()]
        )
        write_layout(layout, target, {name: array.tobytes() for name, array in arrays.items()}, crc32c)


def _set(path: Path, **values: Any) -> None:
    tree = json.loads(path.read_text())
    tree.pop("rotary_value", None)
    path.write_text(json.dumps({**tree, **values}))
