"""What must be right on a GPU before anything is timed: numbers against the CPU's, kernels, graphs, transformers.

Each check yields findings; :data:`CHECKS` lists them, and ``gpu.py`` prints what they find.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gpu_contestants import Place, find_transformers

from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.kernels.agreement import SHARE, DisagreesError, require_agreement
from roformer_convert.models.kernels.attention_torch import KERNELS, candidates, device_of
from roformer_convert.models.kernels.trials_torch import Need, attempt, gist
from roformer_convert.models.proving.graphs_torch import Graphed
from roformer_convert.models.roformer_torch import RoFormerForMaskedLM

TYPES = ("float32", "float16", "bfloat16")
_FLOAT64_ERROR = 1e-12  # of the largest logit; 1.1e-14 was measured on an H200
_FLOAT32_ERROR = 1e-4  # between our logits and transformers'
_LARGE = (30, 75)  # rows and columns: as many tokens as one product of query, key and value is for
_SMALL = RoFormerConfig(
    vocab_size=500,
    embedding_size=96,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=320,
    initializer_range=0.09,  # about 1 / √H, so that layers pass errors on without growing them
)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        verdict: ``right``, ``WRONG``, or ``left out`` where the model does without something.
        what: What was looked at.
        said: How far off it is, or what went wrong.
    """

    verdict: str
    what: str
    said: str


def model(attention: Any = "bidirectional") -> Any:
    """Make a small random model in float64 on the CPU, all of it at random."""
    torch.manual_seed(0)
    made = RoFormerForMaskedLM(replace(_SMALL, attention=attention), dtype="float64").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def batch(rows: int, columns: int, config: RoFormerConfig = _SMALL) -> dict[str, torch.Tensor]:
    """Make a batch whose rows end anywhere."""
    generator = np.random.default_rng(rows * columns)
    real = np.arange(columns) < generator.integers(1, columns + 1, (rows, 1))
    real[0] = True
    arrays = {
        "input_ids": generator.integers(0, config.vocab_size, real.shape),
        "token_type_ids": generator.integers(0, config.type_vocab_size, real.shape),
        "attention_mask": real.astype(np.int64),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def logits(made: Any, given: Mapping[str, torch.Tensor], packed: bool = False) -> np.ndarray:
    """Compute the logits of the real tokens: (P, V) in float64 on the host."""
    where = made.embeddings.word.weight.device
    with torch.inference_mode():
        found = made(
            given["input_ids"].to(where),
            token_type_ids=given["token_type_ids"].to(where),
            attention_mask=given["attention_mask"],
            packed=packed,
        )
    real = given["attention_mask"].bool()
    return found.cpu().double()[real].numpy()


def float64_is_the_cpus(place: Place) -> Iterator[Finding]:
    """Hold float64 on the device against float64 on the CPU: the same function, whatever the device's way."""
    for attention in ("bidirectional", "causal", "unilm"):
        made, given = model(attention), batch(*_LARGE)
        want = logits(made, given)
        there = copy.deepcopy(made).to(place.device)
        for packed in (False, True):
            error = abs(logits(there, given, packed) - want).max() / abs(want).max()
            verdict = "right" if error <= _FLOAT64_ERROR else "WRONG"
            yield Finding(verdict, f"float64, {attention}, {_way(packed)}", f"off the CPU's by {error:.1e}")


def types_err_as_on_the_cpu(place: Place) -> Iterator[Finding]:
    """Hold each type's error on the device against its error on the CPU, both against float64."""
    for dtype in TYPES:
        made, given = model().to(getattr(torch, dtype)), batch(*_LARGE)
        exact = {"logits": logits(copy.deepcopy(made).double(), given)}
        cpus = {"logits": logits(made, given)}
        there = copy.deepcopy(made).to(place.device)
        for packed in (False, True):
            try:
                worst = require_agreement(exact, cpus, {"logits": logits(there, given, packed)}, dtype)
                yield Finding("right", f"{dtype}, {_way(packed)}", f"{worst:.2g} times the CPU's error")
            except DisagreesError as error:
                yield Finding("WRONG", f"{dtype}, {_way(packed)}", f"{error}, {SHARE:g} times the CPU's error")


def compiled_is_the_model(place: Place) -> Iterator[Finding]:
    """Hold what is timed compiled, in bfloat16, against float64 as :func:`types_err_as_on_the_cpu` does."""
    if place.backend is None:
        return
    made, given = model().bfloat16(), batch(*_LARGE)
    exact, cpus = logits(copy.deepcopy(made).double(), given), logits(made, given)
    compiled = torch.compile(made.to(place.device), dynamic=False, backend=place.backend)
    try:
        worst = require_agreement({"logits": exact}, {"logits": cpus}, {"logits": logits(compiled, given)}, "bfloat16")
        yield Finding("right", "bfloat16, compiled", f"{worst:.2g} times the CPU's error")
    except DisagreesError as error:
        yield Finding("WRONG", "bfloat16, compiled", f"{error}, {SHARE:g} times the CPU's error")
    except Exception as error:  # a machine without a C compiler, for one
        yield Finding("left out", "bfloat16, compiled", gist(error))


def _way(packed: bool) -> str:
    return "packed" if packed else "padded"


def kernels_agree(place: Place) -> Iterator[Finding]:
    """Try every kernel that may stand in for a function at base size; the model does without one that disagrees."""
    device = device_of(torch.zeros(1, device=place.device))
    for kernel in KERNELS:
        sizes = (768,) if kernel.place == "add_norm" else (12, 64)
        tried = [dtype for dtype in kernel.types if kernel in candidates(device, kernel.place, dtype, sizes)]
        for dtype in tried:
            found = attempt(kernel, Need(kernel.place, dtype, sizes), place.device)
            yield Finding("right" if found.agrees else "left out", f"{kernel.name}, {kernel.place}, {dtype}", found.why)
        if not tried:
            yield Finding("left out", f"{kernel.name}, {kernel.place}", "this card or this PyTorch has none")


def graphs_are_the_model(place: Place) -> Iterator[Finding]:
    """Hold graphs against the model with the padded batch, bit for bit, and against float64."""
    for dtype in TYPES:
        made = model().to(place.device, getattr(torch, dtype))
        graphed = Graphed(made, place.recorder)
        for rows, columns in ((1, 32), (3, 21), (8, 64)):
            given = batch(rows, columns)
            shape = graphed.shape(**given)
            what = f"graph of {rows} × {columns}, {dtype}"
            if shape is None:
                yield Finding("left out", what, "this card gains nothing by it")
                continue
            down, right = shape.rows - rows, shape.columns - columns
            padded = {name: torch.nn.functional.pad(one, (0, right, 0, down)) for name, one in given.items()}
            with torch.inference_mode():
                want = made(**{name: one.to(place.device) for name, one in padded.items()})[:rows, :columns]
                same = [torch.equal(graphed(**given), want) for _ in range(3)]
            if shape in graphed.refused:
                yield Finding("left out", what, graphed.refused[shape])
            else:
                yield Finding("right" if all(same) else "WRONG", what, f"as {tuple(shape)[:2]}, bit for bit: {same}")


def transformers_gives_the_same(place: Place) -> Iterator[Finding]:
    """Hold our float32 logits against transformers' with the same weights."""
    transformers = find_transformers()
    if transformers is None:
        yield Finding("left out", "transformers", "not installed")
        return
    made = RoFormerForMaskedLM.from_pretrained(place.source, dtype="float32").to(place.device)
    theirs = transformers.RoFormerForMaskedLM.from_pretrained(place.source, dtype=torch.float32)
    given = batch(4, 33, made.config)
    with torch.inference_mode():
        inputs = {name: one.to(place.device) for name, one in given.items()}
        found = theirs.eval().to(place.device)(**inputs).logits.cpu().double()[given["attention_mask"].bool()].numpy()
    error = abs(logits(made, given) - found).max() / abs(found).max()
    yield Finding("right" if error <= _FLOAT32_ERROR else "WRONG", "transformers, float32", f"off ours by {error:.1e}")


CHECKS: tuple[Callable[[Place], Iterator[Finding]], ...] = (
    float64_is_the_cpus,
    types_err_as_on_the_cpu,
    compiled_is_the_model,
    kernels_agree,
    graphs_are_the_model,
    transformers_gives_the_same,
)
