"""Who takes part: which framework loads which directory.

One directory is converted into each framework's own dialect first, so that the conversion is a part of what is shown.
Several are compared as they are, each in the framework whose dialect it speaks, or each in every framework that was
asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...converters import ConvertOptions, convert, open_checkpoint
from ...converters.errors import ConvertError, MisfitError, Problem
from ...converters.source.checkpoint import Checkpoint
from ...converters.source.stated import Stated
from ...converters.table.config import RoFormerConfig
from ...converters.table.mapping import SYMBOLS, Dialect
from ...models.processes.frameworks import FRAMEWORKS, is_installed, require_packages
from ...models.text.tokenizer_files import packages_for_texts, read_settings
from ..questions.tasks import TASKS, Task, described, traits
from .conversions import tell_lacking

#: The framework that a dialect is at home in.
HOME = {"paddle": "paddle", "torch": "torch", "tf": "tf", "tf1": "tf"}
NATIVE: dict[str, Dialect] = {"paddle": "paddle", "torch": "torch", "tf": "tf"}


@dataclass(frozen=True)
class Participant:
    """One framework with one directory.

    Attributes:
        label: The framework, with the directory where several are compared.
        framework: ``paddle``, ``torch`` or ``tf``.
        directory: What it loads.
        note: What is to be said of it.
        before_cast: What ``directory`` is a rounded copy of, where this one shall also say how far that is.
    """

    label: str
    framework: str
    directory: Path
    note: str = ""
    before_cast: Path | None = None


@dataclass(frozen=True)
class ComparedModel:
    """What is compared.

    Attributes:
        config: Configuration of the first directory, with the lowest limit of them all.
        class_name: The class that all directories can be loaded as.
        notes: What was assumed of a checkpoint that does not say it, and what is not compared, and why.
        vocabulary: The directory that holds the vocabulary, or None where there is none.
        parameters: Their number.
    """

    config: RoFormerConfig
    class_name: str
    notes: tuple[str, ...]
    vocabulary: Path | None
    parameters: int

    @property
    def task(self) -> Task:
        """What the class computes."""
        return TASKS[self.class_name]

    @property
    def traits(self) -> dict[str, Any]:
        """What sets the model apart from others of its class."""
        return traits(self.config, self.class_name)

    @property
    def called(self) -> str:
        """The class, and in what the model differs from the RoFormer of the paper."""
        return described(self.config, self.class_name)


def require_frameworks(
    frameworks: Sequence[str],
    what: str | None = None,
    more: Mapping[str, str] | None = None,
    otherwise: str = "",
) -> None:
    """Refuse frameworks that are unknown or not installed: a gate that skips what it was asked for is not a gate.

    Args:
        frameworks: They.
        what: What needs them.
        more: Further packages that it needs → the extra that brings each.
        otherwise: What else a person may do.

    Raises:
        MissingPackageError: One is not installed.
        ConvertError: One is not known, or there is none.
    """
    unknown = [name for name in frameworks if name not in FRAMEWORKS]
    if unknown or not frameworks:
        raise ConvertError(
            f"framework {unknown[0]!r} is not known" if unknown else "no framework is named",
            f"Name some of {', '.join(FRAMEWORKS)}.",
        )
    packages = {FRAMEWORKS[name].package: FRAMEWORKS[name].extra for name in frameworks}
    require_packages(what or f"parity --frameworks {','.join(frameworks)}", {**packages, **(more or {})}, otherwise)


def require_gate(
    directories: Sequence[Path], frameworks: Sequence[str] | None = None, *, what: str | None = None
) -> None:
    """Refuse to begin where a package is missing that the gate of ``directories`` takes; all are named at once.

    Args:
        directories: What is compared.
        frameworks: Who computes; None for all three, or each directory's own.
        what: What needs them, where the person did not ask for frameworks.

    Raises:
        MissingPackageError: One is not installed.
        ConvertError: A framework is not known.
    """
    if frameworks is None and len(directories) > 1:
        frameworks = [HOME[dialect] for dialect in map(_dialect, directories) if dialect is not None]
    more: dict[str, str] = {}
    for directory in directories:
        more |= packages_for_texts(directory)
    here = [name for name in FRAMEWORKS if is_installed(FRAMEWORKS[name].package)]
    chosen = frameworks is not None or what is not None  # then fewer would answer another question
    otherwise = f"run what is here: --frameworks {','.join(here)}" if 0 < len(here) < len(FRAMEWORKS) else ""
    require_frameworks(list(dict.fromkeys(frameworks or FRAMEWORKS)), what, more, "" if chosen else otherwise)


def _dialect(directory: Path) -> Dialect | None:
    """Return a checkpoint's dialect; None where it is unusable, as whoever opens it will say."""
    try:
        with open_checkpoint(directory) as checkpoint:
            return checkpoint.dialect
    except ConvertError:
        return None


