"""What a run starts from: its corpora, their vocabulary, and a model, at random or from a checkpoint's weights."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters import open_checkpoint
from ...converters.errors import ConvertError, MisfitError, Problem
from ...converters.source.checkpoint import Checkpoint
from ...converters.table.mapping import PRETRAINING, PROJECT, Table
from ...models.config import RoFormerConfig, activation
from ...models.ops_paddle import DIALECT, assign
from ...models.processes.start_paddle import paddle
from ...models.roformer_paddle import RoFormerForPretraining
from ...models.text.tokenizer import Tokenizer
from ..corpus.reading import Corpus, vocabulary_digest
from ..settings.tables import Settings
from .bert_weights import Opened, open_any

#: Fields that a checkpoint's weights fix, and the table's key for each.
_FIXED = (
    "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "layer_norm_eps", "rotary_value",
)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """The corpora of a run, opened and checked.

    Attributes:
        corpora: Each with its weight.
        tokenizer: Tokenizer with their common vocabulary.
    """

    corpora: tuple[tuple[Corpus, float], ...]
    tokenizer: Tokenizer

    @property
    def vocabulary(self) -> str:
        """Digest of the common vocabulary."""
        return self.corpora[0][0].vocabulary_digest

    @property
    def contents(self) -> list[list[Any]]:
        """Digest and weight of each corpus: what a checkpoint knows them by, wherever they lie."""
        out: list[list[Any]] = []
        for corpus, weight in self.corpora:
            shards = json.dumps(corpus.index["shards"], sort_keys=True).encode()
            out.append([hashlib.sha256(shards).hexdigest(), weight])
        return out

    @property
    def companions(self) -> list[Path]:
        """Tokenizer files that belong beside the weights."""
        directory = self.corpora[0][0].directory
        return [path for name in ("vocab.txt", "tokenizer_config.json") if (path := directory / name).is_file()]


def open_sources(entries: Sequence[str]) -> Sources:
    """Open the corpora that ``DIR`` and ``DIR=WEIGHT`` name.

    Raises:
        ConvertError: None is named, a weight is not a positive number, or two of them have different vocabularies.
        FormatError: One is damaged.
    """
    if not entries:
        raise ConvertError("no corpus is named", "Name a prepared one: --corpus DIR, or corpora = [...] under [data].")
    corpora = []
    for entry in entries:
        path, weight = _weighted(entry)
        corpora.append((Corpus.open(Path(path)), weight))
    first = corpora[0][0]
    for corpus, _ in corpora[1:]:
        if corpus.vocabulary_digest != first.vocabulary_digest:
            raise ConvertError(
                f"{corpus.directory} was prepared with another vocabulary than {first.directory}",
                "Prepare both with the same vocab.txt.",
            )
    return Sources(tuple(corpora), first.tokenizer())


def _weighted(entry: str) -> tuple[str, float]:
    path, sign, weight = entry.rpartition("=")
    if not sign or Path(entry).is_dir():
        return entry, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConvertError(f"corpora: {entry!r}: the weight after = must be a number above 0")
    return path, value


def model_config(settings: Settings, tokenizer: Tokenizer) -> RoFormerConfig:
    """Return the configuration of the model that the settings describe."""
    model = settings.model
    return RoFormerConfig(
        vocab_size=tokenizer.size,
        embedding_size=model.embedding_size or model.hidden_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        intermediate_size=model.intermediate_size or 4 * model.hidden_size,
        hidden_act=activation(model.hidden_act, "hidden_act"),
        hidden_dropout_prob=model.hidden_dropout_prob,
        attention_probs_dropout_prob=model.attention_probs_dropout_prob,
        max_position_embeddings=model.max_position_embeddings,
        initializer_range=model.initializer_range,
        layer_norm_eps=model.layer_norm_eps,
        rotary_value=model.rotary_value,
        pad_token_id=tokenizer.pad_id,
    )


def starting_model(settings: Settings, sources: Sources) -> tuple[RoFormerForPretraining, list[str]]:
    """Make the model, the same weights on every rank: at random from the seed, then from ``init`` where it has them.

    Returns:
        The model, and sentences that say what ``init`` lacked and what of it was left out.

    Raises:
        MisfitError: The weights of ``init`` are those of another architecture or vocabulary.
        ConvertError: There are none.
    """
    config = model_config(settings, sources.tokenizer)
    paddle.seed(settings.run.seed)
    if not settings.run.init:
        return RoFormerForPretraining(config), []
    with open_any(Path(settings.run.init)) as opened:
        _require_same(opened.checkpoint, config, sources)
        model = RoFormerForPretraining(config)
        fresh = []
        for name, parameter in model.named_parameters():
            if name in opened.checkpoint:
                assign(parameter, _as_paddle(opened.checkpoint, name))
            else:
                fresh.append(name)
        return model, _notes(opened, fresh)


def load_weights(directory: Path, config: RoFormerConfig) -> Iterator[tuple[str, NDArray[Any]]]:
    """Read a run's own checkpoint, laid out as Paddle does, a parameter at a time.

    Raises:
        ConvertError: It is not a whole model of this configuration.
    """
    with open_checkpoint(directory) as checkpoint:
        for name, row in Table.of(config, PRETRAINING).by_canonical.items():
            if name in checkpoint:
                found = checkpoint.shape(name)
                if found != row.shape(config.sizes):
                    raise ConvertError(f"{directory}: {name} is {found}, want {row.shape(config.sizes)}")
                yield name, _as_paddle(checkpoint, name)
            elif row.group is not PROJECT or config.embedding_size != config.hidden_size:
                raise ConvertError(f"{directory} lacks {name}: not the checkpoint of a run")


def _as_paddle(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    """Read a tensor as float32, laid out as Paddle does."""
    array: NDArray[Any] = checkpoint.read(name, "float32")
    transposed = checkpoint.table.by_canonical[name].transposed(DIALECT)
    return np.ascontiguousarray(array.T) if transposed else array


def _require_same(checkpoint: Checkpoint, config: RoFormerConfig, sources: Sources) -> None:
    """Hold a checkpoint to start from against the model that is to be trained, and against the corpora's vocabulary.

    Raises:
        MisfitError: They differ; every difference is listed.
    """
    theirs = replace(checkpoint.config, hidden_act=activation(checkpoint.config.hidden_act, "hidden_act"))
    problems = [
        Problem("model", name, f"got {getattr(theirs, name)!r}, want {getattr(config, name)!r}")
        for name in _FIXED
        if getattr(theirs, name) != getattr(config, name)
    ]
    if theirs.vocab_size != config.vocab_size:
        detail = f"got {theirs.vocab_size:,} rows, the corpora's vocabulary has {config.vocab_size:,}"
        problems.append(Problem("vocabulary", "embeddings.word.weight", detail))
    elif theirs.type_vocab_size != config.type_vocab_size:
        problems.append(Problem("model", "type_vocab_size", f"got {theirs.type_vocab_size}, want 2"))
    own = Path(checkpoint.path) if Path(checkpoint.path).is_dir() else Path(checkpoint.path).parent
    if (own / "vocab.txt").is_file() and not problems:
        digest = vocabulary_digest(Tokenizer.from_pretrained(own))
        if digest != sources.vocabulary:
            problems.append(
                Problem("vocabulary", "vocab.txt", "its rows differ from those of the corpora's vocabulary")
            )
    if problems:
        raise MisfitError(
            checkpoint.path,
            "the model that is to be trained",
            problems,
            "Set [model] to the checkpoint's values; prepare the corpora with its vocabulary: "
            f"--vocab {shlex.quote(str(own))}.",
        )


def _notes(opened: Opened, fresh: Sequence[str]) -> list[str]:
    out = list(opened.notes)
    if fresh:
        out.append(f"not in it, so initialised at random: {', '.join(fresh)}")
    if not (Path(opened.checkpoint.path) / "vocab.txt").is_file():
        out.append("it has no vocab.txt: row n is assumed to be the same token in both vocabularies")
    return out
