"""The command ``roformer-pretrain``: one module a command, loaded when it is called."""

from __future__ import annotations

from .interruption import Interruptible

with Interruptible():
    import click

    from . import __version__
    from .command_group import LazyGroup, run

#: Command → module. In the order in which one needs them.
COMMANDS = {
    "doctor": "cmd_pretrain_doctor",
    "vocab": "cmd_pretrain_vocab",
    "prepare": "cmd_pretrain_prepare",
    "configs": "cmd_pretrain_configs",
    "train": "cmd_pretrain_train",
    "plot": "cmd_pretrain_plot",
}


def _hint(typed: str) -> str:
    return f" Did you mean '--{typed}'?" if typed in ("help", "version") else ""


@click.group(
    cls=LazyGroup,
    modules=COMMANDS,
    hint=_hint,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="roformer-pretrain")
def cli() -> None:
    """Pretrain a RoFormer on Paddle: from raw Chinese text to a checkpoint that converts.

    \b
    What can this machine do, and how long would the run take?
        roformer-pretrain doctor --config configs/roformer_base_wwm.toml
    A vocabulary, if there is none, and the text as memory-mapped tokens:
        roformer-pretrain vocab news/*.txt.gz -o vocab.txt
        roformer-pretrain prepare news/*.txt.gz --vocab vocab.txt -o corpus/
    What comes along to begin with:
        roformer-pretrain configs
    Train, and go on after a stop:
        roformer-pretrain train --config configs/tiny.toml --corpus corpus/ -o run/
        roformer-pretrain train --config configs/tiny.toml --corpus corpus/ -o run/ --resume
    Look at it, and take it away:
        roformer-pretrain plot run/ -o run.png
        roformer-convert paddle2torch run/step-002000

    Every command has a --help of its own.
    """


def main() -> None:
    """Run the command."""
    run(cli, "roformer-pretrain", stopped="stopped")


if __name__ == "__main__":
    main()
