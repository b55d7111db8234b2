"""A step of our pretraining: the shipped objective (both losses), clipping and AdamW."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
from timing_loop import serve

from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.samples.batches import Batch
from roformer_convert.training.settings.tables import Optimizer
from roformer_convert.training.step.objective import losses
from roformer_convert.training.step.optimizer import AdamW, clip_factor
from roformer_convert.training.step.weights import clear_gradients, gradient_norm

source, threads = sys.argv[1], int(sys.argv[2])
paddle.set_device("cpu")
paddle.seed(0)
model = RoFormerForPretraining.from_pretrained(source, dtype="float32", fresh_heads=True)
model.train()
options = Optimizer()


def prepare(mode, batch):
    rows = len(batch["input_ids"])
    ready = Batch(
        input_ids=batch["input_ids"],
        token_type_ids=batch["token_type_ids"],
        attention_mask=np.ones_like(batch["input_ids"]),
        positions=batch["positions"],
        labels=batch["labels"],
        order=np.arange(rows) % 2,
        samples=np.arange(rows),
    )
    trained = dict(model.named_parameters())
    optimizer = AdamW(trained, options)

    def step():
        found = losses(model, ready, accuracy=False)
        words = found.mlm_sum / found.mlm_count
        (words + found.sop_sum / found.sop_count).backward()
        optimizer.step(1e-4, clip_factor(gradient_norm(trained), options.grad_clip))
        clear_gradients(trained)
        return words.numpy()

    return step


def product(m, k, n):
    a, b = paddle.rand([m, k]), paddle.rand([k, n])
    return lambda: paddle.matmul(a, b)


serve(prepare, lambda loss: np.reshape(loss, (1, 1)), {"paddle": paddle.__version__}, product)
