"""The command line of ``roformer-convert parity`` and of ``python -m roformer_convert.parity``, which are one.

Whether the frameworks agree on a checkpoint, and where a difference starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..converters.errors import ConvertError, printable, printable_lines, stand_for
from ..converters.json_output import render_json
from ..converters.name_choice import NameChoice
from ..converters.other_names import did_you_mean, usual_name
from ..converters.source.renaming import Parts
from ..converters.source.stated import Stated
from ..converters.table.field_values import parse_settings
from ..converters.table.mapping import CLASSES
from ..converters.tensors.stored import HALF_TYPES
from ..models.processes.frameworks import FRAMEWORKS
from ..models.text.text_lines import read_lines
from .options import GateOptions
from .status_line import StatusLine

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .participants.conversions import Direction
    from .result import Result


class _Names(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """Some of several names, separated by commas."""

    name = "names"

    def __init__(self, known: Iterable[str]) -> None:
        self.known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        names = [usual_name(name.strip(), self.known) for name in str(value).split(",") if name.strip()]
        wrong = [name for name in names if name not in self.known]
        if wrong or not names:
            near = did_you_mean(wrong[0], self.known) if wrong else ""
            self.fail(f"{value!r}: wanted some of {', '.join(self.known)}, separated by commas.{near}", param, ctx)
        return tuple(dict.fromkeys(names))


class _Devices(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A device for all, or one for each of several frameworks."""

    name = "devices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from .participants.computing import read_devices

        try:
            return read_devices(str(value))
        except ConvertError as error:
            self.fail(f"{error.what}. {error.next_step}", param, ctx)


@click.command("parity", short_help="Run DIR in all three frameworks and say whether they agree.")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--frameworks",
    type=_Names(FRAMEWORKS),
    metavar="NAMES",
    help="Frameworks that compute, e.g. paddle,torch.  [default: all three; of several directories each in its own]",
)
@click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set a field of every DIR's configuration, whatever its file says: --set attention=causal. Repeatable.",
)
@click.option(
    "--class",
    "model_class",
    type=NameChoice(CLASSES),
    help="What every DIR is, where its files do not say it: names alone do not tell some heads apart.",
)
@click.option("--prefix", metavar="P", help="The model is what begins with P in every DIR's file.")
@click.option("--encoder-only", is_flag=True, help="Take the encoder and its pooler, without heads.")
@click.option(
    "--drop",
    metavar="PATTERN",
    multiple=True,
    help="Leave out the tensors whose names in the files match. Repeatable.",
)
@click.option(
    "--sentences",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Your own, one a line in UTF-8, a tab between the two texts of a pair; - is stdin.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1, 1000),
    default=GateOptions.top_k,
    show_default=True,
    help="Answers compared: words at a mask, labels.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens of the longest batch, past the model's limit too.  [default: that limit, at most 2048]",
)
@click.option(
    "--device",
    "devices",
    type=_Devices(),
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="cpu, gpu or gpu:N for every framework, or each its own: paddle=gpu,torch=cpu. A GPU takes the build for it.",
)
@click.option(
    "--half-types",
    type=_Names(HALF_TYPES),
    metavar="NAMES",
    help="Compute in float16, bfloat16 or both too.  [default: in the one that a DIR is stored in]",
)
@click.option("--no-gradients", is_flag=True, help="Leave out the loss, its gradients and the step.")
@click.option(
    "--with",
    "official",
    metavar="NAME[=PYTHON]",
    multiple=True,
    help="Also ask the software that serves it: transformers, transformers-tf, paddlenlp, bert4keras, junnyu, onnx, "
    "where PYTHON, an interpreter or an environment, has it; or the directory of an export. Repeatable.",
)
@click.option("--golden", type=click.Path(path_type=Path), help="Compare with a recorded run; drift is exit status 1.")
@click.option("--update-golden", is_flag=True, help="Record this run as the golden, if everything agrees.")
@click.option("--yes", is_flag=True, help="Record even where the environment variable CI is set.")
@click.option("--report", type=click.Path(path_type=Path), help="Write one HTML file that opens anywhere.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as data on stdout.")
@click.option("--json-file", type=click.Path(path_type=Path), help="Write everything as data.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the verdicts for a CI system.")
@click.option(
    "--conversions",
    type=click.Choice(["first", "only"]),
    help="Take each DIR through every ordered pair of dialects and compare every bit: before the frameworks run, or "
    "without running any.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print on stderr what each framework's process did.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit status says it.")
