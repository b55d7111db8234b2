"""One picture of a run, or of several: losses, accuracies, learning rate and throughput over the steps.

Each point of training is faint, its running average a line; evaluations are dots on a dashed line. Lines are named at
their ends with their last value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError
from ...converters.target.whole_files import make_parents, require_writable
from ...models.processes.frameworks import MissingPackageError, is_installed
from .run_curves import Curve, RunCurves, read_runs, smooth

#: Endings that a picture's name may have.
ENDINGS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, which are told apart with any colour vision; after the last they begin again
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_GREY = "#6b6b6b"
_MOST_LABELS = 6  # lines named at their end in a panel


@dataclass(frozen=True)
class Series:
    """One line of a panel.

    Attributes:
        key: Which curve of a run.
        name: Its name, written at its end.
        held_out: Drawn as dots on a dashed line.
        raw: Draw its points and a running average; otherwise the points' line itself.
        always: Name it where several runs are drawn, too.
    """

    key: tuple[str, str]
    name: str = ""
    held_out: bool = False
    raw: bool = False
    always: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel of the picture.

    Attributes:
        title: Its title, with the unit.
        series: The lines of the panel.
        write: Formats the value at a line's end.
        tick: Formats a value at the axis.
        from_zero: Whether the axis begins at 0.
    """

    title: str
    series: tuple[Series, ...]
    write: Callable[[float], str]
    tick: Callable[[float], str]
    from_zero: bool = True


def _short(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _rate(value: float) -> str:
    if not value:
        return "0"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


_PANELS = {
    "lm": Panel(
        "masked-word loss (nats a masked token)",
        (
            Series(("step", "lm_loss"), "train", raw=True),
            Series(("evaluation", "lm_loss"), "held out", held_out=True),
        ),
        "{:.3f}".format,
        "{:g}".format,
        from_zero=False,
    ),
    "sop": Panel(
        "sentence-order loss (nats)",
        (
            Series(("step", "sop_loss"), "train", raw=True),
            Series(("evaluation", "sop_loss"), "held out", held_out=True),
        ),
        "{:.3f}".format,
        "{:g}".format,
    ),
    "accuracy": Panel(
        "held-out accuracy (%)",
        (
            Series(("evaluation", "sop_accuracy"), "order", held_out=True, always=True),
            Series(("evaluation", "lm_accuracy"), "words", held_out=True, always=True),
        ),
        lambda value: f"{100 * value:.1f} %",
        lambda value: f"{100 * value:g}",
    ),
    "rate": Panel("learning rate", (Series(("step", "learning_rate")),), _rate, _rate),
    "speed": Panel("throughput (tokens a second)", (Series(("step", "tokens_per_second"), raw=True),), _short, _short),
}


def plot(runs: Sequence[Path], picture: Path) -> list[RunCurves]:
    """Draw runs into one picture and return what was drawn.

    Args:
        runs: Directories of runs, or their metrics files.
        picture: Its ending says what is written: png, svg or pdf.

    Raises:
        ConvertError: Metrics are absent, empty or garbled, or the picture cannot be written.
        MissingPackageError: matplotlib is not installed.
    """
    if picture.suffix.lower() not in ENDINGS:
        raise ConvertError(
            f"{picture}: a picture's name must end in {', '.join(ENDINGS)}", f"Write -o {picture.stem or 'run'}.png."
        )
    if not is_installed("matplotlib"):
        raise MissingPackageError("Drawing a run", {"matplotlib": "pretrain"})
    read = read_runs(runs)
    require_writable(picture)
    figure = draw(read)
    make_parents(picture)
    beside = picture.with_name(picture.name + ".part")
    kind = picture.suffix.lower()[1:]
    try:
        _save(figure, beside, kind)
        beside.replace(picture)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConvertError(f"{picture}: {error.strerror or error}", "Name a file that can be written.") from None
    return read


def _save(figure: Any, path: Path, kind: str) -> None:
    import matplotlib

    # no date and no random names, so that the same metrics give the same bytes
    dates: Any = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "roformer-pretrain"}):
        figure.savefig(path, format=kind, dpi=150, metadata=dates.get(kind))


