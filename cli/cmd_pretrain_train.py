"""``train``: run a configuration, every key of which is also a flag."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .command_group import echo
from .setting_flags import given_flags, named_configuration, setting_options


@click.command("train", short_help="Pretrain as a configuration says; flags overrule it.")
@click.option(
    "--config",
    "configuration",
    required=True,
    type=click.Path(path_type=Path),
    help="TOML file, or one of those shipped: configs/tiny.toml, configs/roformer_base_wwm.toml.",
)
@click.option(
    "--resume", is_flag=True, help="Go on from the newest checkpoint of --output that is whole, if it has one."
)
@setting_options
def train_command(configuration: Path, resume: bool, **flags: Any) -> None:
    """Pretrain as a configuration says; flags overrule it.

    \b
    On one machine:
        roformer-pretrain train --config configs/tiny.toml --corpus corpus/ -o run/
    On four GPUs:
        python -m paddle.distributed.launch --gpus 0,1,2,3 "$(command -v roformer-pretrain)" \\
            train --config configs/roformer_base_wwm.toml --corpus corpus/ -o run/

    \b
    Further than was said first, from where it ended:
        roformer-pretrain train --config configs/tiny.toml --corpus corpus/ -o run/ --resume --steps 20000
    Past a step whose data make the numbers run away:
        roformer-pretrain train --config configs/tiny.toml --corpus corpus/ -o run/ --resume --skip-steps 513

    Ctrl-C, or SIGTERM, finishes the step, saves and ends; --resume goes on from there. A second Ctrl-C stops at once.
    A resumed run may have other steps, rates, batches, corpora and intervals; the log says what is another.
    """
    from .models.processes.frameworks import require_packages
    from .training.settings.reading import read_settings

    settings = read_settings(named_configuration(configuration), given_flags(flags))
    needed = {"paddle": "pretrain", "tokenizers": "pretrain"}
    if settings.watch.tensorboard:
        needed["tensorboardX"] = "pretrain"
    require_packages("train", needed)
    try:
        from .training.run.loop import train

        train(settings, resume=resume, terminal=sys.stderr.isatty())
    except KeyboardInterrupt:
        echo(f"stopped; {_what_is_saved(Path(settings.run.output))}", err=True)
        sys.exit(130)


def _what_is_saved(run: Path) -> str:
    from .training.step.state import checkpoints

    found = checkpoints(run)
    if not found:
        return "no checkpoint was saved"
    return f"the newest checkpoint is {found[-1][1]}; --resume goes on"


COMMANDS = {"train": train_command}
