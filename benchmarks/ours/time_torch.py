"""Our torch model: eager, packed where the batch is padded; ``bfloat16`` and ``compiled`` too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
from timing_loop import serve  # before the framework, which may print

from roformer_convert.models.roformer_torch import RoFormerForMaskedLM

source, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
models = {}


def prepare(mode, batch):
    dtype = mode if mode == "bfloat16" else "float32"
    if dtype not in models:
        models[dtype] = RoFormerForMaskedLM.from_pretrained(source, dtype=dtype)
    model = models[dtype]
    inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
    run = torch.compile(model, dynamic=False) if mode == "compiled" else model
    packed = "attention_mask" in batch and mode != "compiled"

    def job():
        with torch.inference_mode():
            return run(**inputs, packed=packed)

    return job


def product(m, k, n):
    a, b = torch.rand(m, k), torch.rand(n, k)
    return lambda: torch.nn.functional.linear(a, b)


serve(prepare, lambda logits: logits.float().numpy(), {"torch": torch.__version__}, product)
