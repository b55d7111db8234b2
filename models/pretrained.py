"""From a checkpoint directory to a model's parameters and back: what the three models' loaders share.

``from_pretrained`` opens a directory of any dialect with :func:`opened`, builds its model and fills each parameter from
:meth:`Source.read`; ``save_pretrained`` hands its parameters to :func:`save`. A framework whose Linear holds its kernel
(in, out) says so by naming the dialect whose files do the same, and the converter's table does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..converters import Checkpoint, save_checkpoint
from ..converters.source.fitting import fit
from ..converters.source.identification import identify
from ..converters.source.stated import Stated
from ..converters.table.mapping import BASE, CLASSES, Dialect, ModelClass, Table, Tensor, Traits
from ..converters.tensors.stored import FLOATS
from .config import ModelError, RoFormerConfig, supported, with_limit

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)

_SEQUENCE, _TOKENS, _ANSWERS, _CHOICE = (
    CLASSES[name]
    for name in ("sequence-classification", "token-classification", "question-answering", "multiple-choice")
)


def class_of(model: type) -> ModelClass:
    """Return the table's class of a class of models, or of one derived from it."""
    by_name = {kind.class_name: kind for kind in CLASSES.values()}
    return next(by_name[base.__name__] for base in model.__mro__ if base.__name__ in by_name)


@dataclass(frozen=True)
class Source:
    """An opened checkpoint, as a model's loader sees it.

    Attributes:
        config: With the raised limit, activations under the table's names, and what a fresh head computes.
        dtype: Type to build the model in.
        parts: Arguments of the model's class that say which parts it has.
    """

    config: RoFormerConfig
    dtype: str
    parts: Mapping[str, bool]
    _checkpoint: Checkpoint
    _kind: ModelClass
    _tensors: Mapping[str, Tensor]
    _layout: Dialect
    _fresh: bool

    def read(self, name: str) -> NDArray[Any] | None:
        """Read one parameter as the framework lays it out, bfloat16 as uint16 bit patterns.

        Returns None where the file has no such head and the caller asked for a fresh one.

        Raises:
            ModelError: The file has no such head.
        """
        if not holds(self._checkpoint, self._kind, name):
            if self._fresh:
                return None
            raise _lacking(self._checkpoint, self._kind, f"{self._tensors[name].group.name} ({name})")
        array: NDArray[Any] = self._checkpoint.read(name, self.dtype)
        return np.ascontiguousarray(array.T) if self._tensors[name].transposed(self._layout) else array


def holds(checkpoint: Checkpoint, kind: ModelClass, name: str) -> bool:
    """Say whether a checkpoint has a parameter of a model of a class: another class's classifier is not its own."""
    return name in checkpoint and (not name.startswith("classifier.") or checkpoint.kind is kind)


def _lacking(checkpoint: Checkpoint, kind: ModelClass, what: str) -> ModelError:
    there = checkpoint.model_class
    return ModelError(
        f"{checkpoint.path} is a {there} and has no {what}, which {kind.class_name} needs",
        f"Load it with {there}, or start what it lacks at random with fresh_heads=True.",
    )


@contextmanager
def opened(
    kind: ModelClass,
    directory: str | Path,
    *,
    layout: Dialect,
    dtype: str | None,
    extend_to: int | None,
    fresh_heads: bool,
    num_labels: int | None,
    computes: Callable[[str], bool],
    **stated: Unpack[Stated],
) -> Iterator[Source]:
    """Open a checkpoint of any dialect for a class of models.

    Args:
        kind: The class. Where no file says what the checkpoint is, it is that.
        directory: What ``open_checkpoint`` takes.
        layout: The dialect whose files hold kernels as the framework does.
        dtype: Type to build the model in; None for the stored one.
        extend_to: Raises ``max_position_embeddings``, in tokens.
        fresh_heads: Whether a head that the file lacks starts at random; otherwise that is an error.
        num_labels: Labels of a fresh classifier.
        computes: Says whether the framework's current device computes in a type. Stored half types that it does not
            compute in are widened to float32; one that was asked for is an error.
        **stated: What is so of the checkpoint whatever its files say.
    """
    if dtype is not None and dtype not in FLOATS:
        raise ModelError(f"dtype = {dtype!r} is not one of {', '.join(FLOATS)}")
    if dtype is not None and not computes(dtype):
        raise ModelError(f"this framework does not compute in {dtype} on the current device", "Choose dtype='float32'.")
    found = identify(directory, **stated)
    if found.choice.problem:  # no file says what it is: the class that it is loaded as, of whose encoder any may be
        named = kind if kind.stated else found.kind
        stated["model_class"] = named.name
        found = identify(directory, **stated)
    with fit(found, any_vocab=True).require() as checkpoint:
        for note in assumptions(checkpoint):
            _log.warning("%s: %s; in Python set={FIELD: VALUE}", directory, note)
        stored = stored_dtype(checkpoint)
        if dtype is None and not computes(stored):
            _log.warning(
                "%s: stored %s is computed in float32, for this device does not compute in it", directory, stored
            )
        settled, built = _parts(checkpoint, kind, layout, num_labels, fresh_heads)
        yield Source(
            config=supported(with_limit(settled, extend_to)),
            dtype=dtype or (stored if computes(stored) else "float32"),
            parts=built,
            _checkpoint=checkpoint,
            _kind=kind,
            _tensors=Table.of(checkpoint.config, kind).by_canonical,
            _layout=layout,
            _fresh=fresh_heads,
        )


