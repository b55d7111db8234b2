"""An export as it is, and the runtime that opens it, as an official participant: it is held against the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_bench import failed
from test_parity_runs import FIXTURE, needs_torch

from roformer_convert.converters import open_checkpoint, save_checkpoint
from roformer_convert.converters.errors import ConvertError
from roformer_convert.converters.target.output import EXPORT_MANIFEST
from roformer_convert.models.export.exporting import FORMATS, export
from roformer_convert.models.processes.frameworks import is_installed
from roformer_convert.parity import gate
from roformer_convert.parity.options import GateOptions

PACKAGES = {name: {*one.packages, *({"onnxruntime"} if name == "onnx" else ())} for name, one in FORMATS.items()}


def another(folder: Path) -> Path:
    """The fixture with one value changed."""
    with open_checkpoint(FIXTURE) as checkpoint:
        tensors: dict[str, Any] = {name: checkpoint.read(name) for name in checkpoint}
        tensors["layers.1.attention.key.weight"][5, 7] += np.float32(0.3)
        save_checkpoint(folder, tensors, checkpoint.config, dialect="torch", companions=checkpoint.companions)
    return folder


@needs_torch
@pytest.mark.parametrize("name", FORMATS)
def test_an_export_passes_beside_its_checkpoint_and_not_beside_another(tmp_path: Path, name: str) -> None:
    if not all(map(is_installed, PACKAGES[name])):
        pytest.skip(f"not all of {', '.join(sorted(PACKAGES[name]))} are installed")
    export(FIXTURE, tmp_path / "served", to=name, trial=False)
    served = GateOptions(frameworks=["torch"], gradients=False, official=[str(tmp_path / "served")])
    with gate.run([FIXTURE], served) as result:
        (right,) = result.official
        assert (failed(right), right.causes) == ([], [])
        assert [verdict.check for verdict in right.verdicts] == [
            "official: loaded whole",
            "official: float32 logits",
            "official: top 5 in order",
        ]
        assert 0.0 < right.verdicts[1].value <= right.verdicts[1].bound
    with gate.run([another(tmp_path / "other")], served) as result:
        (wrong,) = result.official
        assert "float32 logits" in failed(wrong)
        assert wrong.official.label.endswith("(served)")
        assert [(cause.label, cause.kind, cause.where) for cause in wrong.causes] == [
            (wrong.official.label, "unknown", "logits")
        ]
        assert not result.passed


@needs_torch
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"class": "base"}, "is an export of RoFormerModel; RoFormerForMaskedLM is compared"),
        ({"max_length": 20}, "takes at most 20 tokens; a batch has 96"),
    ],
)
def test_an_export_of_another_class_or_too_short_is_refused(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    if not is_installed("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    manifest = {"format": "onnx", "open": {"file": "model.onnx"}, "class": "masked-lm", "max_length": 96}
    said = {**manifest, "outputs": {"logits": {}}, **fields}
    (tmp_path / EXPORT_MANIFEST).write_text(json.dumps(said), encoding="utf-8")
    with (
        pytest.raises(ConvertError, match=what),
        gate.run([FIXTURE], GateOptions(frameworks=["torch"], gradients=False, official=[str(tmp_path)])),
    ):
        pass
