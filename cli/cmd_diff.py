"""``diff``: whether two directories hold the same model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .converters.json_output import render_json
from .converters.rendering import table
from .converters.table.mapping import DIALECTS

if TYPE_CHECKING:
    from .converters.compare import Comparison
    from .converters.source.checkpoint import Checkpoint


@click.command("diff")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--from-first", type=click.Choice(DIALECTS), help="Dialect of FIRST, where its files do not say.")
@click.option("--from-second", type=click.Choice(DIALECTS), help="Dialect of SECOND, where its files do not say.")
@click.option("--config-first", type=click.Path(path_type=Path), help="FIRST's configuration, where it lies elsewhere.")
@click.option(
    "--config-second", type=click.Path(path_type=Path), help="SECOND's configuration, where it lies elsewhere."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as data, equal tensors included.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit status says it.")
@click.pass_context
def diff_command(
    ctx: click.Context,
    first: Path,
    second: Path,
    from_first: Any,
    from_second: Any,
    config_first: Path | None,
    config_second: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare FIRST with SECOND tensor by tensor under canonical names, whatever their dialects.

    Exit status: 0 all bits and configuration fields are equal, 1 they differ, 2 one cannot be read.

    \b
        roformer-convert diff ckpt/ ckpt-torch/
    """
    from .converters.compare import compare

    with (
        _open(first, from_first, config_first, "first") as one,
        _open(second, from_second, config_second, "second") as two,
    ):
        comparison = compare(one, two)
    if as_json:
        click.echo(render_json(comparison.as_dict()))
    elif not quiet:
        click.echo(render(comparison, str(first), str(second)))
    ctx.exit(0 if comparison.equal else 1)


def _open(path: Path, dialect: Any, config: Path | None, which: str) -> Checkpoint:
    from .converters.errors import ConvertError
    from .converters.source.opening import open_checkpoint

    try:
        return open_checkpoint(path, dialect=dialect, config=config)
    except ConvertError as error:
        # the next step is written for commands that read one checkpoint
        if error.next_step is not None:
            error.next_step = re.sub(r"(?<![\w-])--(from|config)\b(?!-)", rf"--\1-{which}", error.next_step)
        raise


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
