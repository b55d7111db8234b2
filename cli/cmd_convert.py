"""``convert`` and the directions that have names."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from .command_group import OnePath, echo, end_once, hold_signals
from .converters.amounts import amount
from .converters.containers.registry import all_containers, containers_of
from .converters.conversion import ConvertOptions, Watcher, convert
from .converters.errors import ConvertError, OtherDialectError, fold_key, fold_names, printable
from .converters.json_output import render_json
from .converters.name_choice import NameChoice
from .converters.rendering import MANY_ROWS, table
from .converters.table.dialects import DIALECT_FILES, OPTIMIZER_FILES
from .converters.table.mapping import DIALECTS, Dialect
from .converters.tensors.stored import FLOATS
from .parity.options import GateOptions
from .progress_bar import WEIGHT_BYTES, ByteBar
from .source_options import CLASS, CONFIG, FOLLOW_LINKS, FROM_BERT_TOO, SET, parts_options, take_stated

if TYPE_CHECKING:
    from .converters.report import ConversionReport
    from .converters.target.plan import Plan

Function = TypeVar("Function", bound=Callable[..., Any])


def _container_help(to: str) -> dict[str, Any]:
    """Say which containers a dialect's software reads and which is written by default; of "TO" those of all."""
    offered = {dialect: [each.name for each in containers_of(dialect)] for dialect in DIALECTS if to in (dialect, "TO")}
    names = dict.fromkeys(name for several in offered.values() for name in several)
    usual = [f"{several[0]}{f' for {dialect}' * (to == 'TO')}" for dialect, several in offered.items() if several[1:]]
    told = f"  [default: {', '.join(usual)}]" if usual else ""
    return {"metavar": f"[{'|'.join(names)}]", "help": f"Format of the weight files.{told}"}


def _options(function: Function, to: str = "TO") -> Function:
    """Declare the options that every direction has; ``to`` is what the default output's name ends in."""
    declared: tuple[Callable[[Any], Any], ...] = (
        click.argument("source", type=click.Path(path_type=Path)),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            help=f"Directory to make.  [default: ckpt-{to} beside ckpt]",
        ),
        click.option("--force", is_flag=True, help="Replace the output if it is a checkpoint directory."),
        click.option(
            "--dtype",
            type=NameChoice(FLOATS),
            help="Cast every tensor; by default each keeps its own type.",
        ),
        click.option(
            "--container",
            type=NameChoice(container.name for container in all_containers()),
            **_container_help(to),
        ),
        click.option("--max-shard-size", metavar="SIZE", help="Split the weights into files of at most 500MB, 5GB …"),
        click.option(
            "--with-optimizer",
            is_flag=True,
            help="Convert AdamW's moments and steps too, from a file of their own or the weights'.",
        ),
        click.option(
            "--optimizer-file",
            type=click.Choice(OPTIMIZER_FILES),
            help="File that they go to.  [default: optimizer.pt for torch, optimizer.pdopt for paddle]",
        ),
        click.option(
            "--frozen-positions",
            is_flag=True,
            help="Write optimizer.pt for a model that is built from its configuration, not with from_pretrained.",
        ),
        click.option(
            "--adam",
            metavar="NAME=VALUE",
            multiple=True,
            help="Setting of AdamW that no file says: lr, beta1, beta2, eps or weight_decay. Repeatable.",
        ),
        CONFIG,
        SET,
        CLASS,
        parts_options,
        click.option(
            "--only-read",
            is_flag=True,
            help="Leave out what the target's software does not read and would report as unexpected.",
        ),
        click.option(
            "--allow-different",
            is_flag=True,
            help="Write it though the target's software computes another function; the result records what differs.",
        ),
        click.option(
            "--no-positions",
            is_flag=True,
            help="Leave the rotary table out of torch and tf files: they then load with any max_position_embeddings.",
        ),
        FOLLOW_LINKS,
        click.option("--any-vocab", is_flag=True, help="Accept a vocab.txt of another length than vocab_size."),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Print the plan, tensor by tensor, layers of large models folded; write nothing.",
        ),
        click.option("--no-verify", is_flag=True, help="Do not read the result back and compare it."),
        click.option(
            "--parity",
            "run_parity",
            is_flag=True,
            help="Run source and result in their frameworks, and keep the result if they agree (see `parity --help`).",
        ),
        click.option(
            "--with",
            "official",
            metavar="NAME[=PYTHON]",
            multiple=True,
            help="With --parity, also load the result in the software that will serve it, such as transformers, and "
            "require the same of it (see `parity --help`). Repeatable.",
        ),
        click.option("--fsync", is_flag=True, help="Force the result to disk before it gets its name."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as data on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    )
    for option in reversed(declared):
        function = option(function)  # each hands back what it was given
    return function


