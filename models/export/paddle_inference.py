"""The process in which Paddle writes an inference model and Paddle Inference tries it. See :mod:`.making`."""

# mypy: disable-error-code="no-any-unimported,misc,no-untyped-call,unused-ignore"
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .. import roformer_paddle
from ..ops_paddle import compute_on
from ..pretrained import class_of
from ..processes.devices import CPU, DeviceName
from ..processes.process import Json
from ..processes.start_paddle import NOTES, paddle
from .making import Made, load
from .signature import INPUTS, input_axes, outputs, pools, results
from .trial import Int64, Run, compare

NAME = "inference"
_MEMORY = 100  # MB of a GPU that Paddle Inference takes to begin with
#: What Paddle 3 calls a graph, and what Paddle 2 does.
GRAPHS = (".json", ".pdmodel")
_UNNAMED = '"fetch_name_{}"'


def make(request: Json, device: DeviceName) -> Made:
    """Load, write, try, on a device."""
    for note in NOTES:
        print(note, file=sys.stderr)
    compute_on(device)  # refuses what is not there before anything is loaded
    compute_on(CPU)  # where a graph is made, so that it is the same from everywhere
    model = load(roformer_paddle, request)
    path = write(model, Path(request["into"]))
    trial = None
    if request["trial"]:
        compute_on(device)
        model = model.to(device=str(device))
        runtime = f"paddle.inference {paddle.version.full_version}"
        kind = class_of(type(model))
        trial = compare(lambda *batch: run_model(model, *batch), open_export(path, device), model.config, kind, runtime)
    return Made(path.name, f"paddle {paddle.version.full_version}", trial)


class _Served(paddle.nn.Layer):  # type: ignore[name-defined]
    """The model with the inputs of an export and no others."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
        return results(self.model(input_ids, token_type_ids, attention_mask))


def write(model: Any, directory: Path) -> Path:
    """Write ``model`` as a graph and ``inference.pdiparams`` into an existing directory; return the graph's path."""
    kind = class_of(type(model))
    if not pools(kind):
        model.pooler = None
    shape = [None] * len(input_axes(kind))
    axes = [paddle.static.InputSpec(shape, "int64", name) for name in INPUTS]
    served = _Served(model)
    served.eval()
    static = paddle.jit.to_static(served, input_spec=axes, full_graph=True)
    paddle.jit.save(static, str(directory / NAME))
    graph = next(path for suffix in GRAPHS if (path := directory / f"{NAME}{suffix}").exists())
    _name_outputs(graph, list(outputs(kind, model.config, pooler=model.pooler is not None)))
    return graph


def _name_outputs(graph: Path, names: list[str]) -> None:
    # Paddle numbers what a graph fetches and takes no names for it; in Paddle 3's JSON each stands once
    if graph.suffix == ".json":
        text = graph.read_text(encoding="utf-8")
        for number, name in enumerate(names):
            if text.count(_UNNAMED.format(number)) == 1:
                text = text.replace(_UNNAMED.format(number), f'"{name}"')
        graph.write_text(text, encoding="utf-8", newline="\n")


def run_model(model: Any, *batch: Int64) -> tuple[NDArray[Any], ...]:
    """Run the model itself."""
    with paddle.no_grad():
        return tuple(one.numpy() for one in results(model(*(paddle.to_tensor(one) for one in batch))))


def open_export(path: Path, device: DeviceName = CPU) -> Run:
    """Open a graph and the weights beside it in Paddle Inference."""
    config = paddle.inference.Config(str(path), str(path.with_suffix(".pdiparams")))
    if device.kind == "gpu":
        config.enable_use_gpu(_MEMORY, device.number)
    else:
        config.disable_gpu()
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)

    def run(*batch: Int64) -> tuple[NDArray[Any], ...]:
        for name, array in zip(INPUTS, batch, strict=True):
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return tuple(predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names())

    return run
