"""What the gate says on one screen: a line a check with its bound, then where it starts and what causes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..converters.amounts import amount
from ..converters.rendering import table
from .conditions.invariances import SAME
from .explaining.causes import fold
from .judging.verdicts import Verdict, worst_of
from .participants.dumps import Dump
from .result import Result


def screen(result: Result) -> str:
    """Say all of it."""
    head = [", ".join(map(str, result.directories))]
    tokens = sum(case.input_ids.size for case in result.cases)
    head.append(
        f"{result.model.called}; {len(result.cases)} batches, {tokens:,} tokens; "
        f"{', '.join(f'{name} {version}' for name, version in result.environment.items() if name in _SHOWN)}"
    )
    head += [f"{one.official.label}: {one.official.called}" for one in result.official]
    lines = [*head, "", verdict_table(result.verdicts), ""]
    lines += bounds_told(result)
    lines += [f"note: {note}" for note in notes(result)]
    lines += explanation(result)
    lines += [parts(result), conclusion(result)]
    return "\n".join(lines)


_SHOWN = ("paddle", "torch", "tf")


def notes(result: Result) -> list[str]:
    """List what is to be said of the model and of each official participant."""
    return [*result.model.notes, *(note for one in result.official for note in one.notes)]


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Fold verdicts into a line a check: the worst of its pairs."""
    rows = []
    for check, mine in by_check(verdicts).items():
        worst = worst_of(mine)
        counted = worst.bound == 0.0
        rows.append(
            [
                check,
                ("0" if worst.passed else f"{worst.value:.0f}") if counted else f"{worst.value:.1e}",
                "0" if counted else f"{worst.bound:.1e}",
                in_words(mine),
                between(mine),
                _shortened(worst.where if worst.status == "differs" else worst.note if _is_told(worst) else ""),
            ]
        )
    return table(["check", "worst", "at most", "verdict", "between", ""], rows, right=[1, 2])


def by_check(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Give each check its verdicts; the invariances of a row are one check where they hold."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.check, []).append(verdict)
    held = Counter(check.partition(SAME)[0] for check, mine in found.items() if SAME in check and worst_of(mine).passed)
    folded: dict[str, list[Verdict]] = {}
    for check, mine in found.items():
        whose, same, _ = check.partition(SAME)
        many = same and worst_of(mine).passed and held[whose] > 1
        line = f"{whose}{SAME}in {held[whose]} kinds of batch" if many else check
        folded.setdefault(line, []).extend(mine)
    return folded


def _is_told(worst: Verdict) -> bool:
    """Say whether the note stands in the table: what a count is of, and why a bound proves nothing."""
    return worst.bound == 0.0 or worst.status == "inconclusive"


def in_words(verdicts: Sequence[Verdict]) -> str:
    """Say what verdicts of one check say together, those that are not good by their number."""
    worst = worst_of(verdicts)
    if worst.passed:
        return "agree" if len(worst.about) > 1 else "good"
    many = f"{sum(verdict.status == worst.status for verdict in verdicts)} of {len(verdicts)}"
    return f"{many} DIFFER" if worst.status == "differs" else f"{many} PROVE NOTHING"


def between(verdicts: Sequence[Verdict]) -> str:
    """Say whom verdicts of one check compare: the worst's where it is not good, otherwise how many there are."""
    worst = worst_of(verdicts)
    return " · ".join(worst.about) if not worst.passed or len(verdicts) == 1 else f"{len(verdicts)} compared"


def bounds_told(result: Result) -> list[str]:
    """Say what each result may differ by where that is measured, and where it comes from."""
    told = {f"{dtype} {name}": one for dtype, found in result.bounds.results.items() for name, one in found.items()}
    told["float64 gradients"] = result.bounds.gradients
    return [f"{called} may differ by {one.value:.1e}: {one.told}" for called, one in told.items() if one.told]


def _shortened(text: str) -> str:
    return text if len(text) <= 90 else text[:89] + "…"


def explanation(result: Result) -> list[str]:
    """Say where a difference starts and what most likely causes it; empty where there is none."""
    lines = []
    if result.divergence is not None:
        lines.append(f"first difference: {result.divergence}")
    lines += [f"first difference: {one.divergence}" for one in result.official if one.divergence is not None]
    if result.causes:
        lines += [f"likely cause: {line}" for line in fold(result.causes)]
    elif result.exit_status == 1:
        lines.append("likely cause: none found; each step follows from the one before it, with the right parameters")
    failed = [verdict.check for verdict in result.verdicts if not verdict.passed]
    if failed and all(check.startswith("golden") for check in failed):
        lines.append(
            "next step: where the change is meant, record the golden anew with --update-golden and commit both"
        )
    return lines


def parts(result: Result) -> str:
    """Say how long each part took."""
    said = [f"{part} {seconds:.1f} s" for part, seconds in result.seconds.items()]
    for dump in processes(result):
        peak = dump.facts.get("peak_bytes")
        memory = f", {amount(peak)} at most" if peak else ""
        said.append(f"{dump.label} {sum(dump.facts.get('seconds', {}).values()):.1f} s{memory}")
    return "time: " + "; ".join(said)


def processes(result: Result) -> list[Dump]:
    """List everybody who computed: ours and the official participants."""
    return [*result.dumps, *(one.official.dump for one in result.official)]


def conclusion(result: Result) -> str:
    """Say in one line whether they agree."""
    who = ", ".join(dump.label for dump in processes(result))
    return f"{conclusion_word(result).upper()}: {counted(result)} ({who})"


def conclusion_word(result: Result) -> str:
    """Say in a word what the exit status says: ``agree``, ``differ`` or ``inconclusive``."""
    return {0: "agree", 1: "differ", 3: "inconclusive"}[result.exit_status]


def counted(result: Result) -> str:
    """Say how many verdicts are not good."""
    total = len(result.verdicts)
    failed = sum(verdict.status == "differs" for verdict in result.verdicts)
    open_ = sum(verdict.status == "inconclusive" for verdict in result.verdicts)
    said = [f"{failed} of {total} verdicts fail"] * (failed > 0)
    nothing = "proves nothing: its bound is" if open_ == 1 else "prove nothing: their bounds are"
    said += [f"{open_} of {total} {nothing} too wide"] * (open_ > 0)
    return ", ".join(said) or f"{total} verdicts, all good"
