"""What a configuration will cost on a device, and whether it can run there at all, before anything starts.

:mod:`..step.estimate` has the arithmetic, :mod:`.probe` measures this machine, :mod:`.targets` knows the devices.
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
    """The devices that a run would have.

    Attributes:
        name: The device's name, for messages.
        room: Bytes that one rank can have.
        types: Types that the device trains in.
        attention: The kernel that stands in for attention in the run's type, or None.
        ranks: Number of processes, each with a device of its own.
        measure: Gives the pace of one device.
        proven: Whether that kernel agreed with the plain operators in a trial; where none was made yet, memory is
            planned without the kernel.
        kernels: The result of every kernel's trial, a line each.
        warnings: What will stop or slow down a run on this machine, a sentence each.
    """

    name: str
    room: int
    types: tuple[str, ...]
    attention: str | None
    ranks: int
    measure: Measure
    proven: bool = True
    kernels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageCost:
    """What one stage costs.

    Attributes:
        number: The stage's number, from 1.
        stage: The stage as the settings have it.
        rows: Sequences that one device computes at once, in a micro-batch.
        passes: Micro-batches that a device computes one after another in a step.
        memory: Bytes of one rank.
        fast_memory: The same with a kernel for attention that has not had its trial yet; None where there is no such.
        pace: Pace of one device.
        step_seconds: Seconds of a step.
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
        """Say whether it fits: ``yes``, ``no``, or ``if fast`` where only the kernel without a trial makes it fit."""
        if self.memory.total <= room:
            return "yes"
        return "if fast" if self.fast_memory is not None and self.fast_memory.total <= room else "no"

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second over all ranks, if every sequence is full."""
        return self.stage.batch_size * self.stage.length / self.step_seconds

    @property
    def seconds(self) -> float:
        """Seconds of the whole stage."""
        return self.stage.steps * self.step_seconds


@dataclass(frozen=True)
class Diagnosis:
    """What a configuration costs, and why it cannot run where it cannot.

    Attributes:
        config: The run's model.
        target: The devices that it would have.
        stages: The cost of each stage, in the order of the stages.
        checkpoint_bytes: Size of a checkpoint in bytes.
        cannot: Why it cannot run, a sentence each; empty where it can.
        warnings: What to know beforehand, a sentence each.
    """

    config: RoFormerConfig
    target: Target
    stages: tuple[StageCost, ...]
    checkpoint_bytes: int
    cannot: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, without evaluations and checkpoints."""
        return sum(stage.seconds for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data: bytes, seconds, tokens."""
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
    """Work out what a run costs and whether it can run.

    Args:
        settings: The run's settings.
        config: The run's model.
        target: The devices that it would have.
        disk: Bytes free where it writes; None where that is not known.
    """
    cannot: list[str] = []
    warnings = list(target.warnings)
    precision = settings.run.precision
    if precision[:4] not in target.types:
        known = ", ".join(target.types)
        cannot.append(
            f"precision {precision}: {target.name} trains only in {known}, so what follows is for fp32. "
            "Use --precision fp32" + (", or fp16-o1." if "fp16" in target.types else ".")
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
                warnings.append(f"{said} Otherwise it fits only if {target.attention} passes its trial there.")
        if stage.batch_size < target.ranks:
            cannot.append(
                f"stage {number}: a batch_size of {stage.batch_size} leaves some of {target.ranks} ranks without work."
            )
        elif stage.batch_size % target.ranks:
            warnings.append(
                f"stage {number}: a batch_size of {stage.batch_size} is no multiple of {target.ranks} ranks: some wait."
            )
    checkpoint = estimate.parameter_count(config) * (16 if precision.endswith("o2") else 12)
    watch = settings.watch
    kept = watch.keep_checkpoints or -(-settings.steps // watch.save_steps)
    needed = checkpoint * (kept + 1)  # the new one is whole before the oldest goes
    if disk is not None and needed > disk:
        cannot.append(
            f"{kept} checkpoints and the one being written need {amount(needed)} on the disk, but only {amount(disk)} "
            "are free: keep fewer (--keep-checkpoints), or write elsewhere (-o)."
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
    """Say that a stage does not fit, and with which flags it would."""

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
        f"{amount(cost.memory.total)}, but {target.name} has {amount(target.room)} for them: use {' or '.join(ways)}."
    )


def _attention(target: Target, cost: StageCost) -> str:
    """Say which attention a run gets, and how much memory it takes where that is not settled."""
    if target.attention is None:
        return "matrix products and softmax"
    if cost.fast_memory is None:
        return target.attention
    return (
        f"{target.attention} if it passes its trial there ({amount(cost.fast_memory.total)} in all), "
        f"otherwise matrix products and softmax ({amount(cost.memory.total)})"
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
        out.append(f"  can run: {memory}, {duration(found.seconds)} at this pace, without evaluations and checkpoints")
    return out
