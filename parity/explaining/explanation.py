"""Every participant's steps, recomputed in numpy, and what is wrong with its parameters. Imports no framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ...converters import open_checkpoint
from ...converters.source.checkpoint import Checkpoint
from ...models.config import supported
from ..judging.divergence import Divergence
from ..judging.verdicts import Verdict
from ..participants.dumps import Dump
from ..participants.participants import ComparedModel
from ..questions.cases import Case
from .causes import Cause, check_steps, explain_parameters, explain_steps
from .reference import Reference
from .sampling import Sample, tell_sampled
from .stored_parameters import StoredParameters

Array = NDArray[Any]


def explain(
    dumps: Sequence[Dump],
    cases: Sequence[Case],
    samples: Sequence[Sample],
    order: Sequence[str],
    model: ComparedModel,
    checkpoint: Checkpoint,
    digests: Mapping[str, str],
    divergence: Divergence | None,
    scales: Mapping[str, Array],
    *,
    one: bool,
) -> tuple[list[Verdict], list[Cause]]:
    """Recompute every participant's steps in numpy from its own parameters; explain what is wrong there."""
    verdicts: list[Verdict] = []
    causes: list[Cause] = []
    config = _agreed_config(dumps, divergence)
    truth = {} if one else _majority(dumps)
    note = tell_sampled(samples, cases)
    for dump in dumps:
        wrong = [name for name, digest in dump.digests.items() if digest != truth.get(name, digests.get(name))]
        with dump.opened("parameters") as arrays:
            own = dict(arrays)
        known = {name: own[name] for name in wrong if name in own}
        if known:
            right = StoredParameters(checkpoint, others=_values_of(dumps, truth, known))
            causes += explain_parameters(dump.label, known, right, model.task)
        reference = Reference(config, StoredParameters(checkpoint, others=own), model.task)
        steps = check_steps(reference, dump, samples, order, scales, note)
        causes += explain_steps(reference, dump, cases[0], samples, steps, scales)
        verdicts.append(steps.verdict)
    return verdicts, causes


def _majority(dumps: Sequence[Dump]) -> dict[str, str]:
    """Return the digest that most participants have, of each parameter; the first's where there is no majority."""
    found = {}
    for name in dumps[0].digests:
        counted = Counter(dump.digests.get(name, "") for dump in dumps)
        digest, times = counted.most_common(1)[0]
        found[name] = digest if 2 * times > len(dumps) else dumps[0].digests[name]
    return found


def _values_of(dumps: Sequence[Dump], truth: Mapping[str, str], names: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for name in names:
        holder = next((dump for dump in dumps if dump.digests.get(name) == truth.get(name)), None)
        if holder is not None and name in holder.names("parameters"):
            found[name] = holder.read("parameters", name)
    return found


def _agreed_config(dumps: Sequence[Dump], divergence: Divergence | None) -> Any:
    """Return the configuration of a participant that is not the odd one."""
    odd = None if divergence is None else divergence.odd
    chosen = next(dump for dump in dumps if dump.label != odd)
    with open_checkpoint(chosen.checkpoint) as checkpoint:
        return supported(checkpoint.config)
