"""The report: one HTML file that opens anywhere, offline, in a light or a dark window, wide or narrow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path

from ..converters.amounts import amount
from ..converters.target.whole_files import write_whole
from .chart import chart, legend
from .judging.measure import DTYPES
from .judging.rankings import Ranking, answer_name, asked
from .judging.verdicts import Verdict, worst_of
from .questions.cases import Case
from .result import Result
from .screen import (
    between,
    bounds_told,
    by_check,
    conclusion,
    conclusion_word,
    counted,
    explanation,
    in_words,
    notes,
    processes,
)

_MOST_SHOWN = 60


def write_report(path: Path, result: Result) -> None:
    """Write the report.

    Raises:
        ConvertError: It cannot be written.
    """
    write_whole(path, render(result).encode())


def render(result: Result) -> str:
    """Make the page."""
    style = (files(__package__) / "data" / "report.css").read_text(encoding="utf-8")
    title = f"Parity: {', '.join(path.name or str(path) for path in result.directories)}"
    body = [_head(result), _why(result), _verdicts(result), _charts(result), _rankings(result), _facts(result)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(result: Result) -> str:
    state = conclusion_word(result)
    word = {"agree": "They agree", "differ": "They differ", "inconclusive": "Inconclusive"}[state]
    tokens = sum(case.input_ids.size for case in result.cases)
    where = _breakable(", ".join(map(str, result.directories)))
    return (
        f'<header class="{state}"><p class="badge">{word}</p><h1>{where}</h1>'
        f"<p>{escape(result.model.called)} in {escape(', '.join(dump.label for dump in processes(result)))}: "
        f"{counted(result)}, on {len(result.cases)} batches of {tokens:,} tokens.</p></header>"
    )


def _why(result: Result) -> str:
    lines = [*explanation(result), *(f"note: {note}" for note in notes(result))]
    if not lines:
        return ""
    items = []
    for line in lines:
        head, _, rest = line.partition(": ")
        items.append(f"<dt>{escape(head.capitalize())}</dt><dd>{_breakable(rest)}</dd>")
    return f'<section class="why"><h2>What was found</h2><dl>{"".join(items)}</dl></section>'


def _verdicts(result: Result) -> str:
    rows = []
    for check, mine in by_check(result.verdicts).items():
        worst = worst_of(mine)
        state, word = "good" if worst.passed else "bad", in_words(mine).lower()
        note = "; ".join(text for text in ("" if worst.passed else worst.where, worst.note) if text)
        rows.append(
            f'<tr class="{state}"><th scope="row">{escape(check)}</th><td class="number">{_value(worst)}</td>'
            f'<td class="number limit">{_bound(worst)}</td><td><span class="state">{word}</span></td>'
            f'<td class="who">{escape(between(mine))}</td><td>{_breakable(note)}</td></tr>'
        )
    told = "".join(f"<li>{_breakable(line)}</li>" for line in bounds_told(result))
    detail = [
        f'<tr class="{"good" if one.passed else "bad"}"><th scope="row">{escape(one.check)}</th>'
        f'<td class="who">{escape(" · ".join(one.about))}</td><td class="number">{_value(one)}</td>'
        f'<td class="number limit">{_bound(one)}</td><td>{_breakable(one.where)}</td></tr>'
        for one in result.verdicts
    ]
    return (
        "<section><h2>Verdicts</h2>"
        + _table(["check", "worst", "at most", "verdict", "between", ""], rows, "cards")
        + f"<details><summary>Where the bounds come from</summary><ul>{told}</ul></details>"
        + f"<details><summary>All {len(result.verdicts)}, with where the largest difference is</summary>"
        + _table(["check", "between", "value", "at most", "where"], detail, "cards")
        + "</details></section>"
    )


def _charts(result: Result) -> str:
    parts = []
    for dtype in DTYPES:
        taps = result.measured.taps[dtype]
        if not taps:
            continue
        title = f"{dtype}: largest difference at each tap over its channel's spread"
        parts.append(
            f"<figure><figcaption><strong>{dtype}</strong>: largest difference at each tap over how far its channel's "
            f"numbers lie apart in all batches.</figcaption>{legend(list(taps))}"
            f'<div class="scroll" tabindex="0">'
            f"{chart(taps, result.order, partial(result.bounds.at_tap, dtype), title)}</div></figure>"
        )
    return f"<section><h2>Tap by tap</h2>{''.join(parts)}</section>" if parts else ""


def _rankings(result: Result) -> str:
    if not result.rankings:
        return ""
    cases = {case.name: case for case in result.cases}
    listed = [one for one in result.rankings if cases[one.case].texts] or result.rankings
    # those that differ come first where not all fit
    shown = sorted(listed, key=lambda one: one.agree)[:_MOST_SHOWN] if len(listed) > _MOST_SHOWN else listed
    labels = list(shown[0].answers)
    rows = []
    text = None
    for one in shown:
        said = _text(cases[one.case], one.row)
        if said != text:
            rows.append(f'<tr class="text"><td colspan="{len(labels) + 2}">{escape(said)}</td></tr>')
            text = said
        cells = "".join(f"<td>{_ranked(one, label, result)}</td>" for label in labels)
        rows.append(
            f'<tr class="{"good" if one.agree else "bad"}"><th scope="row">{escape(one.place)}</th>{cells}'
            f'<td class="number">{min(one.gaps, default=0.0):.2g}</td></tr>'
        )
    task = result.model.task
    title = f"{asked(task).capitalize()}, best first"
    if task.mlm:
        title = f"The best {result.top_k} {asked(task)}{' at each mask' * (not task.next_word)}"
    more = f" {len(shown)} of {len(listed)} places are shown." if len(shown) < len(listed) else ""
    return (
        f"<section><h2>{title}</h2><p>From float32 scores, best first; ≈ stands "
        f"between answers whose scores are nearer than the bound lets the two move: they may change places.{more}</p>"
        + _table(["", *labels, "least gap"], rows, "words")
        + "</section>"
    )


def _text(case: Case, row: int) -> str:
    said = case.texts[row] if row < len(case.texts) else f"{case.name}, row {row}"
    return said if len(said) <= 120 else said[:118] + "…"


def _ranked(one: Ranking, label: str, result: Result) -> str:
    answers = one.answers[label]
    parts = []
    for place, answer in enumerate(answers):
        said = answer_name(answer, result.model.task, result.model.config, result.tokenizer)
        parts.append(f'<span class="word">{escape(said)}</span>')
        if place + 1 < len(answers):
            parts.append('<i class="tie">≈</i>' if one.gaps[place] <= one.ties[place] else '<i class="gap">›</i>')
    return "".join(parts)


def _facts(result: Result) -> str:
    facts = {name: escape(value) for name, value in result.environment.items()}
    facts |= {one.official.label: escape(one.official.called) for one in result.official}
    facts["weights (SHA-256)"] = _code(result.weights)
    facts["inputs (SHA-256)"] = _code(result.inputs)
    facts["made"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    facts["time"] = escape(", ".join(f"{part} {seconds:.1f} s" for part, seconds in result.seconds.items()))
    rows = [f'<tr><th scope="row">{escape(name)}</th><td>{value}</td></tr>' for name, value in facts.items()]
    runs = []
    for dump in processes(result):
        seconds = dump.facts.get("seconds", {})
        peak = dump.facts.get("peak_bytes")
        runs.append(
            f'<tr><th scope="row">{escape(dump.label)}</th><td class="number">{sum(seconds.values()):.1f} s</td>'
            f'<td class="number">{amount(peak) if peak else ""}</td>'
            f"<td>{escape(', '.join(f'{part} {taken:.1f} s' for part, taken in seconds.items()))}</td></tr>"
        )
    return (
        '<section><h2>Environment</h2><div class="scroll"><table class="facts">'
        + "".join(rows)
        + "</table></div>"
        + _table(["process", "time", "most memory", "parts"], runs, "cards")
        + f"<footer><p>{escape(conclusion(result))}</p></footer></section>"
    )


def _table(head: Sequence[str], rows: Iterable[str], kind: str) -> str:
    """Make a table that scrolls sideways, or (``cards``) whose rows fold where the window is narrow."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _value(verdict: Verdict) -> str:
    return f"{verdict.value:.0f}" if verdict.bound == 0.0 else f"{verdict.value:.1e}"


def _bound(verdict: Verdict) -> str:
    return "0" if verdict.bound == 0.0 else f"{verdict.bound:.1e}"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _breakable(text: str) -> str:
    """Let a long path or tensor name break at its slashes, dots and underscores."""
    return re.sub(r"([/_]|\.(?=[a-z]))", r"\1<wbr>", escape(text))
