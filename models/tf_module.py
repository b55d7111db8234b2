"""What PyTorch's and Paddle's modules have and ``tf.Module`` lacks, so that ``roformer_tf.py`` can mirror the others.

No Keras: layers of ours name their weights as they like and work alike under ``tf.function``, XLA and ``SavedModel``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf


class Module(tf.Module):  # type: ignore[misc]  # TensorFlow is untyped
    """A module that is called through ``forward``, names its parameters by attribute path, and knows training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.training = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``forward``."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute; a subclass says what."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Module:
        """Set training mode throughout. A ``tf.function`` traced before keeps the mode it was traced in."""
        self.training = mode
        for _, child in self._named_children():
            if isinstance(child, Module):
                child.train(mode)
        return self

    def eval(self) -> Module:
        """Leave training mode."""
        return self.train(False)

    def named_parameters(self) -> Iterator[tuple[str, tf.Variable]]:
        """Yield every trainable variable under its attribute path, in the order of assignment."""
        for name, child in self._named_children():
            if isinstance(child, tf.Variable):
                if child.trainable:
                    yield name, child
            else:
                for path, variable in child.named_parameters():
                    yield f"{name}.{path}", variable

    def state_dict(self) -> dict[str, tf.Variable]:
        """Return every parameter under its canonical name."""
        return dict(self.named_parameters())

    def _named_children(self) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self).items():
            if name.startswith("_"):
                continue
            if isinstance(value, (tf.Variable, Module)):
                yield name, value
            elif isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item
