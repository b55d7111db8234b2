"""Run a model for the gate, whatever its framework: what the three ``run_*.py`` have in common.

``runner`` is one of those modules: the same functions in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..questions.cases import Case
from ..questions.targets import Training
from ..questions.tasks import Task

Array = NDArray[Any]


def run(runner: ModuleType, model: Any, case: Case) -> dict[str, Array]:
    """Run one case; return every tap."""
    with runner.at_rest(model):
        return {name: runner.operations.as_numpy(value) for name, value in _record(runner, model, case).items()}


def parameters(model: Any) -> dict[str, Any]:
    """Name every parameter."""
    return dict(model.named_parameters())


def differentiate(
    runner: ModuleType, model: Any, training: Training, task: Task
) -> tuple[float, Iterator[tuple[str, Array, Array]]]:
    """Return the loss; of each parameter the name, the gradient and the values after one AdamW step.

    The step is taken a parameter at a time, each with an optimizer of its own, so that moments never add up.
    """
    named, as_numpy = parameters(model), runner.operations.as_numpy
    loss, gradients = runner.backward(lambda: _take_loss(runner, model, training, task), named)

    def steps() -> Iterator[tuple[str, Array, Array]]:
        for name, value in named.items():
            found = gradients.pop(name)
            gradient = np.zeros(tuple(value.shape)) if found is None else as_numpy(found)
            if found is not None:
                runner.step(value, found)
            yield name, gradient, as_numpy(value)

    return loss, steps()


def _take_loss(runner: ModuleType, model: Any, training: Training, task: Task) -> Any:
    """Compute the loss of a class: that of its results, and something of each module that they leave out."""
    recorded, to_tensor = _record(runner, model, training.case), runner.operations.to_tensor
    if task.mlm:
        loss = runner.cross_entropy(recorded["logits"], to_tensor(training.words))
    elif task.head is not None:
        loss = _classifier_loss(runner, recorded["classifier"], training, task)
    else:
        chosen = runner.rows(_last_hidden(model, recorded), to_tensor(training.case.scored))
        loss = runner.mean(chosen * to_tensor(training.weights))
    if task.sop:
        loss = loss + runner.cross_entropy(recorded["sop"], to_tensor(training.order))
    elif "pooler" in recorded and not task.uses_pooler:
        loss = loss + runner.mean(recorded["pooler"] ** 2)
    return loss


def _classifier_loss(runner: ModuleType, scores: Any, training: Training, task: Task) -> Any:
    to_tensor = runner.operations.to_tensor
    if training.loss == "squares":
        return runner.mean((scores - to_tensor(training.labels)) ** 2)
    if training.loss == "binary cross entropy":
        return runner.binary_cross_entropy(scores, to_tensor(training.labels))
    if task.head == "token labels":
        scores = runner.rows(scores, to_tensor(training.places))
    elif task.head == "spans":  # the start is one of T, and so is the end
        scores = runner.columns(scores)
    return runner.cross_entropy(scores, to_tensor(training.labels.reshape(-1)))


def _record(runner: ModuleType, model: Any, case: Case) -> dict[str, Any]:
    recorded: dict[str, Any] = {}
    inputs = {name: runner.operations.to_tensor(array) for name, array in case.arrays().items()}
    model(**inputs, packed=case.packed, taps=recorded)
    if model.pooler is not None and "pooler" not in recorded:  # a class may keep a pooler that it does not compute
        model.pool(_last_hidden(model, recorded), recorded)
    return recorded


def _last_hidden(model: Any, recorded: dict[str, Any]) -> Any:
    last = len(model.layers) - 1
    return recorded[f"layers.{last}.feed_forward_norm" if last >= 0 else "embeddings"]
