"""What a configuration will cost on a device, and whether it can run there at all, before anything starts.

:mod:`..step.estimate` has the arithmetic, :mod:`.probe` measures this machine, :mod:`.machine` describes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ...converters.amounts import amount
from ...converters.rendering import table
from ...models.config import RoFormerConfig
from ..reporting.progress import duration
from ..settings.tables import Settings, Stage
from ..step import estimate
from ..step.estimate import Memory, Pace

#: Measures, or looks up, how fast the device is with so many sequences (first) of so many tokens (second).
Measure = Callable[[int, int], Pace]


@dataclass(frozen=True)
class Target:
    """What a run would run on.

    Attributes:
        name: For messages.
        room: Bytes that one rank can have.
        types: Types it trains in.
        attention: The kernel that stands in for attention in the run's type, or None.
        ranks: Processes, a device each.
        measure: Its pace.
        proven: Whether that kernel proved itself; where it did not yet, memory is planned without it.
        kernels: What became of every kernel's trial, a line each.
    """

    name: str
    room: int
    types: tuple[str, ...]
    attention: str | None
    ranks: int
    measure: Measure
    proven: bool = True
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageCost:
    """A stage's cost.

    Attributes:
        number: From 1.
        stage: As the settings have it.
        rows: Sequences that one device computes at once.
        passes: Such micro-batches in a step, one after another.
        memory: Of a rank.
        fast_memory: The same once a kernel that is not proven stands in for attention, or None.
        pace: Of a device.
        step_seconds: Of a step.
    """

    number: int
    stage: Stage
    rows: int
    passes: int
    memory: Memory
    fast_memory: Memory | None
    pace: Pace
    step_seconds: float

    def fits(self, room: int) -> str:
        """Say whether it fits: ``yes``, ``if fast`` where that takes a kernel that is not proven, or ``no``."""
        if self.memory.total <= room:
            return "yes"
        return "if fast" if self.fast_memory is not None and self.fast_memory.total <= room else "no"

    @property
    def tokens_per_second(self) -> float:
        """Over all ranks, if every sequence is full."""
        return self.stage.batch_size * self.stage.length / self.step_seconds

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return self.stage.steps * self.step_seconds


@dataclass(frozen=True)
class Diagnosis:
    """What a configuration costs, and what speaks against it.

    Attributes:
        config: The model.
        target: Where it would run.
        stages: In their order.
        checkpoint_bytes: A checkpoint's size.
        cannot: Why it cannot run, a sentence each; empty where it can.
        warnings: What to know, a sentence each.
    """

    config: RoFormerConfig
    target: Target
    stages: tuple[StageCost, ...]
    checkpoint_bytes: int
    cannot: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run, without evaluations and checkpoints."""
        return sum(stage.seconds for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data: bytes, seconds, tokens."""
        target = self.target
        return {
            "parameters": estimate.parameter_count(self.config),
            "target": {key: getattr(target, key) for key in ("name", "room", "ranks", "attention", "kernels")},
            "stages": [
                {
                    **asdict(cost),
                    "memory_total": cost.memory.total,
                    "fits": cost.fits(target.room),
                    "tokens_per_second": cost.tokens_per_second,
                    "seconds": cost.seconds,
                }
                for cost in self.stages
            ],
            "seconds": self.seconds,
            "checkpoint_bytes": self.checkpoint_bytes,
            "cannot": self.cannot,
            "warnings": self.warnings,
        }


def diagnose(settings: Settings, config: RoFormerConfig, target: Target, *, disk: int | None = None) -> Diagnosis:
    """Work out what a run costs and whether it can be.

    Args:
        settings: The run.
        config: Its model.
        target: What it runs on.
        disk: Bytes free where it writes; None where nobody knows.
    """
    cannot: list[str] = []
    warnings: list[str] = []
    precision = settings.run.precision
    if precision[:4] not in target.types:
        known = ", ".join(target.types)
        cannot.append(
            f"precision {precision}: {target.name} trains in {known}; the figures are for fp32. Use --precision fp32"
            + (", or fp16-o1." if "fp16" in target.types else ".")
        )
        precision = "fp32"
    shape: dict[str, Any] = {
        "precision": precision,
        "masked": settings.data.masked_lm_probability if settings.data.mlm else 0.0,
        "fused_attention": target.attention is not None and target.proven,
        "ranks": target.ranks,
        "shard_optimizer": settings.run.shard_optimizer,
        "recompute": settings.run.recompute,
    }
    costs = []
    for number, given in enumerate(settings.stages, 1):
        stage = replace(given, batch_size=given.sequences(given.length))  # every sequence is taken to be full
        cost = _cost(number, stage, config, target, shape)
        costs.append(cost)
        if (fits := cost.fits(target.room)) != "yes":
            said = _too_large(cost, config, target, shape)
            if fits == "no":
                cannot.append(said)
            else:
                warnings.append(f"{said} As it is, it fits only where {target.attention} proves itself.")
        if stage.batch_size < target.ranks:
            cannot.append(
                f"stage {number}: batch_size {stage.batch_size} leaves some of {target.ranks} ranks without work."
            )
        elif stage.batch_size % target.ranks:
            warnings.append(
                f"stage {number}: {target.ranks} ranks cannot share batch_size {stage.batch_size} evenly: some wait."
            )
    checkpoint = estimate.parameter_count(config) * (16 if precision.endswith("o2") else 12)
    watch = settings.watch
    kept = watch.keep_checkpoints or -(-settings.steps // watch.save_steps)
    needed = checkpoint * (kept + 1)  # the new one is whole before the oldest goes
    if disk is not None and needed > disk:
        cannot.append(
            f"{kept} checkpoints and the one being written need {amount(needed)}, and {amount(disk)} are free: "
            "keep fewer (--keep-checkpoints), or write elsewhere (-o)."
        )
    return Diagnosis(config, target, tuple(costs), checkpoint, tuple(cannot), tuple(warnings))


def _cost(number: int, stage: Stage, config: RoFormerConfig, target: Target, shape: dict[str, Any]) -> StageCost:
    share = -(-stage.batch_size // target.ranks)
    rows = min(stage.micro_tokens // stage.length or share, share)
    pace = target.measure(rows, stage.length)
    seconds = estimate.step_seconds(
        config,
        pace,
        batch_size=share * target.ranks,
        length=stage.length,
        ranks=target.ranks,
        masked=shape["masked"],
        recompute=shape["recompute"],
    )
    memory = estimate.memory(config, rows=rows, length=stage.length, **shape)
    fast = None
    if target.attention is not None and not target.proven:
        fast = estimate.memory(config, rows=rows, length=stage.length, **{**shape, "fused_attention": True})
    return StageCost(number, stage, rows, -(-share // rows), memory, fast, pace, seconds)


def _too_large(cost: StageCost, config: RoFormerConfig, target: Target, shape: dict[str, Any]) -> str:
    """Say that a stage does not fit, and what would."""

    def most(recompute: bool) -> int:
        other = {**shape, "recompute": recompute, "config": config, "length": cost.stage.length}
        found = estimate.largest_rows(target.room, cost.rows, **other)
        return 1 << (found.bit_length() - 1) if found else 0  # a power of two divides most batches

    ways = []
    if rows := most(shape["recompute"]):
        ways.append(f"--micro-tokens {rows * cost.stage.length}")
    if not shape["recompute"] and (rows := most(True)):
        fewer = f" with --micro-tokens {rows * cost.stage.length}"
        ways.append("--recompute" + (fewer if rows * 2 <= cost.rows else ""))
    if not ways:
        ways.append("a smaller model; not even one sequence fits")
        if target.ranks > 1 and not shape["shard_optimizer"]:
            ways.insert(0, "--shard-optimizer")
    return (
        f"stage {cost.number}: {cost.rows} sequences of {cost.stage.length} tokens at once need "
        f"{amount(cost.memory.total)}, and {target.name} has {amount(target.room)} for it: use {' or '.join(ways)}."
    )


def _attention(target: Target, cost: StageCost) -> str:
    """Say which attention a run gets, and what it would hold with another."""
    if target.attention is None:
        return "products and softmax"
    if cost.fast_memory is None:
        return target.attention
    return (
        f"{target.attention} if it proves itself there, {amount(cost.fast_memory.total)} in all; "
        f"products and softmax until then, {amount(cost.memory.total)}"
    )


def lines(found: Diagnosis, settings: Settings) -> list[str]:
    """Lay a diagnosis out for a person."""
    config, target = found.config, found.target
    ranks = f"{target.ranks} × {target.name}" if target.ranks > 1 else target.name
    out = [
        f"  model      {estimate.parameter_count(config) / 1e6:,.1f} M parameters, vocabulary {config.vocab_size:,}",
        f"  on         {ranks}, {settings.run.precision}" + (", recompute" if settings.run.recompute else ""),
    ]
    paces = dict.fromkeys(f"{cost.pace.flops / 1e9:,.4g} GFLOP/s, {cost.pace.source}" for cost in found.stages)
    out += [f"  pace       {pace}" for pace in paces]
    heaviest = max(found.stages, key=lambda cost: cost.memory.total)
    parts = [f"{each.name} {amount(size)}" for each in fields(Memory) if (size := getattr(heaviest.memory, each.name))]
    out.append(f"  memory     {', '.join(parts)}" + (" a rank" if target.ranks > 1 else ""))
    out.append(f"  attention  {_attention(target, heaviest)}")
    out += [f"  kernel     {text}" for text in target.kernels]
    out.append(f"  checkpoint {amount(found.checkpoint_bytes)} each")
    rows = [
        [
            str(cost.number),
            f"{cost.stage.steps:,}",
            str(cost.stage.length),
            f"{cost.stage.batch_size} = {target.ranks} × {cost.passes} × {cost.rows}",
            amount(cost.memory.total),
            cost.fits(target.room),
            f"{cost.step_seconds:.3g} s",
            f"{cost.tokens_per_second:,.0f}",
            duration(cost.seconds),
        ]
        for cost in found.stages
    ]
    rows.append(["all", f"{settings.steps:,}", *[""] * 6, duration(found.seconds)])
    head = ["stage", "steps", "tokens", "batch = ranks × passes × micro", "memory", "fits", "step", "tokens/s", "time"]
    out += ["", *(f"  {line}" for line in table(head, rows, right=[0, 1, 2, 4, 6, 7, 8]).splitlines()), ""]
    out += [f"  cannot run: {text}" for text in found.cannot]
    out += [f"  warning: {text}" for text in found.warnings]
    if not found.cannot:
        planned = heaviest.memory if heaviest.fits(target.room) == "yes" else heaviest.fast_memory or heaviest.memory
        memory = f"{amount(planned.total)} of {amount(target.room)}"
        out.append(f"  can run: {memory}, {duration(found.seconds)} at this pace, evaluations and checkpoints left out")
    return out
