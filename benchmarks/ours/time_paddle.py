"""Our Paddle model: dynamic (packed where the batch is padded), static (``to_static``) and inference."""

import gc
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from timing_loop import serve

from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForMaskedLM

source, threads = sys.argv[1], int(sys.argv[2])
paddle.set_device("cpu")
model = RoFormerForMaskedLM.from_pretrained(source, dtype="float32")


ORDER = ("input_ids", "token_type_ids", "attention_mask", "positions")


class Scorer(paddle.nn.Layer):
    """The model with the inputs that a batch may have."""

    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, input_ids, token_type_ids, attention_mask=None, positions=None):
        return self.model(input_ids, token_type_ids, attention_mask, positions)


class Graph:
    """What is traced once for all batches that have the same inputs, whatever their shape."""

    def __init__(self, names):
        self.names = names
        specs = [paddle.static.InputSpec([None] * (1 if name == "positions" else 2), "int64", name) for name in names]
        scorer = Scorer()
        scorer.eval()
        self.static = paddle.jit.to_static(scorer, input_spec=specs, full_graph=True)
        self.predictors = {}
        self.directory = None

    def predictor(self, mode):
        """Save once, open once a mode."""
        if self.directory is None:
            self.directory = tempfile.TemporaryDirectory()
            paddle.jit.save(self.static, f"{self.directory.name}/model")
        if mode not in self.predictors:
            path = f"{self.directory.name}/model"
            config = paddle.inference.Config(f"{path}.json", f"{path}.pdiparams")
            config.disable_gpu()
            config.disable_glog_info()
            config.set_cpu_math_library_num_threads(threads)
            if mode == "inference-onednn":
                config.enable_mkldnn()
            elif mode == "inference":
                config.disable_mkldnn()
            self.predictors[mode] = paddle.inference.create_predictor(config)
        return self.predictors[mode]


graphs = []


def prepare(mode, batch):
    names = [name for name in ORDER if name in batch]
    if mode == "dynamic":
        inputs = {name: paddle.to_tensor(array) for name, array in batch.items()}

        def dynamic():
            with paddle.no_grad():
                return model(**inputs, packed="attention_mask" in inputs)

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


serve(prepare, as_numpy, {"paddle": paddle.__version__}, product)
