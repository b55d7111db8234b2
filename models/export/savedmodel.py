"""The process in which TensorFlow writes a SavedModel, loads it back and tries it. See :mod:`.making`."""

# mypy: disable-error-code="no-any-unimported,misc,unused-ignore"
from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from .. import roformer_tf
from ..ops_tf import compute_on
from ..pretrained import class_of
from ..processes.devices import DeviceName
from ..processes.process import Json
from .making import Made, load
from .signature import INPUTS, input_axes, outputs, pools, results
from .trial import Int64, Run, compare

SIGNATURE = "serving_default"


def make(request: Json, device: DeviceName) -> Made:
    """Load, write, try, on a device."""
    compute_on(device)  # the graph names no device
    model = load(roformer_tf, request)
    path = Path(request["into"])
    write(model, path)
    version, trial = f"tensorflow {tf.__version__}", None
    if request["trial"]:
        kind = class_of(type(model))
        names = list(outputs(kind, model.config, pooler=model.pooler is not None))
        trial = compare(lambda *batch: run_model(model, *batch), open_export(path, names), model.config, kind, version)
    return Made(".", version, trial)


def write(model: Any, path: Path) -> None:
    """Write ``model`` as a SavedModel with one signature into an existing directory."""
    kind = class_of(type(model))
    if not pools(kind):
        model.pooler = None
    axes = [tf.TensorSpec([None] * len(input_axes(kind)), tf.int64, name) for name in INPUTS]
    names = outputs(kind, model.config, pooler=model.pooler is not None)

    @tf.function(input_signature=axes)  # type: ignore[untyped-decorator]
    def score(input_ids: tf.Tensor, token_type_ids: tf.Tensor, attention_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(names, results(model(input_ids, token_type_ids, attention_mask)), strict=True))

    model.score_batch = score
    tf.saved_model.save(model, str(path), signatures={SIGNATURE: score})
    del model.score_batch


def run_model(model: Any, *batch: Int64) -> tuple[NDArray[Any], ...]:
    """Run the model itself."""
    return tuple(one.numpy() for one in results(model(*(tf.constant(one) for one in batch))))


def open_export(path: Path, outputs: list[str]) -> Run:
    """Load the directory back and run its signature, which numbers nothing: its outputs have names alone."""
    loaded = tf.saved_model.load(str(path))
    score = loaded.signatures[SIGNATURE]

    def run(*batch: Int64) -> tuple[NDArray[Any], ...]:
        found = score(**{name: tf.constant(array) for name, array in zip(INPUTS, batch, strict=True)})
        assert loaded is not None  # its variables live as long as it does
        return tuple(found[name].numpy() for name in outputs)

    return run