class _Watcher(Watcher):
    """Shows a bar, has what was made proven, and lets no signal disturb the command's last moments.

    Args:
        quiet: Show no bar.
        passes: How often each byte is counted: once when written, and once more when compared.
        prove: Takes what was made and the target whose name it shall get; raises where that proves nothing.
    """

    def __init__(self, *, quiet: bool, passes: int, prove: Callable[[Path, Path], None]) -> None:
        self.bar = ByteBar("writing and checking" if passes == 2 else "writing", quiet, WEIGHT_BYTES)
        self._passes = passes
        self._prove = prove

    def start(self, plan: Plan) -> None:
        self.bar.start(plan.nbytes_in_all * self._passes)

    def advance(self, nbytes: int) -> None:
        self.bar.advance(nbytes)

    def finish(self, made: Path, target: Path) -> None:
        self.bar.close()
        self._prove(made, target)
        hold_signals()


def _run(source: Path, to: Dialect, given: dict[str, Any], direction: Dialect | None = None) -> None:
    quiet, as_json, output = given.pop("quiet"), given.pop("as_json"), given.pop("output")
    run_parity, official, verify = given.pop("run_parity"), given.pop("official"), not given.pop("no_verify")
    positions = not given.pop("no_positions")
    adam = _adam(given.pop("adam"), given)
    # click.Choice and the command's name have checked the dialects
    stated = take_stated(given)
    if direction is not None:
        stated["dialect"] = direction
    given |= {**stated, "adam": adam, "verify": verify, "positions": positions}
    options = ConvertOptions(**given)
    if run_parity and options.dry_run:
        raise click.UsageError("--parity needs a result to run; leave --dry-run out")
    if official and not run_parity:
        raise click.UsageError("--with names who takes part in --parity: add --parity")
    asked = GateOptions(official=official, as_json=as_json, quiet=quiet or as_json)
    prove = _proof(source, to, options, asked) if run_parity else _no_proof
    watcher = _Watcher(quiet=quiet, passes=2 if options.verify else 1, prove=prove)
    end_once()
    with watcher.bar:
        try:
            report = convert(source, output, to=to, options=options, watcher=watcher)
        except OtherDialectError as error:
            error.next_step = _right_direction(source, to, options)
            raise
    try:
        if as_json:
            click.echo(render_json(report.as_dict()))
        elif not quiet:
            echo(render(report, dry_run=options.dry_run))
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not report.written:
            raise
        what = f"{report.target} is written and whole; only its report could not be printed"
        raise OSError(error.errno, f"{what}: {error.strerror or error}") from None


def _no_proof(made: Path, target: Path) -> None:
    """Ask for none."""


def _proof(source: Path, to: str, options: ConvertOptions, asked: GateOptions) -> Callable[[Path, Path], None]:
    """Return what runs the gate on what was made (``--parity``); that it can run is seen before anything is written."""
    from .parity.command_line import prove_conversion, require_proof

    told = options.set or options.model_class or options.parts or options.allow_different or options.config
    own = None if told or not source.is_dir() else _says_itself(source, options.dialect)
    require_proof(source, None if own is None else (own, to), asked.official)
    against = None if own is None else source
    return lambda made, target: prove_conversion(made, target, against, asked)


