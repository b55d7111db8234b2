"""What is known of a checkpoint before any framework is started: class, limits, tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters import open_checkpoint
from ...converters.source.location import locate
from ...converters.source.stated import Stated, to_json
from ..config import RoFormerConfig, with_limit
from ..pretrained import assumptions
from ..processes.devices import DeviceName
from ..text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint as a task sees it.

    Attributes:
        path: As it was named.
        kind: Its class under the name that ``--class`` takes: ``"masked-lm"``.
        model_class: Its class under the name that the frameworks' models have: ``"RoFormerForMaskedLM"``.
        config: Its configuration, with the raised limit.
        pooler: Whether there is a pooler.
        tokenizer: What lies beside its weights.
        options: What :meth:`~.worker.Worker.load` takes, but for the class to load and the device.
    """

    path: Path
    kind: str
    model_class: str
    config: RoFormerConfig
    pooler: bool
    tokenizer: Tokenizer
    options: Mapping[str, Any]

    def load(self, model_class: str, device: DeviceName) -> dict[str, Any]:
        """The request that loads it into a class of the frameworks' models on a device."""
        return {"model_class": model_class, "device": str(device), **self.options}


def learn(
    path: Path | str,
    *,
    extend_to: int | None,
    report: Callable[[str], None],
    note: Callable[[str], None],
    **stated: Unpack[Stated],
) -> CheckpointFacts:
    """Open a checkpoint of any dialect with its tokenizer, and close it again.

    Args:
        path: What ``open_checkpoint`` takes.
        extend_to: Raises the longest text, in tokens, where the configuration allows less.
        report: Called with a line on what was found.
        note: Called with each thing that is computed though no file says it.
        **stated: What is so whatever the files say.

    Raises:
        ConvertError: The checkpoint or its tokenizer is unusable.
    """
    path = locate(path)
    with open_checkpoint(path, **stated) as checkpoint:
        limits = with_limit(checkpoint.config, extend_to)
        kind, name = checkpoint.kind.name, checkpoint.model_class
        pooler = "pooler.weight" in checkpoint
        for assumed in assumptions(checkpoint):
            note(assumed)
    tokenizer = Tokenizer.from_pretrained(path if path.is_dir() else path.parent)
    words = "jieba's words" if tokenizer.settings.words else "BERT's rules"
    report(f"tokenizer: {words} ({tokenizer.settings.words_because}), {tokenizer.size:,} tokens")
    options = {"directory": str(path), "extend_to": extend_to, "stated": to_json(stated)}
    return CheckpointFacts(path, kind, name, limits, pooler, tokenizer, options)
