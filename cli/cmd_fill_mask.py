"""``fill-mask``: the best words at each [MASK], from one framework or from all three."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .converters.json_output import render_json
from .source_options import CONFIG, FROM


@click.command("fill-mask")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option(
    "--framework",
    type=click.Choice(["paddle", "torch", "tf", "all"]),
    help="The framework that computes; all: the three side by side.  [default: the first of torch, paddle, tf here]",
)
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Words for each mask.")
@click.option(
    "--file", type=click.Path(path_type=Path, allow_dash=True), help="Texts, one a line in UTF-8; - is stdin."
)
@click.option(
    "--max-length",
    type=click.IntRange(1, 1 << 17),
    help="Raise the longest text, in tokens, above the configuration's max_position_embeddings.",
)
@FROM
@CONFIG
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line: ids, offsets, logits, probabilities."
)
@click.option("-v", "--verbose", is_flag=True, help="Print tokenizer, versions and times on stderr.")
def fill_mask_command(
    directory: Path,
    texts: tuple[str, ...],
    framework: str | None,
    top_k: int,
    file: Path | None,
    max_length: int | None,
    dialect: Any,
    config: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Fill each [MASK] of every TEXT with the model in DIR, a checkpoint of any dialect with its vocab.txt.

    Texts come from the arguments, from --file, or from stdin. The output is the line of JunnYu's model cards, one for
    each text and framework.

    \b
        roformer-convert fill-mask ckpt/ "今天[MASK]很好，我[MASK]去公园玩。"
        pytorch: 今天[天||人||气||阳||雨]很好，我[想||就||要||也||还]去公园玩。
    \b
    The same from Paddle, PyTorch and TensorFlow:
        roformer-convert fill-mask ckpt/ --framework all "今天[MASK]很好"
    A file of sentences, as data:
        roformer-convert fill-mask ckpt/ --file sentences.txt --json > filled.jsonl
    """
    from .models.fill_mask import choose_frameworks, fill_mask
    from .models.text_lines import read_lines

    if texts and file is not None:
        raise click.UsageError("Give texts or --file, not both.")
    if not texts and file is None and sys.stdin.isatty():
        raise click.UsageError("Give a TEXT with [MASK] in it, --file FILE, or texts on stdin.")
    frameworks = choose_frameworks(framework)
    results = fill_mask(
        directory,
        texts or read_lines(file),
        frameworks=frameworks,
        top_k=top_k,
        extend_to=max_length,
        dialect=dialect,
        config=config,
        report=(lambda line: click.echo(line, err=True)) if verbose else (lambda line: None),
    )
    for filled in results:
        click.echo(render_json(filled.as_dict(), indent=None) if as_json else filled.line)


COMMANDS = {"fill-mask": fill_mask_command}
