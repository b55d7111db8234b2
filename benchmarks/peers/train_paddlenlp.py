"""A step of PaddleNLP's RoFormerForMaskedLM: ``usual`` scores every token, ``masked`` those to predict alone."""

# ruff: noqa: E401, F401, I001
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from timing_loop import serve

# paddle 2.6.2 crashes where these are imported after it
import scipy, aiohttp, pyarrow, pandas, sklearn
import numpy as np
import paddle
import paddlenlp
from paddlenlp.transformers import RoFormerForMaskedLM

source, threads = sys.argv[1], int(sys.argv[2])
paddle.set_device("cpu")
paddle.seed(0)
model = RoFormerForMaskedLM.from_pretrained(source)
model.train()


def prepare(mode, batch):
    ids, types = paddle.to_tensor(batch["input_ids"]), paddle.to_tensor(batch["token_type_ids"])
    positions, labels = paddle.to_tensor(batch["positions"]), paddle.to_tensor(batch["labels"])
    everywhere = np.full(batch["input_ids"].size, -100, np.int64)
    everywhere[batch["positions"]] = batch["labels"]
    everywhere = paddle.to_tensor(everywhere)
    optimizer = paddle.optimizer.AdamW(
        learning_rate=1e-4,
        epsilon=1e-8,
        parameters=model.parameters(),
        weight_decay=0.01,
        apply_decay_param_fun={one.name for one in model.parameters() if len(one.shape) > 1}.__contains__,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
    )

    def step():
        if mode == "usual":
            logits = model(ids, types)
            loss = paddle.nn.functional.cross_entropy(logits.reshape([-1, logits.shape[-1]]), everywhere)
        else:
            hidden = model.roformer(ids, types)[0]
            logits = model.cls(paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), positions))
            loss = paddle.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss.numpy()

    return step


def product(m, k, n):
    a, b = paddle.rand([m, k]), paddle.rand([k, n])
    return lambda: paddle.matmul(a, b)


versions = {"paddlenlp": paddlenlp.__version__, "paddle": paddle.__version__}
serve(prepare, lambda loss: np.reshape(loss, (1, 1)), versions, product)
