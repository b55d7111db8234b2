"""AdamW over a model's weights, and its state as named arrays.

Paddle's AdamW takes the step; what it is given is decided here: no decay on biases and norms, a gradient factor that
undoes loss scaling and clips at once. Its state goes by canonical parameter names, never by Paddle's counters.

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (arXiv 1711.05101).
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...converters.optimizer.adam_steps import steps_behind
from ...converters.optimizer.paddle_state import KINDS
from ...models.processes.start_paddle import paddle
from ..settings.tables import Optimizer as Options

Arrays = dict[str, NDArray[Any]]


def decays(parameter: Any) -> bool:
    """Say whether weight decay applies: to kernels and embeddings, which are matrices; biases and norms are not."""
    return len(parameter.shape) > 1


def clip_factor(norm: float, limit: float) -> float:
    """Return the factor that brings gradients of norm ``norm`` to at most ``limit``; 0 is no limit."""
    return 1.0 if not limit or norm <= limit else limit / norm


class AdamW:
    """AdamW over some parameters: all of them, or one rank's share.

    Args:
        parameters: Canonical name → float32 parameter.
        options: Decays, epsilon and clipping.
    """

    def __init__(self, parameters: Mapping[str, Any], options: Options) -> None:
        self.parameters = dict(parameters)
        self.options = options
        self._loaded: Arrays = {}
        decayed = {parameter.name for parameter in self.parameters.values() if decays(parameter)}
        self._paddle = paddle.optimizer.AdamW(
            learning_rate=0.0,
            beta1=options.beta1,
            beta2=options.beta2,
            epsilon=options.adam_epsilon,
            parameters=list(self.parameters.values()),
            weight_decay=options.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
        )

    def step(self, rate: float, factor: float) -> None:
        """Update every parameter from its gradient times ``factor``."""
        if factor != 1.0:
            with paddle.no_grad():
                for parameter in self.parameters.values():
                    parameter.grad.scale_(factor)
        self._paddle.set_lr(rate)
        self._paddle.step()

    def shape(self, name: str, kind: str) -> tuple[int, ...]:
        """Return the shape of an array of the state."""
        return tuple(self.parameters[name].shape) if kind.startswith("moment") else (1,)

    def state(self) -> Arrays:
        """Return the state as arrays ``<parameter>:<kind>``, whether or not a step was taken since it was loaded."""
        arrays = self._paddle.state_dict()  # empty before the first step: Paddle makes its arrays then
        out: Arrays = {}
        for name, parameter in self.parameters.items():
            for kind in KINDS:
                key, array = f"{name}:{kind}", arrays.get(_paddle_key(parameter, kind))
                out[key] = array.numpy() if array is not None else self._loaded.get(key, self._initial(name, kind))
        return out

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state that :meth:`state` gave, or the part of it that is this optimiser's.

        Raises:
            ConvertError: It is the state of other parameters.
        """
        arrays = {}
        for name, parameter in self.parameters.items():
            for kind in KINDS:
                key, wanted = f"{name}:{kind}", self.shape(name, kind)
                array = state.get(key)
                if array is None or array.shape != wanted:
                    got = "nothing" if array is None else f"{array.shape}"
                    raise ConvertError(f"the optimiser's state holds {got} as {key}, want {wanted}")
                arrays[_paddle_key(parameter, kind)] = paddle.to_tensor(array)
                self._loaded[key] = array
        self._paddle.set_state_dict(arrays)

    def begin(self, state: Mapping[str, NDArray[Any]]) -> list[str]:
        """Begin with another run's state; a parameter that it knows nothing of begins anew.

        Returns:
            The names of those.

        Raises:
            ConvertError: It is the state of other parameters, or of other decays.
        """
        known = {name for name in self.parameters if f"{name}:{KINDS[0]}" in state}
        if not known:
            raise ConvertError("the optimiser's state has nothing of this model's parameters")
        self.load({**self.state(), **state})
        for name in known:
            first, second = (float(self._loaded[f"{name}:{kind}"].item()) for kind in KINDS[2:])
            try:
                steps_behind((first, second), (self.options.beta1, self.options.beta2), None)
            except ValueError as error:
                raise ConvertError(
                    f"the optimiser's state of {name}: {error}", "Set beta1 and beta2 to its run's."
                ) from None
        return [name for name in self.parameters if name not in known]

    def _initial(self, name: str, kind: str) -> NDArray[Any]:
        value = {"beta1_pow_acc": self.options.beta1, "beta2_pow_acc": self.options.beta2}.get(kind, 0.0)
        return np.full(self.shape(name, kind), value, np.float32)


def _paddle_key(parameter: Any, kind: str) -> str:
    return f"{parameter.name}_{kind}_0"