def look_at(directories: Sequence[Path], names: Sequence[Path] | None = None) -> tuple[ComparedModel, list[Dialect]]:
    """Open every directory; say what can be compared, and each one's dialect.

    Args:
        directories: What is loaded.
        names: What to call each; by default as it is.

    Raises:
        ConvertError: One is unusable, or their sizes differ.
    """
    configs, groups, classes, dialects = [], [], [], []
    vocabulary, lacking = None, ""
    told: list[str] = []
    for directory in directories:
        with open_checkpoint(directory) as checkpoint:
            configs.append(checkpoint.config)
            classes.append(checkpoint.model_class)
            told += (*checkpoint.found.notes, *checkpoint.source_config.notes)
            groups.append({group.name for group in checkpoint.groups})
            dialects.append(checkpoint.dialect)
            parameters = sum(math.prod(checkpoint.shape(name)) for name in checkpoint)
            if vocabulary is None:
                vocabulary, lacking = _vocabulary_of(checkpoint)
    first, called = configs[0], directories if names is None else names
    problems = [
        Problem("size", name, f"{getattr(first, name)} in {called[0]}, {getattr(config, name)} in {directory}")
        for directory, config in zip(called[1:], configs[1:], strict=True)
        for name in (*SYMBOLS.values(), "num_hidden_layers", "num_attention_heads")
        if getattr(first, name) != getattr(config, name)
    ]
    if problems:
        raise MisfitError(called[0], "the others", problems, "Compare checkpoints of one size.")
    common = set.intersection(*groups)
    other = [
        f"configuration: {name} is {getattr(first, name)} in {called[0]}, {getattr(config, name)} in {directory}"
        for directory, config in zip(called[1:], configs[1:], strict=True)
        for name in (field.name for field in fields(first))
        if getattr(first, name) != getattr(config, name)
    ]
    notes = [f"{name} is not compared: not every directory has it" for name in sorted(set.union(*groups) - common)]
    class_name = _common_class(classes)
    if len(set(classes)) > 1:
        each = ", ".join(f"{name} in {path}" for name, path in zip(classes, called, strict=True))
        notes.append(f"compared as {class_name}: {each}")
    if class_name == "RoFormerForPretraining" and not {"sentence-order head", "pooler"} <= common:
        class_name = "RoFormerForMaskedLM"
    if "sentence-order head" in common and class_name != "RoFormerForPretraining":
        notes.append("the sentence-order head is not computed: that takes a pooler and a masked-LM head")
    if vocabulary is None:
        notes.append(f"generated ids alone are compared, and no sentences: {lacking}")
    said = (*dict.fromkeys(told), *other, *notes)
    shared = replace(first, max_position_embeddings=min(config.max_position_embeddings for config in configs))
    return ComparedModel(shared, class_name, said, vocabulary, parameters), dialects


