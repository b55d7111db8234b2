"""``prepare``: text into a corpus."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command_group import echo
from .converters.amounts import amount, parse_size
from .converters.json_output import render_json
from .progress_bar import TEXT_BYTES, ByteBar

if TYPE_CHECKING:
    from .training.corpus.prepare import PreparationReport


class _Part(click.ParamType[tuple[int, int]]):
    """``i/n`` with 1 ≤ i ≤ n."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        first, _, second = str(value).partition("/")
        if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
            self.fail(f"{value!r}; wanted I/N with I from 1 to N, for example 3/16", param, ctx)
        return int(first), int(second)


@click.command("prepare", short_help="Turn text into tokens that training maps into memory.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory to make, or to go on with."
)
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary, one token a line, with BERT's settings.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Directory of a checkpoint whose tokenizer is used.")
@click.option(
    "--segmenter",
    type=click.Choice(["rjieba", "jieba", "none"]),
    default="rjieba",
    show_default=True,
    help="What finds words, which are masked as a whole; with none every Chinese character is a word.",
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    default=("text",),
    show_default=True,
    help="Member of JSON lines that holds the text; give it several times for title and body.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["auto", "text", "jsonl"]),
    default="auto",
    show_default=True,
    help="auto: JSON lines where the name says so (.jsonl, .ndjson, .json), else text.",
)
@click.option("--processes", type=click.IntRange(1), help="Number of processes.  [default: one for each core]")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="ray: Ray Data on this machine, or on the cluster that RAY_ADDRESS names (needs the extra ray).",
)
@click.option(
    "--shard-size",
    default="64MiB",
    show_default=True,
    metavar="SIZE",
    help="Input that one shard is made of: 64MiB, 1GB …",
)
@click.option(
    "--only-shards",
    "only",
    type=_Part(),
    help="Make every N-th shard from the I-th on and no index: one of N workers that share the output.",
)
@click.option("--verify", is_flag=True, help="Read all of the result back and compare its checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def prepare_command(
    inputs: tuple[str, ...],
    output: Path,
    vocab: Path | None,
    tokenizer: Path | None,
    shard_size: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Turn text into tokens that training maps into memory.

    INPUT is a file, a directory, or a quoted pattern: plain text in UTF-8 with a blank line between documents, or JSON
    lines, either of them also as .gz or .zst. A run that was stopped goes on where it was, and the result does not
    depend on the number of processes.

    \b
        roformer-pretrain prepare news/*.txt --vocab vocab.txt -o corpus/
        roformer-pretrain prepare 'wiki/**/*.jsonl.gz' --field title --field text --tokenizer ckpt/ -o corpus/

    \b
    On N machines that share a disk, and then once to finish (it makes only what is missing):
        roformer-pretrain prepare … -o corpus/ --only-shards 3/16
        roformer-pretrain prepare … -o corpus/
    """
    from .models.processes.frameworks import require_packages

    if (vocab is None) == (tokenizer is None):
        raise click.UsageError(
            "give either --vocab FILE, which `roformer-pretrain vocab` makes, or --tokenizer DIRECTORY"
        )
    if vocab is not None and vocab.is_dir():
        raise click.UsageError(f"--vocab {vocab} is a directory; name it with --tokenizer")
    require_packages("prepare", _packages(inputs, options["segmenter"], options["engine"]))
    from .training.corpus.prepare import prepare

    with ByteBar("preparing", quiet, TEXT_BYTES) as bar:
        report = prepare(
            inputs,
            output,
            vocab or tokenizer,  # type: ignore[arg-type]  # one of them is given
            shard_bytes=parse_size(shard_size),
            progress=bar.advance,
            started=bar.start,
            **options,
        )
    if as_json:
        click.echo(render_json({**asdict(report), "directory": str(report.directory)}))
    elif not quiet:
        echo(render(report))


def _packages(inputs: tuple[str, ...], segmenter: str, engine: str) -> dict[str, str]:
    """Return the packages that a preparation takes, as far as the command line shows it."""
    packages = {"tokenizers": "pretrain"}
    if segmenter == "rjieba":
        packages["rjieba"] = "pretrain"
    if engine == "ray":
        packages["ray"] = "ray"
    if any(name.endswith(".zst") for name in inputs):
        packages["zstandard"] = "pretrain"
    return packages


def render(report: PreparationReport) -> str:
    """Say in a few lines what was done."""
    lines = [
        f"{report.directory}: {report.tokens:,} tokens, {report.sentences:,} sentences, {report.documents:,} documents "
        f"in {report.shards} shard{'s' * (report.shards != 1)}"
    ]
    if report.made:
        speed = report.characters / max(report.seconds, 1e-9)
        lines.append(
            f"  {report.characters:,} characters in {report.seconds:.1f} s: {speed:,.0f} characters/s with "
            f"{report.processes} process{'es' * (report.processes != 1)}, at most {amount(report.peak_bytes)} each"
        )
    earlier = report.present - report.made
    if earlier:
        lines.append(f"  {earlier} of the shards had been made before")
    if report.verified:
        lines.append("  read back: every checksum matches")
    if not report.finished:
        left = report.shards - report.present
        lines.append(
            f"  not finished: {left} shard{'s' * (left != 1)} missing, no index yet; the same command without "
            "--only-shards makes what is missing and finishes"
        )
    return "\n".join(lines)


COMMANDS = {"prepare": prepare_command}
