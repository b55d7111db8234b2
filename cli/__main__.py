"""The command ``roformer-convert``: one module a command, loaded when it is called; errors end here with status 2."""

from __future__ import annotations

from .interruption import Interruptible

with Interruptible():
    import click

    from . import __version__
    from .command_group import LazyGroup, run
    from .converters.other_names import usual_direction
    from .converters.table.mapping import DIALECTS

#: Command → module. In the order of ``--help``, which does not list the directions of TF1.
COMMANDS = {
    "convert": "cmd_convert",
    "paddle2torch": "cmd_convert",
    "paddle2tf": "cmd_convert",
    "torch2paddle": "cmd_convert",
    "torch2tf": "cmd_convert",
    "tf2torch": "cmd_convert",
    "tf2paddle": "cmd_convert",
    **{f"tf12{name}": "cmd_convert" for name in ("paddle", "torch", "tf")},
    **{f"{name}2tf1": "cmd_convert" for name in ("paddle", "torch", "tf")},
    "inspect": "cmd_inspect",
    "diff": "cmd_diff",
    "fill-mask": "cmd_fill_mask",
    "predict": "cmd_predict",
    "export": "cmd_export",
    "parity": "cmd_parity",
}


def _hint(typed: str) -> str:
    first, _, second = usual_direction(typed).partition("2")
    if first == second and first in DIALECTS:
        return f" For other types or files in the same dialect: roformer-convert convert SOURCE --to {first}"

    from .pretrain import COMMANDS as PRETRAIN_COMMANDS

    if typed in PRETRAIN_COMMANDS:
        return f" It is one of the other program's: roformer-pretrain {typed}"
    return f" Did you mean '--{typed}'?" if typed in ("help", "version") else ""


@click.group(
    cls=LazyGroup,
    modules=COMMANDS,
    usual=usual_direction,
    hint=_hint,
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
    run(cli, "roformer-convert", stopped="stopped; nothing was written")


if __name__ == "__main__":
    main()
