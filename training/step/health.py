"""Where numbers went wrong: the first tensor that is not finite, in the order in which a step computes them."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ...converters.errors import ConvertError
from ...models.ops_paddle import Tensor
from ...models.processes.start_paddle import paddle
from ..samples.batches import Batch
from .objective import losses

_MOST_SAMPLES = 8


class BadNumberError(ConvertError):
    """A step's numbers are not finite, or loss scaling found no scale at which they are.

    Args:
        step: The step that could not be taken.
        why: What stopped the run.
        tensor: The first bad tensor and what is in it, or None where this rank has none.
        samples: Numbers of the batch's samples.
        saved: The newest checkpoint, or None.
        skipped: What is passed over already, as ``skip_steps`` has it: the checkpoint may lie before it.
    """

    def __init__(
        self,
        step: int,
        why: str,
        tensor: str | None,
        samples: Sequence[int],
        saved: str | None,
        skipped: Sequence[str] = (),
    ) -> None:
        self.step, self.tensor, self.samples = step, tensor, tuple(samples)
        shown = ", ".join(str(sample) for sample in samples[:_MOST_SAMPLES])
        more = f" and {len(samples) - _MOST_SAMPLES} more" if len(samples) > _MOST_SAMPLES else ""
        found = tensor or "none on this rank: another rank reports it"
        flags = " ".join(f"--skip-steps {each}" for each in (*skipped, step))
        super().__init__(
            f"step {step}: {why}\n  first bad tensor   {found}\n  samples            {shown}{more}\n"
            f"  newest checkpoint  {saved or 'none'}",
            f"Skip these data (--resume {flags}), or go on with a lower --max-lr (--resume)."
            if saved
            else "Start again with a lower --max-lr or more --warmup-steps.",
        )


def first_bad_tensor(
    model: Any,
    masters: Mapping[str, Any],
    batches: Sequence[Batch],
    *,
    scale: float,
    autocast: Callable[[], AbstractContextManager[Any]],
    seed: Callable[[int], int],
) -> tuple[str | None, list[int]]:
    """Compute a step once more with its activations in sight; name the first that is not finite, and its samples.

    The order is that of a step: weights, the activations and losses of each micro-batch, gradients.

    Args:
        model: The model that computes.
        masters: Weights by canonical name.
        batches: The rank's micro-batches.
        scale: What the loss is multiplied by.
        autocast: Makes the context of a forward pass.
        seed: The random seed of a micro-batch, by its number.
    """
    everything = [int(sample) for batch in batches for sample in batch.samples]
    for name, master in masters.items():
        if bad := _bad(master):
            return f"weight {name} ({bad})", everything
    _clear(model, masters)
    for number, batch in enumerate(batches):
        here = [int(sample) for sample in batch.samples]
        paddle.seed(seed(number))
        taps: dict[str, Tensor] = {}
        with autocast():
            found = losses(model, batch, taps=taps, accuracy=False)
        named = {**taps, "mlm loss": found.mlm_sum, "sop loss": found.sop_sum}
        for name, tensor in named.items():
            if bad := _bad(tensor):
                return f"activation {name} ({bad})", here
        ((found.mlm_sum / max(1, found.mlm_count) + found.sop_sum / max(1, found.sop_count)) * scale).backward()
        for name, gradient in _gradients(model):
            if bad := _bad(gradient):
                return f"gradient of {name} ({bad})", here
    return None, everything


def _gradients(model: Any) -> Iterator[tuple[str, Any]]:
    # the backward pass goes from the last parameter to the first
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None:
            yield name, parameter.grad


def _clear(model: Any, masters: Mapping[str, Any]) -> None:
    for parameter in (*model.parameters(), *masters.values()):
        parameter.clear_gradient(False)


def _bad(tensor: Any) -> str:
    """Say how many elements are not finite, or nothing."""
    with paddle.no_grad():
        plain = tensor.astype("float32")
        nans, infinities = int(paddle.isnan(plain).sum()), int(paddle.isinf(plain).sum())
    parts = [f"{count:,} {word}" for count, word in ((nans, "NaN"), (infinities, "infinite")) if count]
    return f"{' and '.join(parts)} of {plain.size:,}" if parts else ""
