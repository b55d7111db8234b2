"""Open a checkpoint to start a run from: a RoFormer's of any dialect, or a BERT's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...converters.source.bert_start import is_bert
from ...converters.source.checkpoint import Checkpoint
from ...converters.source.fitting import fit
from ...converters.source.identification import identify
from ...converters.source.renaming import Parts


@dataclass(frozen=True)
class Opened:
    """A checkpoint to start from.

    Attributes:
        checkpoint: Its tensors under canonical names.
        notes: What was seen through, respelled or left out, in a sentence each.
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
    if is_bert(tensor.name for tensor in found.index.tensors):
        found = identify(path, parts=Parts(bert=True))
    with fit(found, any_vocab=True).require() as checkpoint:
        yield Opened(checkpoint, found.notes)