def assumptions(checkpoint: Checkpoint) -> list[str]:
    """Say what is computed though no file of the checkpoint says it, each with the setting that says otherwise."""
    return [note for note in checkpoint.source_config.notes if "--set" in note]


def _parts(
    checkpoint: Checkpoint, kind: ModelClass, layout: Dialect, num_labels: int | None, fresh: bool
) -> tuple[RoFormerConfig, dict[str, bool]]:
    """Return the configuration and the parts of a model of a class, read from a checkpoint or made anew.

    A fresh head is the one that the framework's own software would build, so that its own dialect can hold it.
    """
    config, pooler = checkpoint.config, "pooler.weight" in checkpoint
    if kind.scores_words and not (checkpoint.kind.scores_words or checkpoint.kind is BASE or fresh):
        raise _lacking(checkpoint, kind, "masked-LM head")  # RoFormerV2's has no tensor that could be missed
    anew = kind.stated and not holds(checkpoint, kind, "classifier.weight")
    if num_labels is not None and num_labels != config.num_labels:
        if not anew or not fresh or kind not in (_SEQUENCE, _TOKENS):
            many = f"{config.num_labels} labels" if kind in (_SEQUENCE, _TOKENS) else "no number of labels to choose"
            raise ModelError(
                f"num_labels = {num_labels}: {checkpoint.path} as {kind.class_name} has {many}",
                "It is the size of a classifier that fresh_heads=True starts at random.",
            )
        config = replace(config, num_labels=num_labels, labels=())
    if kind.scores_words:  # JunnYu's RoFormerV2 scores them without a bias, though its kernels may have biases
        missed = not checkpoint.kind.scores_words and (layout == "paddle" or not fresh)
        return config, {"pooler": pooler, "decoder_bias": "mlm.bias" in checkpoint or missed}
    if not kind.stated:
        return config, {"pooler": pooler}
    if not anew:
        return config, {"pooler": pooler, "classifier_bias": "classifier.bias" in checkpoint}
    v2 = not Traits.of(config).norms
    if kind is _SEQUENCE:
        pooler = layout == "torch" or not v2
        if layout != "paddle":
            config = replace(config, pooler_activation=config.hidden_act)
    elif kind is _ANSWERS:
        config = replace(config, num_labels=2, labels=())  # start and end
    elif kind is _CHOICE:
        pooler = pooler or (layout == "paddle" and not v2)
        if not pooler:
            config = replace(config, pooler_activation="linear")
    return config, {"pooler": pooler, "classifier_bias": layout != "paddle" or not v2 or config.use_bias}


def stored_dtype(checkpoint: Any) -> str:
    """The type of a checkpoint's tensors; of several the one that holds them all."""
    found = {checkpoint.dtype(name) for name in checkpoint}
    if len(found) == 1:
        return str(found.pop())
    return "float64" if "float64" in found else "float32"


def save(
    directory: str | Path,
    parameters: Iterable[tuple[str, NDArray[Any]]],
    config: RoFormerConfig,
    *,
    kind: ModelClass,
    dialect: Dialect,
    dtype: str,
    force: bool,
    companions: Iterable[str | Path],
    allow_different: bool,
) -> None:
    """Write parameters (name, array as ``dialect``'s framework lays it out) as a whole checkpoint directory."""
    table = Table.of(config, kind).by_canonical
    tensors = {name: array.T if table[name].transposed(dialect) else array for name, array in parameters}
    save_checkpoint(
        directory,
        tensors,
        config,
        dialect=dialect,
        kind=kind,
        dtypes=dict.fromkeys(tensors, dtype),
        force=force,
        companions=[Path(path) for path in companions],
        allow_different=allow_different,
    )
