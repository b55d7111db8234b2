"""Options of every command that opens a checkpoint: what its directory does not say by itself."""

from __future__ import annotations

from pathlib import Path

import click

from .converters.table.mapping import CLASSES, DIALECTS

FROM = click.option(
    "--from", "dialect", type=click.Choice(DIALECTS), help="Overrule the dialect that the files look like."
)
CONFIG = click.option("--config", type=click.Path(path_type=Path), help="Configuration file, where it lies elsewhere.")
SET = click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set a field of the configuration, whatever its file says: --set pooler_activation=linear. Repeatable.",
)
CLASS = click.option(
    "--class",
    "model_class",
    type=click.Choice(list(CLASSES)),
    help="The model's class, where no file says it; overrules the configuration.",
)
