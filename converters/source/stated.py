"""What a person states of a checkpoint, whatever its files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from ..table.mapping import Dialect
from .renaming import ALL, Parts


class Stated(TypedDict, total=False):
    """The keyword arguments of everything that opens a checkpoint: what its directory does not say, or says wrongly.

    Attributes:
        dialect: Whose names its tensors have.
        config: A configuration file that does not lie beside the weights.
        set: Field of :class:`~..table.config.RoFormerConfig` → value: ``{"pooler_activation": "linear"}``.
        model_class: Name of its class (:data:`~..table.mapping.CLASSES`): ``"token-classification"``.
        parts: Which of the files' tensors are meant: ``Parts(prefix="student.")``.
    """

    dialect: Dialect | None
    config: str | Path | None
    set: Mapping[str, Any] | None
    model_class: str | None
    parts: Parts


def to_json(stated: Stated) -> dict[str, Any]:
    """Put what is stated into plain data, for a process that opens the checkpoint again."""
    config = stated.get("config")
    return {
        **stated,
        "config": None if config is None else str(config),
        "parts": asdict(stated.get("parts", ALL)),
    }


def from_json(data: Mapping[str, Any]) -> Stated:
    """Read what :func:`to_json` wrote."""
    return Stated(**{**data, "parts": Parts.of(data["parts"])})  # type: ignore[typeddict-item]
