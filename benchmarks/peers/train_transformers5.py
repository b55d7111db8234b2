"""A step of transformers' RoFormerForMaskedLM: ``usual`` scores every token, ``masked`` those to predict."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
import torch
import transformers
from timing_loop import serve

source, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = transformers.RoFormerForMaskedLM.from_pretrained(source, dtype=torch.float32)
model.train()


def prepare(mode, batch):
    inputs = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "token_type_ids")}
    positions, labels = torch.from_numpy(batch["positions"]), torch.from_numpy(batch["labels"])
    everywhere = torch.full_like(inputs["input_ids"], -100)
    everywhere.view(-1)[positions] = labels
    matrices = [one for one in model.parameters() if one.ndim > 1]
    vectors = [one for one in model.parameters() if one.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)

    def step():
        if mode == "usual":
            loss = model(**inputs, labels=everywhere).loss
        else:
            hidden = model.roformer(**inputs).last_hidden_state
            logits = model.cls(hidden.reshape(-1, hidden.shape[-1])[positions])
            loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def product(m, k, n):
    a, b = torch.rand(m, k), torch.rand(n, k)
    return lambda: torch.nn.functional.linear(a, b)


versions = {"transformers": transformers.__version__, "torch": torch.__version__}
serve(prepare, lambda loss: np.reshape(loss.numpy(), (1, 1)), versions, product)