def draw(runs: Sequence[RunCurves]) -> Any:
    """Draw runs: a matplotlib ``Figure``."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _GREY,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "xtick.color": _GREY,
        "ytick.color": _GREY,
        "xtick.labelcolor": "black",
        "ytick.labelcolor": "black",
        "text.parse_math": False,  # a directory may be called $x$
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13, 8))
        grid = figure.add_gridspec(
            6, 2, width_ratios=(1.35, 1), left=0.05, right=0.925, bottom=0.07, top=0.89, hspace=1.1, wspace=0.32
        )
        places = {"lm": grid[:4, 0], "sop": grid[4:, 0], "accuracy": grid[:2, 1], "rate": grid[2:4, 1]}
        places["speed"] = grid[4:, 1]
        last = max(float(curve.steps[-1]) for run in runs for curve in run.curves.values() if len(curve))
        axes: Any = None
        for name, place in places.items():
            axes = figure.add_subplot(place, sharex=axes)
            _draw_panel(figure, axes, _PANELS[name], runs)
            _mark_stages(axes, runs, named=name == "lm")
            if name in ("sop", "speed"):
                axes.set_xlabel("step")
            else:
                axes.tick_params(labelbottom=False)
        axes.set_xlim(0, last)
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        _name_runs(figure, runs)
    return figure


def _draw_panel(figure: Any, axes: Any, panel: Panel, runs: Sequence[RunCurves]) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, pad=6)
    ends = []
    shown: list[float] = []
    for number, run in enumerate(runs):
        for place, series in enumerate(panel.series):
            curve = run[series.key]
            if not len(curve) or not curve.values.any():  # an objective that is off is zero throughout
                continue
            colour = _colour(number, place, len(runs), len(panel.series))
            drawn = _draw_series(axes, run, curve, series, colour)
            shown += drawn
            if len(runs) == 1 or series.always:
                name = f"{series.name} "
            elif series.held_out:
                name = "● "
            elif len(panel.series) == 1 or not any(len(run[each.key]) for each in panel.series if each.held_out):
                name = ""
            else:
                continue  # of two lines of each of several runs the one that counts is named
            ends.append((drawn[-1], f"{name}{panel.write(drawn[-1])}".strip(), colour))
    if not shown:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    low, high = min(shown), max(shown)
    if panel.from_zero:
        low = min(low, 0.0)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(0.0 if low == 0.0 else low - room, high + room)
    axes.yaxis.set_major_formatter(lambda value, _: panel.tick(value))
    _label_ends(figure, axes, ends if len(ends) <= _MOST_LABELS else [])


def _draw_series(axes: Any, run: RunCurves, curve: Curve, series: Series, colour: str) -> list[float]:
    """Draw a line; return the values that the panel must have room for, the last being its end."""
    if series.held_out:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=3)
        dots = 14 if len(curve) <= 60 else 0
        axes.scatter(
            curve.steps, curve.values, s=dots, color=colour, edgecolor="white", linewidth=0.5, zorder=4, clip_on=False
        )
    elif not series.raw:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=1.6)
    else:
        # many points become a haze that still shows the spread
        haze = min(0.35, 60 / len(curve))
        axes.scatter(curve.steps, curve.values, s=5, color=colour, alpha=haze, linewidth=0, rasterized=True)
        lines = [(part.steps, smooth(part.values, len(curve) // 25)) for part in run.by_stage(curve)]
        for steps, values in lines:
            axes.plot(steps, values, color=colour, linewidth=1.6)
        return [value for _, values in lines for value in values.tolist()]
    return list(map(float, curve.values))


def _colour(run: int, series: int, runs: int, count: int) -> str:
    """One run: a colour a line. Several: a colour a run."""
    return _COLOURS[(series if runs == 1 and count > 1 else run) % len(_COLOURS)]


def _label_ends(figure: Any, axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name and last value beside its end, pushed apart where they would overlap."""
    height = axes.get_position().height * figure.get_figheight() * 72  # points
    low, high = axes.get_ylim()
    gap = 11.0
    placed: list[float] = []
    ordered = sorted(ends, key=lambda end: end[0])
    for value, _, _ in ordered:
        wanted = (value - low) / (high - low) * height
        placed.append(max(wanted, placed[-1] + gap) if placed else wanted)
    over = placed[-1] - height if placed else 0.0
    if over > 0:  # push the pile down again
        for number in range(len(placed) - 1, -1, -1):
            placed[number] = min(placed[number], height - gap * (len(placed) - 1 - number))
    for (_, text, colour), at in zip(ordered, placed, strict=True):
        axes.annotate(
            text, (1.0, 0.0), xycoords="axes fraction", xytext=(6, at), textcoords="offset points", color=colour,
            va="center", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def _mark_stages(axes: Any, runs: Sequence[RunCurves], *, named: bool) -> None:
    """Draw a line where each stage begins; name the stages of the first run that has several."""
    seen: set[int] = set()
    for number, run in enumerate(runs):
        if len(run.stages) < 2:
            continue
        for step, _ in run.stages[1:]:
            if step not in seen:
                axes.axvline(step, color=_GREY if len(runs) == 1 else _COLOURS[number % len(_COLOURS)],
                             linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)  # fmt: skip
        if named and not seen:
            for place, (step, text) in enumerate(run.stages, 1):
                axes.annotate(
                    f"{place}: {text}", (step, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -3),
                    textcoords="offset points", fontsize=8, color=_GREY, va="top",
                )  # fmt: skip
        seen.update(step for step, _ in run.stages)


def _name_runs(figure: Any, runs: Sequence[RunCurves]) -> None:
    """Write the run's name above, or the runs' in their colours, and what the marks mean."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_COLOURS[number % len(_COLOURS)], linewidth=2.4, label=run.name)
        for number, run in enumerate(runs)
    ]
    marks = [
        Line2D([], [], color=_GREY, linewidth=1.6, label="training, running average"),
        Line2D([], [], color=_GREY, linewidth=0, marker="o", markersize=3, alpha=0.5, label="as logged"),
        Line2D([], [], color=_GREY, linewidth=1.0, linestyle=(0, (4, 2)), marker="o", markersize=4, label="held out"),
    ]
    if len(runs) == 1:
        figure.text(0.05, 0.975, runs[0].name, fontsize=13, fontweight="bold", va="top")
    else:
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.045, 0.995), ncols=min(4, len(runs)),
                      frameon=False, fontsize=10)  # fmt: skip
    figure.legend(handles=marks, loc="upper right", bbox_to_anchor=(0.93, 0.995), ncols=3, frameon=False, fontsize=8)
