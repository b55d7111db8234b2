"""Whether the processes of a run are about to train the same thing from the same place.

Nothing later would show it: gradients of unlike models, or of unlike steps, add up without a complaint, and the first
rank saves the result. A run's directory that two hosts do not share is enough, for the newest checkpoint is then
another on each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ...converters.errors import ConvertError
from .parallel import Ranks

#: Settings that each rank may have its own of: where things lie. Corpora are compared by their contents.
_OWN = {"run": {"output"}, "data": {"corpora"}}

_MOST_LINES = 20


class DisagreementError(ConvertError):
    """Ranks of one run differ in what they train.

    Args:
        problems: Rank, fact, its value there, its value on rank 0.
        ranks: How many there are.
    """

    def __init__(self, problems: Sequence[tuple[int, str, Any, Any]], ranks: int) -> None:
        self.problems = tuple(problems)
        lines = [f"  rank {rank}: {name} = {got!r}, and {want!r} on rank 0" for rank, name, got, want in problems]
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES:] = [f"  and {len(lines) - _MOST_LINES} more"]
        super().__init__(
            "\n".join([f"the {ranks} ranks do not agree on what they train; no step was taken", *lines]),
            "Give every rank the same configuration, corpora and --init, and one run directory that all of them see.",
        )


def require_agreement(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Hold every rank's facts against those of rank 0; all ranks together, and all refuse.

    Args:
        ranks: The processes.
        facts: Name → plain value, what this rank is about to do.

    Raises:
        DisagreementError: One of them differs; every difference is listed.
    """
    first, *others = (json.loads(text) for text in ranks.share(json.dumps(facts)))
    problems = [
        (rank, name, theirs.get(name), first.get(name))
        for rank, theirs in enumerate(others, 1)
        for name in dict.fromkeys([*first, *theirs])
        if theirs.get(name) != first.get(name)
    ]
    if problems:
        raise DisagreementError(problems, ranks.count)


def settings_facts(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as facts; how often a run logs, evaluates and saves is among them: all do it together."""
    facts = {
        f"{table}.{key}": value
        for table, values in tree.items()
        if table != "stages"
        for key, value in values.items()
        if key not in _OWN.get(table, ())
    }
    for number, stage in enumerate(tree["stages"]):
        facts.update({f"stages[{number}].{key}": value for key, value in stage.items()})
    return facts


def digest(arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """Digest named arrays in their order: the beginning of SHA-256, as much as a message has room for."""
    found = hashlib.sha256()
    for name, array in arrays:
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]
