"""TensorFlow, on an exported SavedModel."""

from __future__ import annotations

import tensorflow as tf

from .serving import Arrays, Json, Software, all_inputs


class Worker(Software):
    """tf.saved_model."""

    def load(self, job: Json) -> Json:
        """Load the directory."""
        self.loaded = tf.saved_model.load(job["file"])  # its variables live as long as it does
        self.score = self.loaded.signatures["serving_default"]
        self.outputs = job["outputs"]
        return {"class": "SavedModel", "missing": [], "unexpected": [], "mismatched": [], "warned": []}

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the signature."""
        found = self.score(**{name: tf.constant(array) for name, array in all_inputs(given).items()})
        return {ours: found[name].numpy() for name, ours in self.outputs.items()}
