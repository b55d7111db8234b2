"""``vocab``: a vocabulary from text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .command_group import echo
from .converters.json_output import render_json
from .progress_bar import TEXT_BYTES, ByteBar


@click.command("vocab", short_help="Make a vocabulary of characters from text.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to make, one token a line.")
@click.option("--size", type=click.IntRange(1), default=12000, show_default=True, help="Rows, at most.")
@click.option(
    "--min-count", "minimum_count", type=click.IntRange(1), default=1, show_default=True,
    help="A character that occurs less often gets no row.",
)  # fmt: skip
@click.option(
    "--field", "fields", multiple=True, default=("text",), show_default=True,
    help="Member of JSON lines that holds the text; several are possible.",
)  # fmt: skip
@click.option(
    "--format", "file_format", type=click.Choice(["auto", "text", "jsonl"]), default="auto", show_default=True,
    help="auto: JSON lines where the name says so (.jsonl, .ndjson, .json), else text.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the output.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def vocab_command(
    inputs: tuple[str, ...], output: Path, force: bool, as_json: bool, quiet: bool, size: int, **options: Any
) -> None:
    """Make a vocabulary of characters from text, where there is none.

    INPUT is read as by `prepare`. BERT's special tokens come first, then letters, digits and their ## pieces, then the
    characters by count, lower-cased and without accents.

    \b
        roformer-pretrain vocab news/*.txt --size 8000 -o vocab.txt
    """
    from .converters.errors import ConvertError
    from .converters.target.whole_files import require_writable, write_whole
    from .models.processes.frameworks import require_packages

    require_packages("vocab", {"tokenizers": "pretrain"})
    from .training.text.build_vocabulary import build

    if output.exists() and not force:
        raise ConvertError(f"{output} already exists", "Name another output with -o, or replace it with --force.")
    require_writable(output)
    with ByteBar("counting", quiet, TEXT_BYTES) as bar:
        found = build(inputs, size, progress=bar.advance, started=bar.start, **options)
    write_whole(output, "".join(f"{token}\n" for token in found.tokens).encode("utf-8"))
    share = found.unknown / found.characters
    if as_json:
        data = {
            "output": str(output), "rows": len(found.tokens), "characters": found.characters,
            "distinct": found.distinct, "unknown": found.unknown, "unknown_share": share,
        }  # fmt: skip
        click.echo(render_json(data))
    elif not quiet:
        echo(
            f"{output}: {len(found.tokens):,} rows, for {found.distinct:,} different characters\n"
            f"  {found.unknown:,} of {found.characters:,} characters are unknown ({share:.2e})"
        )


COMMANDS = {"vocab": vocab_command}
