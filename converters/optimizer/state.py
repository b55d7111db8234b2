"""What AdamW knows of a model, whoever trained it: two moments and a number of steps for each parameter.

Files that hold it: this project's ``training.safetensors``, Paddle's ``.pdopt``, PaddleNLP's ``optimizer.safetensors``,
and ``optimizer.pt`` of transformers' Trainer; also a pickle with the weights in it. A reader for each gives an
:class:`OptimizerState`; :mod:`.planning` lays one out for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ..errors import ConvertError, MisfitError, Problem, quoted
from ..source.checkpoint import Binding, Checkpoint
from ..table.mapping import Dialect, Tensor
from ..tensors.stored import FLOATS, OpenFiles, StoredTensor
from .adam_steps import power_after, steps_behind


@dataclass(frozen=True)
class AdamOptions:
    """AdamW's settings; None for what no file says.

    Attributes:
        lr: Learning rate of the next step.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Of kernels and embeddings; biases and norms have none.
    """

    lr: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None

    def said(self, given: AdamOptions) -> AdamOptions:
        """Return these with what a person says of them."""
        return replace(self, **{key: value for key, value in vars(given).items() if value is not None})


#: What torch's and Paddle's AdamW take where nobody says otherwise.
DEFAULTS = AdamOptions(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)


def parse_options(texts: Iterable[str]) -> AdamOptions:
    """``["beta2=0.98", "weight_decay=0"]`` → settings.

    Raises:
        ConvertError: Not NAME=VALUE, no such setting, one given twice, or a value that it cannot have.
    """
    given: dict[str, float] = {}
    names = [each.name for each in fields(AdamOptions)]
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise ConvertError(f"--adam {quoted(text)}: want one of {', '.join(f'{each}=…' for each in names)}")
        if name in given:
            raise ConvertError(f"--adam gives {name} twice")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        share = name.startswith("beta")
        if not 0 <= number < (1 if share else math.inf):
            raise ConvertError(f"--adam {quoted(text)}: want a number from 0{' to below 1' if share else ''}")
        given[name] = number
    return AdamOptions(**given)


@dataclass(frozen=True)
class Moments:
    """What is kept of one parameter.

    Attributes:
        first: Mean of the gradients, of the parameter's shape.
        second: Mean of their squares, the same.
        steps: Steps taken, where the file counts them.
        powers: beta1 and beta2 to the power of the steps and one more, where the file keeps those: Paddle's way.
    """

    first: StoredTensor
    second: StoredTensor
    steps: int | None = None
    powers: tuple[float, float] | None = None


@dataclass(frozen=True)
class OptimizerState:
    """An optimiser's state as a file holds it.

    Attributes:
        path: The file.
        files: Every file that was read for it.
        layout: The dialect whose orientation the moments have.
        moments: Canonical name → what is kept of that parameter; one that was never trained has none.
        options: The optimiser's settings, as far as the files say them.
        last_step: Steps of the whole run, where a file counts them.
        schedule: State of Paddle's learning-rate scheduler.
        masters: Canonical name → float32 weights that are trained in place of rounded ones.
        notes: What the reader of the result should know.
        inside: Where it is in a file that holds the weights too, ``optimizer_states.0``.
    """

    path: Path
    files: tuple[Path, ...]
    layout: Dialect
    moments: Mapping[str, Moments]
    options: AdamOptions
    last_step: int | None = None
    schedule: Mapping[str, object] = field(default_factory=dict)
    masters: Mapping[str, StoredTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inside: str = ""

    def binding(self, tensor: Tensor, stored: StoredTensor) -> Binding:
        """Bind a moment (or a master) to its parameter's row."""
        return Binding(tensor, stored, tensor.transposed(self.layout) != (stored.order == "F"))

    def steps(self, name: str) -> int:
        """Return the steps that a parameter has taken.

        Raises:
            ConvertError: Paddle's powers are not powers of the decays.
        """
        moments = self.moments[name]
        if moments.steps is not None:
            return moments.steps
        assert moments.powers is not None, "a reader gives one or the other"
        try:
            return steps_behind(moments.powers, self.betas, self.last_step)
        except ValueError as error:
            raise ConvertError(
                f"{self.path}: of {name} {error}",
                "Say what they were: --adam beta1=… --adam beta2=…",
            ) from None

    def powers(self, name: str) -> tuple[float, float]:
        """Return what Paddle keeps of a parameter's steps: beta1 and beta2 to the power of them and one more."""
        moments = self.moments[name]
        if moments.powers is not None:
            return moments.powers
        assert moments.steps is not None, "a reader gives one or the other"
        beta1, beta2 = self.betas
        return power_after(beta1, moments.steps), power_after(beta2, moments.steps)

    @property
    def betas(self) -> tuple[float, float]:
        """Both decays, the usual ones where nothing says them."""
        known = DEFAULTS.said(self.options)
        assert known.beta1 is not None, "it has a default"
        assert known.beta2 is not None, "it has a default"
        return known.beta1, known.beta2

    def require_fit(self, checkpoint: Checkpoint) -> None:
        """Hold every moment against its parameter.

        Raises:
            MisfitError: Shapes or types differ; all of them are listed.
        """
        problems: list[Problem] = []
        for name, stored in self._arrays():
            tensor = checkpoint.bindings[name].tensor
            shape = checkpoint.shape(name)
            want = shape[::-1] if tensor.transposed(self.layout) else shape
            if stored.shape != want:
                problems.append(Problem("shape", stored.name, f"got {stored.shape}, want {want}, as {name} has it"))
            elif stored.dtype not in FLOATS:
                problems.append(Problem("dtype", stored.name, f"got {stored.dtype}, want {' or '.join(FLOATS)}"))
        if problems:
            step = "The optimiser's state and the weights are of two models: take both from one checkpoint."
            raise MisfitError(self.path, f"the weights in {checkpoint.directory}", problems, step)

    def _arrays(self) -> Iterable[tuple[str, StoredTensor]]:
        for name, moments in self.moments.items():
            yield name, moments.first
            yield name, moments.second
        yield from self.masters.items()


def plain_number(value: object) -> float | None:
    """Return a number from 0 on that a file gave, or None where it is something else; no number of AdamW's is huge."""
    return float(value) if type(value) in (int, float) and 0 <= value < 1e30 else None  # type: ignore[operator,arg-type]


def unknown_layout(path: Path, what: str, want: str) -> ConvertError:
    """Say that an optimiser's state is of a layout that is not read, and what was expected."""
    return ConvertError(
        f"{path}: {what}; want {want}",
        "Only AdamW's state is carried. Without --with-optimizer the weights are converted alone.",
    )


def scalar(files: OpenFiles, stored: StoredTensor, fail: Callable[[str], ConvertError]) -> float:
    """Read a tensor of one number.

    Raises:
        ConvertError: It is not one number of a plain type, by ``fail``.
    """
    import numpy as np

    from ..tensors.dtypes import numpy_dtype

    if stored.size != 1 or stored.dtype not in ("float32", "float64", "int64", "int32"):
        raise fail(f"{quoted(stored.name)} is {stored.dtype} of shape {stored.shape}, want one number")
    content = bytearray(stored.nbytes)
    stored.data.read_into(files, 0, memoryview(content))
    return float(np.frombuffer(content, numpy_dtype(stored.dtype))[0])
