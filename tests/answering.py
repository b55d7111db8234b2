"""Run what answers texts in this process: torch's worker, and the commands as their group does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from click.testing import CliRunner

from roformer_convert.converters import ConvertError
from roformer_convert.models.answers.worker import Worker


class Here:
    """Torch's worker in this process, under any name, so that no seconds go into an import."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.worker = name, Worker("torch")
        self.requests: list[Any] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def ask(self, request: Mapping[str, Any]) -> None:
        self.requests.append(json.loads(json.dumps(request)))

    def answer(self) -> Any:
        return json.loads(json.dumps(self.worker.answer(self.requests.pop(0))))

    def words(self) -> str:
        return "a word"


def run_command(command: click.Command, *arguments: object, **options: Any) -> tuple[int, str, str]:
    """Run a command as the group does: (exit status, stdout, stderr or the error's text)."""
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], **options)
    if isinstance(done.exception, ConvertError):
        return done.exception.exit_status, done.stdout, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr
