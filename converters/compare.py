"""Compare two checkpoints of any dialects, tensor by tensor under canonical names."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .source.checkpoint import Checkpoint
from .tensors.blocks import Scratch, blocks, in_order, together
from .tensors.checksums import require, running, verify_checksum
from .tensors.dtypes import cast, numpy_dtype

Verdict = Literal["equal", "close", "differs", "shape", "dtype", "only in the first", "only in the second"]


@dataclass(frozen=True)
class TensorDifference:
    """One tensor as it is in two checkpoints.

    Attributes:
        name: Canonical name.
        verdict: ``"equal"`` means equal bits; ``"close"``, values within what is allowed; ``"dtype"``, equal
            values of other types.
        detail: Shapes or types where they are the difference.
        largest: Largest absolute difference, in float64; NaN where one side is not a number and the other is.
        index: Where that is, in canonical orientation (out, in).
        first: Value there in the first checkpoint.
        second: Value there in the second.
        count: Number of elements whose values differ.
    """

    name: str
    verdict: Verdict
    detail: str = ""
    largest: float = 0.0
    index: tuple[int, ...] = ()
    first: float | None = None
    second: float | None = None
    count: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints side by side.

    Attributes:
        tensors: A line for every canonical name of either.
        config: Field → (first, second) where the configurations differ.
        notes: What differs beside the model, which makes the two no less equal.
    """

    tensors: tuple[TensorDifference, ...]
    config: dict[str, tuple[Any, Any]]
    notes: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether the two are equal as far as was asked: every tensor equal or close, every field equal."""
        return not self.config and all(tensor.verdict in ("equal", "close") for tensor in self.tensors)

    @property
    def equal(self) -> bool:
        """Whether every tensor has equal bits and every field an equal value."""
        return not self.config and all(tensor.verdict == "equal" for tensor in self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """Render as data for ``--json``."""
        return {
            "equal": self.equal,
            "agree": self.agree,
            "config": {name: list(pair) for name, pair in self.config.items()},
            "notes": list(self.notes),
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def compare(
    first: Checkpoint,
    second: Checkpoint,
    *,
    atol: float | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Compare two open checkpoints with bounded memory.

    Args:
        first: One of them.
        second: The other.
        atol: Largest absolute difference of two values that are close, whatever their types; None for equal bits.
        progress: Called with the bytes of each tensor that was compared.
    """
    names = list(dict.fromkeys([*first.bindings, *second.bindings]))
    tensors = []
    for name in names:
        tensors.append(_judged(_compare_tensor(first, second, name), atol))
        progress(first.bindings[name].stored.nbytes if name in first else 0)
    config = {
        field.name: (getattr(first.config, field.name), getattr(second.config, field.name))
        for field in fields(first.config)
        if getattr(first.config, field.name) != getattr(second.config, field.name)
    }
    return Comparison(tuple(tensors), config, _vocabulary_notes(first, second))


def _vocabulary_notes(first: Checkpoint, second: Checkpoint) -> tuple[str, ...]:
    """Say that the two read texts by other vocabularies: equal models then answer differently."""
    one, two = ([path for path in each.companions if path.name == "vocab.txt"] for each in (first, second))
    if one and two and not filecmp.cmp(one[0], two[0], shallow=False):
        return ("the two vocab.txt differ, so that equal texts are not equal token ids",)
    return ()


def _judged(found: TensorDifference, atol: float | None) -> TensorDifference:
    """Call a tensor close whose values differ by no more than ``atol``; NaN is close to nothing but NaN."""
    if atol is not None and found.verdict in ("differs", "dtype") and found.largest <= atol:
        return replace(found, verdict="close")
    return found


def _compare_tensor(first: Checkpoint, second: Checkpoint, name: str) -> TensorDifference:
    if name not in second:
        return TensorDifference(name, "only in the first")
    if name not in first:
        return TensorDifference(name, "only in the second")
    shapes = first.shape(name), second.shape(name)
    if shapes[0] != shapes[1]:
        return TensorDifference(name, "shape", f"{shapes[0]} and {shapes[1]}")
    types = first.dtype(name), second.dtype(name)
    largest, where, pair, count, bits = 0.0, -1, (0.0, 0.0), 0, True
    start = 0
    for left, right in together(_canonical(first, name), _canonical(second, name)):
        if types[0] != types[1] or not np.array_equal(left, right):
            bits = False
            one = _float64(left, types[0], name)
            two = _float64(right, types[1], name)
            with np.errstate(invalid="ignore"):
                distance = np.abs(one - two)
            distance[one == two] = 0.0  # infinities of one sign
            odd = np.isnan(one) != np.isnan(two)
            distance[np.isnan(one) & np.isnan(two)] = 0.0
            distance[odd] = np.inf
            count += int((distance > 0).sum())
            at = int(distance.argmax())
            if distance[at] > largest or (where < 0 and distance[at] > 0):
                largest, where, pair = float(distance[at]), start + at, (float(one[at]), float(two[at]))
        start += len(left)
    if bits:
        return TensorDifference(name, "equal")
    detail = f"{types[0]} and {types[1]}" if types[0] != types[1] else ""
    if where < 0:
        # other bits of the same value (0.0 and -0.0, two NaNs) still differ; other types alone are called so
        verdict: Verdict = "dtype" if detail else "differs"
        return TensorDifference(name, verdict, detail or "bits of equal value (signed zero or NaN)")
    index = tuple(int(i) for i in np.unravel_index(where, shapes[0]))
    if any(map(np.isnan, pair)):
        largest = float("nan")
    return TensorDifference(name, "differs", detail, largest, index, pair[0], pair[1], count)


def _canonical(checkpoint: Checkpoint, name: str) -> Iterator[NDArray[Any]]:
    """Return a tensor's elements in canonical order, as bit patterns.

    Raises:
        FormatError: The file has a checksum that is wrong, or ends early.
    """
    binding = checkpoint.bindings[name]
    transpose = binding.transposed and len(binding.stored.shape) == 2
    checksum = running(binding.stored)
    in_one_go = in_order(binding.stored, transpose=transpose)
    if not in_one_go:
        verify_checksum(checkpoint.files, binding.stored)
    passing = checksum.update if in_one_go and checksum.kind else None
    yield from blocks(checkpoint.files, binding.stored, transpose=transpose, scratch=Scratch(), passing=passing)
    if passing is not None:
        require(binding.stored, checksum)


def _float64(bits: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    return cast(bits.view(numpy_dtype(dtype)), dtype, "float64", name=name)
