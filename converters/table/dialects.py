"""What a dialect's directory looks like: whose software loads it, configuration names, the files that travel along.

Which containers its weights may be in is for each container to say (:mod:`..containers.registry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .config import RoFormerConfig
from .mapping import Dialect, Traits


@dataclass(frozen=True)
class DialectFiles:
    """What a directory of a dialect's software looks like.

    Attributes:
        software: Who loads such a directory.
        configs: Names of the configuration, newest first; the first is written.
    """

    software: str
    configs: tuple[str, ...]


DIALECT_FILES: Mapping[Dialect, DialectFiles] = {
    "paddle": DialectFiles("PaddleNLP", ("config.json", "model_config.json")),
    "torch": DialectFiles("transformers", ("config.json", "bert4torch_config.json")),
    "tf": DialectFiles("transformers for TF", ("config.json",)),
    "tf1": DialectFiles("bert4keras", ("bert_config.json",)),
}


def software_of(dialect: Dialect, config: RoFormerConfig) -> str:
    """Name the software that loads a model of ``config`` in a dialect: RoFormerV2 in torch is JunnYu's package's."""
    if dialect == "torch" and Traits.of(config) != Traits():
        return "JunnYu's package"
    return DIALECT_FILES[dialect].software


#: Files that hold AdamW's state beside the weights: torch's, Paddle's, and this project's own.
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.pdopt", "training.safetensors")

#: Files that travel as they are: every dialect's tokenizers read the same ones, and a licence belongs to its weights.
COMPANIONS = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
)
