"""The command ``roformer-convert``: one module a command, loaded when it is called; errors end here with status 2."""

from __future__ import annotations

import click

from . import __version__
from .command_group import LazyGroup, run

#: Command → module. In the order of ``--help``.
COMMANDS = {
    "convert": "cmd_convert",
    "paddle2torch": "cmd_convert",
    "paddle2tf": "cmd_convert",
    "torch2paddle": "cmd_convert",
    "torch2tf": "cmd_convert",
    "tf2torch": "cmd_convert",
    "tf2paddle": "cmd_convert",
    "inspect": "cmd_inspect",
    "diff": "cmd_diff",
    "fill-mask": "cmd_fill_mask",
    "predict": "cmd_predict",
    "export": "cmd_export",
    "parity": "cmd_parity",
}


@click.group(
    cls=LazyGroup,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="roformer-convert")
def cli() -> None:
    """Convert RoFormer checkpoints between Paddle, PyTorch, TF2 and TF1, bit for bit.

    \b
    A PaddleNLP checkpoint for transformers:
        roformer-convert paddle2torch ckpt/
    A bert4keras checkpoint for PaddleNLP:
        roformer-convert convert chinese_roformer_L-12/ --to paddle
    What is this directory?
        roformer-convert inspect ckpt/
    Do these two hold the same model?
        roformer-convert diff ckpt/ ckpt-torch/

    Every command has a --help of its own.
    """


def main() -> None:
    """Run the command."""
    run(cli, "roformer-convert", COMMANDS, stopped="stopped; nothing was written")


if __name__ == "__main__":
    main()
