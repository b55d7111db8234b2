"""``python -m roformer_convert.parity``: the command ``roformer-convert parity``, where no program was installed."""

from __future__ import annotations

import sys

import click

from ..converters.errors import ConvertError, printable_lines
from .command_line import parity_command


def main() -> None:
    """Run the command; an error is printed and ends it with its status."""
    try:
        parity_command(prog_name="python -m roformer_convert.parity")
    except ConvertError as error:
        click.echo(printable_lines(f"parity: {error}"), err=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
