"""What the commands that answer texts share: where texts come from, who computes, and how answers are printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .command_group import echo
from .converters.json_output import render_json
from .converters.name_choice import NameChoice
from .device_option import DEVICE
from .source_options import CLASS, CONFIG, FROM, SET, parts_options, take_stated

if TYPE_CHECKING:
    from .models.answers.task import Prediction

Function = TypeVar("Function", bound=Callable[..., None])


def text_options(content: str) -> Callable[[Function], Function]:
    """Declare the arguments and options of a command that answers texts.

    Args:
        content: What a JSON object holds.
    """

    def declare(function: Function) -> Function:
        declared = (
            click.argument("directory", metavar="DIR", type=click.Path(path_type=Path)),
            click.argument("texts", metavar="[TEXT]...", nargs=-1),
            click.option(
                "--framework",
                type=NameChoice(["paddle", "torch", "tf", "all"]),
                help="The framework that computes; all: the three side by side.  "
                "[default: the first of torch, paddle, tf here]",
            ),
            click.option(
                "--file",
                type=click.Path(path_type=Path, allow_dash=True),
                help="Texts, one a line in UTF-8, empty lines left out; - is stdin.",
            ),
            click.option(
                "--max-length",
                type=click.IntRange(1, 1 << 17),
                help="Raise the longest text, in tokens, above the configuration's max_position_embeddings.",
            ),
            DEVICE,
            FROM,
            CONFIG,
            SET,
            CLASS,
            parts_options,
            click.option("--json", "as_json", is_flag=True, help=f"Print one JSON object a line: {content}."),
            click.option("-v", "--verbose", is_flag=True, help="Print tokenizer, versions and times on stderr."),
        )
        for option in reversed(declared):
            function = option(function)
        return function

    return declare


def ready(given: dict[str, Any], command: str) -> tuple[str, ...]:
    """Return the frameworks that compute, before anything that needs a package is imported.

    Raises:
        MissingPackageError: A package is not installed that this takes.
    """
    from .models.processes.frameworks import choose_frameworks
    from .models.text.tokenizer_files import packages_for_texts

    return choose_frameworks(given["framework"], command, packages_for_texts(given["directory"]))


def show(
    answer: Callable[..., Iterable[Prediction]],
    given: dict[str, Any],
    *,
    frameworks: tuple[str, ...],
    command: str,
    missing: str,
) -> None:
    """Have texts answered, and print each answer as it comes.

    Args:
        answer: :func:`~.models.answers.fill_mask.fill_mask` or :func:`~.models.answers.predict.predict`, with what is
        its own alone.
        given: What :func:`text_options` declares.
        frameworks: What :func:`ready` returned.
        command: Its name, for messages.
        missing: What to say to a person who gave no text and types none.
    """
    from .models.text.text_lines import read_lines
    from .parity.status_line import StatusLine

    texts, file, as_json = given["texts"], given["file"], given["as_json"]
    if texts and file is not None:
        raise click.UsageError("Give texts or --file, not both.")
    if not texts and file is None and sys.stdin.isatty():
        raise click.UsageError(missing)
    waiting = f"loading {given['directory']} with {', '.join(frameworks)}"
    with StatusLine(shown=not given["verbose"]) as status:

        def tell(line: str) -> None:
            status.clear()
            echo(f"{command}: note: {line}", err=True)
            status.show(waiting)

        status.show(waiting)
        results = answer(
            given["directory"],
            texts or read_lines(file),
            frameworks=frameworks,
            extend_to=given["max_length"],
            device=given["device"],
            report=(lambda line: echo(line, err=True)) if given["verbose"] else (lambda line: None),
            note=tell,
            **take_stated(given),
        )
        for result in results:
            status.clear()
            click.echo(render_json(result.as_dict(), indent=None) if as_json else result.line)
