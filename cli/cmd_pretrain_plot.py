"""``plot``: a run, or several, as one picture."""

from __future__ import annotations

from pathlib import Path

import click

from .command_group import echo


@click.command("plot", short_help="Draw one run or several as a picture.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "picture",
    type=click.Path(path_type=Path),
    help="The picture: a name that ends in .png, .svg or .pdf.  [default: RUN/run.png]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def plot_command(runs: tuple[Path, ...], picture: Path | None, quiet: bool) -> None:
    """Draw losses, accuracies, learning rate and throughput of RUN, a training run's directory.

    Several runs are drawn over each other, each in its colour. Everything is read from RUN/metrics.jsonl, which a run
    that is still going on writes as well.

    \b
        roformer-pretrain plot output/ -o run.png
    Does a warm-up help?
        roformer-pretrain plot runs/plain runs/warmed-up -o warm-up.svg
    """
    from .training.reporting.plot import plot

    if picture is None:
        picture = (runs[0] if runs[0].is_dir() else runs[0].parent) / "run.png"
    drawn = plot(runs, picture)
    if not quiet:
        for run in drawn:
            steps = run["step", "lm_loss"].steps
            echo(f"{run.name}: {len(steps):,} records, to step {int(steps[-1]) if len(steps) else 0:,}")
        echo(f"wrote {picture}")


COMMANDS = {"plot": plot_command}
