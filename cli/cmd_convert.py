"""``convert`` and its six named directions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .command_group import end_once, hold_signals, leave
from .converters.dialects import DIALECT_FILES
from .converters.errors import printable
from .converters.mapping import Dialect
from .converters.rendering import amount, plan_table

if TYPE_CHECKING:
    from .converters.conversion import Report
    from .converters.plan import Plan

DIALECT_NAMES = ("paddle", "torch", "tf", "tf1")
#: Work below this many bytes is over before a bar could be read.
_BAR_BYTES = 64 << 20

Function = TypeVar("Function", bound=Callable[..., Any])


SET_OPTION = click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set a field of the configuration, whatever its file says: --set pooler_activation=linear. Repeatable.",
)


def _options(function: Function) -> Function:
    """Declare the options that every direction has."""
    declared: tuple[Callable[[Any], Any], ...] = (
        click.argument("source", type=click.Path(path_type=Path)),
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), help="Directory to make.  [default: SOURCE-to]"
        ),
        click.option("--force", is_flag=True, help="Replace the output if it is a checkpoint directory."),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float16", "bfloat16", "float64"]),
            help="Cast every tensor; by default each keeps its own type.",
        ),
        click.option(
            "--container",
            type=click.Choice(["safetensors", "bin", "pdparams", "h5", "ckpt"]),
            help="Format of the weight files.  [default: safetensors for torch, pdparams for paddle]",
        ),
        click.option("--max-shard-size", metavar="SIZE", help="Split the weights into files of at most 500MB, 5GB …"),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="Configuration file, where it does not lie beside the weights.",
        ),
        SET_OPTION,
        click.option("--any-vocab", is_flag=True, help="Accept a vocab.txt of another length than vocab_size."),
        click.option("--dry-run", is_flag=True, help="Print the plan, tensor by tensor; write nothing."),
        click.option("--no-verify", is_flag=True, help="Do not read the result back and compare it."),
        click.option(
            "--parity",
            "run_parity",
            is_flag=True,
            help="Then run source and result in their frameworks and require equal logits (see `parity --help`).",
        ),
        click.option("--fsync", is_flag=True, help="Force the result to disk before it gets its name."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as data on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    )
    for option in reversed(declared):
        function = option(function)  # each hands back what it was given
    return function


class _Bar:
    """A bar in bytes on stderr; silent where nobody would see it."""

    def __init__(self, quiet: bool, passes: int) -> None:
        self._quiet = quiet
        self._passes = passes
        self._stack = ExitStack()
        self._bar: Any = None

    def start(self, plan: Plan) -> None:
        # stderr is None where the caller closed it
        if self._quiet or plan.nbytes < _BAR_BYTES or sys.stderr is None or not sys.stderr.isatty():
            return
        label = "writing and checking" if self._passes == 2 else "writing"
        bar = click.progressbar(length=plan.nbytes * self._passes, label=label, file=sys.stderr, show_pos=False)
        self._bar = self._stack.enter_context(bar)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def close(self) -> None:
        self._stack.close()


def _run(source: Path, to: str, dialect: str | None, options: dict[str, Any]) -> None:
    from .converters.config_fields import parse_settings
    from .converters.conversion import convert

    options["set"] = parse_settings(options.pop("settings"))
    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    no_verify, run_parity = options.pop("no_verify"), options.pop("run_parity")
    if run_parity and options["dry_run"]:
        raise click.UsageError("--parity needs a result to run; leave --dry-run out")
    bar = _Bar(quiet, 1 if no_verify else 2)
    end_once()
    try:
        report = convert(
            source,
            options.pop("output"),
            to=to,  # type: ignore[arg-type]  # click.Choice and the command's name have checked it
            dialect=dialect,  # type: ignore[arg-type]
            verify=not no_verify,
            may_fork=True,
            progress=bar.advance,
            started=bar.start,
            finishing=None if run_parity else hold_signals,  # a gate that follows may be stopped
            **options,
        )
    finally:
        bar.close()
    try:
        if as_json:
            click.echo(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
        elif not quiet:
            click.echo(render(report, dry_run=options["dry_run"]))
        if not run_parity:
            leave()
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not report.written:
            raise
        what = f"{report.target} is written and whole; only its report could not be printed"
        raise OSError(error.errno, f"{what}: {error.strerror or error}") from None
    if run_parity:
        from .cmd_parity import gate_of_conversion

        whole = options["config"] is None and not options["set"] and _says_itself(source, dialect)
        status = gate_of_conversion(source, report.target, whole=whole, quiet=quiet or as_json)
        click.get_current_context().exit(status)


def _says_itself(source: Path, dialect: str | None) -> bool:
    """Whether the source is found to be of its dialect without being told."""
    from .converters.errors import ConvertError
    from .converters.opening import open_checkpoint

    try:
        with open_checkpoint(source) as checkpoint:
            return dialect in (None, checkpoint.dialect)
    except ConvertError:
        return False


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def render(report: Report, *, dry_run: bool) -> str:
    """Say in a few lines what was done."""
    data = report.as_dict()
    plan = report.plan
    lines = []
    if dry_run:
        lines.append(plan_table(plan))
    arrow = "would become" if dry_run else "→"
    lines.append(
        f"{report.source} ({report.source_dialect}, {report.source_container}) {arrow} "
        f"{report.target} ({plan.target}, {plan.container})"
    )
    files = len(plan.files)
    facts = [
        data["model_class"],
        _counted(data["tensors"], "tensor"),
        amount(plan.nbytes) + (f" in {files} files" if files > 1 else ""),
        f"{_counted(data['turned'], 'kernel')} turned",
    ]
    if data["cast"]:
        facts.append(f"{data['cast']} cast")
    lines.append("  " + ", ".join(facts))
    if plan.companions:
        lines.append("  with " + ", ".join(path.name for path in plan.companions))
    lines.extend(f"  note: {printable(note)}" for note in report.notes)
    if dry_run:
        lines.append("  nothing was written (--dry-run)")
    else:
        checked = "read back and equal bit for bit" if report.verified else "not read back (--no-verify)"
        lines.append(f"  {checked}; {report.seconds:.2f} s")
    return "\n".join(lines)


@click.command("convert")
@click.option("--to", "to", required=True, type=click.Choice(DIALECT_NAMES), help="Dialect to write.")
@click.option(
    "--from", "dialect", type=click.Choice(DIALECT_NAMES), help="Dialect of SOURCE, where its files do not say."
)
@_options
def convert_command(source: Path, to: str, dialect: str | None, **options: Any) -> None:
    """Convert SOURCE into another dialect, whichever it is in.

    SOURCE is a checkpoint directory, or a single weight file with --config (or with a configuration that the shapes
    decide). Dialects: paddle (PaddleNLP), torch (transformers), tf (transformers' tf_model.h5), tf1 (bert4keras).

    \b
        roformer-convert convert chinese_roformer_L-12/ --to torch
        roformer-convert convert model_state.pdparams --config config.json --to torch -o served/
        roformer-convert convert ckpt/ --to paddle --dtype float16 --max-shard-size 2GB
    """
    _run(source, to, dialect, options)


def _direction(dialect: Dialect, to: Dialect) -> click.Command:
    @_options
    def run(source: Path, **options: Any) -> None:
        _run(source, to, dialect, options)

    name = f"{dialect}2{to}"
    text = f"""Convert a checkpoint of {DIALECT_FILES[dialect].software} for {DIALECT_FILES[to].software}.

    SOURCE is a checkpoint directory or a single weight file. The result lies beside it, in SOURCE-{to}, with its
    configuration and tokenizer files, read back and compared bit by bit.

    \b
        roformer-convert {name} ckpt/
        roformer-convert {name} ckpt/ -o served/ --dry-run
    """
    return click.command(
        name, help=text, short_help=f"{DIALECT_FILES[dialect].software} → {DIALECT_FILES[to].software}"
    )(run)


COMMANDS: dict[str, click.Command] = {"convert": convert_command}
_WITH_NAMES: tuple[Dialect, ...] = ("paddle", "torch", "tf")
for _pair in permutations(_WITH_NAMES, 2):
    COMMANDS["2".join(_pair)] = _direction(*_pair)
