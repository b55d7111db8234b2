"""Options of every command that opens a checkpoint: what its directory does not say by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .converters.name_choice import NameChoice
from .converters.source.renaming import Parts
from .converters.source.stated import Stated
from .converters.table.mapping import CLASSES, DIALECTS

Function = TypeVar("Function", bound=Callable[..., Any])

FROM = click.option(
    "--from", "dialect", type=NameChoice(DIALECTS), help="Overrule the dialect that the files look like."
)
#: Of commands that may be asked for the RoFormer that begins with a BERT's weights; :func:`take_stated` reads it.
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
    """Declare what says which tensors of a file are meant."""
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


def take_stated(given: dict[str, Any]) -> Stated:
    """Take what is stated of a checkpoint out of a command's arguments; ``--from bert`` says it of its parts."""
    from .converters.table.field_values import parse_settings

    dialect = given.pop("dialect")
    bert = dialect == "bert"
    return Stated(
        dialect=None if bert else dialect,
        config=given.pop("config"),
        set=parse_settings(given.pop("settings")),
        model_class=given.pop("model_class"),
        parts=Parts(given.pop("prefix"), given.pop("drop"), given.pop("encoder_only"), bert),
    )
