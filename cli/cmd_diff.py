"""``diff``: whether two directories hold the same model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .command_group import echo
from .converters.errors import fold_names
from .converters.json_output import render_json
from .converters.name_choice import NameChoice
from .converters.rendering import MANY_ROWS, table
from .converters.table.mapping import CLASSES, DIALECTS

if TYPE_CHECKING:
    from .converters.compare import Comparison
    from .converters.source.checkpoint import Checkpoint


Function = TypeVar("Function", bound=Callable[..., Any])


def _both(name: str, *, help: str, **options: Any) -> Callable[[Function], Function]:
    """Declare an option once for FIRST and once for SECOND."""

    def declare(function: Function) -> Function:
        for which in ("second", "first"):
            function = click.option(f"{name}-{which}", help=help.format(which.upper()), **options)(function)
        return function

    return declare


@click.command("diff", short_help="Compare FIRST with SECOND, tensor by tensor.")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@_both("--from", type=NameChoice(DIALECTS), help="Dialect of {}, where its files do not say.")
@_both("--config", type=click.Path(path_type=Path), help="{}'s configuration, where it lies elsewhere.")
@_both("--set", metavar="FIELD=VALUE", multiple=True, help="Set a field of {}'s configuration. Repeatable.")
@_both("--prefix", metavar="P", help="What of {} is meant begins with P in its file.")
@_both("--encoder-only", is_flag=True, help="Take {}'s encoder and its pooler, without heads.")
@_both("--drop", metavar="PATTERN", multiple=True, help="Leave out {}'s tensors whose names match. Repeatable.")
@_both("--class", type=NameChoice(CLASSES), help="Class of {}, where its files do not say.")
@click.option(
    "--atol",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Take values that differ by no more than X for equal, whatever their types: --atol 1e-3.  [default: all bits]",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as data, equal tensors included.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit status says it.")
def diff_command(first: Path, second: Path, atol: float | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Compare FIRST with SECOND tensor by tensor under canonical names, whatever their dialects.

    Exit status: 0 all bits and configuration fields are equal, 1 they differ, 2 one cannot be read.

    \b
        roformer-convert diff ckpt/ ckpt-torch/
    Is the half-precision copy this model, rounded?
        roformer-convert diff ckpt/ ckpt-half/ --atol 1e-3
    """
    from .converters.compare import compare

    if atol is not None and math.isnan(atol):
        raise click.BadParameter("nan is no distance", param_hint="'--atol'")
    with _open(first, "first", given) as one, _open(second, "second", given) as two:
        comparison = compare(one, two, atol=atol)
    if as_json:
        click.echo(render_json(comparison.as_dict()))
    elif not quiet:
        echo(render(comparison, str(first), str(second)))
    click.get_current_context().exit(0 if comparison.agree else 1)


def _open(path: Path, which: str, given: Mapping[str, Any]) -> Checkpoint:
    from .converters.errors import ConvertError
    from .converters.source.opening import open_checkpoint
    from .converters.source.renaming import Parts
    from .converters.table.field_values import parse_settings

    try:
        return open_checkpoint(
            path,
            dialect=given[f"from_{which}"],
            config=given[f"config_{which}"],
            set=parse_settings(given[f"set_{which}"]),
            model_class=given[f"class_{which}"],
            parts=Parts(given[f"prefix_{which}"], given[f"drop_{which}"], given[f"encoder_only_{which}"]),
        )
    except ConvertError as error:
        # what is said is written for commands that read one checkpoint
        error.what = _named_for(which, error.what)
        if error.next_step is not None:
            error.next_step = _named_for(which, error.next_step)
        raise


def _named_for(which: str, text: str) -> str:
    """Give the options in a message the names that they have here: ``--set`` is ``--set-first``."""
    return re.sub(r"(?<![\w-])--(from|config|set|class|prefix|encoder-only|drop)\b(?!-)", rf"--\1-{which}", text)


def _shortest(value: float) -> str:
    """Write a value with as many digits as its type needs: nine at most where float32 holds it."""
    import numpy as np

    with np.errstate(over="ignore"):
        single = np.float32(value)
    return str(single) if float(single) == value else repr(value)


def render(comparison: Comparison, first: str, second: str) -> str:
    """Name what differs, the largest difference of each tensor and where it is."""
    different = [tensor for tensor in comparison.tensors if tensor.verdict not in ("equal", "close")]
    named = [(tensor.name, [place]) for place, tensor in enumerate(different)]
    if len(different) > MANY_ROWS:
        named = fold_names([((tensor.verdict, tensor.detail), tensor.name) for tensor in different])
    rows = []
    for name, places in named:
        # NaN, which compares with nothing, is the largest of all
        worst = max(
            (different[place] for place in places), key=lambda each: (each.largest != each.largest, each.largest)
        )
        at, values = "", ""
        if worst.index:
            at = "[" + ", ".join(map(str, worst.index)) + "]"
            values = " / ".join(_shortest(each) for each in (worst.first, worst.second) if each is not None)
        largest = f"{worst.largest:.3g}" if worst.count else ""
        many = f"{len(places)} tensors, the farthest {worst.name}" if len(places) > 1 else ""
        rows.append([name, worst.verdict, largest, at, values, "; ".join(filter(None, (worst.detail, many)))])
    lines = []
    if rows:
        lines.append(table(["tensor", "verdict", "max |difference|", "at (out, in)", "values", ""], rows, right=[2]))
    if len(rows) < len(different):
        lines.append("tensors of several layers are folded; --json has each")
    lines.extend(f"configuration: {name} is {a!r} / {b!r}" for name, (a, b) in comparison.config.items())
    lines.extend(f"note: {note}" for note in comparison.notes)
    total = len(comparison.tensors)
    close = [tensor.largest for tensor in comparison.tensors if tensor.verdict == "close"]
    if comparison.equal:
        lines.append(f"{first} and {second} are equal: {total} tensors, every bit, and every configuration field")
    elif comparison.agree:
        lines.append(
            f"{first} and {second} are close: {total} tensors, of which {len(close)} differ by at most "
            f"{max(close):.3g}, and every configuration field is equal"
        )
    else:
        beside = f", and {len(close)} are close" if close else ""
        lines.append(f"{first} and {second} differ: {len(different)} of {total} tensors{beside}")
    return "\n".join(lines)


COMMANDS = {"diff": diff_command}
