"""Options of every command that opens a checkpoint: what its directory does not say by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from .converters.name_choice import NameChoice
from .converters.source.renaming import Parts
from .converters.table.mapping import CLASSES, DIALECTS

Function = TypeVar("Function", bound=Callable[..., Any])

FROM = click.option(
    "--from", "dialect", type=NameChoice(DIALECTS), help="Overrule the dialect that the files look like."
)
#: Of commands that may be asked for the RoFormer that begins with a BERT's weights; :func:`take_parts_of` reads it.
FROM_BERT_TOO = click.option(
    "--from",
    "dialect",
    type=NameChoice((*DIALECTS, "bert")),
    help="Overrule the dialect that the files look like; bert: they are a BERT's, a RoFormer is to begin with them.",
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
    type=NameChoice(CLASSES),
    help="The model's class, where no file says it; overrules the configuration.",
)
FOLLOW_LINKS = click.option(
    "--follow-links",
    is_flag=True,
    help="Copy tokenizer files and licences, too, that are links out of their directory.",
)


def parts_options(function: Function) -> Function:
    """Declare what says which tensors of a file are meant; :func:`take_parts` reads it."""
    declared = (
        click.option(
            "--prefix",
            metavar="P",
            help="The model is what begins with P in the file: --prefix student. What does not is left out.",
        ),
        click.option("--encoder-only", is_flag=True, help="Take the encoder and its pooler, without heads."),
        click.option(
            "--drop",
            metavar="PATTERN",
            multiple=True,
            help="Leave out the tensors whose names in the file match: --drop 'classifier.*'. Repeatable.",
        ),
    )
    for option in reversed(declared):
        function = option(function)
    return function


def take_parts(given: dict[str, Any]) -> Parts:
    """Take what :func:`parts_options` declares out of a command's arguments."""
    return Parts(given.pop("prefix"), given.pop("drop"), given.pop("encoder_only"))


def take_parts_of(dialect: Any, given: dict[str, Any]) -> tuple[Any, Parts]:
    """Do the same where ``--from`` may say that the parts are a BERT's; return the dialect that overrules, too."""
    parts = take_parts(given)
    return (None, replace(parts, bert=True)) if dialect == "bert" else (dialect, parts)
