"""CUDA graphs of a PyTorch model: a small batch costs the host one call in place of hundreds.

A graph is made for one shape (:mod:`.graph_shapes`), and a batch is padded to the next one whether its graph is there
yet or not. So what a batch gives does not depend on what was computed before it: it is what the model itself gives for
the padded batch, bit for bit, and before a graph is used that is checked.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import ModelError, RoFormerConfig
from ..kernels.agreement import DisagreesError
from ..kernels.attention_torch import device_of, send
from ..kernels.trials_torch import gist
from ..ops_torch import all_real, at_hand, dtype_name, inference, traced
from ..packing import require_inside
from .graph_shapes import Shape, fit, most_tokens

#: Ids, token types, mask and positions of a batch; but for the ids None where there are none.
Given = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
#: What a model returns, one or several.
Results = tuple[Tensor | None, ...]
#: Computes results from inputs that keep their places in memory.
Run = Callable[[], Results]
#: Records what a run does to memory; returns what does it again, and the results that this fills anew.
Record = Callable[[Run], tuple[Callable[[], None], Results]]

_WARM_UPS = 3  # in its first runs a library chooses its kernels and takes its memory
_MOST_BYTES = 1 << 30  # of results that graphs keep room for
_MOST_SHAPES = 64
_SEED = 20

_log = logging.getLogger(__name__)


def record_on(device: torch.device) -> Record:
    """Return what records CUDA graphs, which share their memory: only results outlive a replay."""
    pool = torch.cuda.graph_pool_handle()
    # cuBLAS keeps a workspace for each stream that it meets, 32 MiB on an H100, so all shapes take the same two; graphs
    # that are recorded on one stream share its workspace, so no other model's graphs are recorded on this one
    aside, recorded = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]

    def record(run: Run) -> tuple[Callable[[], None], Results]:
        with torch.cuda.device(device):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=recorded):
                results = run()
        return graph.replay, results

    return record


def graphed(model: Any) -> Graphed | None:
    """Have a model's small batches computed by graphs where it is on a GPU; None elsewhere."""
    return None if device_of(model.embeddings.word.weight).capability is None else Graphed(model)


