"""The software that a checkpoint is served with, and the interpreter that each is asked in.

``--with NAME`` asks for one of :data:`SOFTWARE` in this environment, ``--with NAME=PYTHON`` in another; ``--with DIR``
for the runtime of an export. What is asked for and is not there is an error before anything is converted.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError, FormatError, printable, quoted
from ...converters.json_input import read_json
from ...converters.other_names import did_you_mean
from ...converters.table.mapping import CLASSES, Dialect
from ...converters.target.output import EXPORT_MANIFEST
from ...models.export.exporting import FORMATS
from ...models.processes.frameworks import require_packages
from ...models.processes.process import Process

_WORKERS = Path(__file__).resolve().parents[1] / "official" / "__main__.py"


@dataclass(frozen=True)
class Package:
    """A package that a software needs.

    Attributes:
        name: As Python imports it.
        distributions: What brings it, as pip knows it; by default the name.
        least: The least version that was seen to work, or "".
        below: The first version that does not, or "".
    """

    name: str
    distributions: tuple[str, ...] = ()
    least: str = ""
    below: str = ""

    @property
    def wanted(self) -> str:
        """The package and its versions, as pip takes them."""
        limits = [f">={self.least}"] * bool(self.least) + [f"<{self.below}"] * bool(self.below)
        return (self.distributions or (self.name,))[0] + ",".join(limits)


@dataclass(frozen=True, eq=False)
class Software:
    """One software.

    Attributes:
        name: As ``--with`` takes it.
        worker: ``official/run_<worker>.py`` is run in its environment.
        packages: What must be importable there; the first gives its name and version.
        dialect: What it reads; None for the runtime of an export, which holds no checkpoint.
        layout: The dialect whose files hold kernels as its parameters lie in memory.
        words: The package that splits words for it, where the vocabulary is one of words.
        environment: Variables for its process.
        takes_a_mask: Whether it takes an attention mask; bert4keras masks the token 0 and nothing else, a row's first
            token never.
        finds_special_tokens: Whether its tokenizer finds ``[MASK]`` in a text.
        epsilon: What it adds in the encoder's norms, whatever a file says; 0 where it is what the file says.
        no_half_types: Why it does not compute in half types on a CPU, or "".
    """

    name: str
    worker: str
    packages: tuple[Package, ...]
    dialect: Dialect | None = None
    layout: Dialect = "torch"
    words: str = "rjieba"
    environment: Mapping[str, str] = field(default_factory=dict)
    takes_a_mask: bool = True
    finds_special_tokens: bool = True
    epsilon: float = 0.0
    no_half_types: str = ""


_NUMPY = Package("numpy")
_TENSORFLOW = Package("tensorflow", ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel"))
_PADDLE = Package("paddle", ("paddlepaddle", "paddlepaddle-gpu"))
_ONNX = Package("onnxruntime", ("onnxruntime", "onnxruntime-gpu"))
_BUILT, _EXPORTED = "it builds its layers in float32", "a graph has the type that it was exported in"
_KERAS_2 = {"TF_USE_LEGACY_KERAS": "1"}
#: Said to every worker: nothing is fetched, threads that wait do not spin, and TensorFlow's log is not asked for.
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_WAIT_POLICY": "passive", "TF_CPP_MIN_LOG_LEVEL": "3"}
#: It computes on the CPU wherever ours do: builds for a GPU take it unasked, and some round products to TF32 there.
_ON_THE_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}

SOFTWARE: Mapping[str, Software] = {
    each.name: each
    for each in (
        Software(
            "transformers",
            worker="transformers",
            packages=(Package("transformers", least="4.44"), Package("torch"), _NUMPY),
            dialect="torch",
            environment={"USE_TF": "0"},
        ),
        Software(
            "transformers-tf",
            worker="transformers_tf",
            packages=(
                Package("transformers", least="4.44", below="5"),
                _TENSORFLOW,
                Package("tf_keras", ("tf-keras",)),
                _NUMPY,
            ),
            dialect="tf",
            layout="tf",
            environment=_KERAS_2,
            no_half_types=_BUILT,
        ),
        Software(
            "paddlenlp",
            worker="paddlenlp",
            packages=(Package("paddlenlp", least="2.8", below="3"), _PADDLE, _NUMPY),
            dialect="paddle",
            layout="paddle",
            words="jieba",
            no_half_types="its rotation has no kernel for them on a CPU",
        ),
        Software(
            "bert4keras",
            worker="bert4keras",
            packages=(Package("bert4keras", least="0.11"), _TENSORFLOW, _NUMPY),
            dialect="tf1",
            layout="tf",
            words="jieba",
            environment={"TF_KERAS": "1", **_KERAS_2},
            takes_a_mask=False,
            finds_special_tokens=False,
            epsilon=1e-7,
            no_half_types=_BUILT,
        ),
        Software(
            "junnyu",
            worker="junnyu",
            packages=(
                Package("roformer", least="0.4.3"),
                Package("transformers", below="5"),
                Package("torch"),
                _NUMPY,
            ),
            dialect="torch",
            environment={"USE_TF": "0"},
        ),
        Software("onnx", worker="onnx", packages=(_ONNX, _NUMPY), no_half_types=_EXPORTED),
    )
}
#: Format of an export → the runtime that opens it.
RUNTIMES: Mapping[str, Software] = {
    "onnx": SOFTWARE["onnx"],
    "savedmodel": Software("savedmodel", worker="savedmodel", packages=(_TENSORFLOW, _NUMPY), no_half_types=_EXPORTED),
    "paddle-inference": Software(
        "paddle-inference", worker="paddle_inference", packages=(_PADDLE, _NUMPY), no_half_types=_EXPORTED
    ),
}


@dataclass(frozen=True)
class Export:
    """What an export's manifest says.

    Attributes:
        directory: Where it lies.
        file: What the runtime opens.
        class_name: The class that it computes.
        outputs: Names of its outputs, in their order.
        longest: The longest sequence that it takes, in tokens.
    """

    directory: Path
    file: Path
    class_name: str
    outputs: tuple[str, ...]
    longest: int


@dataclass(frozen=True)
class Wanted:
    """One official participant that was asked for.

    Attributes:
        said: As the person said it.
        software: What runs.
        python: The interpreter that it runs in.
        export: The export that is run as it is, or None.
    """

    said: str
    software: Software
    python: Path
    export: Export | None = None


def wanted(said: str) -> Wanted:
    """Understand one ``--with``.

    Raises:
        ConvertError: It names nothing that is known, or an interpreter or export that is not there.
    """
    name, given, python = said.partition("=")
    if name not in SOFTWARE and not given and os.path.isdir(said):
        export, software = read_export(Path(said))
        return Wanted(said, software, Path(sys.executable), export)
    if name not in SOFTWARE:
        raise ConvertError(
            f"--with {printable(said)}: no such software, and no directory of an export",
            f"Known: {', '.join(SOFTWARE)}, each with =PYTHON where it is installed elsewhere."
            f"{did_you_mean(name, SOFTWARE)}",
        )
    return Wanted(said, SOFTWARE[name], find_python(python, said) if given else Path(sys.executable))


def find_python(given: str, said: str) -> Path:
    """Find an interpreter: a file, an environment's directory, or a name on the path.

    A bare name is never looked for in the current directory.

    Raises:
        ConvertError: There is none.
    """
    separators = [each for each in (os.sep, os.altsep) if each]
    if any(each in given for each in separators):
        path = Path(os.path.abspath(given))  # not through links: an environment is known by its own path
        inside = [path / "bin" / "python", path / "Scripts" / "python.exe"]
        found = next((each for each in [path, *inside] if each.is_file() and os.access(each, os.X_OK)), None)
        if found is not None:
            return found
        what = f"{printable(str(path))} is no interpreter, and no environment's directory with bin/python in it"
        raise ConvertError(f"--with {printable(said)}: {what}", "Name the Python of the environment that has it.")
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(place)]
    on_path = shutil.which(given, path=os.pathsep.join(places)) if given else None
    if on_path is None:
        raise ConvertError(
            f"--with {printable(said)}: no {printable(given) or 'interpreter'} is on the path",
            f"Name the file or the environment's directory; one of the current directory as ./{printable(given)}",
        )
    return Path(on_path)


def read_export(directory: Path) -> tuple[Export, Software]:
    """Read an export's manifest, which is a stranger's file.

    Raises:
        ConvertError: It is no export of ours.
    """
    path = directory / EXPORT_MANIFEST
    if not path.is_file():
        raise ConvertError(
            f"--with {printable(str(directory))}: it holds no {EXPORT_MANIFEST}, and so is no export",
            "roformer-convert export writes one. A checkpoint is named without --with.",
        )
    said = read_json(path)
    opened = said.get("open")
    file = opened.get("file") if isinstance(opened, dict) else None
    runtime = RUNTIMES.get(str(said.get("format")))
    kind = CLASSES.get(str(said.get("class")))
    outputs, longest = said.get("outputs"), said.get("max_length")
    whole = isinstance(outputs, dict) and isinstance(longest, int) and isinstance(file, str)
    if runtime is None or kind is None or not whole:
        raise FormatError(path, "not what an export says of itself; export the checkpoint again")
    assert isinstance(outputs, dict)
    assert isinstance(longest, int)
    if file != os.path.basename(str(file)) and file != ".":
        raise FormatError(path, f"names a file outside of its directory, {quoted(file)}; export the checkpoint again")
    opens = os.path.abspath(directory) if file == "." else os.path.join(os.path.abspath(directory), str(file))
    return Export(directory, Path(opens), kind.class_name, tuple(map(str, outputs)), longest), runtime


def start(one: Wanted, folder: Path, environment: Mapping[str, str | None]) -> Process:
    """Start a worker, isolated: neither the current directory nor PYTHONPATH is where it imports from."""
    command = [str(one.python), "-I", str(_WORKERS), one.software.worker]
    changed = {**environment, **QUIET, **_ON_THE_CPU, **one.software.environment}
    try:
        return Process(one.said, environment=changed, command=command, folder=folder)
    except OSError as error:
        raise ConvertError(
            f"--with {printable(one.said)}: {printable(str(one.python))} cannot be run: {error.strerror}",
            "Name the Python of the environment that has it.",
        ) from None


def require_versions(one: Wanted, process: Process, *, words: bool) -> dict[str, str]:
    """Ask a worker which packages it has; return their versions.

    Args:
        one: What was asked for.
        process: Its worker.
        words: Whether the vocabulary is one of words, which takes a package more.

    Raises:
        ConvertError: One is missing, or of a version that does not work.
    """
    packages = [*one.software.packages, *([Package(one.software.words)] if words and one.software.dialect else [])]
    process.ask({"versions": [[each.name, list(each.distributions or (each.name,))] for each in packages]})
    answer = process.answer()
    found: dict[str, Any] = answer.get("packages") or {}
    wrong = [f"{each.name} is not installed" for each in packages if found.get(each.name) is None]
    for each in packages:
        version = str(found.get(each.name) or "")
        if version and not _within(version, each):
            wrong.append(f"{each.name} is {printable(version)}, wanted {each.wanted}")
    if wrong:
        raise ConvertError(
            f"--with {printable(one.said)}: {'; '.join(wrong)} ({printable(str(one.python))})",
            f"Install it there, {' '.join(repr(each.wanted) for each in packages)}, or name another environment: "
            f"--with {one.software.name}=PYTHON",
        )
    versions = {each.name: printable(str(found[each.name])) for each in packages}
    return {**versions, "python": printable(str(answer.get("python", "")))}


def _within(version: str, package: Package) -> bool:
    number = _numbers(version)
    return not (
        (package.least and number < _numbers(package.least)) or (package.below and number >= _numbers(package.below))
    )


def _numbers(version: str) -> tuple[int, ...]:
    found = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits[:9]))
    return tuple(found)


def require_official(said: Sequence[str], *, words: bool = False) -> dict[Wanted, dict[str, str]]:
    """Understand every ``--with``, and refuse to begin where one is not there; return the versions of each.

    Args:
        said: As the person said them.
        words: Whether the vocabulary is one of words.

    Raises:
        ConvertError: As :func:`wanted` and :func:`require_versions` say.
    """
    found = {}
    for one in [wanted(each) for each in dict.fromkeys(said)]:
        with start(one, Path(os.path.abspath(os.sep)), {}) as process:
            found[one] = require_versions(one, process, words=words)
        if one.export is None and one.software.dialect is None:  # which is exported here, to be run there
            require_packages(f"--with {one.said}", FORMATS[one.software.name].packages)
    return found
