"""The chart of the report: how far each pair is apart at every tap, on a log scale, as one inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from .judging.measure import Pair
from .participants.dumps import Distance

_LEFT, _TOP, _HEIGHT, _LABELS = 58, 26, 230, 118
_WORDS = 170  # what the bound's words take
_STEP = 17  # least width of a tap
_WIDTH = 1040
_MARKS = ("circle", "square", "diamond", "triangle")


def chart(
    taps: Mapping[Pair, Mapping[str, tuple[str, Distance]]],
    order: Sequence[str],
    bound_at: Callable[[str], float],
    title: str,
) -> str:
    """Draw one type's distances.

    Args:
        taps: Pair → tap → (case, distance).
        order: The taps, left to right.
        bound_at: The bound at a tap; drawn as a line.
        title: For those who cannot see it.
    """
    shown = [name for name in order if any(name in found for found in taps.values())]
    values = [one.relative for found in taps.values() for _, one in found.values()]
    finite = [value for value in values if 0.0 < value < math.inf]
    bounds = {name: bound_at(name) for name in shown}
    least, most = min(bounds.values()), max(bounds.values())
    low = math.floor(math.log10(min([*finite, least, 1e-16]))) if least < 1e-9 else math.floor(math.log10(least)) - 3
    high = math.ceil(math.log10(max([*finite, most]))) + 1
    step = max(_STEP, (_WIDTH - _LEFT - 20) / max(1, len(shown)))
    width, height = _LEFT + 20 + step * len(shown), _TOP + _HEIGHT + _LABELS

    def across(place: int) -> float:
        return _LEFT + step * (place + 0.5)

    def down(value: float) -> float:
        exponent = high if value == math.inf else math.log10(value) if value > 0.0 else low
        return _TOP + _HEIGHT * (high - min(max(exponent, low), high)) / (high - low)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height}" style="min-width:{width * 0.92:.0f}px" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
    ]
    parts += _grid(low, high, down, width)
    parts += _layers(shown, across, step)
    parts += _bound_line([(across(place), down(bounds[name])) for place, name in enumerate(shown)], step, least, most)
    for number, (pair, found) in enumerate(taps.items()):
        aside = 3.0 * (number - (len(taps) - 1) / 2) if len(taps) < 7 else 0.0  # equal distances stay visible
        points = [
            (across(place) + aside, down(found[name][1].relative), name)
            for place, name in enumerate(shown)
            if name in found
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<g class="pair p{number % 6}"><polyline points="{line}"/>')
        for x, y, name in points:
            case, one = found[name]
            said = f"{' and '.join(pair)}, {name}: {one.relative:.2e} ({case}, {list(one.index)})"
            wrong = "" if one.relative <= bounds[name] else " wrong"
            parts.append(_mark(number, x, y, escape(said), wrong))
        parts.append("</g>")
    parts.append("</svg>")
    return "".join(parts)


def legend(pairs: Sequence[Pair]) -> str:
    """Name the pairs beside their marks."""
    items = []
    for number, pair in enumerate(pairs):
        mark = _mark(number, 8, 8, "", "")
        items.append(
            f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">'
            f'<g class="pair p{number % 6}">{mark}</g></svg>'
            f"{escape(' and '.join(pair))}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _bound_line(points: Sequence[tuple[float, float]], step: float, least: float, most: float) -> list[str]:
    """Draw a step a tap: each has its own bound."""
    corners = " ".join(f"{x - step / 2:.1f},{y:.1f} {x + step / 2:.1f},{y:.1f}" for x, y in points)
    said = f"bound {least:.1e}" + (f" to {most:.1e}" if most > least else "")
    above = min(y for x, y in points if x < _LEFT + _WORDS)  # the line must not cross what is said of it
    return [
        f'<polyline class="bound" points="{corners}"/>',
        f'<text class="bound" x="{_LEFT + 6}" y="{above - 5:.1f}">{said}</text>',
    ]


def _mark(number: int, x: float, y: float, said: str, wrong: str) -> str:
    title = f"<title>{said}</title>" if said else ""
    kind = _MARKS[number % len(_MARKS)]
    size = 4.5 if wrong else 3.4
    if kind == "circle":
        return f'<circle class="mark{wrong}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{title}</circle>'
    offsets = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
    }[kind]
    corners = " ".join(f"{x + size * 0.9 * a:.1f},{y + size * 0.9 * b:.1f}" for a, b in offsets)
    return f'<polygon class="mark{wrong}" points="{corners}">{title}</polygon>'


def _grid(low: int, high: int, down: object, width: float) -> list[str]:
    assert callable(down)
    parts = []
    every = 1 if high - low <= 9 else 2
    for exponent in range(low, high + 1):
        if (high - exponent) % every:
            continue
        y = down(10.0**exponent)
        said = "0" if exponent == low else f"10<tspan dy='-5' font-size='9'>{exponent}</tspan>"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - 20:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
    return parts


def _layers(shown: Sequence[str], across: object, step: float) -> list[str]:
    """Label the taps, and bracket those of a layer."""
    assert callable(across)
    parts = []
    bottom = _TOP + _HEIGHT
    seen: dict[str, list[int]] = {}
    for place, name in enumerate(shown):
        words = name.split(".")
        layer = words[1] if words[0] == "layers" else ""
        if layer:
            seen.setdefault(layer, []).append(place)
        short = ".".join(words[2:]) if layer else name
        x = across(place) + 3
        parts.append(
            f'<text class="tap" x="{x:.1f}" y="{bottom + 12}" transform="rotate(-58 {x:.1f} {bottom + 12})" '
            f'text-anchor="end">{escape(short)}</text>'
        )
    for layer, places in seen.items():
        left, right = across(places[0]) - step / 2, across(places[-1]) + step / 2
        shade = " odd" if int(layer) % 2 else ""
        parts.insert(
            0,
            f'<rect class="layer{shade}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{_HEIGHT}"/>'
            f'<text class="layer" x="{(left + right) / 2:.1f}" y="{_TOP - 9}" text-anchor="middle">'
            f"layer {layer}</text>",
        )
    return parts
