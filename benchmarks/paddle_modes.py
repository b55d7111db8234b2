"""How Paddle computes, for our model and for PaddleNLP's: dynamic, static (``to_static``) and in Paddle Inference.

Run by each one's own interpreter, like :mod:`timing_loop`; whatever must be imported before Paddle comes before this.
"""

import gc
import tempfile
from pathlib import Path

import paddle
from timing_loop import serve

ORDER = ("input_ids", "token_type_ids", "attention_mask", "positions")


class Scorer(paddle.nn.Layer):
    """A model with the inputs that a batch may have."""

    def __init__(self, model, score):
        super().__init__()
        self.model = model
        self.score = score

    def forward(self, input_ids, token_type_ids, attention_mask=None, positions=None):
        return self.score(input_ids, token_type_ids, attention_mask, positions)


class Graph:
    """What is traced once for all batches that have the same inputs, whatever their shape."""

    def __init__(self, scorer, names, options, configure):
        self.names = names
        self.configure = configure
        specs = [paddle.static.InputSpec([None] * (1 if name == "positions" else 2), "int64", name) for name in names]
        self.static = paddle.jit.to_static(scorer, input_spec=specs, **options)
        self.predictors = {}
        self.directory = None

    def predictor(self, mode):
        """Save once, open once a mode."""
        if self.directory is None:
            self.directory = tempfile.TemporaryDirectory()
            paddle.jit.save(self.static, f"{self.directory.name}/model")
        if mode not in self.predictors:
            graphs = (Path(self.directory.name, f"model.{suffix}") for suffix in ("json", "pdmodel"))  # Paddle 3, 2
            weights = f"{self.directory.name}/model.pdiparams"
            config = paddle.inference.Config(str(next(path for path in graphs if path.exists())), weights)
            config.disable_gpu()
            config.disable_glog_info()
            if mode == "inference-onednn":
                config.enable_mkldnn()
            self.configure(config, mode)
            self.predictors[mode] = paddle.inference.create_predictor(config)
        return self.predictors[mode]


def serve_modes(model, score, configure, versions, dynamic=None, **options):
    """Answer requests for any mode.

    Args:
        model: The model, in evaluation.
        score: Gives the logits of ``ORDER``'s inputs, of which the last two may be None.
        configure: ``configure(config, mode)`` sets what Paddle Inference has beside this.
        versions: Of the libraries that compute.
        dynamic: Gives the logits of inputs by name where nothing is traced; by default ``score``.
        options: How it is traced.
    """
    scorer = Scorer(model, score)
    scorer.eval()
    graphs = []

    def prepare(mode, batch):
        names = [name for name in ORDER if name in batch]
        if mode in ("dynamic", "static"):
            inputs = {name: paddle.to_tensor(batch[name]) for name in names}
        if mode == "dynamic":
            compute = dynamic or scorer
        else:
            if not graphs or graphs[0].names != names:
                graphs.clear()
                gc.collect()  # predictors hold the weights once more each
                graphs.append(Graph(scorer, names, options, configure))
            if mode != "static":
                return inferring(graphs[0].predictor(mode), {name: batch[name] for name in names})

            def compute(**inputs):
                return graphs[0].static(*inputs.values())

        def run():
            with paddle.no_grad():
                return compute(**inputs)

        return run

    serve(prepare, as_numpy, {**versions, "paddle": paddle.__version__}, product)


def inferring(predictor, arrays):
    """Make the job of Paddle Inference."""
    (output,) = predictor.get_output_names()

    def infer():
        for name, array in arrays.items():
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return predictor.get_output_handle(output)

    return infer


def as_numpy(logits):
    return logits.numpy() if isinstance(logits, paddle.Tensor) else logits.copy_to_cpu()


def product(m, k, n):
    a, b = paddle.rand([m, k]), paddle.rand([k, n])
    return lambda: paddle.matmul(a, b)