@click.pass_context
def parity_command(
    ctx: click.Context,
    /,
    directories: tuple[Path, ...],
    settings: tuple[str, ...],
    model_class: str | None,
    prefix: str | None,
    drop: tuple[str, ...],
    encoder_only: bool,
    sentences: Path | None,
    no_gradients: bool,
    conversions: str | None,
    **given: Any,
) -> None:
    """Run DIR in Paddle, PyTorch and TensorFlow and say whether they agree.

    One directory is converted into each framework's dialect first; several are compared as they are, whatever their
    dialects. Exit status: 0 they agree, 1 they differ, 2 it could not run, 3 nothing differs, but a bound is so wide
    that it proves nothing.

    \b
        roformer-convert parity ckpt/ --report parity.html
        roformer-convert parity ckpt/ ckpt-torch/
    Whether the software that serves it computes the same:
        roformer-convert parity ckpt/ --with transformers --with paddlenlp=/opt/paddlenlp
    Whether every conversion of it keeps every bit, which needs no framework:
        roformer-convert parity ckpt/ --conversions only
    A gate for CI, and how its golden is recorded:
        roformer-convert parity ckpt/ --golden golden.npz --junit parity.xml
        roformer-convert parity ckpt/ --golden golden.npz --update-golden
    """
    stated = Stated(set=parse_settings(settings), model_class=model_class, parts=Parts(prefix, drop, encoder_only))
    options = GateOptions(stated=stated, gradients=not no_gradients, **given)
    if options.update_golden and options.golden is None:
        raise click.UsageError("--update-golden needs --golden FILE, the file to record.")
    if options.as_json and directories[-1].suffix == ".json" and not directories[-1].exists():
        raise click.UsageError(f"--json prints on stdout; a file is named with --json-file {directories[-1]}")
    _try_outputs(options, without_run=conversions == "only")
    if sentences is not None:
        options = replace(options, sentences=list(read_lines(sentences)))
    if conversions != "only":
        from .participants.participants import require_gate

        require_gate(directories, options.frameworks)
        if options.official:
            from .serving.software import require_official

            require_official(options.official)
    statuses, tried = [0], {}
    if conversions is not None:
        for directory in directories:
            different, directions = convert_every_way(directory, **stated, quiet=options.quiet or options.as_json)
            statuses.append(different)
            tried[str(directory)] = [asdict(direction) for direction in directions]
    if conversions != "only":
        statuses.append(run_gate(directories, options, conversions=tried))
    elif options.as_json:
        click.echo(render_json({"passed": not any(statuses), "conversions": tried}))
    ctx.exit(1 if 1 in statuses else max(statuses))


def _try_outputs(options: GateOptions, *, without_run: bool) -> None:
    """Try every file that is to be written, before the run whose result would be lost.

    Raises:
        click.UsageError: Two are one file, or nothing would be written to one.
        ConvertError: One cannot be written.
    """
    from ..converters.target.whole_files import require_writable

    names = ["report", "json_file", "junit"] + ["golden"] * options.update_golden
    given = {f"--{name.replace('_', '-')}": path for name in names if (path := getattr(options, name)) is not None}
    if without_run and given:
        raise click.UsageError(f"{next(iter(given))} is written by a run, and --conversions only runs nothing.")
    for place, (option, path) in enumerate(given.items()):
        for other, its in list(given.items())[:place]:
            if os.path.realpath(path) == os.path.realpath(its):
                raise click.UsageError(f"{other} and {option} name one file, {path}.")
        require_writable(path)


def convert_every_way(
    checkpoint: Path, *, quiet: bool = False, **stated: Unpack[Stated]
) -> tuple[int, list[Direction]]:
    """Convert in every direction, print a line for each; return 0 where all bits agree, or 1, and what came of each."""
    from .participants.conversions import every_direction, report

    directions = list(every_direction(checkpoint, **stated))
    if not quiet:
        click.echo(printable_lines(report(checkpoint, directions)) + "\n")
    return (1 if any(direction.different for direction in directions) else 0), directions