def _vocabulary_of(checkpoint: Checkpoint) -> tuple[Path | None, str]:
    """Return the directory of a checkpoint that has a vocabulary, or why there is none; a damaged vocab.txt is one."""
    names = {path.name for path in (*checkpoint.companions, *checkpoint.found.strays)}
    if "vocab.txt" in names:
        return checkpoint.directory, ""
    if "tokenizer.json" not in names:
        return None, "there is neither vocab.txt nor tokenizer.json"
    try:
        read_settings(checkpoint.directory)
    except ConvertError as error:  # another kind of tokenizer than BERT's
        return None, error.what
    return checkpoint.directory, ""


def _common_class(classes: Sequence[str]) -> str:
    """Choose the class that can be loaded of every directory and computes the most."""
    if len(set(classes)) == 1:
        return classes[0]
    return "RoFormerForMaskedLM" if all(TASKS[name].mlm for name in classes) else "RoFormerModel"


def write_stated(directories: Sequence[Path], stated: Stated, scratch: Path) -> tuple[list[Path], list[str]]:
    """Write what the person states of a checkpoint's configuration into a copy, which says it to everyone after that.

    Returns the copies, and what is to be said of the checkpoints; where nothing is stated, they themselves.

    Args:
        directories: The checkpoints.
        stated: What is so of every one, whatever its files say.
        scratch: Where the copies go.

    Raises:
        ConvertError: A directory is no checkpoint, or nothing of the kind can be stated of it.
    """
    if not any(stated.values()):
        return list(directories), []
    copies: list[Path] = []
    told: list[str] = []
    for number, directory in enumerate(directories):
        with open_checkpoint(directory, **stated) as checkpoint:
            dialect = checkpoint.dialect
            told += (*checkpoint.found.notes, *checkpoint.source_config.notes)
        copies.append(scratch / f"stated{number}")
        options = ConvertOptions(**stated, any_vocab=True, allow_different=True)
        convert(directory, copies[-1], to=dialect, options=options)
    return copies, list(dict.fromkeys(told))


def choose_participants(
    directories: Sequence[Path],
    names: Sequence[Path],
    dialects: Sequence[Dialect],
    frameworks: Sequence[str] | None,
    scratch: Path,
) -> list[Participant]:
    """Pair frameworks with directories; a single directory is converted into ``scratch``.

    Args:
        directories: What is loaded.
        names: What the person called each.
        dialects: Each one's.
        frameworks: Who computes; None for all three, or each directory's own.
        scratch: Where conversions go.

    Raises:
        ConvertError: A framework is missing, or a conversion failed.
    """
    if len(directories) == 1:
        all_three = list(frameworks or FRAMEWORKS)
        require_frameworks(all_three)
        return [_converted(directories[0], dialects[0], name, scratch) for name in all_three]
    if frameworks is None:
        homes = [HOME[dialect] for dialect in dialects]
        require_frameworks(homes)
        chosen = list(zip(homes, directories, strict=True))
    else:
        require_frameworks(frameworks)
        chosen = [(name, directory) for directory in directories for name in frameworks]
    short = [name.resolve().name for name in names]
    named = dict(zip(directories, short if len(set(short)) == len(short) else map(str, names), strict=True))
    return [Participant(f"{name}:{named[directory]}", name, directory) for name, directory in chosen]


def _converted(directory: Path, dialect: Dialect, framework: str, scratch: Path) -> Participant:
    target = NATIVE[framework]
    if dialect == target:
        return Participant(framework, framework, directory)
    with open_checkpoint(directory) as checkpoint:
        lacking = tell_lacking(checkpoint, target)
    # the vocabulary stays where it is: what has no row of its own there is not this check's business, nor is what the
    # target's own software would make of the model, for ours reads every trait in every dialect
    options = ConvertOptions(any_vocab=True, allow_different=True, dtype="float32" if lacking else None)
    convert(directory, scratch / target, to=target, options=options)
    note = f"what {framework} loads was widened to float32: {lacking}" if lacking else ""
    return Participant(framework, framework, scratch / target, note)
