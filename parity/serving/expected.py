"""What a software should compute that adds an epsilon of its own, whatever a file says: recomputed in numpy.

bert4keras adds 1e-7 to the variance in every norm but the masked LM's, where the file's model has 1e-12. That moves its
results by more than float32's bound where variances are small, so it is held against the same mathematics with its
epsilon, and no bound is widened. Source: bert4keras 0.11.5 (models.py, NEZHA and RoFormer; layers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.config import supported, tap_names
from ..explaining.reference import RIGHT, Reference, Switches
from ..participants.dumps import Dump
from ..participants.participants import ComparedModel
from ..questions.cases import Case
from .asking import Official

Array = NDArray[Any]


def expected_of(
    official: Official, ours: Dump, cases: Sequence[Case], model: ComparedModel, right: Mapping[str, Array]
) -> Dump:
    """Return what an official participant is held against: ours, or the same model with the software's epsilon.

    Args:
        official: The participant.
        ours: One of ours, in float64.
        cases: What both ran.
        model: What is compared.
        right: The parameters by their canonical names, in float64.
    """
    epsilon, config = official.software.epsilon, supported(model.config)
    if epsilon in (0.0, config.layer_norm_eps):
        return ours
    task = model.task
    reference = Reference(config, right, task)
    pooler = "pooler.weight" in reference.parameters
    order = tap_names(config, pooler=pooler, mlm=task.mlm, sop=False, classifier=task.head is not None)
    folder = official.dump.files / "expected"
    folder.mkdir(exist_ok=True)
    for case in cases:
        taps: dict[str, Array] = {}
        for name in order:
            switches = RIGHT if name == "mlm.norm" else Switches(epsilon=epsilon)
            taps[name] = reference.predict(name, taps, case, switches)
        np.savez(folder / f"float64.{case.name}.npz", **taps)  # type: ignore[arg-type]
    return replace(ours, label=f"numpy, epsilon {epsilon:g}", files=folder)
