"""The gate: convert, run every framework in a process of its own, compare, and explain what differs.

    directories → participants → cases → processes (dump) → distances (measure) → verdicts
                                                          ↘ first divergence and causes, where one fails

Imports no framework. Exit statuses, here and everywhere: 0 agree, 1 differ, 2 could not run (a ConvertError),
3 nothing differs, but a bound is so wide that it proves nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters import open_checkpoint
from ..converters.errors import ConvertError
from ..converters.source.checkpoint import Checkpoint
from ..converters.source.location import locate
from ..models.config import supported, tap_names, with_limit
from ..models.text.tokenizer import Tokenizer
from ..models.text.tokenizer_files import packages_for_texts
from .conditions.casts import find_cast, tell_moved
from .conditions.half_types import judge_half_types, stored_half_types, tell_widened
from .conditions.invariances import explain_invariances, judge_invariances
from .explaining.explanation import explain
from .explaining.sampling import choose_samples
from .explaining.stored_parameters import StoredParameters
from .judging.bounds import Bounds, derive
from .judging.divergence import Divergence, first_divergence
from .judging.measure import measure
from .judging.rankings import rank
from .judging.verdicts import judge
from .options import GateOptions
from .participants.computing import require_participants, tell_devices
from .participants.dumps import Dump
from .participants.participants import (
    ComparedModel,
    Participant,
    choose_participants,
    look_at,
    require_frameworks,
    write_stated,
)
from .participants.side_by_side import ReportLine, compute, variables_for
from .questions.case_file import write_cases
from .questions.cases import LONGEST, Case, make_cases
from .questions.targets import make_training
from .questions.variants import NO_VARIANTS, Variants, make_variants
from .result import Result
from .serving.asking import Official, Started, answered, fetch_parameters, started, tell_without
from .serving.jobs import job_for
from .serving.software import require_official
from .serving.verdicts import OfficialResult, judge_official

Array = NDArray[Any]

_DEFAULTS = GateOptions()


@contextmanager
def run(
    directories: Sequence[Path],
    options: GateOptions = _DEFAULTS,
    *,
    called: Sequence[Path] | None = None,
    report: ReportLine = lambda line: None,
    progress: ReportLine = lambda line: None,
    environment: Mapping[str, str | None] | None = None,
) -> Iterator[Result]:
    """Run the gate; what the frameworks computed lies in a temporary directory until the context ends.

    Args:
        directories: One checkpoint, which is converted for each framework, or several, compared as they are.
        options: What is asked of it. Nothing is printed or written here.
        called: What to call each; by default as it is.
        report: Called with a line on what happens.
        progress: Called with what begins now.
        environment: Variables for the frameworks' processes.

    Raises:
        ConvertError: It could not run.
    """
    clock = Clock()
    directories = [locate(directory) for directory in directories]
    if options.frameworks is not None:
        require_frameworks(options.frameworks)  # before anything else is done
    found = require_official(options.official, words=any("rjieba" in packages_for_texts(each) for each in directories))
    with tempfile.TemporaryDirectory(prefix="parity-") as name, ExitStack() as stack:
        scratch = Path(name)
        progress("converting")
        loaded, told = write_stated(directories, options.stated, scratch)
        directories = list(called or directories)
        model, dialects = look_at(loaded, directories)
        max_length = options.max_length
        if options.official and max_length is not None and max_length > model.config.max_position_embeddings:
            limit = model.config.max_position_embeddings
            raise ConvertError(
                f"--with and --max-length {max_length:,}: the software that serves it ends at {limit:,} tokens",
                f"Leave one of the two out, or name at most {limit:,} tokens.",
            )
        model = replace(model, config=with_limit(model.config, max_length), notes=(*told, *model.notes))
        cast = find_cast(loaded, directories, scratch)
        if cast is not None:
            model = replace(model, notes=(*model.notes, str(cast)))
            loaded = [cast.rounded or loaded[0], *loaded[1:]]
        participants = choose_participants(loaded, directories, dialects, options.frameworks, scratch)
        if cast is not None and cast.rounded is not None:
            participants[0] = replace(participants[0], before_cast=cast.original)
        said = [one.note for one in participants if one.note]
        model = replace(model, notes=(*model.notes, *said))
        require_participants(options.devices, [one.framework for one in participants])
        clock.lap("convert")
        progress("choosing inputs")
        tokenizer = None if model.vocabulary is None else Tokenizer.from_pretrained(model.vocabulary)
        cases = make_cases(supported(model.config), model.task, tokenizer, options.sentences, max_length or LONGEST)
        training = make_training(model.config, model.task) if options.gradients else None
        variants = make_variants(model.config, model.task, max_length or LONGEST)
        listed = write_cases(scratch / "cases.npz", [*cases, *variants.cases], training)
        clock.lap("inputs")
        if options.half_types is None:
            stored = {dtype for one in participants for dtype in stored_half_types(one.directory)}
            options = replace(options, half_types=sorted(stored))
        half_types = list(options.half_types or ())
        asked = {
            "half_types": half_types,
            "cases_file": str(scratch / "cases.npz"),
            "cases": listed,
            "extend_to": max_length,
            "rows": [case.name for case in variants.cases],
        }
        variables = variables_for(model, environment)
        workers = stack.enter_context(started(found, variables, scratch))
        known = []
        for worker in workers:
            cases_file = scratch / "cases.npz"
            one, job = job_for(worker, loaded, dialects, model, tokenizer, cases, cases_file, scratch, half_types)
            worker.process.ask({"run": job})
            known.append((worker, one))
        dumps = compute(participants, model, scratch, asked, options.devices, report, progress, variables)
        officials = [(worker, _answered(worker, one, report, progress)) for worker, one in known]
        clock.lap("frameworks")
        progress("comparing")
        yield compare(
            directories, loaded[0], model, participants, dumps, cases, tokenizer, options, clock, variants, officials
        )


def compare(
    directories: Sequence[Path],
    first: Path,
    model: ComparedModel,
    participants: list[Participant],
    dumps: list[Dump],
    cases: list[Case],
    tokenizer: Tokenizer | None,
    options: GateOptions,
    clock: Clock,
    variants: Variants = NO_VARIANTS,
    officials: Sequence[tuple[Started, Official]] = (),
) -> Result:
    """Compare what was computed, and explain what differs; ``first`` is the first directory as it is loaded."""
    task = model.task
    half_types, top_k = options.half_types or (), min(options.top_k, model.config.vocab_size)
    order = tap_names(model.config, pooler=True, mlm=task.mlm, sop=task.sop, classifier=task.head is not None)
    measured = measure(dumps, cases, order)
    bounds = derive(measured, order)
    scored = "logits" if task.mlm else "classifier"
    rankings = rank(dumps, cases, task, bounds.at_tap("float32", scored), measured.scales.get(scored), top_k)
    verdicts = judge(dumps, measured, bounds, rankings, task, top_k)
    verdicts += judge_invariances(dumps, variants.variants, model.config, task, measured, bounds)
    # float32 taps on the way may be farther apart than results
    searched = ("float64",) if all(verdict.passed for verdict in verdicts) else ("float64", "float32")
    divergence = first_divergence(measured, order, {dtype: partial(bounds.at_tap, dtype) for dtype in searched})
    clock.lap("compare")
    failed = not all(verdict.passed for verdict in verdicts)
    samples = choose_samples(cases, model.config, task)
    with open_checkpoint(first) as checkpoint:
        official = _judge_official(officials, dumps, divergence, cases, model, tokenizer, bounds, top_k, checkpoint)
        if officials:
            clock.lap("compare official participants")
        weights, digests = _hash(checkpoint)
        found, causes = explain(
            dumps,
            cases,
            samples,
            order,
            model,
            checkpoint,
            digests,
            divergence,
            measured.scales,
            one=len(directories) == 1,
        )
        verdicts += [*found, *(verdict for one in official for verdict in one.verdicts)]
        clock.lap("explain" if failed else "recompute in numpy")
        if half_types:
            theirs = [one.official.dump for one in official]
            found, more = judge_half_types(
                half_types,
                dumps,
                theirs,
                variants.variants,
                cases,
                samples,
                order,
                model,
                checkpoint,
                measured.scales,
                top_k,
            )
            verdicts += found
            causes += more
            clock.lap("half types")
    left_out = [note for one in official for note in tell_without(one.official, half_types)]
    model = replace(model, notes=(*model.notes, *tell_devices(dumps), *tell_widened(dumps), *left_out))
    causes += explain_invariances(verdicts)
    if participants and participants[0].before_cast is not None:
        model = replace(model, notes=(*model.notes, *tell_moved(dumps[0], cases, measured.scales, task)))
    causes += [cause for one in official for cause in one.causes]
    return Result(
        directories=tuple(directories),
        model=model,
        participants=participants,
        dumps=dumps,
        cases=cases,
        tokenizer=tokenizer,
        measured=measured,
        verdicts=verdicts,
        rankings=rankings,
        divergence=divergence,
        causes=causes,
        order=order,
        top_k=top_k,
        bounds=bounds,
        weights=weights,
        digests=digests,
        seconds=clock.seconds,
        official=official,
    )


def _answered(worker: Started, asked: Official, report: ReportLine, progress: ReportLine) -> Official:
    """Wait for an official participant."""
    progress(f"computing: {worker.label}")
    official = answered(worker, asked)
    seconds = ", ".join(f"{part} {taken:.1f} s" for part, taken in official.facts.get("seconds", {}).items())
    report(f"{worker.label}: {official.called}: {seconds or 'failed'}")
    return official


def _judge_official(
    officials: Sequence[tuple[Started, Official]],
    dumps: Sequence[Dump],
    divergence: Divergence | None,
    cases: Sequence[Case],
    model: ComparedModel,
    tokenizer: Tokenizer | None,
    bounds: Bounds,
    top_k: int,
    checkpoint: Checkpoint,
) -> list[OfficialResult]:
    """Hold every official participant against one of ours that is not the odd one."""
    odd = None if divergence is None else divergence.odd
    ours = next(dump for dump in dumps if dump.label != odd)
    return [
        judge_official(
            official,
            ours,
            cases,
            model,
            tokenizer,
            bounds,
            top_k,
            StoredParameters(checkpoint),
            partial(fetch_parameters, worker, official),
        )
        for worker, official in officials
    ]


def _hash(checkpoint: Checkpoint) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of all tensors as they are stored, and of each as a model holds it in float64."""
    weights = hashlib.sha256()
    digests = {}
    for tensor in checkpoint:
        array = checkpoint.read(tensor)
        weights.update(tensor.encode() + np.ascontiguousarray(array).tobytes())
        exact = np.ascontiguousarray(checkpoint.read(tensor, "float64"), "<f8")
        digests[tensor] = hashlib.sha256(exact.tobytes()).hexdigest()
    return weights.hexdigest(), digests


class Clock:
    """Wall time of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._then = time.monotonic()

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._then, 2)
        self._then = now
