"""The command ``roformer-convert``: one module a command, loaded when it is called; errors end here with status 2."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
from types import FrameType

import click

from . import __version__

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
    "export": "cmd_export",
    "parity": "cmd_parity",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in their order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a command and take its attribute of that name."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[name]}", __package__)
        command = module.COMMANDS[name]
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


def _end(number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM, or SIGHUP of a dropped connection, into an exit that cleans up behind itself."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command; print an error to stderr and exit with its status (2), never with a traceback."""
    # numpy starts OpenBLAS with a thread a core, which costs 60 ms and memory; nothing here multiplies matrices
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a code page without → or Chinese must not end a finished conversion
            stream.reconfigure(errors="backslashreplace")
    from .converters.errors import ConvertError

    called = next((word for word in sys.argv[1:] if word in COMMANDS), "roformer-convert")
    try:
        status = cli.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except ConvertError as error:
        click.echo(f"{called}: {error}", err=True)
        sys.exit(error.exit_status)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("stopped; nothing was written", err=True)
        sys.exit(130)
    except click.ClickException as error:
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
        click.echo(f"{called}: {where}{error.strerror or error}", err=True)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