def _right_direction(source: Path, to: str, options: ConvertOptions) -> str:
    """Say which command converts what is of another dialect than was said."""
    from .converters.source.identification import identify

    path = shlex.quote(str(source)) + " --from bert" * options.parts.bert
    command = f"roformer-convert convert {path} --to {to}"
    try:
        found = identify(source, config=options.config, set=options.set, model_class=options.model_class).dialect
    except ConvertError:
        return f"Without --from the dialect is detected: {command}"
    if found == to:  # what was typed is back to front
        return f"The other way round: roformer-convert {found}2{options.dialect} {path}"
    return f"The right direction: roformer-convert {found}2{to} {path}"


def _adam(texts: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, float] | None:
    """Read ``--adam``, which like the other options of the optimiser's state means nothing without it."""
    if not given["with_optimizer"]:
        if texts or given["optimizer_file"] is not None or given["frozen_positions"]:
            what = "--optimizer-file, --frozen-positions and --adam say something of the optimiser's state"
            raise click.UsageError(f"{what}: add --with-optimizer")
        return None
    from .converters.optimizer.state import parse_options

    return {name: value for name, value in vars(parse_options(texts)).items() if value is not None}


def _says_itself(source: Path, dialect: str | None) -> str | None:
    """Return the dialect that the source is found to be of without being told; None where it is not the one named."""
    from .converters.source.opening import open_checkpoint

    try:
        with open_checkpoint(source) as checkpoint:
            return checkpoint.dialect if dialect in (None, checkpoint.dialect) else None
    except ConvertError:
        return None


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def plan_table(plan: Plan) -> str:
    """Print every tensor of a plan: where it goes, where it comes from, whether it is transposed, its bytes.

    Of many, those that differ in their layer alone are one row, with the bytes of all of them.
    """
    rows = []
    files = [(file.filename, file.steps) for file in plan.files]
    if plan.beside is not None:
        files.append((plan.beside.filename, plan.beside.steps))
    for filename, steps in files:
        for step in steps:
            how = "computed" if step.computed else "transposed" if step.transpose else "copied"
            if step.casts and not step.computed:
                how += f", cast from {step.binding.stored.dtype}"
            if step.new.alias_of is not None:
                how = f"second name of {step.new.alias_of}"
            stored = 0 if step.new.alias_of is not None else step.new.nbytes
            shape = " × ".join(map(str, step.new.shape))
            origin = "" if step.computed else step.binding.stored.name
            rows.append(_Row(filename, step.new.name, origin, shape, step.new.dtype, how, stored))
    if len(rows) > MANY_ROWS:
        rows = _folded(rows)
    head = ["file", "target tensor", "from", "shape", "dtype", "how", "bytes"]
    first = 0 if len(files) > 1 else 1
    cells = [[*row[:-1], f"{row.nbytes:,}"][first:] for row in rows]
    return table(head[first:], cells, right=[len(head) - first - 1])


class _Row(NamedTuple):
    """A row of the plan's table, as its columns are."""

    file: str
    name: str
    origin: str
    shape: str
    dtype: str
    how: str
    nbytes: int


def _folded(rows: Sequence[_Row]) -> list[_Row]:
    """Make one row of those that differ in their layer alone."""
    keyed = [((row.file, row.shape, row.dtype, row.how, fold_key(row.origin)), row.name) for row in rows]
    folded = []
    for name, places in fold_names(keyed):
        first = rows[places[0]]
        if len(places) > 1:
            origin = fold_names([("", rows[place].origin) for place in places])[0][0]
            nbytes = sum(rows[place].nbytes for place in places)
            first = first._replace(name=name, origin=origin, nbytes=nbytes, how=f"{first.how}, {len(places)} tensors")
        folded.append(first)
    return folded


