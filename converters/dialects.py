"""What a dialect's directory looks like: weight files, configuration names, the files that travel beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .mapping import Dialect

Container = Literal["pdparams", "safetensors", "bin", "h5", "ckpt"]
CONTAINERS: tuple[Container, ...] = ("pdparams", "safetensors", "bin", "h5", "ckpt")


@dataclass(frozen=True)
class WeightFiles:
    """The names under which a container's weights lie in a directory.

    Attributes:
        single: The one file.
        shard: Pattern of a shard's name, or None where the container is never sharded.
    """

    container: Container
    single: str
    shard: str | None = None

    @property
    def index(self) -> str | None:
        """Name of the file that maps tensors to shards."""
        return None if self.shard is None else f"{self.single}.index.json"


@dataclass(frozen=True)
class DialectFiles:
    """Attributes:
    software: Who loads such a directory.
    weights: What may hold the weights; the first is written by default.
    configs: Names of the configuration, newest first; the first is written.
    """

    software: str
    weights: tuple[WeightFiles, ...]
    configs: tuple[str, ...]

    def weight_files(self, container: str) -> WeightFiles | None:
        return next((files for files in self.weights if files.container == container), None)


# fmt: off
_SAFETENSORS = WeightFiles("safetensors", "model.safetensors", "model-{number:05d}-of-{total:05d}.safetensors")

DIALECT_FILES: Mapping[Dialect, DialectFiles] = {
    "paddle": DialectFiles("PaddleNLP", (
        WeightFiles("pdparams", "model_state.pdparams", "model_state-{number:05d}-of-{total:05d}.pdparams"),
        _SAFETENSORS,
    ), ("config.json", "model_config.json")),
    "torch": DialectFiles("transformers", (
        _SAFETENSORS,
        WeightFiles("bin", "pytorch_model.bin", "pytorch_model-{number:05d}-of-{total:05d}.bin"),
    ), ("config.json",)),
    "tf": DialectFiles("transformers' TF classes", (
        WeightFiles("h5", "tf_model.h5"),
    ), ("config.json",)),
    "tf1": DialectFiles("bert4keras", (
        WeightFiles("ckpt", "bert_model.ckpt"),
    ), ("bert_config.json",)),
}
# fmt: on

#: Whose weights a container holds when only the file says so; a safetensors file is told apart by its tensors' names.
USUAL_DIALECT: Mapping[Container, Dialect | None] = {
    "pdparams": "paddle",
    "safetensors": None,
    "bin": "torch",
    "h5": "tf",
    "ckpt": "tf1",
}

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

#: safetensors' ``__metadata__``: transformers wants "pt", PaddleNLP 2.8.1 loads only "np".
SAFETENSORS_FORMAT: Mapping[Dialect, str] = {"paddle": "np", "torch": "pt", "tf": "tf", "tf1": "np"}

#: The prefix that transformers' TF classes put before every weight of an h5 file (readers ignore it).
KERAS_MODEL_NAME = {True: "tf_ro_former_model", False: "tf_ro_former_for_masked_lm"}
