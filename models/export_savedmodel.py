"""The process in which TensorFlow writes a SavedModel, loads it back and tries it. Started by :mod:`.export`."""

# mypy: disable-error-code="no-any-unimported,misc,unused-ignore"
from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from .export_trial import INPUTS, OUTPUT, Int64, Run, compare
from .process import Json, serve
from .roformer_tf import RoFormerForMaskedLM

SIGNATURE = "serving_default"


def main() -> None:
    """Serve requests of :func:`~.export._make`."""
    serve(answer)


def answer(request: Json) -> Json:
    """Load, write, try; say what was done."""
    model: Any = RoFormerForMaskedLM.from_pretrained(**request["load"], dtype="float32")
    path = Path(request["into"])
    write(model, path)
    runtime = trial = None
    if request["trial"]:
        runtime = f"tensorflow {tf.__version__}"
        trial = compare(lambda *batch: run_model(model, *batch), open_export(path), model.config, runtime)
    return {
        "file": ".",
        "version": f"tensorflow {tf.__version__}",
        "runtime": runtime,
        "difference": None if trial is None else trial.difference,
        "largest": None if trial is None else trial.largest,
        "notes": [],
    }


def write(model: Any, path: Path) -> None:
    """Write ``model`` as a SavedModel with one signature into an existing directory."""
    axes = [tf.TensorSpec([None, None], tf.int64, name) for name in INPUTS]

    @tf.function(input_signature=axes)  # type: ignore[untyped-decorator]
    def score(input_ids: tf.Tensor, token_type_ids: tf.Tensor, attention_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: model(input_ids, token_type_ids, attention_mask)}

    model.pooler = None  # no output is made of it
    model.score_batch = score
    tf.saved_model.save(model, str(path), signatures={SIGNATURE: score})
    del model.score_batch


def run_model(model: Any, *batch: Int64) -> NDArray[Any]:
    """Run the model itself: logits (B, T, V)."""
    logits: NDArray[Any] = model(*(tf.constant(one) for one in batch)).numpy()
    return logits


def open_export(path: Path) -> Run:
    """Load the directory back and run its signature."""
    loaded = tf.saved_model.load(str(path))
    score = loaded.signatures[SIGNATURE]

    def run(input_ids: Int64, token_type_ids: Int64, attention_mask: Int64) -> NDArray[Any]:
        batch = zip(INPUTS, (input_ids, token_type_ids, attention_mask), strict=True)
        logits: NDArray[Any] = score(**{name: tf.constant(array) for name, array in batch})[OUTPUT].numpy()
        assert loaded is not None  # its variables live as long as it does
        return logits

    return run
