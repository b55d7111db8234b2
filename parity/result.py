"""What the gate found, as data. Imports no framework."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..models.processes.processor import processor
from ..models.text.tokenizer import Tokenizer
from .explaining.causes import Cause
from .judging.bounds import Bounds
from .judging.divergence import Divergence
from .judging.measure import Measured
from .judging.rankings import Ranking
from .judging.verdicts import Verdict, exit_status
from .participants.dumps import Dump
from .participants.participants import ComparedModel, Participant
from .questions.cases import Case, fingerprint
from .serving.verdicts import OfficialResult


@dataclass
class Result:
    """What the gate found.

    Attributes:
        directories: What was named.
        model: What was compared.
        participants: Who took part.
        dumps: What each computed.
        cases: What each ran.
        tokenizer: None where there is no vocabulary.
        measured: How far they are apart.
        verdicts: One a check and pair; the gate passes where all do.
        rankings: The best answers to every question.
        divergence: Where a difference starts; None where there is none.
        causes: What most likely causes it.
        order: The taps, as they are computed.
        top_k: Answers a question.
        bounds: What results may differ by, and where it comes from.
        weights: SHA-256 of the first directory's tensors.
        digests: Canonical name → SHA-256 of each of them, in float64.
        seconds: Part → wall time.
        official: What came of each official participant.
    """

    directories: tuple[Path, ...]
    model: ComparedModel
    participants: list[Participant]
    dumps: list[Dump]
    cases: list[Case]
    tokenizer: Tokenizer | None
    measured: Measured
    verdicts: list[Verdict]
    rankings: list[Ranking]
    divergence: Divergence | None
    causes: list[Cause]
    order: list[str]
    top_k: int
    bounds: Bounds
    weights: str
    digests: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    official: list[OfficialResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every verdict is good."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def exit_status(self) -> int:
        """0 where all agree, 1 where something differs, 3 where nothing does and a bound proves nothing."""
        return exit_status(self.verdicts)

    @property
    def environment(self) -> dict[str, str]:
        """The software and the machine that it ran on."""
        found = {
            "processor": processor().name,
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "numpy": np.__version__,
        }
        return found | {dump.framework: str(dump.facts.get("version", "")) for dump in self.dumps}

    @property
    def _ranked(self) -> str:
        return "next_words" if self.model.task.next_word else "masks"

    @property
    def inputs(self) -> str:
        """Hash of the cases."""
        return fingerprint(self.cases)

    def as_dict(self) -> dict[str, Any]:
        """Render as data for ``--json``."""
        return {
            "passed": self.passed,
            "exit_status": self.exit_status,
            "directories": [str(path) for path in self.directories],
            "model_class": self.model.class_name,
            "traits": self.model.traits,
            "notes": list(self.model.notes),
            "environment": self.environment,
            "weights_sha256": self.weights,
            "inputs_sha256": self.inputs,
            "bounds": self.bounds.as_dict(),
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "first_divergence": None if self.divergence is None else self.divergence.as_dict(),
            "causes": [cause.as_dict() for cause in self.causes],
            "cases": [
                {"name": case.name, "shape": list(case.input_ids.shape), self._ranked: len(case.ranked)}
                for case in self.cases
            ],
            "participants": [
                {
                    "label": dump.label,
                    "framework": dump.framework,
                    "directory": str(dump.checkpoint),
                    "device": dump.facts.get("device"),
                    "seconds": dump.facts.get("seconds"),
                    "peak_bytes": dump.facts.get("peak_bytes"),
                }
                for dump in self.dumps
            ],
            "official": [
                {
                    **one.official.as_dict(),
                    "first_divergence": None if one.divergence is None else one.divergence.as_dict(),
                    "notes": list(one.notes),
                }
                for one in self.official
            ],
            "seconds": self.seconds,
        }
