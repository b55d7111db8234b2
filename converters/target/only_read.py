"""Leave out of a checkpoint what its target's own software would report as unexpected."""

from __future__ import annotations

from dataclasses import replace

from ..source.checkpoint import Checkpoint
from ..table.mapping import MASKED_LM, PRETRAINING, SOP, Dialect, unread


def only_read(source: Checkpoint, target: Dialect) -> Checkpoint:
    """Return the same open checkpoint without the groups that the target's class does not know.

    Without its sentence-order head a model for pretraining is a masked LM.
    """
    groups = unread(target, source.kind, source.table.traits)
    left = {name: each for name, each in source.bindings.items() if each.tensor.group in groups}
    if not left:
        return source
    found = source.found
    if found.kind is PRETRAINING and SOP in groups:
        found = replace(found, choice=replace(found.choice, kind=MASKED_LM))
    names = tuple(binding.stored.name for binding in left.values())
    return replace(
        source,
        found=replace(found, left_out=(*found.left_out, *names)),
        bindings={name: each for name, each in source.bindings.items() if name not in left},
    )
