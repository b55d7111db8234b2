"""Open a checkpoint to start a run from: a RoFormer's of any dialect, or a BERT's.

A BERT is a RoFormer with learned positions: its tensors have the table's names under ``bert.`` instead of
``roformer.``, in Paddle's dialect and in torch's; in TF1 both are ``bert/``. The positions are left out, for rotation
takes their place, and so is the next-sentence head, which was trained on another question than the order of two
sentences; older torch files call the norms' weight and bias gamma and beta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...converters.errors import Problem, fold_layers
from ...converters.source.checkpoint import Checkpoint
from ...converters.source.fitting import fit
from ...converters.source.identification import identify
from ...converters.tensors.stored import StoredTensor

#: What makes a checkpoint a BERT.
_POSITIONS = re.compile(r"(bert[./])?embeddings[./]position_(embeddings|ids)")
#: What a RoFormer that starts from it has no use for, beside the positions.
_DROPPED = re.compile(r"cls[./]seq_relationship[./]")
#: What a BERT's configuration says of its function, which a RoFormer that starts from it does not keep.
_OF_A_BERT = ("model_type", "architectures", "init_class", "position_embedding_type")
_OLD_NORM = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Opened:
    """A checkpoint to start from.

    Attributes:
        checkpoint: Its tensors under canonical names.
        notes: What was left out, in a sentence each.
    """

    checkpoint: Checkpoint
    notes: tuple[str, ...] = ()


@contextmanager
def open_any(path: Path) -> Iterator[Opened]:
    """Open a RoFormer of any dialect, or a BERT of Paddle's, torch's or TF1's.

    Raises:
        MisfitError: Tensors, table and configuration do not fit; every problem is listed.
        FormatError: A file is broken or hostile.
        ConvertError: There is no checkpoint.
    """
    found = identify(path)
    notes: tuple[str, ...] = ()
    if any(_POSITIONS.match(tensor.name) for tensor in found.index.tensors):
        kept, dropped = _as_roformer(found.index.tensors)
        found = found.with_tensors(kept, excused=_OF_A_BERT)
        notes = (f"a BERT: left out {', '.join(_folded(dropped))}; RoFormer has rotary positions instead",)
    with fit(found, any_vocab=True).require() as checkpoint:
        yield Opened(checkpoint, notes)


def _as_roformer(stored: Iterable[StoredTensor]) -> tuple[list[StoredTensor], list[str]]:
    """Give a BERT's tensors a RoFormer's names; name those that a RoFormer has no use for."""
    kept: list[StoredTensor] = []
    dropped: list[str] = []
    for tensor in stored:
        if _POSITIONS.match(tensor.name) or _DROPPED.match(tensor.name):
            dropped.append(tensor.name)
            continue
        name = tensor.name
        if name.startswith("bert."):
            name = f"roformer.{name.removeprefix('bert.')}"
            head, _, last = name.rpartition(".")
        else:
            head, _, last = name.rpartition(".")
        if last in _OLD_NORM and "LayerNorm" in head:
            name = f"{head}.{_OLD_NORM[last]}"
        kept.append(replace(tensor, name=name))
    return kept, dropped


def _folded(names: list[str]) -> list[str]:
    return [problem.name for problem, _ in fold_layers(Problem("dropped", name) for name in names)]
