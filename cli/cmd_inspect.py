"""``inspect``: what a directory is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command_group import OnePath, echo
from .converters.amounts import amount
from .converters.errors import MOST_LINES, printable, shown
from .converters.json_output import render_json
from .converters.source.renaming import in_words
from .source_options import CLASS, CONFIG, FROM_BERT_TOO, SET, parts_options, take_stated

if TYPE_CHECKING:
    from .converters.inspection import Inspection


@click.command(
    "inspect",
    cls=OnePath,
    second="Two checkpoints are compared by `roformer-convert diff`.",
    short_help="Say what PATH is, and what in it does not fit.",
)
@click.argument("path", type=click.Path(path_type=Path))
@FROM_BERT_TOO
@CONFIG
@SET
@CLASS
@parts_options
@click.option("--json", "as_json", is_flag=True, help="Print it as data.")
def inspect_command(path: Path, as_json: bool, **given: Any) -> None:
    """Say what PATH is: dialect, container, model class, sizes, types, shards, ties, and what does not fit.

    Nothing of PATH is run, and no payload is read except where two copies of a tensor must be equal.
    Exit status 0 with problems too: this describes and does not judge. 2 where there is nothing to describe.

    \b
        roformer-convert inspect ckpt/
    """
    from .converters.inspection import inspect

    found = inspect(path, **take_stated(given))
    if as_json:
        click.echo(render_json(found.as_dict()))
    else:
        echo(render(found))


def render(found: Inspection) -> str:
    """Lay an inspection out for a person."""
    lines = [f"{found.path}: {found.model_class}, {found.dialect} dialect, {found.container}"]

    def line(name: str, text: str) -> None:
        if text:
            lines.append(f"  {name:<14} {printable(text)}")

    total = sum(found.files.values())
    if len(found.files) > 4:
        line("files", f"{len(found.files)} files, {amount(total)}")
    else:
        line("files", ", ".join(f"{name} ({amount(size)})" for name, size in found.files.items()))
    line("configuration", found.config_file or "none")
    if found.config:
        keys = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
        if found.config.get("embedding_size") != found.config.get("hidden_size"):
            keys.insert(1, "embedding_size")
        line("sizes", ", ".join(f"{key} {found.config[key]:,}" for key in keys if key in found.config))
        if "max_position_embeddings" in found.config:
            line("longest input", f"{found.config['max_position_embeddings']:,} tokens")
    if found.parameters is not None:
        line("parameters", f"{found.parameters:,}")
    line("tensors", f"{found.tensors} ({', '.join(f'{count} {kind}' for kind, count in found.dtypes.items())})")
    line("parts", ", ".join(found.groups))
    line("tied", ", ".join(found.tied))
    line("derived", ", ".join(found.derived))
    line("ignored", f"{len(found.ignored)} tensors of a training run" if found.ignored else "")
    line("left out", in_words(found.left_out))
    line("travels with", ", ".join(found.companions))
    for note in found.notes:
        line("note", note)
    problems = found.folded_problems()
    for problem, count in problems[:MOST_LINES]:
        many = f"  {count} tensors" if count > 1 else ""
        line(problem.kind, f"{shown(problem.name)}{many}  {shown(problem.detail, 1000)}".rstrip())
    if len(problems) > MOST_LINES:
        lines.append(f"  … and {len(problems) - MOST_LINES:,} more lines")
    count = len(found.problems)
    no = f"no: {count} problem{'s' * (count != 1)}"
    for target, listed in found.different.items():
        for each in listed:
            line(f"not to {target}", shown(each, 1000))
    line("converts", "yes: every tensor has a row in the table" if found.converts else no)
    return "\n".join(lines)


COMMANDS = {"inspect": inspect_command}
