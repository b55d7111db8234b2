"""``doctor``: whether a run would fit, what would compute it and how long it would take."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from .converters.json_output import render_json
from .setting_flags import given_flags, named_configuration, setting_options
from .training.settings.tables import TABLES, Settings, Stage
from .training.step.estimate import KINDS

if TYPE_CHECKING:
    from .models.config import RoFormerConfig

_REFERENCE_VOCABULARY = 12_000  # of junnyu/roformer_base_wwm_cluecorpussmall


@click.command("doctor", short_help="Say what a run would cost: memory, kernels, speed, days.")
@click.option(
    "--config",
    "configuration",
    type=click.Path(path_type=Path),
    required=True,
    help="What would run: a TOML file, or one of those shipped, such as configs/tiny.toml.",
)
@click.option(
    "--gpu", type=click.Choice(list(KINDS), case_sensitive=False), help="Estimate for a GPU that is not here."
)
@click.option("--ranks", type=click.IntRange(1, 4096), help="Processes, a device each.  [default: the GPUs here, or 1]")
@click.option(
    "--vocab-size",
    type=click.IntRange(6, 1 << 24),
    help="Words of the vocabulary.  [default: those of the corpora, or 12,000, the reference run's]",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as data: bytes, seconds, tokens.")
@setting_options
@click.pass_context
def doctor_command(
    ctx: click.Context,
    /,
    configuration: Path,
    gpu: str | None,
    ranks: int | None,
    vocab_size: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Say what a run would cost on this machine, or on other GPUs: memory, kernels, speed, days.

    Every flag of train is taken here, too, to try it out. Speed is measured with a few steps of two layers, for some
    seconds; for a GPU that is not here it is the share of the data sheet's rate that the reference run reached.
    Exit status: 0 the configuration can run, 1 it cannot, 2 the question could not be answered.

    \b
        roformer-pretrain doctor --config configs/tiny.toml --corpus corpus/
    Would the reference run fit four V100s with 16 GB, and what if activations are computed again?
        roformer-pretrain doctor --config configs/roformer_base_wwm.toml --gpu V100-16GB --ranks 4
        roformer-pretrain doctor --config configs/roformer_base_wwm.toml --gpu V100-16GB --ranks 4 --recompute
    """
    from .models.processes.frameworks import require_packages
    from .training.settings.reading import read_settings

    settings = read_settings(named_configuration(configuration), given_flags(flags))
    require_packages("doctor", {"paddle": "pretrain", "tokenizers": "pretrain"})
    from .training.doctor import machine, targets
    from .training.doctor.forecast import diagnose, lines

    config = _model(settings, vocab_size)
    disk = None
    if gpu is not None:
        target = targets.elsewhere(KINDS[gpu], settings, ranks or 1)
    else:
        target, disk = targets.here(settings, config, ranks), machine.free_on_disk(Path(settings.run.output))
        click.echo("measuring a few steps of two layers …", err=True)
    found = diagnose(settings, config, target, disk=disk)
    click.echo(render_json(found.as_dict()) if as_json else "\n".join([str(configuration), *lines(found, settings)]))
    ctx.exit(1 if found.cannot else 0)


def _model(settings: Settings, vocab_size: int | None) -> RoFormerConfig:
    """Return the run's model, with the corpora's vocabulary where there are corpora and no other size is given."""
    from .training.start.sources import model_config, open_sources

    if vocab_size is None and settings.data.corpora:
        return model_config(settings, open_sources(settings.data.corpora).tokenizer)
    vocabulary: Any = SimpleNamespace(size=vocab_size or _REFERENCE_VOCABULARY, pad_id=0)
    return model_config(settings, vocabulary)


# train's flags are fifty: its --help lists them
for _parameter in doctor_command.params:
    if any(_parameter.name == each.name for kind in (*TABLES.values(), Stage) for each in fields(kind)):
        assert isinstance(_parameter, click.Option)
        _parameter.hidden = True

COMMANDS = {"doctor": doctor_command}
