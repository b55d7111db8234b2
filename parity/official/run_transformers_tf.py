"""transformers' TensorFlow classes, which version 4.57 is the last to have.

Source: transformers 4.57 (models/roformer/modeling_tf_roformer.py). It reports layers too that have no weights
(``sequence_summary``, ``dropout_37``), as missing or as unexpected.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, List, Optional, Set, Tuple

import h5py
import tensorflow as tf
import transformers

from .run_transformers import AUTO, listen, report_of, tokenizer_of
from .serving import Arrays, Json, Software


class Worker(Software):
    """transformers in TensorFlow."""

    def __init__(self) -> None:
        self.listening = listen()
        self.model: Any = None

    def load(self, job: Json) -> Json:
        """Load ``tf_model.h5``."""
        del self.listening.said[:]
        loader = getattr(transformers, "TF" + AUTO[job["class"]])
        self.model, info = loader.from_pretrained(
            job["directory"], output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False
        )
        report = report_of(self.model, info, self.listening.said)
        for kind in ("missing", "unexpected"):
            report[kind] = [_short(name) for name in report[kind]]
        empty = _without_weights(os.path.join(job["directory"], "tf_model.h5"))
        report["missing"] = [name for name in report["missing"] if "/" in name]
        report["unexpected"] = [name for name in report["unexpected"] if name not in empty]
        return report

    def parameters(self) -> Iterator[Tuple[str, Any]]:
        """Yield the variables without the name that Keras gives to the model."""
        for variable in self.model.weights:
            yield _short(variable.name.partition("/")[2]), variable.numpy()

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the model."""
        tensors = {name: tf.constant(array) for name, array in given.items()}
        out = self.model(tensors, output_hidden_states=hidden, training=False)
        if "start_logits" in out:
            scores = tf.stack([out.start_logits, out.end_logits], -1)
        else:
            scores = out["logits" if "logits" in out else "last_hidden_state"]
        found: Arrays = {"scores": scores.numpy()}
        if hidden and out.get("hidden_states") is not None:
            found["hidden"] = [state.numpy() for state in out.hidden_states]
        return found

    def tokenizer(self, job: Json) -> Optional[Tuple[str, Callable[..., List[int]]]]:
        """Load the tokenizer that the directory names."""
        return tokenizer_of(job["directory"])


def _without_weights(path: str) -> Set[str]:
    """Name the layers of a file that hold none."""
    if not os.path.exists(path):
        return set()
    with h5py.File(path, "r") as file:
        return {name for name, layer in file.items() if not len(layer.attrs.get("weight_names", [name]))}


def _short(name: str) -> str:
    return name[:-2] if name.endswith(":0") else name
