"""The losses that the gate differentiates are those of transformers' own classes, on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import MODELS
from parity_faults import Bench

from roformer_convert.parity.questions.targets import Training, make_training
from roformer_convert.parity.questions.tasks import TASKS, Task

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

#: Models that transformers computes as ours do.
NAMES = (
    "masked LM",
    "causal LM",
    "labels",
    "many labels",
    "a number",
    "token labels",
    "answers",
    "choices, last, no projection",
)


def labels_of(training: Training, task: Task) -> dict[str, Any]:
    """Spell what is right as transformers' forward takes it: -100 where a token has no label."""
    if task.head == "spans":
        start, end = torch.from_numpy(training.labels.T)
        return {"start_positions": start, "end_positions": end}
    if task.head in ("labels", "options"):
        return {"labels": torch.from_numpy(training.labels)}
    if task.next_word:  # it moves the labels itself
        assert training.case.attention_mask is not None
        return {"labels": torch.from_numpy(np.where(training.case.attention_mask, training.case.input_ids, -100))}
    labels = np.full(training.case.input_ids.size, -100)
    if task.mlm:
        labels[training.case.scored] = training.words
    else:
        labels[training.places] = training.labels
    return {"labels": torch.from_numpy(labels.reshape(training.case.input_ids.shape))}


@pytest.mark.parametrize("name", NAMES)
def test_loss_of_a_class_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    bench = Bench(tmp_path, name, gradients=True)
    class_name, task = bench.model.class_name, bench.model.task
    training = make_training(bench.config, task)
    theirs = getattr(transformers, class_name).from_pretrained(bench.directory, dtype=torch.float64).eval()
    batch = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in training.case.arrays().items()}
    batch.pop("positions", None)
    with torch.no_grad():
        want = float(theirs(**batch, **labels_of(training, task)).loss)
    # its rotary table is kept in float32
    assert bench.good.facts["loss"] == pytest.approx(want, rel=1e-6)
    assert want > 0.1


def test_every_parameter_that_a_class_has_gets_a_gradient(tmp_path: Path) -> None:
    for number, name in enumerate(MODELS):
        bench = Bench(tmp_path / str(number), name, gradients=True)
        with bench.good.opened("gradients") as gradients:
            assert set(gradients) == set(bench.tensors), name
            largest = {parameter: float(np.abs(gradients[parameter]).max()) for parameter in gradients}
        still = {parameter for parameter, size in largest.items() if size < 1e-12 * max(largest.values())}
        nothing: set[str] = set()
        # what adds the same to every score of which a softmax is taken
        if bench.model.task.head in ("options", "spans"):
            nothing = {"classifier.bias"}
        if name in ("answers", "choices, last, no projection"):  # nothing stands between the last norm and the scores
            nothing.add("layers.2.feed_forward_norm.bias")
        if name == "labels, causal":  # the first token sees itself alone
            nothing = {n for n in bench.tensors if ".query." in n or ".key." in n}
        assert still == nothing, name


def test_every_class_has_a_task() -> None:
    from roformer_convert.converters.table.mapping import CLASSES

    assert set(TASKS) == {kind.class_name for kind in CLASSES.values()}
