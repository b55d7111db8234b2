"""``diff``: whether two directories hold the same model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .choices import NameChoice
from .command_group import echo
from .converters.json_output import render_json
from .converters.rendering import table
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
@click.option("--json", "as_json", is_flag=True, help="Print it as data, equal tensors included.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit status says it.")
def diff_command(first: Path, second: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Compare FIRST with SECOND tensor by tensor under canonical names, whatever their dialects.

    Exit status: 0 all bits and configuration fields are equal, 1 they differ, 2 one cannot be read.

    \b
        roformer-convert diff ckpt/ ckpt-torch/
    """
    from .converters.compare import compare

    with _open(first, "first", given) as one, _open(second, "second", given) as two:
        comparison = compare(one, two)
    if as_json:
        click.echo(render_json(comparison.as_dict()))
    elif not quiet:
        echo(render(comparison, str(first), str(second)))
    click.get_current_context().exit(0 if comparison.equal else 1)


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


def render(comparison: Comparison, first: str, second: str) -> str:
    """Name what differs, the largest difference of each tensor and where it is."""
    rows = []
    for tensor in comparison.tensors:
        if tensor.verdict == "equal":
            continue
        at, values = "", ""
        if tensor.index:
            at = "[" + ", ".join(map(str, tensor.index)) + "]"
            values = f"{tensor.first!r} / {tensor.second!r}"
        largest = f"{tensor.largest:.3g}" if tensor.count else ""
        rows.append([tensor.name, tensor.verdict, largest, at, values, tensor.detail])
    lines = []
    if rows:
        lines.append(table(["tensor", "verdict", "max |difference|", "at (out, in)", "values", ""], rows, right=[2]))
    lines.extend(f"configuration: {name} is {a!r} / {b!r}" for name, (a, b) in comparison.config.items())
    lines.extend(f"note: {note}" for note in comparison.notes)
    total = len(comparison.tensors)
    if comparison.equal:
        lines.append(f"{first} and {second} are equal: {total} tensors, every bit, and every configuration field")
    else:
        lines.append(f"{first} and {second} differ: {len(rows)} of {total} tensors")
    return "\n".join(lines)


COMMANDS = {"diff": diff_command}
