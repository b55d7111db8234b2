"""Run a model for the gate, whatever its framework: what the three ``run_*.py`` have in common.

``runner`` is one of those modules: the same functions in each.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from ..questions.cases import Case
from ..questions.targets import Training
from ..questions.tasks import Task

Array = NDArray[Any]


def run(runner: ModuleType, model: Any, case: Case) -> dict[str, Array]:
    """Run one case; return every tap."""
    with runner.at_rest(model):
        return {name: runner.as_numpy(value) for name, value in _record(runner, model, case).items()}


def parameters(model: Any) -> dict[str, Any]:
    """Name every parameter."""
    return dict(model.named_parameters())


def take_loss(runner: ModuleType, model: Any, training: Training, task: Task) -> Any:
    """Compute the loss of a class: that of its results, and something of each module that they leave out."""
    recorded = _record(runner, model, training.case)
    if task.mlm:
        loss = runner.cross_entropy(recorded["logits"], training.words)
    elif task.head is not None:
        loss = _classifier_loss(runner, recorded["classifier"], training, task)
    else:
        chosen = runner.rows(_last_hidden(model, recorded), training.case.scored)
        loss = runner.mean(chosen * runner.to_tensor(training.weights))
    if task.sop:
        loss = loss + runner.cross_entropy(recorded["sop"], training.order)
    elif "pooler" in recorded and not task.uses_pooler:
        loss = loss + runner.mean(recorded["pooler"] ** 2)
    return loss


def _classifier_loss(runner: ModuleType, scores: Any, training: Training, task: Task) -> Any:
    if training.loss == "squares":
        return runner.mean((scores - runner.to_tensor(training.labels)) ** 2)
    if training.loss == "binary cross entropy":
        return runner.binary_cross_entropy(scores, training.labels)
    if task.head == "token labels":
        scores = runner.rows(scores, training.places)
    elif task.head == "spans":  # the start is one of T, and so is the end
        scores = runner.columns(scores)
    return runner.cross_entropy(scores, training.labels.reshape(-1))


def _record(runner: ModuleType, model: Any, case: Case) -> dict[str, Any]:
    recorded: dict[str, Any] = {}
    inputs = {name: runner.to_tensor(array) for name, array in case.arrays().items()}
    model(**inputs, packed=case.packed, taps=recorded)
    if model.pooler is not None and "pooler" not in recorded:  # a class may keep a pooler that it does not compute
        model.pool(_last_hidden(model, recorded), recorded)
    return recorded


def _last_hidden(model: Any, recorded: dict[str, Any]) -> Any:
    last = len(model.layers) - 1
    return recorded[f"layers.{last}.feed_forward_norm" if last >= 0 else "embeddings"]
