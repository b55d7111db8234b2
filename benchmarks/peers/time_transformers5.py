"""transformers 5's torch RoFormer; where positions are given, its head runs on those tokens alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
import transformers
from timing_loop import serve

source, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
models = {}


def prepare(mode, batch):
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    if dtype not in models:
        models[dtype] = transformers.RoFormerForMaskedLM.from_pretrained(source, dtype=dtype).eval()
    model = models[dtype]
    inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
    positions = inputs.pop("positions", None)

    def job():
        with torch.inference_mode():
            if positions is None:
                return model(**inputs).logits
            hidden = model.roformer(**inputs).last_hidden_state
            return model.cls(hidden.reshape(-1, hidden.shape[-1])[positions])

    return job


def product(m, k, n):
    a, b = torch.rand(m, k), torch.rand(n, k)
    return lambda: torch.nn.functional.linear(a, b)


serve(
    prepare,
    lambda logits: logits.float().numpy(),
    {"transformers": transformers.__version__, "torch": torch.__version__},
    product,
)