class Graphed:
    """A model whose small batches are computed by graphs, for inference.

    It is called as the model is. The second time that a shape comes its graph is made, which costs several runs; from
    then on it is replayed. The model itself computes what gains nothing, which is a batch that keeps its device busy
    longer than the host, and what is asked for in words of its own: ``packed``, ``taps``, training, autocast, another
    kind of graph. Not for two threads or streams at once: a graph has one place for its inputs and its results.

    Args:
        model: On a GPU. Its weights may change in place; where they move, graphs are made anew.
        recorder: Makes what makes graphs.

    Attributes:
        refused: Shapes that have no graph because it gave something else than the model or could not be made, and why.

    Raises:
        ModelError: The model is not on a GPU.
    """

    def __init__(self, model: Any, recorder: Callable[[torch.device], Record] = record_on) -> None:
        self.model = model
        self.refused: dict[Shape, str] = {}
        self._recorder = recorder
        self._weights: list[Tensor] = list(model.parameters())
        self._begin()

    def _begin(self) -> None:
        like: Tensor = self.model.embeddings.word.weight
        device = device_of(like)
        if device.capability is None:
            raise ModelError(f"CUDA graphs want a model on a GPU; this one is on {like.device}")
        self._device = like.device
        self._addresses = [weight.data_ptr() for weight in self._weights]
        self._most = most_tokens(device.capability, device.multiprocessors, dtype_name(like), self.model.config)
        self._record = self._recorder(self._device)
        self._met: OrderedDict[Shape, _Graph | None] = OrderedDict()
        self.refused.clear()

    def __call__(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        **more: Any,
    ) -> Any:
        """Compute a batch; its tensors may be on the host.

        Args:
            input_ids: (B, T).
            token_type_ids: (B, T); None for type 0 throughout.
            attention_mask: (B, T), 0 or false at tokens that nobody attends to. What is computed at them says nothing.
            positions: (K,) indices in the batch read row by row.
            more: Whatever else the model takes.

        Raises:
            ModelError: A position is outside the batch, where that is known without waiting for a device.
        """
        if self._addresses != [weight.data_ptr() for weight in self._weights]:
            self._begin()  # a graph would read where the weights were
        shape = None if more else self.shape(input_ids, token_type_ids, attention_mask, positions)
        if shape is None:
            types = None if token_type_ids is None else token_type_ids.to(self._device)
            chosen = {} if positions is None else {"positions": positions}
            return self.model(
                input_ids.to(self._device), token_type_ids=types, attention_mask=attention_mask, **chosen, **more
            )
        rows, columns = input_ids.shape
        if positions is not None:
            positions = positions.reshape(-1)
            if at_hand(positions):
                require_inside(positions.numpy(), rows * columns)
            positions = positions // columns * shape.columns + positions % columns
        with inference():
            results = self._compute(shape, (input_ids, token_type_ids, attention_mask, positions))
        first, *others = results
        first = _cut(first, rows, columns) if first is None or positions is None else first[: len(positions)]
        found = (first, *(_cut(each, rows, columns) for each in others))
        return found if others else first

    def shape(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Shape | None:
        """Return the shape that a batch is padded to, or None where the model computes it as it is."""
        if input_ids.dim() != 2 or self.model.training or traced() or torch.is_autocast_enabled(self._device.type):
            return None
        rows, columns = input_ids.shape
        count = None if positions is None else positions.numel()
        masked = attention_mask is not None and not all_real(attention_mask)
        return fit(rows, columns, count, masked, self.model.config.max_position_embeddings, self._most)

    def _compute(self, shape: Shape, given: Given) -> Results:
        graph = self._graph(shape)
        if graph is None:
            batch = _Batch(shape, self._device)
            batch.fill(*given)
            return _results(self.model, batch)
        graph.batch.fill(*given)
        graph.replay()
        return tuple(None if each is None else each.clone() for each in graph.results)

    def _graph(self, shape: Shape) -> _Graph | None:
        if shape in self.refused:
            return None
        known = shape in self._met
        graph = self._met.pop(shape, None)  # the last that was asked for stands last
        if known and graph is None:
            try:
                graph = self._make(shape)
            except Exception as error:
                self.refused[shape] = str(error) if isinstance(error, DisagreesError) else gist(error)
                _log.warning("a graph of %s is left out: %s", shape, self.refused[shape])
                return None
        self._met[shape] = graph
        while len(self._met) > 1 and not self._fits():
            self._met.popitem(last=False)
        return graph

    def _make(self, shape: Shape) -> _Graph:
        """Record a shape, and hold the graph against the model with other tokens than it was recorded with."""
        batch = _Batch(shape, self._device)
        graph = _Graph(batch, *self._record(lambda: _results(self.model, batch)))
        batch.fill(*_made_up(shape, self.model.config))
        graph.replay()
        for number, (want, got) in enumerate(zip(_results(self.model, batch), graph.results, strict=True)):
            if want is not None and (got is None or not torch.equal(_bits(want), _bits(got))):
                raise DisagreesError(f"result {number} is not what the model gives, bit for bit")
        return graph

    def _fits(self) -> bool:
        graphs = [graph for graph in self._met.values() if graph is not None]
        size = sum(each.nbytes for graph in graphs for each in graph.results if each is not None)
        return len(self._met) <= _MOST_SHAPES and size <= _MOST_BYTES


class _Batch:
    """A batch that keeps its place in memory."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        tokens = (shape.rows, shape.columns)
        self.ids = torch.zeros(tokens, dtype=torch.int64, device=device)
        self.types = torch.zeros_like(self.ids)
        self.real = torch.ones_like(self.ids, dtype=torch.bool) if shape.masked else None
        self.positions = None if shape.positions is None else self.ids.new_zeros(shape.positions)

    def fill(self, ids: Tensor, types: Tensor | None, real: Tensor | None, positions: Tensor | None) -> None:
        """Put a batch here, of this shape or smaller."""
        _put(self.ids, ids)
        _put(self.types, types)
        if self.real is not None:
            _put(self.real, torch.ones_like(ids) if real is None else real)
        if self.positions is not None:
            _put(self.positions, positions)

    def inputs(self) -> dict[str, Tensor]:
        """What a model is called with."""
        named = {"token_type_ids": self.types, "attention_mask": self.real, "positions": self.positions}
        return {"input_ids": self.ids, **{name: each for name, each in named.items() if each is not None}}


class _Graph(NamedTuple):
    """A shape that was recorded."""

    batch: _Batch
    replay: Callable[[], None]
    results: Results


def _put(place: Tensor, values: Tensor | None) -> None:
    if values is None or values.shape != place.shape:
        place.zero_()
    if values is not None:
        place[tuple(slice(size) for size in values.shape)].copy_(send(values, place.device))


def _results(model: Any, batch: _Batch) -> Results:
    found = model(**batch.inputs())
    return found if isinstance(found, tuple) else (found,)


def _made_up(shape: Shape, config: RoFormerConfig) -> Given:
    generator = np.random.default_rng(_SEED)
    tokens = (shape.rows, shape.columns)
    ids, types = (generator.integers(0, size, tokens) for size in (config.vocab_size, config.type_vocab_size))
    real = np.arange(shape.columns) < generator.integers(1, shape.columns + 1, (shape.rows, 1))
    positions = generator.integers(0, shape.rows * shape.columns, shape.positions or 0)
    return torch.from_numpy(ids), torch.from_numpy(types), torch.from_numpy(real), torch.from_numpy(positions)


def _cut(x: Tensor | None, rows: int, columns: int) -> Tensor | None:
    """Take a batch out of its padding: (B, ...) or (B, T, width)."""
    return None if x is None else x[:rows, :columns] if x.dim() == 3 else x[:rows]


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)
