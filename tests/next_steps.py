"""The next step of a training in each framework, from a state that was saved: programs for processes, and a judge.

Equal means 1e-6 of a tensor's largest weight in float32: two models' gradients differ by a rounding or two, and
AdamW's step is at most 1e-3 of such a weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_folders import ROOT

from roformer_convert.converters import open_checkpoint
from roformer_convert.converters.table.mapping import Dialect, Table

STATES = ROOT / "fixtures" / "optimizers"
ADAM = {"beta2": 0.98, "weight_decay": 0.05}
BOUND = 1e-6

TORCH_STEP = """
import json, sys
import numpy as np, torch, transformers
from pathlib import Path
for job in json.loads(sys.argv[1]):
    folder = Path(job["folder"])
    config = transformers.AutoConfig.from_pretrained(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    kind = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(folder, config=config)
    if job["fresh"]:  # built from its configuration; the weights are put in afterwards
        model, loaded = kind(config), model
        model.load_state_dict(loaded.state_dict())
    trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    decayed = set(transformers.Trainer.get_decay_parameter_names(None, model))
    groups = [[each for name, each in trained if (name in decayed) is first] for first in (True, False)]
    optimizer = torch.optim.AdamW([{"params": each, "weight_decay": 9.0} for each in groups], lr=9.0)
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    with np.load(job["next"]) as given:
        batch = {name: torch.tensor(given[name]) for name in ("input_ids", "labels")}
    model(**batch).loss.backward()
    optimizer.step()
    np.savez(job["out"], **{name: each.detach().numpy() for name, each in model.named_parameters()})
"""

PADDLE_STEP = """
import json, sys
import numpy as np
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models import roformer_paddle
from roformer_convert.training.settings.tables import Optimizer
from roformer_convert.training.step.optimizer import AdamW
from pathlib import Path
for job in json.loads(sys.argv[1]):
    folder = Path(job["folder"])
    model = getattr(roformer_paddle, job["class"]).from_pretrained(folder)
    model.eval()
    named = dict(model.named_parameters())
    with np.load(job["next"]) as given:
        ids, labels, lr = paddle.to_tensor(given["input_ids"]), given["labels"].reshape(-1), float(given["lr"])
    if job["file"] == "optimizer.pdopt":
        for name, each in named.items():
            each.name = job["names"][name]
        decayed = {each.name for each in named.values() if len(each.shape) > 1}
        optimizer = paddle.optimizer.AdamW(
            learning_rate=paddle.optimizer.lr.PolynomialDecay(9.0, 10), beta2=job["beta2"],
            parameters=list(named.values()), weight_decay=job["weight_decay"],
            apply_decay_param_fun=decayed.__contains__)
        optimizer.set_state_dict(paddle.load(str(folder / job["file"])))
        assert abs(optimizer.get_lr() - lr) < 1e-12
    else:
        from safetensors.numpy import load_file
        arrays = load_file(folder / job["file"])
        trained = {name: each for name, each in named.items() if f"{name}:moment1" in arrays}
        optimizer = AdamW(trained, Optimizer(beta2=job["beta2"], weight_decay=job["weight_decay"]))
        optimizer.load(arrays)
    logits = model(ids)
    logits = getattr(logits, "logits", logits)
    labelled = np.flatnonzero(labels >= 0)  # Paddle 3.3's mean with ignore_index=-100 is one over all
    logits = paddle.gather(logits.reshape([-1, logits.shape[-1]]), paddle.to_tensor(labelled))
    paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(labels[labelled])).backward()
    optimizer.step() if job["file"] == "optimizer.pdopt" else optimizer.step(lr, 1.0)
    np.savez(job["out"], **{name: each.numpy() for name, each in named.items()})
"""


PADDLENLP_STEP = """
# paddle 2.6.2 crashes where these are imported after it
import scipy, aiohttp, pyarrow, pandas, sklearn
import json, sys
import numpy as np, paddle
from pathlib import Path
from paddlenlp import transformers
for job in json.loads(sys.argv[1]):
    folder = Path(job["folder"])
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(str(folder))  # as the first of the process
    model.eval()
    decayed = {each.name for each in model.parameters() if len(each.shape) > 1}
    optimizer = paddle.optimizer.AdamW(
        learning_rate=1e-3, beta2=job["beta2"], parameters=model.parameters(), weight_decay=job["weight_decay"],
        apply_decay_param_fun=decayed.__contains__)
    optimizer.set_state_dict(paddle.load(str(folder / "optimizer.pdopt")))
    with np.load(job["next"]) as given:
        ids, labels = paddle.to_tensor(given["input_ids"]), given["labels"].reshape(-1)
    logits = model(ids)
    labelled = np.flatnonzero(labels >= 0)
    logits = paddle.gather(logits.reshape([-1, logits.shape[-1]]), paddle.to_tensor(labelled))
    paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(labels[labelled])).backward()
    optimizer.step()
    np.savez(job["out"], **{name: each.numpy() for name, each in model.named_parameters()})
"""


def rows(folder: Path) -> Table:
    """The table's rows of a checkpoint."""
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.table


def canonical(
    table: Table, arrays: dict[str, NDArray[Any]], dialect: Dialect | None, prefix: str = ""
) -> dict[str, NDArray[Any]]:
    """Arrays under a dialect's names (None: canonical ones, laid out as Paddle does) → kernels as (out, in)."""
    out = {}
    for row in table.tensors:
        name = row.canonical if dialect is None else row.name(dialect)
        if f"{prefix}{name}" in arrays:
            array = arrays[f"{prefix}{name}"]
            out[row.canonical] = array.T if row.transposed(dialect or "paddle") else array
    return out


def require_equal(got: dict[str, NDArray[Any]], want: dict[str, NDArray[Any]], before: Path) -> None:
    """Every trained parameter is equal, and the step was one: it moved them a hundred times the bound or more."""
    with open_checkpoint(before) as checkpoint:
        assert want.keys() <= got.keys()
        assert len(want) > 10
        for name, array in want.items():
            scale = np.abs(array).max()
            assert np.abs(got[name] - array).max() <= BOUND * scale, name
        moved = max(float(np.abs(checkpoint[name] - array).max() / np.abs(array).max()) for name, array in want.items())
        assert moved > 100 * BOUND


def load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as file:
        return dict(file)
