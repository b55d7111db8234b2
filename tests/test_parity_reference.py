"""The gate's numpy reference computes what the family's writers and the tests' own forward pass compute.

It is the fourth implementation that every framework is held against, step by step; here its steps are put together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from family_folders import FAMILY, SET, difference
from family_models import MODELS
from numpy_roformer import Forward
from peer_folders import FOLDERS, PEERS, inputs_of, tolerance
from random_checkpoints import SHAPES, random_tensors

from roformer_convert.converters import open_checkpoint
from roformer_convert.models.config import RoFormerConfig, supported, tap_names
from roformer_convert.parity.explaining.reference import Reference
from roformer_convert.parity.questions.cases import Case, make_cases
from roformer_convert.parity.questions.tasks import TASKS, Task, results


def compute(reference: Reference, case: Case) -> dict[str, Any]:
    """Compute every step from the steps before it."""
    task = reference.task
    taps: dict[str, Any] = {}
    names = tap_names(
        reference.config,
        pooler="pooler.weight" in reference.parameters,
        mlm=task.mlm,
        sop=task.sop,
        classifier=task.head is not None,
    )
    for name in names:
        taps[name] = reference.predict(name, taps, case)
    return taps


def forward(judge: Forward, case: Case, task: Task) -> Any:
    """Compute a model's result in the tests' own forward pass."""
    ids = case.input_ids
    types = np.zeros_like(ids) if case.token_type_ids is None else case.token_type_ids
    mask = np.ones_like(ids) if case.attention_mask is None else case.attention_mask
    if task.head == "options":
        return judge.choices(ids, types, mask)
    hidden = judge.hidden(ids, types, mask)
    if task.mlm:
        return judge.logits(hidden)
    if task.head == "labels":
        return judge.row_labels(hidden)
    return hidden if task.head is None else judge.token_labels(hidden)


@pytest.mark.parametrize("name", MODELS)
def test_steps_together_are_the_forward_pass(name: str) -> None:
    config, task = MODELS[name].config, TASKS[MODELS[name].kind.class_name]
    tensors = {key: array.astype(np.float64) for key, array in MODELS[name].tensors().items()}
    for case in make_cases(config, task, None):
        taps = compute(Reference(config, tensors, task), case)
        got = taps[results(taps)[0]]
        want = forward(Forward(tensors, config), case, task)
        # a token that sees no real key sees all of them alike, but for the rounding of the constant that masks them
        sees = sees_a_key(case, config)
        if task.head == "labels":
            sees = sees[:, 0]
        elif task.head == "options":
            sees = np.ones(got.shape, bool)
        assert np.abs(got - want)[sees].max() <= 1e-12 * np.abs(want).max(), case.name


@pytest.mark.parametrize("folder", [*FOLDERS, *FAMILY])
def test_writers_logits_are_reproduced(folder: str) -> None:
    # bert4keras 0.11.5 computes RoFormerV2 with another epsilon than its weights were trained with
    stated = {"layer_norm_eps": 1e-7} if folder == "b4k-MaskedLM_v2" else SET.get(folder)
    inputs = {name: array.astype(np.int64) for name, array in inputs_of(folder).items()}
    case = Case("theirs", inputs["input_ids"], inputs.get("token_type_ids"), inputs.get("attention_mask"))
    with open_checkpoint(PEERS / folder, set=stated) as checkpoint:
        tensors = {name: checkpoint.read(name, "float64") for name in checkpoint}
        task = TASKS[checkpoint.model_class]
        taps = compute(Reference(supported(checkpoint.config), tensors, task), case)
    assert difference(folder, taps[results(taps)[0]], everywhere=False) <= tolerance(folder)


def sees_a_key(case: Case, config: RoFormerConfig) -> Any:
    """Say which tokens (B, T) see a real key."""
    if case.attention_mask is None or config.attention == "bidirectional":
        return np.ones_like(case.input_ids, bool)
    place = np.broadcast_to(np.arange(case.input_ids.shape[1]), case.input_ids.shape)
    if config.attention == "unilm":
        assert case.token_type_ids is not None
        place = case.token_type_ids.cumsum(-1)
    return ((place[:, None, :] <= place[:, :, None]) & (case.attention_mask[:, None, :] != 0)).any(-1)


#: Arrays that a framework stores in each step, by the last word of its name: each loses its last digits in a half type.
STORED = {
    "embeddings": 5,  # the sum; scaled, moved; a product and a bias where the width changes
    "query": 3,  # product, bias, rotated
    "key": 3,
    "value": 2,
    "out": 5,  # scores, weights, context; product, bias
    "attention_norm": 3,  # the sum; scaled, moved
    "feed_forward": 5,  # product, bias, activated; product, bias
    "feed_forward_norm": 3,
    "pooler": 3,
    "transform": 3,
    "norm": 2,
    "logits": 2,
    "sop": 2,
}


def test_every_array_that_is_stored_is_rounded() -> None:
    config, groups = SHAPES["everything"]
    tensors = {name: array.astype(np.float64) for name, array in random_tensors(config, groups).items()}
    task = TASKS["RoFormerForPretraining"]
    rounded: list[Any] = []

    def note(x: Any) -> Any:
        rounded.append(x.copy())
        return np.float64(0.5) * x  # an array that goes on unrounded would show

    case = make_cases(config, task, None)[1]
    exact = Reference(config, tensors, task)
    taps: dict[str, Any] = {}
    noted = Reference(config, tensors, task, note)
    for name in tap_names(config, pooler=True, mlm=True, sop=True):
        taps[name] = exact.predict(name, taps, case)
        rounded.clear()
        got = noted.predict(name, taps, case)
        assert len(rounded) == STORED[name.rpartition(".")[2]], name
        assert np.array_equal(got.reshape(-1), 0.5 * rounded[-1].reshape(-1)), name
        assert not any(np.array_equal(got.reshape(-1), array.reshape(-1)) for array in rounded), name
