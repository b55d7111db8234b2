"""The processes of a run: who this one is, and sums over all of them.

``python -m paddle.distributed.launch`` starts one process a device and says so in the environment; ``fleet`` joins
them, through NCCL between GPUs and gloo between CPUs. Each computes its part of the global batch. Gradients are summed
(:mod:`.exchange`), never averaged: the losses were divided by the counts of the whole global batch, so that the sum is
its gradient whatever the number of processes. Where the optimiser's state is divided (ZeRO's first stage), each process
updates its share of the weights and hands it to the others.

Source: Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (arXiv 1910.02054).
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...models.processes.start_paddle import paddle

#: Elements that are sent in one call: 64 MB of float32.
BUCKET = 1 << 24


class Ranks:
    """The processes of a run.

    Attributes:
        rank: Number of this process.
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
        self.rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
        if self.count > 1:
            paddle.distributed.fleet.init(is_collective=True)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def add(self, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum some numbers over all processes."""
        array = np.asarray(values, np.float64)
        if self.count == 1:
            return array
        total = paddle.to_tensor(array)
        paddle.distributed.all_reduce(total)
        return np.asarray(total.numpy(), np.float64)

    def share(self, text: str) -> list[str]:
        """Give every process the texts of all, by rank."""
        data = np.frombuffer(text.encode(), np.uint8)
        sizes = np.zeros(self.count)
        sizes[self.rank] = len(data)
        sizes = self.add(sizes)
        rows = np.zeros((self.count, int(sizes.max())))
        rows[self.rank, : len(data)] = data
        rows = self.add(rows)
        return [row[: int(size)].astype(np.uint8).tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def decide(self, find: Callable[[], Any]) -> Any:
        """Let the first process find something out for all: plain values, as JSON gives them back.

        Raises:
            ConvertError: On all of them, where it was raised on the first.
        """
        if self.count == 1:
            return find()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer = [find(), None]
            except ConvertError as error:
                answer = [None, [error.what, error.next_step]]
        found, refusal = json.loads(self.share(json.dumps(answer))[0])
        if refusal:
            raise ConvertError(*refusal)
        return found

    def shares(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Divide parameters among the processes, each about as many elements."""
        shares: list[dict[str, Any]] = [{} for _ in range(self.count)]
        sizes = [0] * self.count
        by_size = sorted(parameters.items(), key=lambda item: -math.prod(item[1].shape))  # stable: alike everywhere
        for name, parameter in by_size:
            owner = sizes.index(min(sizes))
            shares[owner][name] = parameter
            sizes[owner] += math.prod(parameter.shape)
        return shares

    def publish(self, shares: Sequence[Mapping[str, Any]]) -> None:
        """Give every process the parameters of each one's share."""
        if self.count == 1:
            return
        with paddle.no_grad():
            for owner, share in enumerate(shares):
                for bucket in buckets(share):
                    flat = flatten(bucket.values())
                    paddle.distributed.broadcast(flat, owner)
                    for parameter, piece in zip(bucket.values(), pieces(flat, bucket.values()), strict=True):
                        parameter.copy_(piece, False)

    def gather(self, array: NDArray[Any] | None, shape: tuple[int, ...], owner: int) -> NDArray[Any]:
        """Give every process the float32 array of one of them."""
        tensor = paddle.zeros(shape, "float32") if array is None else paddle.to_tensor(array)
        if self.count > 1:
            paddle.distributed.broadcast(tensor, owner)
        return np.asarray(tensor.numpy())

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            paddle.distributed.barrier()


def buckets(parameters: Mapping[str, Any], most: int = BUCKET) -> Iterator[dict[str, Any]]:
    """Divide parameters, in their order, among buckets of at most ``most`` elements; a larger one is alone."""
    bucket: dict[str, Any] = {}
    elements = 0
    for name, parameter in parameters.items():
        size = math.prod(parameter.shape)
        if bucket and elements + size > most:
            yield bucket
            bucket, elements = {}, 0
        bucket[name] = parameter
        elements += size
    if bucket:
        yield bucket


def flatten(tensors: Iterable[Any]) -> Any:
    """Lay out tensors one after the other, as one of rank 1."""
    return paddle.concat([tensor.reshape([-1]) for tensor in tensors])


def pieces(flat: Any, like: Iterable[Any]) -> Iterator[Any]:
    """Cut what :func:`flatten` made into tensors of the shapes of those in ``like``."""
    shapes = [tensor.shape for tensor in like]
    parts = paddle.split(flat, [math.prod(shape) for shape in shapes])
    return (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
