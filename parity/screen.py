"""What the gate says on one screen: a line a check with its bound, then where it starts and what causes it."""

from __future__ import annotations

from collections.abc import Sequence

from ..converters.amounts import amount
from ..converters.rendering import table
from .causes import fold
from .gate import Result
from .verdicts import Verdict


def screen(result: Result) -> str:
    """Say all of it."""
    head = [", ".join(map(str, result.directories))]
    tokens = sum(case.input_ids.size for case in result.cases)
    head.append(
        f"{result.model.called}; {len(result.cases)} batches, {tokens:,} tokens; "
        f"{', '.join(f'{name} {version}' for name, version in result.environment.items() if name in _SHOWN)}"
    )
    lines = [*head, "", verdict_table(result.verdicts), ""]
    lines += [f"float32 may differ by {result.single[0]:.1e}: {result.single[1]}"]
    lines += [f"note: {note}" for note in result.model.notes]
    lines += explanation(result)
    lines += [parts(result), conclusion(result)]
    return "\n".join(lines)


_SHOWN = ("paddle", "torch", "tf")


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Fold verdicts into a line a check: the worst of its pairs."""
    rows = []
    for check in dict.fromkeys(verdict.check for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.check == check]
        failed = [verdict for verdict in mine if not verdict.passed]
        worst = max(failed or mine, key=lambda verdict: verdict.value)
        counted = worst.bound == 0.0
        rows.append(
            [
                check,
                ("0" if worst.passed else f"{worst.value:.0f}") if counted else f"{worst.value:.1e}",
                "0" if counted else f"{worst.bound:.1e}",
                f"{len(failed)} of {len(mine)} DIFFER" if failed else "agree" if len(worst.about) > 1 else "good",
                " · ".join(worst.about) if failed or len(mine) == 1 else f"{len(mine)} compared",
                _shortened(worst.where if failed else worst.note if counted else ""),
            ]
        )
    return table(["check", "worst", "at most", "verdict", "between", ""], rows, right=[1, 2])


def _shortened(text: str) -> str:
    return text if len(text) <= 90 else text[:89] + "…"


def explanation(result: Result) -> list[str]:
    """Say where a difference starts and what most likely causes it; empty where there is none."""
    lines = []
    if result.divergence is not None:
        lines.append(f"first difference: {result.divergence}")
    if result.causes:
        lines += [f"likely cause: {line}" for line in fold(result.causes)]
    elif not result.passed:
        lines.append("likely cause: none found; each step follows from the one before it, with the right parameters")
    return lines


def parts(result: Result) -> str:
    """Say how long each part took."""
    said = [f"{part} {seconds:.1f} s" for part, seconds in result.seconds.items()]
    for dump in result.dumps:
        peak = dump.facts.get("peak_bytes")
        memory = f", {amount(peak)} at most" if peak else ""
        said.append(f"{dump.label} {sum(dump.facts.get('seconds', {}).values()):.1f} s{memory}")
    return "time: " + "; ".join(said)


def conclusion(result: Result) -> str:
    """Say in one line whether they agree."""
    failed = [verdict for verdict in result.verdicts if not verdict.passed]
    who = ", ".join(dump.label for dump in result.dumps)
    if failed:
        return f"DIFFER: {len(failed)} of {len(result.verdicts)} verdicts fail ({who})"
    return f"AGREE: {len(result.verdicts)} verdicts, all good ({who})"
