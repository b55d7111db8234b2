"""Who is timed on a GPU, and what each does: our PyTorch model and transformers', on the same weights and batches."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from roformer_convert.models.proving.graphs_torch import Graphed, Record
from roformer_convert.models.roformer_torch import RoFormerForMaskedLM

#: Runs what is timed, once.
Job = Callable[[], Any]


class Place(NamedTuple):
    """Where and on what everything runs.

    Attributes:
        device: The GPU, or with ``--tiny`` the CPU.
        source: A checkpoint of random weights in PyTorch's dialect.
        recorder: Makes what makes graphs.
        backend: Of ``torch.compile``; None where nothing is compiled.
        shapes: Rows and columns of the batches without padding; the last is the large one.
        sentences: How many there are in the ragged batch.
    """

    device: torch.device
    source: Path
    recorder: Callable[[torch.device], Record]
    backend: str | None
    shapes: tuple[tuple[int, int], ...]
    sentences: int

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def find_transformers() -> Any:
    """Import transformers, or return None where it is not installed."""
    return importlib.import_module("transformers") if importlib.util.find_spec("transformers") else None


def whole_batch(place: Place, rows: int, columns: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Make a batch without padding, on the device."""
    ids = np.random.default_rng(rows * columns).integers(0, vocabulary, (rows, columns))
    tensors = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    return {name: torch.from_numpy(array).to(place.device) for name, array in tensors.items()}


def ragged_batch(place: Place, vocabulary: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Make a batch of sentences of 9 to 92 tokens, on the host, and choose one token in seven: flat positions (K,)."""
    generator = np.random.default_rng(0)
    lengths = np.sort(generator.integers(9, 93, place.sentences))
    real = np.arange(lengths.max()) < lengths[:, None]
    ids = generator.integers(1, vocabulary, real.shape) * real
    arrays = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": real.astype(np.int64)}
    places = np.flatnonzero(real)
    positions = np.sort(generator.choice(places, places.size // 7, replace=False))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(positions)


class Models:
    """Both models in bfloat16, ready for inference."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ours: Any = RoFormerForMaskedLM.from_pretrained(place.source, dtype="bfloat16").to(place.device)
        self.graphed = Graphed(self.ours, place.recorder)
        self.theirs: Any = None
        transformers = find_transformers()
        if transformers is not None:
            loaded = transformers.RoFormerForMaskedLM.from_pretrained(place.source, dtype=torch.bfloat16)
            self.theirs = loaded.eval().to(place.device)

    def whole(self, rows: int, columns: int, compiled: bool) -> dict[str, Job]:
        """Who computes every logit of a batch without padding."""
        given = whole_batch(self.place, rows, columns, self.ours.config.vocab_size)
        jobs: dict[str, Job] = {"ours, eager": lambda: self.ours(**given)}
        if self.graphed.shape(**given) is not None:
            jobs["ours, graph"] = lambda: self.graphed(**given)
        if self.theirs is not None:
            jobs["transformers, eager"] = lambda: self.theirs(**given).logits
        if compiled and self.place.backend is not None:
            ours = torch.compile(self.ours, dynamic=False, backend=self.place.backend)
            jobs["ours, compiled"] = lambda: ours(**given)
            if self.theirs is not None:
                theirs = torch.compile(self.theirs, dynamic=False, backend=self.place.backend)
                jobs["transformers, compiled"] = lambda: theirs(**given).logits
        return jobs

    def sentences(self) -> tuple[dict[str, Job], int]:
        """Who computes the logits of one token in seven of sentences, and how many real tokens there are."""
        given, positions = ragged_batch(self.place, self.ours.config.vocab_size)
        there = {name: one.to(self.place.device) for name, one in given.items()}
        chosen = positions.to(self.place.device)
        packed = {**there, "attention_mask": given["attention_mask"]}  # lengths are read on the host
        jobs: dict[str, Job] = {
            "ours, padded": lambda: self.ours(**there, positions=chosen),
            "ours, packed": lambda: self.ours(**packed, positions=positions, packed=True),
        }
        if self.theirs is not None:

            def at_positions() -> Any:
                hidden = self.theirs.roformer(**there).last_hidden_state
                return self.theirs.cls(hidden.reshape(-1, hidden.shape[-1])[chosen])

            jobs["transformers, head at those tokens"] = at_positions
            jobs["transformers, plain call"] = lambda: self.theirs(**there).logits
        return jobs, int(given["attention_mask"].sum())


def who_trains() -> list[str]:
    """Name whose steps there are."""
    theirs = ["transformers, head at those tokens", "transformers, plain call"]
    return ["ours", *(theirs if find_transformers() is not None else [])]


def training_step(place: Place, who: str) -> Job:
    """Make a step of a contestant: autocast to bfloat16, the head at 15 % of the tokens, clipping, fused AdamW.

    Args:
        place: Where it trains, on its last shape.
        who: As :func:`who_trains` names them.
    """
    rows, columns = place.shapes[-1]
    if who == "ours":
        model: Any = RoFormerForMaskedLM.from_pretrained(place.source, dtype="float32")
    else:
        model = find_transformers().RoFormerForMaskedLM.from_pretrained(place.source, dtype=torch.float32)
    model = model.train().to(place.device)
    given = whole_batch(place, rows, columns, model.config.vocab_size)
    generator = np.random.default_rng(1)
    chosen = np.sort(generator.choice(rows * columns, rows * columns * 15 // 100, replace=False))
    positions = torch.from_numpy(chosen).to(place.device)
    labels = given["input_ids"].reshape(-1)[positions]
    everywhere = torch.full_like(given["input_ids"], -100)
    everywhere.view(-1)[positions] = labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)

    def loss() -> torch.Tensor:
        if who == "transformers, plain call":
            return model(**given, labels=everywhere).loss
        if who == "ours":
            found = model(**given, positions=positions)
        else:
            hidden = model.roformer(**given).last_hidden_state
            found = model.cls(hidden.reshape(-1, hidden.shape[-1])[positions])
        return torch.nn.functional.cross_entropy(found.float(), labels)

    def step() -> None:
        with torch.autocast(place.device.type, dtype=torch.bfloat16):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
