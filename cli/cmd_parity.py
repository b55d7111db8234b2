"""``parity``: the same command line as ``python -m roformer_convert.parity``."""

from __future__ import annotations

from .parity.command_line import parity_command

COMMANDS = {"parity": parity_command}
