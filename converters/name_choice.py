"""A choice between names that also takes what people type for them, and asks for the nearest where it is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from .other_names import did_you_mean, usual_name

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice


class NameChoice(_Choice):
    """One of some names: ``--dtype fp16`` is ``float16``, ``--to pytorch`` is ``torch``.

    Args:
        names: They, as ``--help`` lists them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(list(names))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name that is meant."""
        usual = usual_name(str(value), self.choices)
        try:
            return super().convert(usual, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}{did_you_mean(str(value), self.choices)}", param, ctx)
