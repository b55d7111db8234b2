"""Official participants: the software that serves a checkpoint, asked what it loads, which ids it gives, what it says.

    --with ... → worker (checked before anything is converted) → its dialect's directory → job → facts and arrays

A worker's answer and files are read as a stranger's: sizes and types are checked, arrays are no pickles. What they come
to is judged in :mod:`.verdicts`. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError, printable, shown
from ...converters.tensors.stored import HALF_TYPES
from ...models.processes.process import Process
from ..judging.measure import DTYPES
from ..participants.dumps import Dump
from .software import Software, Wanted, start

Array = NDArray[Any]
Json = dict[str, Any]

_MOST_NAMES = 1 << 16


@dataclass(frozen=True)
class Official:
    """What one official participant was asked and what it answered.

    Attributes:
        software: Which it is.
        dump: Its label, directory, files and facts; the arrays have the names of our taps.
        versions: Package → version, Python's among them.
        names: Name of a parameter there → canonical name.
        expected: Canonical names that it must hold.
        announced: Names that it may call unexpected: parts that its class does not know.
        idle: Names that may be missing: parts that its class always has and nothing that is compared reads.
        transposed: Parameters that it holds (in, out).
        rotary: What it calls the rotary table; "" where it makes its own.
        rounded: The half type that the directory's tensors, the rotary table among them, are rounded to; "" for none.
        texts: What was tokenized, one text or two each.
    """

    software: Software
    dump: Dump
    versions: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    announced: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    rotary: str = ""
    rounded: str = ""
    texts: tuple[tuple[str, ...], ...] = ()

    @property
    def label(self) -> str:
        """What to call it: its name and version."""
        return self.dump.label

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its worker said."""
        return self.dump.facts

    @property
    def called(self) -> str:
        """The packages beside the one in its label with their versions, and the class that it loaded."""
        packages = ", ".join(f"{name} {version}".rstrip() for name, version in self.versions.items())
        packages = packages.removeprefix(f"{self.label}, ")
        loaded = self.facts.get("class")
        return f"{packages}{f'; {loaded}' if loaded else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Render as data."""
        facts = self.facts
        return {
            "label": self.label,
            "software": self.software.name,
            "versions": dict(self.versions),
            "directory": str(self.dump.checkpoint),
            "failed": facts.get("failed"),
            "class": facts.get("class"),
            "tokenizer": facts.get("tokenizer"),
            "report": {kind: facts.get(kind) for kind in ("missing", "unexpected", "mismatched", "warned")},
            "types": [*facts.get("types", ()), *facts.get("half_types", ())] or None,
            "seconds": facts.get("seconds"),
            "peak_bytes": facts.get("peak_bytes"),
        }


@dataclass(frozen=True)
class Started:
    """A worker that waits for its job.

    Attributes:
        wanted: What was asked for.
        label: What to call it.
        versions: Package → version, Python's among them.
        folder: Where it starts, and where its results go.
        process: Its process.
    """

    wanted: Wanted
    label: str
    versions: Mapping[str, str]
    folder: Path
    process: Process


@contextmanager
def started(
    found: Mapping[Wanted, Mapping[str, str]], environment: Mapping[str, str | None], scratch: Path
) -> Iterator[list[Started]]:
    """Start a worker for each; they end with the context.

    Args:
        found: What was asked for → the versions that are there.
        environment: Variables for their processes.
        scratch: Where each has a folder of its own.
    """
    with ExitStack() as stack:
        workers: list[Started] = []
        for number, (one, versions) in enumerate(found.items()):
            folder = scratch / f"official{number}"
            folder.mkdir()
            label = f"{one.software.name} {versions[one.software.packages[0].name]}".rstrip()
            if one.export is not None:
                label += f" ({printable(one.export.directory.resolve().name)})"
            taken = {each.label for each in workers}
            label = next(name for name in _numbered(label) if name not in taken)
            process = stack.enter_context(start(one, folder, environment))
            workers.append(Started(one, label, versions, folder, process))
        yield workers


def _numbered(label: str) -> Iterator[str]:
    yield label
    number = 2
    while True:
        yield f"{label} ({number})"
        number += 1


def answered(one: Started, official: Official) -> Official:
    """Wait for a worker's answer, and for the values of parameters that are looked at one by one.

    Raises:
        ConvertError: The worker died, or what it answered is no answer.
    """
    facts = checked(one.process.answer(), one.label)
    return replace(official, dump=replace(official.dump, facts=facts))


def fetch_parameters(one: Started, official: Official, names: Sequence[str]) -> dict[str, Array]:
    """Fetch some parameters as the software holds them, kernels as (out, in): its own name → values."""
    if not names:
        return {}
    path = official.dump.files / "parameters.npz"
    one.process.ask({"parameters": {"names": list(names), "out": str(path)}})
    one.process.answer()
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[str(number)] for number, name in enumerate(names) if str(number) in arrays}
    turned = official.transposed
    return {name: array.T if name in turned and array.ndim == 2 else array for name, array in found.items()}


def checked(answer: Mapping[str, Any], label: str) -> Json:
    """Check that an answer has the types that it should have; what a person will read of it is made printable.

    Raises:
        ConvertError: It is no answer.
    """
    if not isinstance(answer, dict):
        raise ConvertError(f"{label}: its worker's answer is a {type(answer).__name__}; wanted an object")
    if "failed" in answer:
        return {"failed": printable(str(answer["failed"]))}
    try:
        names = {kind: _strings(answer[kind]) for kind in ("missing", "unexpected", "mismatched", "warned")}
        parameters = {
            str(name): {"shape": [int(size) for size in found["shape"]], "sha256": str(found["sha256"])}
            for name, found in dict(answer["parameters"]).items()
        }
        ids = answer["ids"]
        seconds = {printable(str(part)): float(taken) for part, taken in dict(answer["seconds"]).items()}
        return {
            **names,
            "wrote": _strings(answer.get("wrote", [])),
            "class": printable(str(answer["class"])),
            "parameters": parameters,
            "types": [kind for kind in DTYPES if kind in answer["types"]],
            "half_types": [kind for kind in HALF_TYPES if kind in answer["types"]],
            "without": {str(kind): printable(str(why)) for kind, why in dict(answer.get("without", {})).items()},
            "ids": None if ids is None else [[int(one) for one in row] for row in ids],
            "no_ids": printable(str(answer.get("no_ids", ""))),
            "tokenizer": printable(str(answer.get("tokenizer", ""))),
            "seconds": seconds,
            "peak_bytes": int(answer["peak_bytes"]) if answer.get("peak_bytes") else None,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConvertError(f"{label}: its worker's answer cannot be read: {type(error).__name__}: {error}") from None


def tell_without(official: Official, half_types: Sequence[str]) -> list[str]:
    """Say in which half types a participant was not run, and why."""
    why = official.facts.get("without", {})
    return [
        f"{official.label} is not run in {dtype}: {shown(why.get(dtype) or official.software.no_half_types, 200)}"
        for dtype in half_types
        if "failed" not in official.facts and dtype not in official.facts["half_types"]
    ]


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        raise TypeError(f"a list of at most {_MOST_NAMES:,} names was wanted")
    return [printable(str(each)) for each in value]
