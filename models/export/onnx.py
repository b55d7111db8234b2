"""The process in which PyTorch writes an ONNX file and onnxruntime tries it. See :mod:`.making`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import roformer_torch
from ..ops_torch import as_numpy, compute_on, to_tensor
from ..pretrained import class_of
from ..processes.devices import CPU, DeviceError, DeviceName
from ..processes.frameworks import is_installed
from ..processes.process import Json
from ..roformer_torch import RoFormerModel
from .making import Made, load
from .signature import INPUTS, input_axes, outputs, pools, results
from .trial import Int64, Run, compare

FILE = "model.onnx"
_CUDA = "CUDAExecutionProvider"
_LARGEST_MESSAGE = 2_000_000_000  # a protobuf message ends at 2 GiB: beyond, weights lie in a file of their own


def make(request: Json, device: DeviceName) -> Made:
    """Load, write, try, on a device."""
    tried = request["trial"] and is_installed("onnxruntime")
    compute_on(device)  # refuses what is not there before anything is loaded
    if tried:
        require_provider(device)
    compute_on(CPU)  # where a graph is made, so that it is the same from everywhere
    model = load(roformer_torch, request)
    path = Path(request["into"]) / FILE
    write(model, path)
    trial = None
    notes: tuple[str, ...] = ()
    if tried:
        compute_on(device)
        model = model.to(to_tensor(np.zeros(0)).device)
        runtime = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
        kind = class_of(type(model))
        trial = compare(lambda *batch: run_model(model, *batch), open_export(path, device), model.config, kind, runtime)
    elif request["trial"]:
        notes = ("not tried: onnxruntime is not installed (pip install '.[onnx]' in a checkout)",)
    return Made(FILE, f"torch {torch.__version__}, onnx {importlib.metadata.version('onnx')}", trial, notes)


class _Served(nn.Module):
    """The model with the inputs of an export and no others."""

    def __init__(self, model: RoFormerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return results(self.model(input_ids, token_type_ids, attention_mask))


def write(model: RoFormerModel, path: Path) -> None:
    """Write ``model`` as one ONNX file, or one beside ``model.onnx.data`` above 2 GB."""
    kind, longest = class_of(type(model)), model.config.max_position_embeddings
    if not pools(kind):
        model.pooler = None
    axes = input_axes(kind)
    free = {number: torch.export.Dim(axis, min=1) for number, axis in enumerate(axes[:-1])}
    free[len(axes) - 1] = torch.export.Dim(axes[-1], min=1, max=longest)
    shape = (*range(2, len(axes) + 1), min(5, longest))  # each its own size; a 1 would be taken for a constant
    # one tensor each: the exporter takes an object that it meets twice for one input
    example = tuple(torch.ones(shape, dtype=torch.int64) for _ in INPUTS)
    program = torch.onnx.export(
        _Served(model).eval(),
        example,
        dynamo=True,
        input_names=list(INPUTS),
        output_names=list(outputs(kind, model.config, pooler=model.pooler is not None)),
        dynamic_shapes=tuple(free for _ in INPUTS),
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


def run_model(model: RoFormerModel, *batch: Int64) -> tuple[NDArray[Any], ...]:
    """Run the model itself."""
    with torch.inference_mode():
        found = model(*(to_tensor(np.ascontiguousarray(one)) for one in batch))
        return tuple(as_numpy(one) for one in results(found))


def require_provider(device: DeviceName) -> None:
    """Refuse a GPU that onnxruntime cannot use.

    Raises:
        DeviceError: This build of it has no code for GPUs.
    """
    import onnxruntime

    if device.kind == "gpu" and _CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"onnxruntime {onnxruntime.__version__} is built for CPUs alone, and the export is to be tried on {device}",
            "Install onnxruntime-gpu in its place, try it on the CPU by leaving --device out, or add --no-trial.",
        )


def open_export(path: Path, device: DeviceName = CPU) -> Run:
    """Open the file in onnxruntime.

    Raises:
        DeviceError: onnxruntime cannot start on the GPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.kind == "gpu":
        providers.insert(0, (_CUDA, {"device_id": device.number, "use_tf32": 0}))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if device.kind == "gpu" and _CUDA not in session.get_providers():  # it would run on the CPU and say nothing
        raise DeviceError(
            f"onnxruntime {onnxruntime.__version__} cannot start on {device}",
            "It wants the CUDA and cuDNN that it is built for; try the export on the CPU by leaving --device out.",
        )

    def run(*batch: Int64) -> tuple[NDArray[Any], ...]:
        return tuple(session.run(None, dict(zip(INPUTS, batch, strict=True))))

    return run
