"""How fast this machine trains: a few steps of a model with the run's widths.

A whole run's model is not built: of its layers two are, and what one layer takes is measured alone.
"""

# mypy: disable-error-code="no-untyped-call,arg-type"
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...models.config import RoFormerConfig
from ...models.processes.start_paddle import paddle
from ...models.roformer_paddle import RoFormerForPretraining
from ..settings.tables import Precision
from ..step.estimate import Pace, flop_per_token, parameter_count
from ..step.precision import autocast, half_type, is_halved

F = paddle.nn.functional

_CPU_TOKENS = 512  # tokens of a probe on a CPU, which is as fast with few as with many
_SECONDS = 1.0


def probe(
    config: RoFormerConfig,
    *,
    rows: int,
    length: int,
    precision: Precision = "fp32",
    recompute: bool = False,
    masked: float = 0.15,
    seconds: float = _SECONDS,
) -> Pace:
    """Measure whole steps on the current device.

    Args:
        config: The run's model.
        rows: Sequences computed at once; a CPU takes fewer.
        length: Tokens of a sequence.
        precision: The precision as the settings name it; a CPU computes in float32.
        recompute: Whether layers are computed again in the backward pass.
        masked: Share of the tokens whose words are scored.
        seconds: About how long the longest of three measurements takes, if a step is shorter.
    """
    where = paddle.device.get_device()
    if where.startswith("cpu"):
        rows, precision = max(1, min(rows, _CPU_TOKENS // length)), "fp32"
    layers = min(2, config.num_hidden_layers)
    few = replace(config, num_hidden_layers=layers)
    model = RoFormerForPretraining(few, dtype=half_type(precision) if is_halved(precision) else "float32")
    model.train()
    model.gradient_checkpointing = recompute
    whole = _seconds(_forward_backward(model, rows, length, precision, masked), seconds)
    if config.num_hidden_layers > layers:
        layer = _seconds(_layer_forward_backward(model, rows, length, precision), seconds / 2)
        whole += layer * (4 / 3 if recompute else 1) * (config.num_hidden_layers - layers)
    update = _seconds(_update(model), seconds / 4) * parameter_count(config) / parameter_count(few)

    flop = rows * length * flop_per_token(config, length, masked=masked, recompute=recompute)
    return Pace(flop / whole, update, f"measured on {where}")


def _forward_backward(model: Any, rows: int, length: int, precision: Precision, masked: float) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    words = model.config.vocab_size
    ids = paddle.to_tensor(rng.integers(0, words, (rows, length)))
    scored = max(1, int(masked * rows * length))
    positions = paddle.to_tensor(np.sort(rng.permutation(rows * length)[:scored]))
    labels = paddle.to_tensor(rng.integers(0, words, scored))
    order = paddle.to_tensor(rng.integers(0, 2, rows))

    def run() -> object:
        with autocast(precision):
            logits, swapped = model(ids, positions=positions)
            loss = F.cross_entropy(logits.astype("float32"), labels) + F.cross_entropy(swapped.astype("float32"), order)
        loss.backward()
        return loss

    return run


def _layer_forward_backward(model: Any, rows: int, length: int, precision: Precision) -> Callable[[], object]:
    layer, config = model.layers[0], model.config
    layout = model.lay_out(paddle.zeros([rows, length], "int64"), None, False)
    hidden = paddle.randn([rows * length, config.hidden_size]).astype(model.embeddings.word.weight.dtype)
    hidden.stop_gradient = False

    def run() -> object:
        hidden.clear_gradient(False)
        with autocast(precision):
            out = layer(hidden, layout, "", None)
        out.backward(paddle.ones_like(out))
        return out

    return run


def _update(model: Any) -> Callable[[], object]:
    optimizer = paddle.optimizer.AdamW(
        1e-9,
        parameters=model.parameters(),
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
        multi_precision=True,
    )
    step: Callable[[], object] = optimizer.step  # the gradients of the last probe are still there
    return step


def _seconds(run: Callable[[], object], seconds: float) -> float:
    """The shortest of several runs, in seconds; the first, which makes buffers, does not count."""
    run()
    _wait()
    begun, best, count = time.perf_counter(), float("inf"), 0
    while count < 2 or (time.perf_counter() - begun < seconds and count < 1000):
        started = time.perf_counter()
        run()
        _wait()
        best = min(best, time.perf_counter() - started)
        count += 1
    return best


def _wait() -> None:
    if not paddle.device.get_device().startswith("cpu"):
        paddle.device.synchronize()