def run_gate(
    directories: Sequence[Path],
    options: GateOptions,
    *,
    called: Sequence[Path] | None = None,
    conversions: Mapping[str, Any] | None = None,
    only_failure: bool = False,
) -> int:
    """Run the gate and write what was asked for; return the exit status.

    One file that cannot be written keeps none of the others from being written.

    Args:
        directories: What is compared.
        options: What is asked of it.
        called: What to call each; by default as it is.
        conversions: What came of converting them, to be written with everything else.
        only_failure: Print data only where the gate does not pass, for who prints something else where it does.

    Raises:
        ConvertError: It could not run, or a file could not be written.
    """
    from .gate import run
    from .golden import compare_golden, explain_drift, read_golden, refuse_in_ci
    from .screen import screen

    if options.update_golden:
        refuse_in_ci(options.yes)
    recorded = None if options.golden is None or options.update_golden else read_golden(options.golden)
    say = (lambda line: click.echo(printable_lines(line), err=True)) if options.verbose else (lambda line: None)
    with (
        StatusLine(shown=not (options.verbose or options.quiet)) as status,
        run(directories, options, called=called, report=say, progress=status.show) as result,
    ):
        if recorded is not None:
            result.verdicts += compare_golden(recorded, result)
            result.causes += explain_drift(recorded, result)
        data = {**result.as_dict(), **({"conversions": conversions} if conversions else {})}
        notes, problems = _write(result, data, options)
        status.clear()
        if options.as_json:
            if not (only_failure and result.passed):
                click.echo(render_json(data))
        elif not options.quiet:
            click.echo(printable_lines("\n".join([screen(result), *notes])))
        if options.update_golden and not result.passed:
            why = "the participants differ" if result.exit_status == 1 else "a verdict proves nothing"
            click.echo(f"{printable(str(options.golden))}: not recorded, because {why}", err=True)
        if problems:
            raise ConvertError("\n  ".join(problems), "Everything else that was asked for is written.")
        return result.exit_status


def _write(result: Result, data: Mapping[str, Any], options: GateOptions) -> tuple[list[str], list[str]]:
    """Write every file that was asked for; return what is to be said of them, and what went wrong."""
    from ..converters.target.whole_files import write_whole
    from .golden import record
    from .junit import write_junit
    from .report import write_report

    notes: list[str] = []
    recorded = options.update_golden and result.passed
    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (options.junit, lambda path: write_junit(path, result)),
        (options.json_file, lambda path: write_whole(path, (render_json(data) + "\n").encode())),
        (options.golden if recorded else None, lambda path: notes.append(_recorded(path, record(path, result)))),
        (options.report, lambda path: write_report(path, result)),
    ]
    problems = []
    for path, write in writers:
        try:
            if path is not None:
                write(path)
        except ConvertError as error:
            problems.append(error.what)
    return notes, problems


def _recorded(path: Path, size: int) -> str:
    return f"recorded {path} ({size:,} bytes)"


class NotProvenError(ConvertError):
    """A conversion is not kept, for the gate did not find that source and result agree.

    Args:
        target: What was to be written.
        exit_status: The gate's.
    """

    def __init__(self, target: Path, exit_status: int) -> None:
        why = "the gate finds a difference" if exit_status == 1 else "the gate proves nothing: a bound is too wide"
        step = "Without --parity it is written all the same, for `roformer-convert parity` and you to look into."
        super().__init__(f"{printable(str(target))}: nothing is written, for {why}", step)
        self.exit_status = exit_status


def require_proof(source: Path, dialects: Sequence[str] | None, official: Sequence[str]) -> None:
    """Refuse to begin a conversion whose gate could not run.

    Args:
        source: What is converted.
        dialects: Those of source and target, each of which computes in its own framework; None for all three.
        official: The software that is asked too.

    Raises:
        ConvertError: A package is not installed, or a software is not there.
    """
    from .participants.participants import HOME, require_gate
    from .serving.software import require_official

    require_gate([source], dialects and [HOME[dialect] for dialect in dialects], what="--parity")
    require_official(official)


def prove_conversion(made: Path, target: Path, source: Path | None, options: GateOptions) -> None:
    """Run the gate on what a conversion has written, before it gets its name (``convert --parity``).

    Args:
        made: What was written.
        target: What it shall be called.
        source: What was converted, where that says by itself what it is; None to take the result alone, through all
            three frameworks.
        options: What is asked of the gate: which software loads the result too, and what is printed; data only where
            nothing is proven.

    Raises:
        NotProvenError: They differ, or a bound is so wide that nothing is proven.
    """
    stand_for(made, target)
    before = [] if source is None else [source]
    status = run_gate([*before, made], options, called=[*before, target], only_failure=True)
    if status:
        raise NotProvenError(target, status)
