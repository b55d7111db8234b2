"""What the launcher starts as each of two ranks: exchange known gradients, which come in another order on each."""

from __future__ import annotations

import numpy as np

from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.settings.tables import Data
from roformer_convert.training.step.exchange import GradientExchange
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.weights import Weights, clear_gradients

CONFIG = RoFormerConfig(
    vocab_size=11, embedding_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
)
#: float32 sums of two; bfloat16 keeps 8 bits of both and of the sum.
BOUNDS = {None: 0.0, "bfloat16": 2.0**-6}


def gradient(name: str, shape: list[int], rank: int) -> np.ndarray:
    """What a rank finds for a parameter."""
    return np.random.default_rng([rank, *name.encode()]).normal(size=shape).astype("float32")


def main() -> None:
    paddle.device.set_device("cpu")
    ranks = Ranks()
    for copies in (None, "float16"):
        for half, bound in BOUNDS.items():
            weights = Weights(RoFormerForPretraining(CONFIG), Data(), half=copies)
            exchange = GradientExchange(ranks, weights, half, bucket=150)
            names = list(weights.trained)
            np.random.default_rng(ranks.rank).shuffle(names)  # the backward pass meets them in another order
            exchange.begin()
            total = paddle.zeros([])
            for name in names:
                parameter = weights.computing(name)
                found = paddle.to_tensor(gradient(name, parameter.shape, ranks.rank))
                total = total * 1.0 + (parameter.astype("float32") * found).sum()
            total.backward()
            exchange.finish()
            for name, master in weights.trained.items():
                parts = [gradient(name, master.shape, rank) for rank in range(2)]
                if copies is not None:
                    parts = [part.astype(copies).astype("float32") for part in parts]
                scale = 1.0 if half is None else np.abs(parts[0]) + np.abs(parts[1])
                assert (np.abs(master.grad.numpy() - (parts[0] + parts[1])) <= bound * scale).all(), (name, half)
            clear_gradients(weights.trained)
    print("all sums are right")


if __name__ == "__main__":
    main()
