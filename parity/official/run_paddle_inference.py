"""Paddle Inference, on an exported program."""

from __future__ import annotations

import paddle
import paddle.inference

from .serving import Arrays, Json, Software, all_inputs


class Worker(Software):
    """paddle.inference on the CPU."""

    def load(self, job: Json) -> Json:
        """Open the program."""
        graph = job["file"]
        config = paddle.inference.Config(graph, graph.rpartition(".")[0] + ".pdiparams")
        config.disable_gpu()
        config.disable_glog_info()
        self.predictor = paddle.inference.create_predictor(config)
        self.outputs = job["outputs"]
        return {"class": "Predictor", "missing": [], "unexpected": [], "mismatched": [], "warned": []}

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the program."""
        for name, array in all_inputs(given).items():
            self.predictor.get_input_handle(name).copy_from_cpu(array)
        self.predictor.run()
        names = self.predictor.get_output_names()
        return {
            ours: self.predictor.get_output_handle(name).copy_to_cpu()
            for name, ours in zip(names, self.outputs.values())
        }
