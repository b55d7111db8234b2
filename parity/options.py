"""What a person asks of the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..converters.source.stated import Stated


@dataclass(frozen=True)
class GateOptions:
    """Who computes what of the checkpoints, and what is written of it.

    Attributes:
        frameworks: Who computes; None for all three, or each directory's own.
        stated: What is so of every checkpoint, whatever its files say.
        sentences: The user's, in place of the built-in ones.
        top_k: Answers a question: words at a mask, labels.
        gradients: Whether the class's loss is differentiated and a step taken.
        max_length: Tokens of the longest batch, past the configuration's limit too; None for that limit, or 2,048.
        half_types: Which of float16 and bfloat16 are computed in too; None for those that a checkpoint is stored in.
        devices: Framework → device, as :func:`.participants.computing.read_devices` reads them; the CPU where it names
            none.
        official: The official participants, each as ``--with`` takes it.
        golden: A recorded run to compare with, or where to record this one.
        update_golden: Record it, if everything agrees.
        yes: Record it in CI too.
        report: Where the HTML file goes.
        json_file: Where everything goes as data.
        junit: Where the verdicts go for a CI system.
        as_json: Print everything as data on stdout.
        verbose: Print on stderr what each framework's process did.
        quiet: Print nothing.
    """

    frameworks: Sequence[str] | None = None
    stated: Stated = field(default_factory=Stated)
    sentences: Sequence[str] | None = None
    top_k: int = 5
    gradients: bool = True
    max_length: int | None = None
    half_types: Sequence[str] | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    official: Sequence[str] = ()
    golden: Path | None = None
    update_golden: bool = False
    yes: bool = False
    report: Path | None = None
    json_file: Path | None = None
    junit: Path | None = None
    as_json: bool = False
    verbose: bool = False
    quiet: bool = False
