"""The numbers that training changes: a model's parameters, or float32 masters of those that it computes in a half type.

A half type cannot hold a weight and the small step that AdamW adds to it. Under O2 the model therefore holds rounded
copies; masters are updated, gradients are added up in the masters' float32, and the copies are rounded anew. A
checkpoint holds the masters.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models import pretrained
from ...models.ops_paddle import DIALECT, as_numpy, assign
from ...models.processes.start_paddle import paddle
from ...models.roformer_paddle import RoFormerForPretraining
from ..settings.tables import Data

Parameters = dict[str, Any]  # canonical name → Paddle parameter


class Weights:
    """A model's parameters and what is trained of them.

    Attributes:
        model: The model that computes.
        halved: Whether it holds rounded copies.
        masters: Float32, by canonical name; the model's own parameters where it computes in float32.
        trained: The masters that an objective trains.
    """

    def __init__(self, model: RoFormerForPretraining, data: Data, *, half: str | None = None) -> None:
        self.halved = half is not None
        self.masters: Parameters = dict(model.named_parameters())
        self.model = model if half is None else RoFormerForPretraining(model.config, dtype=half, fresh=False)
        self._copies: Parameters = dict(self.model.named_parameters())
        self.trained = {name: master for name, master in self.masters.items() if is_trained(name, data)}
        self.publish()

    def computing(self, name: str) -> Any:
        """Return the parameter that the model computes with: a master or its copy."""
        return self._copies[name]

    def collect(self, names: Iterable[str] | None = None) -> None:
        """Add the copies' gradients to the masters', and clear them; of all that are trained, or of some."""
        if not self.halved:
            return
        with paddle.no_grad():
            for name in self.trained if names is None else names:
                master, copy = self.trained[name], self._copies[name]
                if copy.grad is None:  # collected already
                    continue
                gradient = copy.grad.astype("float32")
                if master.grad is None:
                    master.grad = gradient
                else:
                    master.grad.add_(gradient)
                copy.clear_gradient(False)

    def publish(self) -> None:
        """Round the masters into the model's copies."""
        if not self.halved:
            return
        with paddle.no_grad():
            for name, master in self.masters.items():
                copy = self._copies[name]
                copy.copy_(master.astype(copy.dtype), False)

    def load(self, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Set every master, laid out as Paddle does."""
        for name, array in arrays:
            assign(self.masters[name], array)
        self.publish()

    def save(self, directory: Path, companions: Iterable[Path]) -> None:
        """Write the masters as a checkpoint directory that PaddleNLP loads and every conversion reads."""
        pretrained.save(
            directory,
            [(name, as_numpy(master)) for name, master in self.masters.items()],
            self.model.config,
            kind=pretrained.class_of(type(self.model)),
            dialect=DIALECT,
            dtype="float32",
            force=False,
            companions=companions,
            allow_different=False,
        )


def is_trained(name: str, data: Data) -> bool:
    """Say whether an objective that is on reaches a parameter; a head that none reaches stays as it is."""
    if name.startswith("mlm."):
        return data.mlm
    return data.sop or not name.startswith(("pooler.", "sop."))


def clear_gradients(parameters: Mapping[str, Any]) -> None:
    """Forget the gradients."""
    for parameter in parameters.values():
        parameter.clear_gradient(False)


def gradient_norm(parameters: Mapping[str, Any], scale: float = 1.0) -> float:
    """Return the norm of all gradients together, divided by ``scale``; not finite where one of them is not."""
    with paddle.no_grad():
        gradients = (parameter.grad for parameter in parameters.values())
        # divided before they are squared: scaled gradients of some 1e19 are finite, and their squares are not
        squares = [(each if scale == 1.0 else each / scale).square().sum() for each in gradients]
        return float(np.sqrt(paddle.stack(squares).sum().numpy()))
