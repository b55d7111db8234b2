"""The process in which a framework writes an export and a runtime tries it: what the kinds of exports have in common.

Started by :mod:`.exporting` with the kind's own module: :mod:`.onnx`, :mod:`.savedmodel` or :mod:`.paddle_inference`.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from ...converters.source.stated import from_json
from ...converters.table.mapping import CLASSES
from ..processes.devices import DeviceName
from ..processes.frameworks import FRAMEWORKS
from ..processes.memory import needing_memory
from ..processes.process import Json, serve
from .trial import Trial


@dataclass(frozen=True)
class Made:
    """What was written, and what the trial gave.

    Attributes:
        file: What the runtime opens, inside the directory; "." for the directory itself.
        version: The packages that wrote it, with their versions.
        trial: None where it was not tried.
        notes: What the reader of the result should know.
    """

    file: str
    version: str
    trial: Trial | None
    notes: tuple[str, ...] = ()


def main(framework: str, module: str) -> None:
    """Serve requests of :func:`~.exporting._make` with a module of this package, which imports the framework."""
    make = importlib.import_module(f".{module}", __package__).make
    ran_out = FRAMEWORKS[framework].import_operations().ran_out

    def answer(request: Json) -> Json:
        device = DeviceName.of(request["device"])
        with needing_memory(device, ran_out, "the model and its export do not fit"):
            return asdict(make(request, device))

    serve(answer)


def load(models: ModuleType, request: Json) -> Any:
    """Load the checkpoint in float32 into the class of a framework's models that is exported."""
    kind, asked = CLASSES[request["kind"]], request["load"]
    return getattr(models, kind.class_name).from_pretrained(
        asked["directory"], dtype="float32", extend_to=asked["extend_to"], **from_json(asked["stated"])
    )
