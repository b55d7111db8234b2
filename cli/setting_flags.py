"""A flag for every key of a run's settings: ``train`` takes them, and ``doctor`` tries them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_type_hints

import click

from .command_group import echo
from .training.settings.tables import TABLES, Stage

#: Flags with a shorter or a singular spelling beside the key's own.
_FURTHER_NAMES = {"corpora": ("--corpus",), "output": ("-o",)}


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every key of the settings; a flag that is not used passes None or ()."""
    stage_hints = get_type_hints(Stage)
    # click lists options from the last decorator to the first
    for each in reversed(fields(Stage)):
        words = f"{each.metadata['help']} Once for all stages, or once a stage, in their order."
        command = _option(each, stage_hints[each.name], words, several=True)(command)
    for kind in reversed(TABLES.values()):
        hints = get_type_hints(kind)
        for each in reversed(fields(kind)):
            hint = hints[each.name]
            command = _option(each, hint, each.metadata["help"], several=hint == tuple[str, ...])(command)
    return command


def _option(each: Field[Any], hint: Any, words: str, *, several: bool) -> Callable[..., Any]:
    name = "--" + each.name.replace("_", "-")
    kind: Any = str
    if each.metadata["choices"]:
        kind = click.Choice(each.metadata["choices"])
    elif hint is bool:
        return click.option(f"{name}/--no-{name[2:]}", each.name, default=None, help=words)
    elif hint is int:
        kind = int
    elif hint is float or hint == float | None:
        kind = float
    names = (*_FURTHER_NAMES.get(each.name, ()), name)
    return click.option(*names, each.name, type=kind, multiple=several, default=None, help=words)


def named_configuration(path: Path) -> Path:
    """Find the configuration that is named, and say so where a file was named and it is one that comes along."""
    from .training.settings.reading import find_configuration

    found = find_configuration(path)
    if found != path and path.suffix:
        echo(f"{path}: no such file here; taking the shipped configuration, {found}", err=True)
    return found


def given_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Keep the flags that were used, those of several values as lists."""
    used = {key: value for key, value in flags.items() if value is not None and value != ()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in used.items()}
