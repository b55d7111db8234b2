"""The process in which PyTorch writes an ONNX file and onnxruntime tries it. Started by :mod:`.export`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .export_trial import INPUTS, OUTPUT, Int64, Run, compare
from .frameworks import is_installed
from .process import Json, serve
from .roformer_torch import RoFormerForMaskedLM

FILE = "model.onnx"
_LARGEST_MESSAGE = 2_000_000_000  # a protobuf message ends at 2 GiB: beyond, weights lie in a file of their own


def main() -> None:
    """Serve requests of :func:`~.export._make`."""
    serve(answer)


def answer(request: Json) -> Json:
    """Load, write, try; say what was done."""
    model: Any = RoFormerForMaskedLM.from_pretrained(**request["load"], dtype="float32")
    path = Path(request["into"]) / FILE
    write(model, path)
    notes = []
    runtime = trial = None
    if request["trial"] and is_installed("onnxruntime"):
        runtime = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
        trial = compare(lambda *batch: run_model(model, *batch), open_export(path), model.config, runtime)
    elif request["trial"]:
        notes.append("not tried: onnxruntime is not installed (pip install '.[onnx]' in a checkout)")
    return {
        "file": FILE,
        "version": f"torch {torch.__version__}, onnx {importlib.metadata.version('onnx')}",
        "runtime": runtime,
        "difference": None if trial is None else trial.difference,
        "largest": None if trial is None else trial.largest,
        "notes": notes,
    }


class _Served(nn.Module):
    """The model with the inputs of an export and no others."""

    def __init__(self, model: RoFormerForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids, token_type_ids, attention_mask)  # type: ignore[no-any-return]


def write(model: RoFormerForMaskedLM, path: Path) -> None:
    """Write ``model`` as one ONNX file, or one beside ``model.onnx.data`` above 2 GB."""
    shape = (2, min(3, model.config.max_position_embeddings))  # a 1 would be taken for a constant
    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=1, max=model.config.max_position_embeddings)
    # one tensor each: the exporter takes an object that it meets twice for one input
    example = tuple(torch.ones(shape, dtype=torch.int64) for _ in INPUTS)
    program = torch.onnx.export(
        _Served(model).eval(),
        example,
        dynamo=True,
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_shapes=tuple({0: batch, 1: length} for _ in INPUTS),
        verbose=False,
    )
    assert program is not None, "only the exporter before dynamo returns None"
    _forget_origin(program.model)
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    program.save(path, external_data=nbytes > _LARGEST_MESSAGE)


def _forget_origin(model: Any) -> None:
    # the exporter notes for each operator the Python lines that it came from, with this machine's paths
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def run_model(model: RoFormerForMaskedLM, input_ids: Int64, token_type_ids: Int64, mask: Int64) -> NDArray[Any]:
    """Run the model itself: logits (B, T, V)."""
    with torch.inference_mode():
        tensors = (torch.from_numpy(np.ascontiguousarray(one)) for one in (input_ids, token_type_ids, mask))
        logits: NDArray[Any] = model(*tensors).numpy()
        return logits


def open_export(path: Path) -> Run:
    """Open the file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(input_ids: Int64, token_type_ids: Int64, attention_mask: Int64) -> NDArray[Any]:
        feed = dict(zip(INPUTS, (input_ids, token_type_ids, attention_mask), strict=True))
        logits: NDArray[Any] = session.run([OUTPUT], feed)[0]
        return logits

    return run
