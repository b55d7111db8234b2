"""PaddleNLP's RoFormer: dynamic, static and inference; where positions are given, its head runs on those alone."""

# ruff: noqa: E401, F401, I001
import gc
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from timing_loop import serve

# paddle 2.6.2 crashes where these are imported after it
import scipy, aiohttp, pyarrow, pandas, sklearn
import paddle
import paddlenlp
from paddlenlp.transformers import RoFormerForMaskedLM

source, threads = sys.argv[1], int(sys.argv[2])
paddle.set_device("cpu")
model = RoFormerForMaskedLM.from_pretrained(source)
model.eval()


ORDER = ("input_ids", "token_type_ids", "attention_mask", "positions")


class Scorer(paddle.nn.Layer):
    """The model with the inputs that a batch may have."""

    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, input_ids, token_type_ids, attention_mask=None, positions=None):
        if positions is None:
            return self.model(input_ids, token_type_ids, attention_mask)
        hidden = self.model.roformer(input_ids, token_type_ids, attention_mask)[0]
        return self.model.cls(paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), positions))


class Graph:
    """What is traced once for all batches that have the same inputs, whatever their shape."""

    def __init__(self, names):
        self.names = names
        specs = [paddle.static.InputSpec([None] * (1 if name == "positions" else 2), "int64", name) for name in names]
        scorer = Scorer()
        scorer.eval()
        self.static = paddle.jit.to_static(scorer, input_spec=specs)
        self.predictors = {}
        self.directory = None

    def predictor(self, mode):
        """Save once, open once a mode."""
        if self.directory is None:
            self.directory = tempfile.TemporaryDirectory()
            paddle.jit.save(self.static, f"{self.directory.name}/model")
        if mode not in self.predictors:
            path = f"{self.directory.name}/model"
            config = paddle.inference.Config(f"{path}.pdmodel", f"{path}.pdiparams")
            config.disable_gpu()
            config.disable_glog_info()
            config.enable_memory_optim()  # otherwise every layer's activations stay
            config.set_cpu_math_library_num_threads(threads)
            if mode == "inference-onednn":
                config.enable_mkldnn()
            self.predictors[mode] = paddle.inference.create_predictor(config)
        return self.predictors[mode]


graphs = []


def prepare(mode, batch):
    names = [name for name in ORDER if name in batch]
    if mode == "dynamic":
        scorer = Scorer()
        scorer.eval()
        arrays = [paddle.to_tensor(batch[name]) for name in names]

        def dynamic():
            with paddle.no_grad():
                return scorer(*arrays)

        return dynamic
    if not graphs or graphs[0].names != names:
        graphs.clear()
        gc.collect()  # predictors hold the weights once more each
        graphs.append(Graph(names))
    graph = graphs[0]
    if mode == "static":
        arrays = [paddle.to_tensor(batch[name]) for name in names]

        def run():
            with paddle.no_grad():
                return graph.static(*arrays)

        return run
    predictor = graph.predictor(mode)
    (output,) = predictor.get_output_names()

    def infer():
        for name in names:
            predictor.get_input_handle(name).copy_from_cpu(batch[name])
        predictor.run()
        return predictor.get_output_handle(output)

    return infer


def as_numpy(logits):
    return logits.numpy() if isinstance(logits, paddle.Tensor) else logits.copy_to_cpu()


def product(m, k, n):
    a, b = paddle.rand([m, k]), paddle.rand([k, n])
    return lambda: paddle.matmul(a, b)


serve(prepare, as_numpy, {"paddlenlp": paddlenlp.__version__, "paddle": paddle.__version__}, product)