def render(report: ConversionReport, *, dry_run: bool) -> str:
    """Say in a few lines what was done."""
    data = report.as_dict()
    plan = report.plan
    lines = []
    if dry_run:
        lines.append(plan_table(plan))
    arrow = "would become" if dry_run else "→"
    lines.append(
        f"{report.source} ({report.source_dialect}, {report.source_container}) {arrow} "
        f"{report.target} ({plan.target}, {plan.container.name})"
    )
    files = len(plan.files)
    facts = [
        data["model_class"],
        _counted(data["tensors"], "tensor"),
        amount(plan.nbytes) + (f" in {files} files" if files > 1 else ""),
        f"{_counted(data['transposed'], 'kernel')} transposed",
    ]
    if data["computed"]:
        facts.append("rotary table computed")
    if data["cast"]:
        facts.append(f"{data['cast']} cast")
    lines.append("  " + ", ".join(facts))
    if plan.travelling:
        lines.append("  with " + ", ".join(plan.travelling))
    if plan.beside is not None:
        lines.append(f"  {plan.beside.filename}: {plan.beside.summary}")
    lines.extend(f"  note: {printable(note)}" for note in report.notes)
    if dry_run:
        lines.append("  nothing was written (--dry-run)")
    else:
        checked = "read back and equal bit for bit" if report.verified else "not read back (--no-verify)"
        lines.append(f"  {checked}; {report.seconds:.2f} s")
    return "\n".join(lines)


_SECOND = "The output is named with -o: -o {}"


@click.command(
    "convert", cls=OnePath, second=_SECOND, short_help="Convert SOURCE into another dialect, whichever it is in."
)
@click.option("--to", "to", required=True, type=NameChoice(DIALECTS), help="Dialect to write.")
@FROM_BERT_TOO
@_options
def convert_command(source: Path, to: Dialect, **options: Any) -> None:
    """Convert SOURCE into another dialect, whichever it is in.

    SOURCE is a checkpoint directory, or a single weight file with --config (or with a configuration that the shapes
    decide). Dialects: paddle (PaddleNLP), torch (transformers), tf (transformers' tf_model.h5), tf1 (bert4keras).

    \b
        roformer-convert convert chinese_roformer_L-12/ --to torch
        roformer-convert convert model_state.pdparams --config config.json --to torch -o served/
        roformer-convert convert ckpt/ --to paddle --dtype float16 --max-shard-size 2GB
    Written only if transformers, which will serve it, computes what the source does:
        roformer-convert convert ckpt/ --to torch --parity --with transformers
    """
    _run(source, to, options)


#: A direction's name says the dialect; what is left to say is that the files are a BERT's.
_BEGIN = click.option(
    "--from", "dialect", type=NameChoice(["bert"]), help="The files are a BERT's, with which a RoFormer is to begin."
)


def _direction(dialect: Dialect, to: Dialect) -> click.Command:
    def run(source: Path, **options: Any) -> None:
        _run(source, to, options, dialect)

    name = f"{dialect}2{to}"
    text = f"""Convert a checkpoint of {DIALECT_FILES[dialect].software} for {DIALECT_FILES[to].software}.

    SOURCE is a checkpoint directory or a single weight file. The result lies beside it, in SOURCE-{to}, with its
    configuration and tokenizer files, read back and compared bit by bit.

    \b
        roformer-convert {name} ckpt/
        roformer-convert {name} ckpt/ -o served/ --dry-run
    """
    return click.command(
        name,
        cls=OnePath,
        second=_SECOND,
        help=text,
        short_help=f"{DIALECT_FILES[dialect].software} → {DIALECT_FILES[to].software}",
        hidden="tf1" in (dialect, to),
    )(_BEGIN(_options(run, to)))


_PAIRS = {"2".join(pair): pair for pair in permutations(DIALECTS, 2)}


class _Commands(dict[str, click.Command]):
    """Command by name; a direction is made, with all its options, when it is asked for."""

    def __missing__(self, name: str) -> click.Command:
        return self.setdefault(name, _direction(*_PAIRS[name]))


COMMANDS = _Commands(convert=convert_command)
