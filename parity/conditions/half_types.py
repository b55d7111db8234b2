"""Half types as they are served: what a framework computes in float16 or bfloat16, held against its own float64.

How far that may be is measured in the same run, by a computation that no framework takes part in: the numpy reference
goes through the whole model and rounds every array that a framework stores, the weights among them, to the type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...converters import open_checkpoint
from ...converters.source.checkpoint import Checkpoint
from ...converters.tensors.stored import HALF_TYPES
from ...models.config import supported
from ..explaining.causes import Cause
from ..explaining.reference import Reference
from ..explaining.sampling import Sample, choose_samples
from ..explaining.stored_parameters import StoredParameters
from ..judging.bounds import Bound
from ..judging.rankings import asked, rank
from ..judging.verdicts import Verdict, judge_order
from ..participants.dumps import Distance, Dump, distance, farthest
from ..participants.participants import ComparedModel
from ..participants.rounding import UNIT, round_to
from ..questions.cases import Case
from ..questions.tasks import results
from ..questions.variants import Variant
from .invariances import judge_rows

Array = NDArray[Any]

#: How many times what numpy loses a framework may: its sums are in another order.
ROUNDINGS = 4.0
#: Widest bound that proves anything: results a quarter of their scale apart have little to do with one another.
LIMIT = 0.25


def judge_half_types(
    dtypes: Sequence[str],
    dumps: Sequence[Dump],
    officials: Sequence[Dump],
    variants: Sequence[Variant],
    cases: Sequence[Case],
    samples: Sequence[Sample],
    order: Sequence[str],
    model: ComparedModel,
    checkpoint: Checkpoint,
    scales: Mapping[str, Array],
    k: int,
) -> tuple[list[Verdict], list[Cause]]:
    """Judge what every participant computed in half types, and explain what loses too much.

    Args:
        dtypes: The types.
        dumps: The participants; the first one's float64 says what is right.
        officials: The official participants.
        variants: The other batches, in which a row gives the same.
        cases: What they ran; those whose taps are recorded, in half types too.
        samples: What of it is recomputed.
        order: Names of the taps, as they are computed.
        model: What is compared.
        checkpoint: The right parameters.
        scales: Tap → what each of its channels is held against.
        k: Answers a question.
    """
    verdicts: list[Verdict] = []
    causes: list[Cause] = []
    recorded = choose_samples(cases, model.config, model.task, budget=math.inf)
    for dtype in dtypes:
        half = HalfType(dtype, recorded, samples, order, model, checkpoint, dumps[0], scales)
        for dump in dumps:
            found = half.judge(dump)
            verdicts += [*found, *half.judge_rows(dump, variants)]
            causes += half.explain(dump) if any(verdict.status == "differs" for verdict in found) else ()
        verdicts += half.judge_rankings(dumps, cases, k)
        for dump in officials:
            if dtype in dump.facts.get("half_types", ()):
                found = half.judge(dump, "official: ")
                verdicts += found
                causes += half.explain_hidden(dump) if any(verdict.status == "differs" for verdict in found) else ()
                verdicts += half.judge_rankings([dumps[0], dump], cases, k, "official: ")
    return verdicts, causes


class HalfType:
    """What rounding to a half type does to one model, and what participants' half types are by it.

    Args:
        dtype: ``float16`` or ``bfloat16``.
        recorded: What was run in half types: all cases whose taps are recorded.
        samples: What of it is recomputed.
        order: Names of the taps, as they are computed.
        model: What is compared.
        checkpoint: The right parameters.
        exact: A participant, whose float64 says what is right.
        scales: Tap → what each of its channels is held against.
    """

    def __init__(
        self,
        dtype: str,
        recorded: Sequence[Sample],
        samples: Sequence[Sample],
        order: Sequence[str],
        model: ComparedModel,
        checkpoint: Checkpoint,
        exact: Dump,
        scales: Mapping[str, Array],
    ) -> None:
        self.dtype = dtype
        self._scales = scales
        # sums are made in float32: the product and what a bias makes of it are rounded, each by half a spacing
        self._digits = 2.0 * UNIT[dtype]
        self._recorded, self._samples = recorded, samples
        self._order = [name for name in order if name in exact.names(f"float64.{samples[0].case.name}")]
        states = [name for name in self._order if name.endswith("feed_forward_norm") or name == "embeddings"]
        self._states, self._hidden = states, states[-1]
        parameters = StoredParameters(checkpoint, self._round)
        config = supported(model.config)
        self._rounding = Reference(config, parameters, model.task, self._round)
        self._plain = Reference(config, parameters, model.task)
        self._lost = self._measure(exact, samples, self._emulate)

    def judge(self, dump: Dump, whose: str = "") -> list[Verdict]:
        """Hold a participant's results against its float64; ``whose`` begins the checks' names."""
        found = self._measure_own(dump)
        return [self._judge(dump, whose, name, *found[name]) for name in results(self._order) if name in found]

    def judge_rows(self, dump: Dump, variants: Sequence[Variant]) -> list[Verdict]:
        """Hold every row of a participant against itself in another batch."""
        config, task = self._plain.config, self._plain.task
        whose = f"{self.dtype} "

        def bound_at(dtype: str, tap: str, variant: Variant) -> Bound:
            return self._bound(tap)

        return judge_rows(
            dump, variants, (self.dtype,), config, task, self._scales, bound_at, whose=whose, digits=self._digits
        )

    def explain(self, dump: Dump) -> Iterator[Cause]:
        """Name the first step of a participant that loses more than rounding explains, judged by its own inputs."""
        for name in self._order:
            for sample in self._samples:
                taps, case = sample.taps(dump, self.dtype), sample.case
                right = self._plain.predict(name, taps, case)
                off = self._distance(name, right, taps[name]).relative
                rounded = self._distance(name, right, self._rounding.predict(name, taps, case)).relative
                most = ROUNDINGS * max(rounded, UNIT[self.dtype])
                if not off <= most:
                    what = f"{self.dtype} loses {off:.1e} of its scale here, and rounding at most {most:.1e}"
                    yield Cause(dump.label, "half type", what, name, False)
                    return

    def explain_hidden(self, dump: Dump) -> Iterator[Cause]:
        """Name the first hidden states, or results, up to which a participant that shows no more loses too much."""
        found = self._measure_own(dump)
        for name in self._order:
            if name in found:
                off, most = found[name][1].relative, self._derive(name)[0]
                if not off <= most:
                    what = f"{self.dtype} loses {off:.1e} of its scale up to here, and rounding at most {most:.1e}"
                    yield Cause(dump.label, "half type", what, name, False)
                    return

    def judge_rankings(self, dumps: Sequence[Dump], cases: Sequence[Case], k: int, whose: str = "") -> list[Verdict]:
        """Hold the order of the best ``k`` answers against float64's: but for ties, which may change places."""
        task = self._plain.task
        scored = "logits" if task.mlm else "classifier"
        if scored not in self._order:
            return []
        bound = self._derive(scored)[0]
        listed = rank(dumps, cases, task, bound, self._scales[scored], k, self.dtype, self._digits)
        check = f"{whose}{self.dtype} {f'top {k}' if task.mlm else asked(task)} in order"
        judged = judge_order(check, tuple(dump.label for dump in dumps), listed)
        # that a half type leaves no order among a model's answers is nothing against the model, and no verdict
        return [verdict for verdict in judged if verdict.status != "inconclusive"]

    def _derive(self, name: str) -> tuple[float, float]:
        """Return the bound of a result, and what is lost there.

        One of a few numbers may be right by chance: what it is computed from says how much is lost as well.
        """
        made_of = name if name in self._states else self._hidden
        lost = max(self._lost[tap][1].relative for tap in (name, made_of))
        return ROUNDINGS * max(lost, UNIT[self.dtype]), lost

    def _bound(self, name: str) -> Bound:
        derived, lost = self._derive(name)
        return Bound(derived, LIMIT, f"{ROUNDINGS:.0f} × what is lost where every array is rounded ({lost:.1e}, numpy)")

    def _judge(self, dump: Dump, whose: str, name: str, case: str, apart: Distance) -> Verdict:
        called = "last hidden states" if name == self._hidden else name
        where = f"{case} {list(apart.index)}: {apart.values[0]:.6g} in float64 and {apart.values[1]:.6g}"
        bound = self._bound(name)
        check = f"{whose}{self.dtype} {called} against float64"
        status = bound.status_of(apart.relative)
        return Verdict(check, (dump.label,), apart.relative, bound.value, status, where, bound.told)

    def _measure_own(self, dump: Dump) -> dict[str, tuple[str, Distance]]:
        return self._measure(dump, self._recorded, lambda sample: sample.taps(dump, self.dtype))

    def _measure(
        self, exact: Dump, samples: Sequence[Sample], compute: Callable[[Sample], Mapping[str, Array]]
    ) -> dict[str, tuple[str, Distance]]:
        """Measure how far hidden states and results are from float64: (case, distance), the farthest of all cases."""
        found: dict[str, list[tuple[str, Distance]]] = {}
        for sample in samples:
            want, got = sample.taps(exact), compute(sample)
            for name in dict.fromkeys([*self._states, *results(self._order)]):
                if name in want and name in got:
                    found.setdefault(name, []).append((sample.case.name, self._distance(name, want[name], got[name])))
        return {name: farthest(listed, lambda one: one.relative) for name, listed in found.items()}

    def _distance(self, name: str, exact: Array, got: Array) -> Distance:
        return distance(exact, got, self._scales[name], self._digits)

    def _emulate(self, sample: Sample) -> dict[str, Array]:
        taps: dict[str, Array] = {}
        for name in self._order:
            taps[name] = self._rounding.predict(name, taps, sample.case)
        return taps

    def _round(self, x: Array) -> Array:
        return round_to(x, self.dtype)


def tell_widened(dumps: Sequence[Dump]) -> list[str]:
    """Say which participants did not compute in a half type, and what they did."""
    return [
        f"{dump.label} does not compute in {dtype} on this device: its weights are rounded and computed in float32"
        for dump in dumps
        for dtype in dump.facts.get("widened", ())
    ]


def stored_half_types(directory: Path) -> set[str]:
    """Return the half types in which a checkpoint has tensors: those that it would be served in."""
    with open_checkpoint(directory) as checkpoint:
        return set(HALF_TYPES) & set(checkpoint.dtypes())
