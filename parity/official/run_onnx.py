"""onnxruntime, on an exported model."""

from __future__ import annotations

import onnxruntime

from .serving import Arrays, Json, Software, all_inputs


class Worker(Software):
    """onnxruntime on the CPU."""

    def load(self, job: Json) -> Json:
        """Open the graph."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"])
        self.outputs = job["outputs"]
        return {"class": "InferenceSession", "missing": [], "unexpected": [], "mismatched": [], "warned": []}

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the graph."""
        return dict(zip(self.outputs.values(), self.session.run(list(self.outputs), all_inputs(given))))
