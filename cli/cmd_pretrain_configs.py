"""``configs``: the configurations that come along."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("configs", short_help="List the configurations that come along, or print one.")
@click.argument("name", required=False)
def configs_command(name: str | None) -> None:
    """List the configurations that come along, or print the one called NAME, to be changed and named with --config.

    \b
        roformer-pretrain configs
        roformer-pretrain configs tiny > mine.toml
    """
    from .training.settings.reading import find_shipped, read_settings, shipped_configurations

    if name is not None:
        click.echo(find_shipped(Path(name)).read_text(encoding="utf-8"), nl=False)
        return
    shipped = shipped_configurations()
    width = max(len(path.stem) for path in shipped)
    for path in shipped:
        what = path.read_text(encoding="utf-8").lstrip("# ").partition(":")[0]  # the first comment says it up to there
        click.echo(f"{path.stem:<{width}}  {read_settings(path).steps:>7,} steps  {what}")


COMMANDS = {"configs": configs_command}
