"""Gradients are summed over the processes of a run while the backward pass still computes the rest of them.

The parameters are divided into buckets, in the reverse order of their use, which is about the order in which the
backward pass finishes their gradients. When the last gradient of a bucket is finished, the bucket is laid out flat and
sent on its way; what is left of the backward pass hides the time that takes. Every process sends the buckets in the
same order whatever the order in which its own gradients come, for a collective call pairs with the other processes'
call of the same number: a bucket that is finished early waits for those before it.

Sources: Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training (VLDB 2020), sections 3.2.2
and 3.2.3. ``_register_backward_hook``, which calls back when a gradient has been added up, is what Paddle's own
group_sharded_stage2.py stands on, in 2.6 and 3.3.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...models.processes.start_paddle import paddle
from .parallel import BUCKET, Ranks, buckets, flatten, pieces
from .weights import Weights


class GradientExchange:
    """Replaces the gradients of what is trained by their sums over all processes.

    Args:
        ranks: The processes.
        weights: What is trained, and what computes.
        half: Type in which gradients travel, or None for their own; they are added up in it, too.
        bucket: Elements that are sent together.
    """

    def __init__(self, ranks: Ranks, weights: Weights, half: str | None = None, *, bucket: int = BUCKET) -> None:
        self._ranks = ranks
        self._weights = weights
        self._half = half
        self._armed = False
        self._buckets = list(buckets(dict(reversed(weights.trained.items())), bucket))
        self._missing: list[set[str]] = []
        self._under_way: list[tuple[Any, Any]] = []
        if ranks.count > 1:
            for number, each in enumerate(self._buckets):
                for name in each:
                    weights.computing(name)._register_backward_hook(self._hook(number, name))

    def begin(self) -> None:
        """Exchange the gradients of the backward pass that follows: the last of a step, with all before it added."""
        self._missing = [set(bucket) for bucket in self._buckets]
        self._under_way = []
        self._armed = self._ranks.count > 1

    def finish(self) -> None:
        """Wait until every gradient is the sum over all processes."""
        if not self._armed:
            return
        self._armed = False
        while len(self._under_way) < len(self._buckets):  # of parameters that no backward pass reached
            self._send()
        with paddle.no_grad():
            for bucket in self._buckets:
                flat, task = self._under_way.pop(0)
                task.wait()
                for parameter, piece in zip(
                    bucket.values(), pieces(flat.astype("float32"), bucket.values()), strict=True
                ):
                    parameter.grad = piece

    def _hook(self, bucket: int, name: str) -> Callable[[], None]:
        def finished() -> None:
            if self._armed:
                self._weights.collect([name])
                self._missing[bucket].discard(name)
                while len(self._under_way) < len(self._buckets) and not self._missing[len(self._under_way)]:
                    self._send()

        return finished

    def _send(self) -> None:
        """Send the next bucket; its gradients are given up for the flat one, so that none is held twice."""
        parameters = self._buckets[len(self._under_way)].values()
        with paddle.no_grad():
            flat = flatten(parameter.grad for parameter in parameters)
            if self._half is not None:
                flat = flat.astype(self._half)
        for parameter in parameters:
            parameter.clear_gradient(False)
        self._under_way.append((flat, paddle.distributed.all_reduce(flat, sync_op=False)))
