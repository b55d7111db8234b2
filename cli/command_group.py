"""What the two commands share: subcommands imported when they are called, errors that end with status 2."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import click

from . import interruption
from .converters.errors import ConvertError, printable_lines
from .converters.other_names import did_you_mean

#: Whether this process is the command's own: whoever calls a command from a program of theirs keeps their signals.
_own_process = False
#: Whether the person has interrupted the command.
_interrupted = False
#: Signals that end a command.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named.

    Args:
        modules: Command → module beside this one, whose ``COMMANDS`` holds it; in the order of ``--help``.
        usual: Gives the command that is meant by what was typed.
        hint: Says, of what is no command, how it is called, or nothing.
    """

    def __init__(
        self,
        *args: Any,
        modules: Mapping[str, str],
        usual: Callable[[str], str] = str,
        hint: Callable[[str], str] = lambda typed: "",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.modules = modules
        self.usual = usual
        self.hint = hint

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in their order."""
        return list(self.modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a command and take its attribute of that name."""
        name = self.usual(name)
        if name not in self.modules:
            return None
        module = importlib.import_module(f".{self.modules[name]}", __package__)
        command = module.COMMANDS[name]
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, under its usual name; suggest one where there is no such command."""
        typed = args[0]
        if ctx.resilient_parsing or typed.startswith("-") or self.get_command(ctx, typed) is not None:
            name, command, rest = super().resolve_command(ctx, args)
            return name and self.usual(name), command, rest
        hint = self.hint(typed) or did_you_mean(typed, self.modules)
        if not hint and os.path.exists(typed):
            hint = (
                f" It is a path: what shall be done with it? For example: {ctx.info_name} inspect {shlex.quote(typed)}"
            )
        raise click.UsageError(f"No such command {typed!r}.{hint}", ctx)

    def named_in(self, words: list[str]) -> str | None:
        """Return the command that a command line names."""
        return next((self.usual(word) for word in words if self.usual(word) in self.modules), None)


class OnePath(click.Command):
    """A command that takes one path, and says what a second one would have to be.

    Args:
        second: What to write instead, from ``{}``, the second path.
    """

    def __init__(self, *args: Any, second: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.allow_extra_args = True
        self.second = second

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is left over."""
        left = super().parse_args(ctx, args)
        if left and not ctx.resilient_parsing:
            several = "arguments" if len(left) > 1 else "argument"
            told = ctx.params.get("output") is not None  # then the second path is something else
            hint = self.second.format(shlex.quote(left[0])) if len(left) == 1 and not told else ""
            ctx.fail(f"Got unexpected extra {several} ({shlex.join(left)}).{hint and f' {hint}'}")
        return left


def run(group: LazyGroup, program: str, stopped: str) -> None:
    """Run a command; print an error to stderr and exit with its status (2), never with a traceback.

    Args:
        group: The command.
        program: Its name, for errors that no subcommand owns.
        stopped: What to say when the person interrupts.
    """
    global _own_process
    _own_process = True
    # numpy starts OpenBLAS with a thread a core, which costs 60 ms and memory; nothing here multiplies matrices
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell's background job ignores it
        signal.signal(signal.SIGINT, _interrupt)
    for number in _ENDING:
        if number != signal.SIGINT and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    if hasattr(signal, "SIGCHLD"):  # where the caller ignored it, nobody could wait for a process that is started here
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a code page without → or Chinese must not end a finished conversion
            stream.reconfigure(errors="backslashreplace")
    called = group.named_in(sys.argv[1:]) or program
    try:
        try:
            status = group.main(prog_name=program, standalone_mode=False)
        except Exception as error:
            if _interrupted:  # an import that was interrupted may say that there is no such module
                raise KeyboardInterrupt from error
            raise
        if sys.stdout is not None:
            sys.stdout.flush()
    except ConvertError as error:
        _complain(f"{called}: {error}")
        sys.exit(error.exit_status)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _complain(stopped)
        sys.exit(interruption.STATUS)
    except click.ClickException as error:
        with contextlib.suppress(OSError, ValueError):
            error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output is gone (| head): end without a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # the safety net under what is reported better where it happens
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{called}: {where}{error.strerror or error}")
        sys.exit(2)
    gc.freeze()  # Python would spend 10 ms on the search for cycles in all that it holds, to give back what ends anyway
    sys.exit(status if isinstance(status, int) else 0)


def _complain(text: str) -> None:
    """Print to stderr; where that takes nothing, the exit status must say it all."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(printable_lines(text), err=True)


def echo(text: str, *, err: bool = False) -> None:
    """Print what may hold names of strangers' files: lines of text, in which nothing drives the terminal."""
    click.echo(printable_lines(text), err=err)


def end_once() -> None:
    """Let the first signal end the command and no second one disturb what is put in order then."""
    if _own_process:
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end_once)


def hold_signals() -> None:
    """Let nothing interrupt the command's last moments: "nothing was written" would no longer be true."""
    if _own_process:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM, or SIGHUP of a dropped connection, into an exit that cleans up behind itself."""
    raise SystemExit(128 + number)


def _end_once(number: int, frame: FrameType | None) -> None:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        _interrupt(number, frame)
    _end(number, frame)
