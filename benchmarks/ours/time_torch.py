"""Our torch model: eager, packed where the batch is padded; ``bfloat16``, ``cuda-bfloat16`` and ``compiled`` too."""

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
    device, dtype = ("cuda", "bfloat16") if mode == "cuda-bfloat16" else ("cpu", "float32")
    if mode == "bfloat16":
        dtype = mode
    if (device, dtype) not in models:
        models[device, dtype] = RoFormerForMaskedLM.from_pretrained(source, dtype=dtype).to(device)
    model = models[device, dtype]
    inputs = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
    run = torch.compile(model, dynamic=False) if mode == "compiled" else model
    packed = "attention_mask" in batch and mode != "compiled"

    def job():
        with torch.inference_mode():
            logits = run(**inputs, packed=packed)
            if device == "cuda":
                torch.cuda.synchronize()
            return logits

    return job


def product(m, k, n):
    a, b = torch.rand(m, k), torch.rand(n, k)
    return lambda: torch.nn.functional.linear(a, b)


versions = {"torch": torch.__version__}
if torch.cuda.is_available():
    versions["gpu"] = torch.cuda.get_device_name()
serve(prepare, lambda logits: logits.float().cpu().numpy(), versions, product)
